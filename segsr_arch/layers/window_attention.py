"""Softmax attention inside windows of an image, with a learned bias: the one attention function of HAT and its kin.

It is PyTorch's fused attention, which has no gradient for the bias on a CPU. There backward works off a window or a few
at a time, in the processor's cache, and computes their matrices again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

WINDOWWISE = ('cpu',)  # types of devices where backward works off a few windows at a time
CHUNK = 2**19  # elements of the attention matrices in work at a time: two megabytes, about a cache


class Windows(NamedTuple):
    """How an image is cut into windows, which are ordered by their kind.

    The kinds are, after a cyclic shift, the windows away from the image's end, in the last column, in the last row, and
    in both; without one there is one kind.

    Attributes:
        pixels: (windows, n) int64, which of all images' pixels a window's n pixels are.
        places: (b h w,) int64, the inverse: at which place of all windows a pixel is.
        counts: the windows of each kind.
        mask: (4, 1, n, l) for each kind, what a shift must not connect of n pixels and l keys: 0 inside a region and
            -100 across. None: no shift.
    """

    pixels: Tensor
    places: Tensor
    counts: tuple[int, ...]
    mask: Tensor | None

    def cut(self, image: Tensor) -> Tensor:
        """(b, h, w, c) -> (windows, n, c)."""
        pixels = self.pixels.flatten()
        return _Reordered.apply(image.flatten(0, 2), pixels, self.places).unflatten(0, self.pixels.shape)

    def join(self, windows: Tensor, image: Tensor) -> Tensor:
        """(windows, n, c) -> (b, h, w, c), where b, h and w are those of ``image``."""
        pixels = self.pixels.flatten()
        return _Reordered.apply(windows.flatten(0, 1), self.places, pixels).unflatten(0, image.shape[:3])


def windows_of(image: Tensor, side: int, shift: int, cell: int = 1) -> Windows:
    """`Windows` of ``side`` x ``side`` pixels after a cyclic ``shift``.

    Args:
        image: (b, h, w, c), of which only size and device matter; ``side`` divides h and w.
        cell: a window's pixels come cell by cell, of ``cell`` x ``cell`` pixels each; a key is a cell.
    """
    pixels = torch.arange(image[..., 0].numel(), device=image.device).view(image.shape[:3])
    windows = rearrange(pixels.roll((-shift, -shift), (1, 2)), 'b (y i di) (x j dj) -> b y x (i j di dj)',
                        i=side // cell, di=cell, j=side // cell, dj=cell)
    kinds = [windows] if not shift else [
        windows[:, rows, columns] for rows in (slice(-1), slice(-1, None)) for columns in (slice(-1), slice(-1, None))]
    kinds = [kind.flatten(0, 2) for kind in kinds]
    pixels, counts = torch.cat(kinds), tuple(kind.shape[0] for kind in kinds)  # not len, which a trace forgets
    mask = shift_mask(side, shift, cell, image.device) if shift else None
    return Windows(pixels, pixels.flatten().argsort(), counts, mask)


def shift_mask(side: int, shift: int, cell: int, device: torch.device | str) -> Tensor:
    """`Windows.mask`. A cell that straddles regions counts as of the one that is wrapped around."""
    wrapped = (torch.arange(side, device=device) >= side - shift).long()
    none = torch.zeros_like(wrapped)
    region = torch.stack([2 * rows[:, None] + columns for rows in (none, wrapped) for columns in (none, wrapped)])
    region = rearrange(region, 'kind (i di) (j dj) -> kind (i j) (di dj)', di=cell, dj=cell)
    return -100.0 * (region.flatten(1)[:, None, :, None] != region.amax(2)[:, None, None, :]).float()


class _Reordered(torch.autograd.Function):
    """Rows in another order, whose gradient is the inverse order."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.inverse), None, None


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None,
                     counts: Sequence[int] = (), scale: float | None = None) -> Tensor:
    """Softmax attention inside each window.

    Args:
        q: (windows, n, m, c) queries of m heads.
        k, v: (windows, l, m, c) keys and values; or views of that many elements, such as of windows that overlap, of
            which a copy is not kept for backward.
        bias: (m, n, l), added to the scaled products.
        mask: (kinds, 1, n, l), added too.
        counts: the windows of each kind, where there is a mask.
        scale: of the products; None: 1 / sqrt(c).

    Returns:
        (windows, n, m, c).
    """
    scale = q.shape[-1]**-0.5 if scale is None else scale
    if torch.is_grad_enabled() and q.device.type in WINDOWWISE:
        return _Windowwise.apply(q, k, v, bias, mask, tuple(int(count) for count in counts), scale)
    return _fused(q, k, v, bias, mask, counts, scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, counts: Sequence[int],
           scale: float) -> Tensor:
    """`window_attention` by PyTorch's fused attention, which is called once for each kind of mask."""
    k, v = (t.reshape(-1, bias.shape[-1], *q.shape[2:]) for t in (k, v))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    kinds = [(slice(None), bias.to(q.dtype))] if mask is None else _kinds(bias, mask, counts, len(q), q.dtype)
    outs = [F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=added[None], scale=scale)
            for some, added in kinds]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out.transpose(1, 2)


class _Windowwise(torch.autograd.Function):
    """`_fused`, with a backward that works off a few windows at a time."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None,
                counts: tuple[int, ...], scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias, mask)
        ctx.counts, ctx.scale = counts, scale
        return _fused(q, k, v, bias.detach(), mask, counts, scale)  # the fused attention refuses one with a gradient

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, mask = ctx.saved_tensors
        shape, scale, size = k.shape, ctx.scale, max(1, CHUNK // bias.numel())
        k, v = (t.reshape(len(q), -1, *q.shape[2:]) for t in (k, v))
        d_q, d_k, d_v = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        d_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for windows, added in _kinds(bias, mask, ctx.counts, len(q), q.dtype):
            for start in range(windows.start, windows.stop, size):
                some = slice(start, min(start + size, windows.stop))
                q_, k_, v_, d_out_ = (_heads_first(t[some]) for t in (q, k, v, d_out))
                weights = _weights(q_, k_, added, scale)
                d_weights = torch.bmm(d_out_, v_.transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                d_bias += d_scores if len(d_scores) == len(bias) else d_scores.view(-1, *bias.shape).sum(0)
                for t, value in ((d_q, torch.bmm(d_scores, k_).mul_(scale)),
                                 (d_k, torch.bmm(d_scores.transpose(1, 2), q_).mul_(scale)),
                                 (d_v, torch.bmm(weights.transpose(1, 2), d_out_))):
                    t[some] = value.view(-1, len(bias), *value.shape[1:]).transpose(1, 2)
        return d_q, d_k.view(shape), d_v.view(shape), d_bias.to(bias.dtype), None, None, None


def _kinds(bias: Tensor, mask: Tensor | None, counts: Sequence[int], windows: int,
           dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The windows of each kind, and what is added to their scaled products, (m, n, l)."""
    if mask is None:
        yield slice(0, windows), bias.to(dtype)
        return
    for each, count, end in zip(mask, counts, accumulate(counts)):
        if count:
            yield slice(end - count, end), (bias + each).to(dtype)


def _heads_first(windows: Tensor) -> Tensor:
    """(w, n, m, c) -> (w m, n, c), without a copy of one window."""
    return windows.transpose(1, 2).flatten(0, 1)


def _weights(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Softmax of the scaled products plus the bias: (w m, n, c), (w m, l, c), (m, n, l) -> (w m, n, l)."""
    bias = bias if len(bias) == len(q) else bias.repeat(len(q) // len(bias), 1, 1)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, -1, out=scores)

"""Softmax attention inside windows of an image, with a learned bias: the one attention function of HAT.

It is PyTorch's fused attention, which has no gradient for the bias on a CPU. There backward works the windows off a few
at a time, in the processor's cache, straight from and to the image, and computes their matrices again.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor

WINDOWWISE = ('cpu',)  # types of devices where backward works windows off a few at a time
CHUNK = 2**19  # elements of the attention matrices in work at a time: two megabytes, about a cache


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention inside each window.

    The queries' windows lie side by side. Those of keys and values have the same centres; where they are larger, they
    overlap, and the images of keys and values are larger by that much.

    Args:
        q: (b, h, w, m, c) queries of m heads; h and w are multiples of the window's side.
        k, v: (b, h + o, w + o, m, c) keys and values, whose windows are o pixels wider and higher than the queries'.
        bias: (m, n, l) for the n pixels of a query window and the l of a key window, added to the scaled products.
        mask: (4, 1, n, l), added too: of windows away from the image's end, in the last column, in the last row, and
            in both.

    Returns:
        (b, h, w, m, c).
    """
    attention = _Windowwise.apply if q.device.type in WINDOWWISE else _fused
    return attention(q, k, v, bias, mask)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """`window_attention` by PyTorch's fused attention, which is called once for each kind of mask."""
    channels, biases = q.shape[-1], _biases(bias, mask, q.dtype)
    # the fused kernels want a multiple of 8 channels
    windows = _windows_of(*(F.pad(image, (0, -channels % 8)) for image in (q, k, v)), bias)
    rows, columns = windows[0].shape[1:3]

    def attend(rows: slice, columns: slice, kind: int) -> Tensor:
        q, k, v = (rearrange(t[:, rows, columns], 'b y x m c i j -> (b y x) m (i j) c') for t in windows)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=biases[kind][None], scale=channels**-0.5)
        return rearrange(out[..., :channels], '(b y x) m (i j) c -> b (y i) (x j) m c',
                         y=rows.stop - rows.start, x=columns.stop - columns.start, i=isqrt(bias.shape[1]))

    return torch.cat([
        torch.cat([attend(slice(top, bottom), slice(left, right), 2 * last_row + last_column)
                   for last_column, left, right in _runs(columns, mask is not None)], 2)
        for last_row, top, bottom in _runs(rows, mask is not None)], 1)


class _Windowwise(torch.autograd.Function):
    """`_fused`, with a backward that works off a few windows at a time."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, bias, mask)
        return _fused(q, k, v, bias.detach(), mask)  # one with a gradient would be refused by the fused attention

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, mask = ctx.saved_tensors
        scale = q.shape[-1]**-0.5
        d_q, d_k, d_v = (t.new_zeros(t.shape) for t in (q, k, v))
        d_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        biases, windows, gradients = (
            _biases(bias, mask, q.dtype), _windows_of(q, k, v, bias), _windows_of(d_q, d_k, d_v, bias))
        d_out = _windows_of(d_out, k, v, bias)[0]
        for place, kind in _chunks(windows[0], bias, mask):
            q_, k_, v_, d_out_ = (_heads_first(t[place]) for t in (*windows, d_out))
            weights = _weights(q_, k_, biases[kind])
            d_weights = torch.bmm(d_out_, v_.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_bias += d_scores if len(d_scores) == len(bias) else d_scores.view(-1, *bias.shape).sum(0)
            _add(gradients[0], place, torch.bmm(d_scores, k_).mul_(scale))
            _add(gradients[1], place, torch.bmm(d_scores.transpose(1, 2), q_).mul_(scale))
            _add(gradients[2], place, torch.bmm(weights.transpose(1, 2), d_out_))
        return d_q, d_k, d_v, d_bias.to(bias.dtype), None


def _windows_of(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Views of images as windows: (b, h, w, m, c) -> (b, rows, columns, m, c, side, side)."""
    stride, overlap = isqrt(bias.shape[-2]), isqrt(bias.shape[-1])
    return tuple(image.unfold(1, side, stride).unfold(2, side, stride)
                 for image, side in ((q, stride), (k, overlap), (v, overlap)))


def _runs(windows: int, masked: bool) -> Iterator[tuple[int, int, int]]:
    """Neighbours of a row or column of windows with the same mask: whether they are the last, the first, the end."""
    if not masked:
        yield 0, 0, windows
        return
    if windows > 1:
        yield 0, 0, windows - 1
    yield 1, windows - 1, windows


def _chunks(windows: Tensor, bias: Tensor, mask: Tensor | None) -> Iterator[tuple[tuple[int, int, slice], int]]:
    """What is in work at a time: an index into (b, rows, columns, ...), and the kind of mask."""
    size = max(1, CHUNK // bias.numel())
    samples, rows, columns = windows.shape[:3]
    for sample in range(samples):
        for last_row, top, bottom in _runs(rows, mask is not None):
            for last_column, left, right in _runs(columns, mask is not None):
                for row in range(top, bottom):
                    for i in range(left, right, size):
                        yield (sample, row, slice(i, min(i + size, right))), 2 * last_row + last_column


def _biases(bias: Tensor, mask: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """What is added to the scaled products, (m, n, l), for each kind of mask."""
    return [bias.to(dtype)] if mask is None else [(bias + each).to(dtype) for each in mask]


def _heads_first(windows: Tensor) -> Tensor:
    """(w, m, c, side, side) -> (w m, n, c)."""
    w, m, c, side, _ = windows.shape
    return windows.permute(0, 1, 3, 4, 2).reshape(w * m, side * side, c)


def _heads_last(heads: Tensor, windows: Tensor) -> Tensor:
    """(w m, n, c) -> (w, m, c, side, side), with the heads and sides of ``windows``."""
    m, c, side, _ = windows.shape[3:]
    return heads.view(-1, m, side, side, c).permute(0, 1, 4, 2, 3)


def _add(windows: Tensor, place: tuple[int, int, slice], heads: Tensor) -> None:
    """Add to some windows, which may overlap."""
    for window, values in zip(windows[place], _heads_last(heads, windows)):
        window += values


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Softmax of the scaled products and the bias: (w m, n, c), (w m, l, c), (m, n, l) -> (w m, n, l)."""
    bias = bias if len(bias) == len(q) else bias.repeat(len(q) // len(bias), 1, 1)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1]**-0.5)
    return torch.softmax(scores, -1, out=scores)

"""Softmax attention inside windows, with a learned bias: the one attention function of HAT.

On a GPU it is PyTorch's fused attention. On a CPU that one has no gradient for the bias and falls back to matrices in
full, so there the windows are worked off a few at a time, in the processor's cache; backward computes their matrices
again instead of keeping them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WINDOWWISE = ('cpu',)  # types of devices where windows are worked off a few at a time
CHUNK = 2**19  # elements of the attention matrices in work at a time: two megabytes, about a cache


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kinds: Sequence[int]) -> Tensor:
    """Softmax attention inside each window.

    Args:
        q: (b, w, n, m, c) queries of w windows, m heads.
        k, v: (b, w, l, m, c) keys and values.
        bias: (number of kinds, m, n, l), added to the scaled products.
        kinds: of the w windows, which bias each has.

    Returns:
        (b, w, n, m, c).
    """
    bias = bias.to(q.dtype)
    if q.device.type in WINDOWWISE:
        return _Windowwise.apply(q, k, v, bias, kinds)
    b, w, _, m, c = q.shape
    if len(bias) == 1:
        batch, heads = b * w, m
    else:  # one bias for each window
        batch, heads, bias = b, w * m, bias[torch.tensor(kinds, device=bias.device)].flatten(0, 1)[None]
    # the fused kernels want a multiple of 8 channels
    q, k, v = (F.pad(t.transpose(2, 3), (0, -c % 8)).reshape(batch, heads, t.shape[2], -1) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=c**-0.5)
    return out.reshape(b, w, m, *out.shape[2:])[..., :c].transpose(2, 3)


class _Windowwise(torch.autograd.Function):
    """`window_attention` a few windows at a time, on the CPU."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kinds: Sequence[int]) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.kinds = kinds
        out = q.new_empty(q.shape)
        with torch.autocast('cpu', enabled=False):
            for windows, kind in _chunks(q, bias, kinds):
                q_, k_, v_ = (_heads_first(t[windows]) for t in (q, k, v))
                out[windows] = _heads_last(torch.bmm(_weights(q_, k_, bias[kind]), v_), q)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        scale = q.shape[-1]**-0.5
        d_q, d_k, d_v = (t.new_empty(t.shape) for t in (q, k, v))
        d_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for windows, kind in _chunks(q, bias, ctx.kinds):
            q_, k_, v_, d_out_ = (_heads_first(t[windows]) for t in (q, k, v, d_out))
            weights = _weights(q_, k_, bias[kind])
            d_v[windows] = _heads_last(torch.bmm(weights.transpose(1, 2), d_out_), q)
            d_weights = torch.bmm(d_out_, v_.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_bias[kind] += d_scores if len(d_scores) == len(bias[0]) else d_scores.view(-1, *bias[0].shape).sum(0)
            d_q[windows] = _heads_last(torch.bmm(d_scores, k_).mul_(scale), q)
            d_k[windows] = _heads_last(torch.bmm(d_scores.transpose(1, 2), q_).mul_(scale), q)
        return d_q, d_k, d_v, d_bias.to(bias.dtype), None


def _chunks(q: Tensor, bias: Tensor, kinds: Sequence[int]) -> Iterator[tuple[tuple[int, slice], int]]:
    """Neighbouring windows of one sample and one kind, as an index into (b, w, ...), and the kind."""
    size = max(1, CHUNK // bias[0].numel())
    for sample in range(len(q)):
        start = 0
        for kind, run in itertools.groupby(kinds):
            end = start + len(list(run))
            for i in range(start, end, size):
                yield (sample, slice(i, min(i + size, end))), kind
            start = end


def _heads_first(windows: Tensor) -> Tensor:
    """(w, n, m, c) -> (w * m, n, c); a view of a single window."""
    return windows.transpose(1, 2).flatten(0, 1)


def _heads_last(heads: Tensor, q: Tensor) -> Tensor:
    """(w * m, n, c) -> (w, n, m, c), with as many heads as ``q`` has."""
    return heads.unflatten(0, (-1, q.shape[3])).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Softmax of the scaled products and the bias: (w m, n, c), (w m, l, c), (m, n, l) -> (w m, n, l)."""
    bias = bias if len(bias) == len(q) else bias.repeat(len(q) // len(bias), 1, 1)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1]**-0.5)
    return torch.softmax(scores, -1, out=scores)

"""Softmax attention whose products are rectified before the softmax, for whole images.

PyTorch's fused attention has no place for the rectifier. The rows of the matrices are independent: forward works off
some at a time, as does backward, which computes them again. So memory grows with the number of pixels, not its square.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK, CHUNK = 2**20, 2**27  # elements of the matrices in work at a time: on a CPU, about a cache
LEAST_QUERIES = 64  # at a time, whatever the image's size: fewer make slow matrix products


def relu_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(relu(q k^T)) v.

    Args:
        q, k: (b, n, c), scaled as they should be.
        v: (b, n, d), of the same dtype.

    Returns:
        (b, n, d).
    """
    return _ReluAttention.apply(q, k, v)


class _ReluAttention(torch.autograd.Function):
    """`relu_attention`, and a backward in the same parts."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for images, rows in _parts(q):
            scores = torch.bmm(q[images, rows], k[images].transpose(1, 2)).relu_()
            out[images, rows] = torch.bmm(torch.softmax(scores, -1, out=scores), v[images])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_k, d_v = (torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32), device=t.device)
                    for t in (k, v))
        for images, rows in _parts(q):
            q_, k_, d_out_ = q[images, rows], k[images], d_out[images, rows]
            scores = torch.bmm(q_, k_.transpose(1, 2)).relu_()
            weights = torch.softmax(scores, -1)
            d_weights = torch.bmm(d_out_, v[images].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores = torch.ops.aten.threshold_backward(d_scores, scores, 0)
            d_q[images, rows] = torch.bmm(d_scores, k_)
            d_k[images] += torch.bmm(d_scores.transpose(1, 2), q_)
            d_v[images] += torch.bmm(weights.transpose(1, 2), d_out_)
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype)


def _parts(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which images, and which of their queries, are in work at a time."""
    images, n, _ = q.shape
    chunk = CPU_CHUNK if q.device.type == 'cpu' else CHUNK
    rows = min(n, max(LEAST_QUERIES, chunk // n))
    together = max(1, chunk // (rows * n))
    for image in range(0, images, together):
        for row in range(0, n, rows):
            yield slice(image, image + together), slice(row, row + rows)

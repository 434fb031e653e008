"""Padding an image to the sizes a network can take, for any image size."""

from __future__ import annotations

import torch


def _reflected(size: int, target: int, device: torch.device) -> torch.Tensor:
    """Indices 0 .. target - 1 folded back into 0 .. size - 1 by mirroring at both ends, without repeating the edge."""
    period = max(2 * size - 2, 1)
    index = torch.arange(target, device=device) % period
    return torch.where(index < size, index, period - index)


def pad_to_size(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Extend an image by reflection at the bottom and right.

    Unlike ``F.pad(mode='reflect')`` it takes images smaller than the padding, down to 1 x 1.

    Args:
        x: (..., h, w).
        height, width: sides of the result, at least h and w.

    Returns:
        (..., height, width); ``x`` itself where nothing is to be done.
    """
    h, w = x.shape[-2:]
    if h != height:
        x = x.index_select(-2, _reflected(h, height, x.device))
    if w != width:
        x = x.index_select(-1, _reflected(w, width, x.device))
    return x


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend (..., h, w) by reflection until both sides divide by ``multiple``; see `pad_to_size`."""
    h, w = x.shape[-2:]
    return pad_to_size(x, h + -h % multiple, w + -w % multiple)

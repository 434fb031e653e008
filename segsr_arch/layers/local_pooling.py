"""Pooling over a window of the training patch's size instead of the whole image, for images that are larger.

RCAN and HAT average their features over all that they are given: in training a patch, in a test an image, of a scene a
tile, so that a result depends on how a scene is cut. Averaging over a window around each pixel instead is the test-time
local converter of Chu et al. (arXiv 2112.04491); no weights change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class LocalMean(nn.Module):
    """Mean over the ``window`` x ``window`` pixels around each pixel; near a border, those nearest to it.

    (b, c, h, w) -> the same; or (b, c, 1, 1), the mean of all, where the window holds the whole image.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[-2:]
        if max(h, w) <= self.window:
            return x.mean((-2, -1), keepdim=True)
        rows, columns = min(h, self.window), min(w, self.window)
        x = F.avg_pool2d(F.avg_pool2d(x, (rows, 1), stride=1), (1, columns), stride=1)
        top, left = (rows - 1) // 2, (columns - 1) // 2
        return F.pad(x, (left, columns - 1 - left, top, rows - 1 - top), mode='replicate')


def pool_locally(net: nn.Module, window: int) -> int:
    """Let a network average its features over windows, in place. Returns how many of its modules do that now."""
    found = [(parent, name) for parent in net.modules() for name, child in parent.named_children()
             if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1))]
    for parent, name in found:
        setattr(parent, name, LocalMean(window))
    return len(found)

"""Bicubic enlargement as a network without weights, so that BasicSR tests it under the same protocol as the others."""

import torch
from torch import nn

from segsr_arch.layers.resize import imresize


class Bicubic(nn.Module):
    """MATLAB's bicubic ``imresize``: (b, c, h, w) -> (b, c, s h, s w).

    Args:
        upscale: s.
    """

    def __init__(self, *, upscale: int):
        super().__init__()
        self.upscale = upscale

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return imresize(lr, self.upscale)

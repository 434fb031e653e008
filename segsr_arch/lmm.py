"""Learnable Modulation Module (Section III-C, Fig. 4): a guidance map sets gain and bias of a unit's feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

HIDDEN = 64  # channels between the convolutions; the paper does not say


class LMM(nn.Module):
    """F_out = g * LN(F) + b, with g and b convolved from the guidance (Eq. 9).

    The layer norm is per pixel over the channels and has no weights of its own: gain and bias are its affine part.
    The gain starts at 1 and the bias at 0 everywhere, whatever the guidance.

    Args:
        guidance_channels: 1 for a guidance map, ``num_feat`` for guidance by features (Table IV, ID 3).
        num_feat: c, channels of the unit's feature.
    """

    def __init__(self, *, guidance_channels: int, num_feat: int):
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(guidance_channels, HIDDEN, 3, padding=1), nn.ReLU(inplace=True))
        self.gain = nn.Conv2d(HIDDEN, num_feat, 3, padding=1)
        self.bias = nn.Conv2d(HIDDEN, num_feat, 3, padding=1)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)

    def modulation(self, guidance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Guidance (b, guidance_channels, h, w) -> gain and bias, each (b, c, h, w)."""
        hidden = self.shared(guidance)
        return self.gain(hidden), self.bias(hidden)

    def forward(self, feat: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        """Feature (b, c, h, w) and its guidance (b, guidance_channels, h, w) -> modulated feature (b, c, h, w)."""
        gain, bias = self.modulation(guidance)
        normed = F.layer_norm(feat.permute(0, 2, 3, 1), (self.gain.out_channels,)).permute(0, 3, 1, 2)
        return gain * normed + bias

"""What HAT, SRFormer and TTST have in common as backbones: groups of blocks with attention in windows."""

from __future__ import annotations

import torch

from segsr_arch.backbones.units import split_units


class WindowedBackbone:
    """Mixin before a `WindowNetwork`, whose options it takes. See `segsr_arch.backbones` for the methods."""

    def __init__(self, *, num_units: int, **options):
        super().__init__(**options)
        self.units = split_units(len(self.layers), num_units, 'groups (depths)')
        self.num_units = num_units
        self.num_feat = self.norm.normalized_shape[0]
        self.multiple_of = self.window_size

    def head(self, lr: torch.Tensor) -> torch.Tensor:
        return self.shallow(lr)

    def unit(self, i: int, feat: torch.Tensor) -> torch.Tensor:
        # a guidance leaves features in the other layout, with which each norm would copy them
        x = self.embed(feat) if i == 0 else feat.permute(0, 2, 3, 1).contiguous()
        for j in self.units[i]:
            x = self.group(j, x)
        return x.permute(0, 3, 1, 2)

    def tail(self, feat: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.reconstruct(feat.permute(0, 2, 3, 1), skip)

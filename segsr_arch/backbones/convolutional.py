"""What BasicSR's EDSR and RCAN have in common as backbones: a body of blocks between convolutions."""

from __future__ import annotations

import torch

from segsr_arch.backbones.units import split_units
from segsr_arch.layers.checkpointing import recomputed


class ConvolutionalBackbone:
    """Mixin before a BasicSR class with ``conv_first``, ``body``, ``conv_after_body``, ``upsample``, ``conv_last``.

    See `segsr_arch.backbones` for the methods. A subclass says in ``blocks`` what its body is made of.
    ``use_checkpoint`` recomputes each block in backward.
    """

    blocks: str
    multiple_of = 1
    use_checkpoint = False

    def __init__(self, *, num_units: int, upscale: int = 4, **options):
        super().__init__(upscale=upscale, **options)
        self.units = split_units(len(self.body), num_units, self.blocks)
        self.num_units = num_units
        self.num_feat = self.conv_first.out_channels
        self.upscale = upscale

    def head(self, lr: torch.Tensor) -> torch.Tensor:
        return self.conv_first((lr - self.mean.to(lr)) * self.img_range)

    def unit(self, i: int, feat: torch.Tensor) -> torch.Tensor:
        for j in self.units[i]:
            feat = recomputed(self.body[j], feat, when=self.use_checkpoint)
        return feat

    def tail(self, feat: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.conv_last(self.upsample(self.conv_after_body(feat) + skip))
        return x / self.img_range + self.mean.to(x)

"""SwinIR as a backbone: a unit is a run of residual Swin transformer blocks (RSTBs)."""

from __future__ import annotations

import torch
from basicsr.archs.swinir_arch import SwinIR
from einops import rearrange

from segsr_arch.backbones.units import split_units
from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.options import OptionError


class SwinIRBackbone(SwinIR):
    """BasicSR's SwinIR with its own options (``embed_dim``, ``depths``, ...), of any image size.

    Args:
        upsampler: ``pixelshuffle``, or ``pixelshuffledirect`` of the lightweight SwinIR.
        use_checkpoint: compute each RSTB again in backward; BasicSR's own way to do it fails.
    """

    def __init__(self, *, num_units: int, upsampler: str = 'pixelshuffle', use_checkpoint: bool = False, **options):
        if upsampler not in ('pixelshuffle', 'pixelshuffledirect'):
            raise OptionError(f'network_g:upsampler: is {upsampler!r}, must be pixelshuffle or pixelshuffledirect')
        super().__init__(upsampler=upsampler, **options)
        self.units = split_units(len(self.layers), num_units, 'groups (depths)')
        self.num_units = num_units
        self.num_feat = self.embed_dim
        self.multiple_of = self.layers[0].residual_group.blocks[0].window_size
        self.use_checkpoint = use_checkpoint

    def head(self, lr: torch.Tensor) -> torch.Tensor:
        return self.conv_first((lr - self.mean.to(lr)) * self.img_range)

    def unit(self, i: int, feat: torch.Tensor) -> torch.Tensor:
        size = tuple(feat.shape[-2:])
        x = self.embed(feat) if i == 0 else rearrange(feat, 'b c h w -> b (h w) c')
        for j in self.units[i]:
            x = recomputed(self.layers[j], x, size, when=self.use_checkpoint)
        return self.patch_unembed(x, size)

    def embed(self, feat: torch.Tensor) -> torch.Tensor:
        """Shallow feature (b, c, h, w) -> tokens of the first group (b, h w, c)."""
        x = self.patch_embed(feat)
        return self.pos_drop(x + self.absolute_pos_embed if self.ape else x)

    def tail(self, feat: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.norm(rearrange(feat, 'b c h w -> b (h w) c'))
        x = self.conv_after_body(self.patch_unembed(x, feat.shape[-2:])) + skip
        if self.upsampler == 'pixelshuffle':
            x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        else:
            x = self.upsample(x)
        return x / self.img_range + self.mean.to(x)

"""HAT: Activating More Pixels in Image Super-Resolution Transformer (CVPR 2023, repository XPixelGroup/HAT).

Written afresh from the paper, with the state_dict keys of the authors' code, so that their checkpoints load strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from segsr_arch.layers.window_network import HybridNetwork


class ChannelAttention(nn.Module):
    """RCAN's channel attention, times ``scale``: (b, c, h, w) -> the same."""

    def __init__(self, num_feat: int, squeeze_factor: int, scale: float):
        super().__init__()
        self.scale = scale
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, num_feat // squeeze_factor, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat // squeeze_factor, num_feat, 1),
            nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.scale * self.attention(x))


class CAB(nn.Module):
    """Channel attention block, HAT's convolutional path, times ``scale``: (b, c, h, w) -> the same."""

    def __init__(self, num_feat: int, compress_ratio: int, squeeze_factor: int, scale: float):
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(num_feat, num_feat // compress_ratio, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(num_feat // compress_ratio, num_feat, 3, padding=1),
            ChannelAttention(num_feat, squeeze_factor, scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cab(x)


class HAT(HybridNetwork):
    """Hybrid Attention Transformer. The options are those of the authors' option files.

    Args:
        img_size: LR training patch; only the grid of ``ape`` and the shift of tiny windows depend on it.
        patch_size: 1, accepted because the authors' files may name it.
        in_chans: channels of input and output.
        embed_dim, depths, num_heads: width; HABs and heads per group.
        window_size: side of the attention windows; images are padded to a multiple of it.
        compress_ratio, squeeze_factor, conv_scale: of the convolutional path (CAB).
        overlap_ratio: how far an OCAB's keys reach beyond its window; ``window_size * overlap_ratio`` must be even.
        mlp_ratio, qkv_bias, drop_rate, drop_path_rate: as in Swin. Stochastic depth grows over the HABs.
        ape: add an absolute position embedding, resized (2-D bicubic) when the image is not ``img_size``.
        patch_norm: normalise the shallow feature before the first group.
        use_checkpoint: recompute blocks in backward, to save memory.
        upscale: 2, 3, 4, 8 or another power of two.
        img_range: factor on the mean-free input.
        upsampler: ``pixelshuffle``.
        resi_connection: ``1conv`` or ``identity``: what ends each group and the body.
    """

    name = 'HAT'

    def __init__(self, *, img_size: int = 64, patch_size: int = 1, in_chans: int = 3, embed_dim: int = 96,
                 depths: Sequence[int] = (6, 6, 6, 6), num_heads: Sequence[int] = (6, 6, 6, 6), window_size: int = 7,
                 compress_ratio: int = 3, squeeze_factor: int = 30, conv_scale: float = 0.01,
                 overlap_ratio: float = 0.5, mlp_ratio: float = 4.0, qkv_bias: bool = True, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.1, ape: bool = False, patch_norm: bool = True,
                 use_checkpoint: bool = False, upscale: int = 2, img_range: float = 1.0,
                 upsampler: str = 'pixelshuffle', resi_connection: str = '1conv'):
        super().__init__(
            path=lambda heads: CAB(embed_dim, compress_ratio, squeeze_factor, conv_scale), img_size=img_size,
            patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
            window_size=window_size, overlap_ratio=overlap_ratio, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            drop_rate=drop_rate, drop_path_rate=drop_path_rate, ape=ape, patch_norm=patch_norm,
            use_checkpoint=use_checkpoint, upscale=upscale, img_range=img_range, upsampler=upsampler,
            resi_connection=resi_connection)

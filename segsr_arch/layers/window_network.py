"""The frame that HAT, SRFormer and TTST share: a convolution, groups of blocks, and the reconstruction of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from basicsr.archs.arch_util import Upsample
from einops import rearrange
from torch import nn

from segsr_arch.layers.padding import pad_to_multiple
from segsr_arch.layers.swin import (
    OCAB,
    AttentionBlocks,
    Mlp,
    PatchEmbed,
    ResidualGroup,
    SwinBlock,
    WindowAttention,
    position_index,
    to_image,
)

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # DIV2K's, as in the authors' code
UPSAMPLE_FEAT = 64  # channels of the reconstruction part


class WindowNetwork(nn.Module):
    """Groups of blocks with attention in windows, between a convolution and an upsampling. See `HAT` for the options.

    A subclass has a ``name`` for its messages, and may have another ``rgb_mean`` and ``cell`` (see `windows_of`). Its
    `group` says what a group is given beside the feature.

    Args:
        block: makes a block from its number of heads, its shift and its rate of stochastic depth.
        overlap_attn: makes the OCAB that ends a group, if one does, from its number of heads.

    Raises:
        ValueError: an option that cannot be used.
    """

    name: str
    rgb_mean = RGB_MEAN
    cell = 1

    def __init__(self, *, block: Callable[[int, int, float], SwinBlock],
                 overlap_attn: Callable[[int], OCAB | None] = lambda heads: None, img_size: int, patch_size: int,
                 in_chans: int, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int], window_size: int,
                 drop_rate: float, drop_path_rate: float, ape: bool, patch_norm: bool, use_checkpoint: bool,
                 upscale: int, img_range: float, upsampler: str, resi_connection: str):
        super().__init__()
        self.require(patch_size == 1, f'patch_size is {patch_size}; super-resolution needs 1')
        self.require(upsampler == 'pixelshuffle', f'upsampler is {upsampler!r}; there is pixelshuffle')
        self.require(resi_connection in ('1conv', 'identity'),
                     f'resi_connection is {resi_connection!r}; there are 1conv and identity')
        self.require(upscale == 3 or (upscale > 0 and upscale & (upscale - 1) == 0),
                     f'upscale is {upscale}; there are 3 and the powers of two')
        self.require(len(depths) == len(num_heads),
                     f'depths names {len(depths)} groups, num_heads {len(num_heads)}')
        self.require(window_size >= 1, f'window_size is {window_size}, must be at least 1')
        for heads in num_heads:
            self.require(heads > 0 and embed_dim % heads == 0,
                         f'embed_dim {embed_dim} does not divide by num_heads {heads}')
        self.window_size, self.img_range, self.upscale = window_size, img_range, upscale
        mean = torch.tensor(self.rgb_mean) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer('mean', mean.view(1, -1, 1, 1), persistent=False)

        def conv() -> nn.Module:
            return nn.Conv2d(embed_dim, embed_dim, 3, padding=1) if resi_connection == '1conv' else nn.Identity()

        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = PatchEmbed(embed_dim, patch_norm)
        self.ape_size = img_size
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, img_size**2, embed_dim)) if ape else None
        if ape:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        drop_paths = (drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
        shift = window_size // 2 if img_size > window_size else 0
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads):
            blocks = [block(heads, shift * (i % 2), next(drop_paths)) for i in range(depth)]
            self.layers.append(ResidualGroup(
                AttentionBlocks(blocks, overlap_attn(heads), window_size, use_checkpoint, self.cell), conv()))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv()
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(embed_dim, UPSAMPLE_FEAT, 3, padding=1), nn.LeakyReLU(inplace=True))
        self.upsample = Upsample(upscale, UPSAMPLE_FEAT)
        self.conv_last = nn.Conv2d(UPSAMPLE_FEAT, in_chans, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def require(cls, condition: bool, problem: str) -> None:
        """Raise a ValueError that names the network and the problem of its options, unless the condition holds."""
        if not condition:
            raise ValueError(f'{cls.name}: {problem}')

    def shallow(self, lr: torch.Tensor) -> torch.Tensor:
        """(b, in_chans, h, w) in [0, 1] -> shallow feature (b, c, h, w)."""
        return self.conv_first((lr - self.mean) * self.img_range)

    def embed(self, feat: torch.Tensor) -> torch.Tensor:
        """Shallow feature (b, c, h, w) -> input of the first group (b, h, w, c)."""
        x = self.patch_embed(feat.permute(0, 2, 3, 1))
        if self.absolute_pos_embed is not None:
            grid = rearrange(self.absolute_pos_embed, '1 (h w) c -> 1 c h w', h=self.ape_size)
            if grid.shape[-2:] != x.shape[1:3]:
                grid = F.interpolate(grid, size=x.shape[1:3], mode='bicubic', align_corners=False)
            x = x + grid.permute(0, 2, 3, 1)
        return self.pos_drop(x)

    def group(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Group i: (b, h, w, c) -> the same; h and w multiples of ``window_size``."""
        raise NotImplementedError

    def reconstruct(self, x: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """Output of the last group (b, h, w, c) and shallow feature (b, c, h, w) -> (b, in_chans, s h, s w)."""
        x = self.conv_after_body(to_image(self.norm(x))) + shallow
        x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        return x / self.img_range + self.mean

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """(b, in_chans, h, w) in [0, 1], any h and w -> (b, in_chans, s h, s w)."""
        h, w = lr.shape[-2:]
        shallow = self.shallow(pad_to_multiple(lr, self.window_size))
        x = self.embed(shallow)
        for i in range(len(self.layers)):
            x = self.group(i, x)
        return self.reconstruct(x, shallow)[..., :h * self.upscale, :w * self.upscale]


class HybridNetwork(WindowNetwork):
    """HAT's kind: in each block a path runs beside the attention, and an OCAB ends each group.

    Args:
        path: makes the path of a block from its number of heads: (b, c, h, w) -> the same.
        overlap_ratio, mlp_ratio, qkv_bias: see `HAT`.
        frame: the options of `WindowNetwork`.
    """

    def __init__(self, *, path: Callable[[int], nn.Module], embed_dim: int, window_size: int, overlap_ratio: float,
                 mlp_ratio: float, qkv_bias: bool, drop_rate: float, **frame):
        overlap, hidden = window_size + int(window_size * overlap_ratio), int(embed_dim * mlp_ratio)
        self.require((overlap - window_size) % 2 == 0, f'window_size {window_size} * overlap_ratio {overlap_ratio} '
                     'must be even, so that a window overlaps equally on both sides')

        def block(heads: int, shift: int, drop_path: float) -> SwinBlock:
            attn = WindowAttention(embed_dim, heads, window_size, shift, qkv_bias, drop_rate)
            beside = path(heads)
            return SwinBlock(embed_dim, attn, Mlp(embed_dim, hidden, drop_rate), drop_path, beside)

        def overlap_attn(heads: int) -> OCAB:
            return OCAB(embed_dim, heads, window_size, overlap, hidden, qkv_bias)

        super().__init__(block=block, overlap_attn=overlap_attn, embed_dim=embed_dim, window_size=window_size,
                         drop_rate=drop_rate, **frame)
        self.register_buffer('relative_position_index_SA', position_index(window_size, window_size))
        self.register_buffer('relative_position_index_OCA', position_index(window_size, overlap))

    def group(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return self.layers[i](x, self.relative_position_index_SA, self.relative_position_index_OCA)

"""HAT: Activating More Pixels in Image Super-Resolution Transformer (CVPR 2023, repository XPixelGroup/HAT).

Written afresh from the paper, with the state_dict keys of the authors' code, so that their checkpoints load strictly.
Inside, features are (b, h, w, c): windows are cut from this layout, norms and linears act on its last axis, and a
convolution sees it as a channels-last (b, c, h, w) view. No token lists, no copies between the layouts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from basicsr.archs.arch_util import Upsample
from einops import rearrange
from torch import nn
from torchvision.ops import StochasticDepth

from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.layers.padding import pad_to_multiple
from segsr_arch.layers.window_attention import Windows, window_attention, windows_of

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # DIV2K's, as in the authors' code
HEAD_MULTIPLE = 8  # of a head's channels, for which fused attention and matrix products are faster
UPSAMPLE_FEAT = 64  # channels of the reconstruction part


def position_index(query: int, key: int) -> torch.Tensor:
    """Index into a table of relative positions, for a query window and a concentric key window.

    Args:
        query, key: sides of the two windows in pixels; equal for self-attention.

    Returns:
        (query * query, key * key) int64. Values may be negative, counting from the table's end, as in HAT's code.
    """
    def grid(side: int) -> torch.Tensor:
        return torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')).flatten(1)

    # HAT counts query minus key for self-attention, key minus query for the overlapping windows.
    offset = grid(query)[:, :, None] - grid(key)[:, None, :]
    offset = offset if query == key else -offset
    offset = offset + (query - key + 1 if query != key else query - 1)
    return offset[0] * (query + key - 1) + offset[1]


def position_bias(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Bias of each head for each pair of pixels: table (positions, m), index (n, l) -> (m, n, l)."""
    places = (index % len(table)).flatten().expand(table.shape[1], -1)  # an index may be negative, see position_index
    return table.T.gather(1, places).unflatten(1, index.shape)


def to_heads(qkv: nn.Linear, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries, keys and values: (..., c) -> (..., 3, m, d), where zeros extend a head's channels, see HEAD_MULTIPLE."""
    weight = qkv.weight.unflatten(0, (3, heads, -1))
    more = -weight.shape[2] % HEAD_MULTIPLE
    weight = F.pad(weight, (0, 0, 0, more))
    bias = None if qkv.bias is None else F.pad(qkv.bias.unflatten(0, (3, heads, -1)), (0, more)).flatten()
    return F.linear(x, weight.flatten(0, 2), bias).unflatten(-1, weight.shape[:3])


def from_heads(proj: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The linear after attention: (..., m, d), extended as by `to_heads`, -> (..., c)."""
    weight = proj.weight.unflatten(1, (x.shape[-2], -1))
    return F.linear(x.flatten(-2), F.pad(weight, (0, x.shape[-1] - weight.shape[2])).flatten(1), proj.bias)


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


class Mlp(nn.Module):
    """Two linears with a GELU between: (..., c) -> (..., c)."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class FeedForward(nn.Module):
    """What both kinds of blocks end with: a norm and an MLP, ``norm2`` and ``mlp``.

    The MLP's inner features are a block's largest. In training they are computed again in backward instead of kept,
    for a fiftieth of the time, unless the whole block is.
    """

    recompute = True

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, h, w, c) -> the same."""
        return recomputed(lambda x: self.mlp(self.norm2(x)), x, when=self.recompute)


class WindowAttention(nn.Module):
    """(Shifted) window self-attention with a learned bias per relative position: (b, h, w, c) -> the same."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, qkv_bias: bool, drop: float):
        super().__init__()
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.scale = (dim // num_heads)**-0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1)**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        # without a second copy of x for backward
        q, k, v = recomputed(lambda x: to_heads(self.qkv, windows.cut(x), self.num_heads), x).unbind(2)
        out = window_attention(q, k, v, position_bias(self.relative_position_bias_table, index), windows.mask,
                               windows.counts, self.scale)
        return self.proj_drop(windows.join(from_heads(self.proj, out), x))


class HAB(FeedForward):
    """Hybrid attention block: window attention and channel attention side by side, then an MLP."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, compress_ratio: int,
                 squeeze_factor: int, conv_scale: float, mlp_ratio: float, qkv_bias: bool, drop: float,
                 drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, shift, qkv_bias, drop)
        self.conv_block = CAB(dim, compress_ratio, squeeze_factor, conv_scale)
        self.drop_path = StochasticDepth(drop_path, mode='row')
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        y = self.norm1(x)
        conv = self.conv_block(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = (x + self.drop_path(self.attn(y, index, windows))).add_(conv)
        return x + self.drop_path(self.feed_forward(x))


class OCAB(FeedForward):
    """Overlapping cross-attention block: queries of a window see keys of a larger, overlapping one."""

    def __init__(self, dim: int, num_heads: int, window_size: int, overlap_ratio: float, mlp_ratio: float,
                 qkv_bias: bool):
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.scale = (dim // num_heads)**-0.5
        self.overlap = overlap_window(window_size, overlap_ratio)
        self.relative_position_bias_table = nn.Parameter(torch.empty((window_size + self.overlap - 1)**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), 0.0)

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        margin = (self.overlap - self.window_size) // 2
        q, kv = to_heads(self.qkv, self.norm1(x), self.num_heads).tensor_split((1,), 3)
        q = windows.cut(q.flatten(3)).unflatten(-1, (self.num_heads, -1))
        kv = F.pad(kv, (0, 0, 0, 0, 0, 0, margin, margin, margin, margin))
        k, v = (kv.unfold(1, self.overlap, self.window_size).unfold(2, self.overlap, self.window_size)
                .permute(3, 0, 1, 2, 6, 7, 4, 5))
        out = window_attention(q, k, v, position_bias(self.relative_position_bias_table, index),
                               scale=self.scale)
        x = x + windows.join(from_heads(self.proj, out), x)
        return x + self.feed_forward(x)


def overlap_window(window_size: int, overlap_ratio: float) -> int:
    """Side of the key window of an OCAB, in pixels."""
    return window_size + int(window_size * overlap_ratio)


class AttentionBlocks(nn.Module):
    """The HABs of a group and its OCAB: (b, h, w, c) -> the same. ``use_checkpoint`` recomputes them in backward."""

    def __init__(self, blocks: Sequence[HAB], overlap_attn: OCAB, use_checkpoint: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn
        self.use_checkpoint = use_checkpoint

    def forward(self, x: torch.Tensor, index: torch.Tensor, overlap_index: torch.Tensor) -> torch.Tensor:
        windows = {shift: windows_of(x, self.overlap_attn.window_size, shift)
                   for shift in {0, *(block.attn.shift for block in self.blocks)}}
        for block, *how in [*((block, index, windows[block.attn.shift]) for block in self.blocks),
                            (self.overlap_attn, overlap_index, windows[0])]:
            block.recompute = not self.use_checkpoint
            x = recomputed(block, x, *how, when=self.use_checkpoint)
        return x


class RHAG(nn.Module):
    """Residual hybrid attention group: HABs, one OCAB, a convolution, all inside a residual connection."""

    def __init__(self, residual_group: AttentionBlocks, conv: nn.Module):
        super().__init__()
        self.residual_group = residual_group
        self.conv = conv

    def forward(self, x: torch.Tensor, index: torch.Tensor, overlap_index: torch.Tensor) -> torch.Tensor:
        y = self.residual_group(x, index, overlap_index)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """HAT's patches are pixels, so all that is left of the patch embedding is its norm."""

    def __init__(self, dim: int, patch_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim) if patch_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class HAT(nn.Module):
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
        super().__init__()
        if patch_size != 1:
            raise ValueError(f'{self.name}: patch_size is {patch_size}; super-resolution needs 1')
        if upsampler != 'pixelshuffle':
            raise ValueError(f'{self.name}: upsampler is {upsampler!r}; there is pixelshuffle')
        if resi_connection not in ('1conv', 'identity'):
            raise ValueError(f'{self.name}: resi_connection is {resi_connection!r}; there are 1conv and identity')
        if upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
            raise ValueError(f'{self.name}: upscale is {upscale}; there are 3 and the powers of two')
        if len(depths) != len(num_heads):
            raise ValueError(f'{self.name}: depths names {len(depths)} groups, num_heads {len(num_heads)}')
        if window_size < 1:
            raise ValueError(f'{self.name}: window_size is {window_size}, must be at least 1')
        for heads in num_heads:
            if heads < 1 or embed_dim % heads:
                raise ValueError(f'{self.name}: embed_dim {embed_dim} does not divide by num_heads {heads}')
        if (overlap_window(window_size, overlap_ratio) - window_size) % 2:
            raise ValueError(f'{self.name}: window_size {window_size} * overlap_ratio {overlap_ratio} must be even, '
                             'so that a window overlaps equally on both sides')
        self.window_size, self.img_range, self.upscale = window_size, img_range, upscale
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer('mean', mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer('relative_position_index_SA', position_index(window_size, window_size))
        self.register_buffer('relative_position_index_OCA',
                             position_index(window_size, overlap_window(window_size, overlap_ratio)))

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
            blocks = [
                HAB(embed_dim, heads, window_size, shift * (i % 2), compress_ratio, squeeze_factor, conv_scale,
                    mlp_ratio, qkv_bias, drop_rate, next(drop_paths)) for i in range(depth)
            ]
            overlap_attn = OCAB(embed_dim, heads, window_size, overlap_ratio, mlp_ratio, qkv_bias)
            self.layers.append(RHAG(AttentionBlocks(blocks, overlap_attn, use_checkpoint), conv()))
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
        return self.layers[i](x, self.relative_position_index_SA, self.relative_position_index_OCA)

    def reconstruct(self, x: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """Output of the last group (b, h, w, c) and shallow feature (b, c, h, w) -> (b, in_chans, s h, s w)."""
        x = self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + shallow
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

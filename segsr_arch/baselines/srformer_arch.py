"""SRFormer: Permuted Self-Attention for Single Image Super-Resolution (ICCV 2023, repository HVision-NKU/SRFormer).

Written afresh, with the state_dict keys of the authors' code, so that their checkpoints load strictly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import nn

from segsr_arch.layers.swin import (
    Mlp,
    SwinBlock,
    from_heads,
    position_bias,
    position_index,
    position_table,
    to_heads,
)
from segsr_arch.layers.window_attention import Windows, shift_mask, window_attention
from segsr_arch.layers.window_network import WindowNetwork

CELL = 2  # side of the cells that are one key, in pixels


class PermutedAttention(nn.Module):
    """Pixels of a window attend to its cells of 2 x 2 pixels, in whose channels the four lie side by side.

    (b, h, w, c) -> the same. A pixel has c / 4 channels of a key and as many of a value. The windows' pixels come cell
    by cell, see `windows_of`, so that the permutation is no more than a view.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, qkv_bias: bool, drop: float):
        super().__init__()
        self.num_heads, self.shift = num_heads, shift
        self.scale = (dim // num_heads)**-0.5
        self.relative_position_bias_table = position_table(2 * (window_size // CELL) - 1, num_heads)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, dim // 2, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        q = to_heads(self.q, x, self.num_heads)
        q = windows.cut(q.flatten(3)).unflatten(-1, q.shape[-2:])
        kv = rearrange(windows.cut(self.kv(x)), 'w (l cell) (kv e) -> kv w l (cell e)', cell=CELL**2, kv=2)
        kv = kv.unflatten(-1, (self.num_heads, -1))
        k, v = F.pad(kv, (0, q.shape[-1] - kv.shape[-1]))  # as wide as the queries
        bias = position_bias(self.relative_position_bias_table, index).repeat_interleave(CELL**2, 1)
        out = window_attention(q, k, v, bias, windows.mask, windows.counts, self.scale)
        return self.proj_drop(windows.join(from_heads(self.proj, out), x))


class ConvMlp(Mlp):
    """An `Mlp` whose inner features get their neighbourhood added: (b, h, w, c) -> the same."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__(dim, hidden, drop)
        conv = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(depthwise_conv=nn.Sequential(conv, nn.GELU())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.fc1(x))
        x = x + self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.drop(self.fc2(self.drop(x)))


class SRFormer(WindowNetwork):
    """SRFormer. The options are those of the authors' option files; the defaults are the paper's network.

    The authors' files also hold position indices and masks, more numbers than weights. Here they are computed: they are
    there on saving, for the authors' code, and disregarded on loading, whatever ``img_size`` the file was made with.
    In files from before July 2023 the masks are others, which the authors' code applies to images of just that size;
    here such an image is treated as all others are.

    Args:
        img_size: LR training patch; only the grid of ``ape``, the masks that are saved and the shift of tiny windows
            depend on it.
        window_size: side of the attention windows, even; images are padded to a multiple of it.
        embed_dim: width, a multiple of 4.
        upscale: 2, 3, 4, 8 or another power of two.
        The others are those of `HAT`.
    """

    name = 'SRFormer'
    cell = CELL

    def __init__(self, *, img_size: int = 64, patch_size: int = 1, in_chans: int = 3, embed_dim: int = 180,
                 depths: Sequence[int] = (6, 6, 6, 6, 6, 6), num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
                 window_size: int = 22, mlp_ratio: float = 2.0, qkv_bias: bool = True, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.1, ape: bool = False, patch_norm: bool = True,
                 use_checkpoint: bool = False, upscale: int = 4, img_range: float = 1.0,
                 upsampler: str = 'pixelshuffle', resi_connection: str = '1conv'):
        self.require(window_size % CELL == 0, f'window_size is {window_size}, must be even')
        self.require(embed_dim % 4 == 0, f'embed_dim is {embed_dim}, must be a multiple of 4')

        def block(heads: int, shift: int, drop_path: float) -> SwinBlock:
            attn = PermutedAttention(embed_dim, heads, window_size, shift, qkv_bias, drop_rate)
            return SwinBlock(embed_dim, attn, ConvMlp(embed_dim, int(embed_dim * mlp_ratio), drop_rate), drop_path)

        super().__init__(
            block=block, img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim,
            depths=depths, num_heads=num_heads, window_size=window_size, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, ape=ape, patch_norm=patch_norm, use_checkpoint=use_checkpoint,
            upscale=upscale, img_range=img_range, upsampler=upsampler, resi_connection=resi_connection)
        self.img_size = img_size

    def group(self, i: int, x: torch.Tensor) -> torch.Tensor:
        cells = self.window_size // CELL
        return self.layers[i](x, position_index(cells, cells, x.device))

    def computed(self) -> dict[str, torch.Tensor]:
        """What the authors' files hold beside weights, by key; the same tensors for all blocks, on the CPU."""
        cells, along = self.window_size // CELL, -(-self.img_size // self.window_size)
        last = (torch.arange(along, device='cpu') == along - 1).long()
        masks = shift_mask(self.window_size, self.window_size // 2, CELL, 'cpu')[2 * last[:, None] + last]
        index = position_index(cells, cells, 'cpu').repeat_interleave(CELL**2, 0)
        index, mask = (rearrange(pairs, '... (i j di dj) key -> (...) (i di j dj) key', i=cells, di=CELL, j=cells,
                                 dj=CELL) for pairs in (index, masks))
        values = {}
        for i, layer in enumerate(self.layers):
            for j, block in enumerate(layer.residual_group.blocks):
                name = f'layers.{i}.residual_group.blocks.{j}'
                values[f'{name}.attn.aligned_relative_position_index'] = index.squeeze(0)
                if block.attn.shift:
                    values[f'{name}.attn_mask'] = mask
        return values

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + key: value for key, value in self.computed().items()})

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key in self.computed():
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

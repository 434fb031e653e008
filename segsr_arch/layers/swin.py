"""Parts of networks of Swin's kind: attention in windows with a bias for each relative position, blocks and groups.

Features are (b, h, w, c): windows are cut from this layout, norms and linears act on its last axis, and a convolution
sees it as a channels-last (b, c, h, w) view. No token lists, no copies between the layouts. The modules bear the names
that HAT, SRFormer and TTST share in their authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torchvision.ops import StochasticDepth

from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.layers.window_attention import Windows, window_attention, windows_of

HEAD_MULTIPLE = 8  # of a head's channels, for which fused attention and matrix products are faster


def position_index(query: int, key: int, device: torch.device | None = None) -> torch.Tensor:
    """Index into a table of relative positions, for a query window and a concentric key window.

    Args:
        query, key: sides of the two windows in pixels; equal for self-attention.

    Returns:
        (query * query, key * key) int64. Values may be negative, counting from the table's end, as in HAT's code.
    """
    def grid(side: int) -> torch.Tensor:
        line = torch.arange(side, device=device)
        return torch.stack(torch.meshgrid(line, line, indexing='ij')).flatten(1)

    # HAT counts query minus key for self-attention, key minus query for the overlapping windows.
    offset = grid(query)[:, :, None] - grid(key)[:, None, :]
    offset = offset if query == key else -offset
    offset = offset + (query - key + 1 if query != key else query - 1)
    return offset[0] * (query + key - 1) + offset[1]


def position_table(reach: int, heads: int) -> nn.Parameter:
    """A bias of each head for each relative position: (reach * reach, m)."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(reach**2, heads), std=0.02))


def position_bias(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Bias of each head for each pair of pixels: table (positions, m), index (n, l) -> (m, n, l)."""
    places = (index % len(table)).flatten().expand(table.shape[1], -1)  # an index may be negative, see position_index
    return table.T.gather(1, places).unflatten(1, index.shape)


def to_heads(linear: nn.Linear, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries, keys and values, or some of them: (..., c) -> (..., parts, m, d).

    Args:
        linear: c -> parts * c.
        heads: m. Zeros extend a head's channels, see HEAD_MULTIPLE.
    """
    shape = (-1, heads, linear.in_features // heads)
    weight = linear.weight.unflatten(0, shape)
    more = -weight.shape[2] % HEAD_MULTIPLE
    weight = F.pad(weight, (0, 0, 0, more))
    bias = None if linear.bias is None else F.pad(linear.bias.unflatten(0, shape), (0, more)).flatten()
    return F.linear(x, weight.flatten(0, 2), bias).unflatten(-1, weight.shape[:3])


def from_heads(proj: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The linear after attention: (..., m, d), extended as by `to_heads`, -> (..., c)."""
    weight = proj.weight.unflatten(1, (x.shape[-2], -1))
    return F.linear(x.flatten(-2), F.pad(weight, (0, x.shape[-1] - weight.shape[2])).flatten(1), proj.bias)


def to_image(x: torch.Tensor) -> torch.Tensor:
    """(b, h, w, c) -> (b, c, h, w) for 3 x 3 convolutions: a view, or a copy that halves the time of their backward."""
    image = x.permute(0, 3, 1, 2)
    return image.contiguous() if x.requires_grad and x.device.type == 'cpu' else image


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
    """What all kinds of blocks end with: a norm and an MLP, ``norm2`` and ``mlp``.

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
        self.relative_position_bias_table = position_table(2 * window_size - 1, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        # without a second copy of x for backward
        q, k, v = recomputed(lambda x: to_heads(self.qkv, windows.cut(x), self.num_heads), x).unbind(2)
        out = window_attention(q, k, v, position_bias(self.relative_position_bias_table, index), windows.mask,
                               windows.counts, self.scale)
        return self.proj_drop(windows.join(from_heads(self.proj, out), x))


class SwinBlock(FeedForward):
    """Window attention, then an MLP: (b, h, w, c) -> the same. A HAB with a path beside the attention.

    Args:
        dim: c.
        attn: `WindowAttention`, or another attention in windows.
        mlp: (b, h, w, c) -> the same.
        drop_path: how often a sample skips the attention, and the MLP.
        conv_block: the path: (b, c, h, w) -> the same, of what the attention sees.
    """

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float,
                 conv_block: nn.Module | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.conv_block = conv_block
        self.drop_path = StochasticDepth(drop_path, mode='row')
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp

    def forward(self, x: torch.Tensor, index: torch.Tensor, windows: Windows) -> torch.Tensor:
        y = self.norm1(x)
        beside = None if self.conv_block is None else self.conv_block(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.attn(y, index, windows))
        x = x if beside is None else x.add_(beside)
        return x + self.drop_path(self.feed_forward(x))


class OCAB(FeedForward):
    """HAT's overlapping cross-attention block: queries of a window see keys of a larger, overlapping one."""

    def __init__(self, dim: int, num_heads: int, window_size: int, overlap: int, hidden: int, qkv_bias: bool):
        super().__init__()
        self.num_heads, self.window_size, self.overlap = num_heads, window_size, overlap
        self.scale = (dim // num_heads)**-0.5
        self.relative_position_bias_table = position_table(window_size + overlap - 1, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, 0.0)

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


class AttentionBlocks(nn.Module):
    """The blocks of a group, and its OCAB if it has one: (b, h, w, c) -> the same; windows are cut once for all.

    Args:
        use_checkpoint: compute each block again in backward.
        cell: side of what a key stands for, see `windows_of`.
    """

    def __init__(self, blocks: Sequence[SwinBlock], overlap_attn: OCAB | None, window_size: int,
                 use_checkpoint: bool, cell: int = 1):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn
        self.window_size, self.use_checkpoint, self.cell = window_size, use_checkpoint, cell

    def forward(self, x: torch.Tensor, index: torch.Tensor, overlap_index: torch.Tensor | None = None) -> torch.Tensor:
        windows = {shift: windows_of(x, self.window_size, shift, self.cell)
                   for shift in {0, *(block.attn.shift for block in self.blocks)}}
        steps = [(block, index, windows[block.attn.shift]) for block in self.blocks]
        if self.overlap_attn is not None:
            steps.append((self.overlap_attn, overlap_index, windows[0]))
        for block, *how in steps:
            block.recompute = not self.use_checkpoint
            x = recomputed(block, x, *how, when=self.use_checkpoint)
        return x


class ResidualGroup(nn.Module):
    """Blocks and a convolution, all inside a residual connection; HAT's RHAG: (b, h, w, c) -> the same."""

    def __init__(self, residual_group: AttentionBlocks, conv: nn.Module):
        super().__init__()
        self.residual_group = residual_group
        self.conv = conv

    def forward(self, x: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
        y = self.residual_group(x, *indices)
        return x + self.conv(to_image(y)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Patches are pixels, so all that is left of the patch embedding is its norm: (b, h, w, c) -> the same."""

    def __init__(self, dim: int, patch_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim) if patch_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

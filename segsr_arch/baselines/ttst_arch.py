"""TTST: A Top-k Token Selective Transformer for Remote Sensing Image Super-Resolution (TIP 2024, XY-boy/TTST).

The network of the authors' repository since 27 January 2024: HAT, with a channel attention of the largest correlations
in the place of its convolutional path. Written afresh, with the state_dict keys of the authors' code, so that their
checkpoints load strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import nn

from segsr_arch.layers.window_network import HybridNetwork

SHARES = (1 / 2, 2 / 3, 3 / 4, 4 / 5)  # of a head's channels, that the four selections keep; rounded down
SHORTEST = 1e-12  # what a channel's length is at least, where it is divided by


def correlations(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Of each channel of q with each of k, (b, n, m, d) both, over the pixels: (b, m, d, d) in [-1, 1]."""
    q = q / _lengths(q)[:, None]  # before the product, which may lie beyond the range of fp16
    return einsum(q, k, 'b n m i, b n m j -> b m i j') / _lengths(k)[..., None, :]


def _lengths(x: torch.Tensor) -> torch.Tensor:
    """Of each channel over the pixels, in fp32 at least: (b, n, m, d) -> (b, m, d)."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(1).clamp(min=SHORTEST**2).sqrt()


class TopKAttention(nn.Module):
    """Attention among the channels of each head, times ``scale``: (b, c, h, w) -> the same.

    Channels are compared by their correlation over all pixels. Four times, a channel attends to those alone that
    correlate with it most; the results are added with learned weights. All four attend to the same values, and
    ``project_out`` is linear: so their sum and ``project_out`` are one small matrix for each image.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool, scale: float):
        super().__init__()
        self.num_heads, self.scale = num_heads, scale
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.attn1, self.attn2, self.attn3, self.attn4 = (nn.Parameter(torch.tensor([0.2])) for _ in SHARES)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)
        kept = torch.tensor([int(dim // num_heads * share) for share in SHARES])
        self.register_buffer('kept', kept.view(-1, 1, 1, 1, 1), persistent=False)

    def selected(self, scores: torch.Tensor) -> torch.Tensor:
        """Weights of the values: (b, m, d, d) -> the same, the sum of the four selections."""
        rank = scores.argsort(-1, descending=True).argsort(-1)
        weights = torch.where(rank < self.kept, scores, -torch.inf).softmax(-1)
        return einsum(torch.cat((self.attn1, self.attn2, self.attn3, self.attn4)), weights, 's, s b m i j -> b m i j')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = rearrange(self.qkv_dwconv(self.qkv(x)), 'b (qkv m d) h w -> qkv b (h w) m d', qkv=3, m=self.num_heads)
        weights = self.selected(correlations(q, k) * self.temperature)
        project = self.scale * rearrange(self.project_out.weight, 'c (m i) 1 1 -> c m i', m=self.num_heads)
        out = v.flatten(2) @ einsum(project, weights, 'c m i, b m i j -> b m j c').flatten(1, 2)
        if self.project_out.bias is not None:
            out = out + self.scale * self.project_out.bias
        return rearrange(out, 'b (h w) c -> b c h w', h=x.shape[2])


class TTST(HybridNetwork):
    """Top-k Token Selective Transformer. The options are those of the authors' class, whose defaults are the paper's.

    Args:
        conv_scale: of the channel attention.
        compress_ratio, squeeze_factor, img_range: without effect, in the authors' code too.
        upscale: 2, 3, 4, 8 or another power of two.
        The others are those of `HAT`. The image is taken as it is, without a mean.
    """

    name = 'TTST'
    rgb_mean = (0.0, 0.0, 0.0)

    def __init__(self, *, img_size: int = 64, patch_size: int = 1, in_chans: int = 3, embed_dim: int = 180,
                 depths: Sequence[int] = (6, 6, 6, 6, 6, 6), num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
                 window_size: int = 8, compress_ratio: int = 3, squeeze_factor: int = 30, conv_scale: float = 0.01,
                 overlap_ratio: float = 0.5, mlp_ratio: float = 2.0, qkv_bias: bool = True, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.1, ape: bool = False, patch_norm: bool = True,
                 use_checkpoint: bool = False, upscale: int = 4, img_range: float = 1.0,
                 upsampler: str = 'pixelshuffle', resi_connection: str = '1conv'):
        for heads in num_heads:
            self.require(embed_dim >= 2 * heads, f'num_heads is {heads}; with embed_dim {embed_dim} it must be at most '
                         f'{embed_dim // 2}, so that a head has channels to select from')
        super().__init__(
            path=lambda heads: TopKAttention(embed_dim, heads, qkv_bias, conv_scale), img_size=img_size,
            patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
            window_size=window_size, overlap_ratio=overlap_ratio, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            drop_rate=drop_rate, drop_path_rate=drop_path_rate, ape=ape, patch_norm=patch_norm,
            use_checkpoint=use_checkpoint, upscale=upscale, img_range=1.0, upsampler=upsampler,
            resi_connection=resi_connection)

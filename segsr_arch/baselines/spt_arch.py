"""SPT: Scale-Aware Backprojection Transformer for Single Remote Sensing Image Super-Resolution (TGRS 2024, repository
KarlLi5/SPT).

Written afresh from a description of it, with the state_dict keys of the authors' code, so that their checkpoints load
strictly. Inside, features are (b, h, w, c), as in HAT. The authors' names: an SPTB is a group of SPALs, whose attention
(PPSA) sees the whole image at three scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from basicsr.archs.arch_util import Upsample
from einops import rearrange
from torch import Tensor, nn

from segsr_arch.baselines.hat_arch import CAB
from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.layers.padding import pad_to_size
from segsr_arch.layers.swin import Mlp, PatchEmbed
from segsr_arch.layers.window_network import RGB_MEAN, UPSAMPLE_FEAT

ATTENTION_FEAT, HEADS = 64, 4  # of all attention, whatever the network's width
RATIOS = (2, 4, 8)  # by which the image is pooled for keys and values
LEAST_SIDE = 5  # in pixels: a side of 4 has nothing left after pooling by 8


class PPSA(nn.Module):
    """Pyramid pooling self-attention: each pixel sees the image pooled at three scales.

    Args:
        qkv_bias: whether q, k and v have a bias.
        scale: of the products; None: 1 / sqrt(d) of heads of d channels.
        drop: dropout of the result.
    """

    def __init__(self, qkv_bias: bool, scale: float | None, drop: float):
        super().__init__()
        self.scale = scale
        self.q = nn.Sequential(nn.Linear(ATTENTION_FEAT, ATTENTION_FEAT, bias=qkv_bias))
        self.norm = nn.LayerNorm(ATTENTION_FEAT)
        self.kv = nn.Sequential(nn.Linear(ATTENTION_FEAT, 2 * ATTENTION_FEAT, bias=qkv_bias))
        self.proj = nn.Linear(ATTENTION_FEAT, ATTENTION_FEAT)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor, d_convs: nn.ModuleList) -> Tensor:
        """(b, h, w, 64) -> the same. ``d_convs``: a depthwise convolution for each of RATIOS."""
        q = rearrange(self.q(x), 'b h w (m d) -> b m (h w) d', m=HEADS)
        k, v = rearrange(self.kv(self.norm(pooled(x, d_convs))), 'b n (two m d) -> two b m n d', two=2, m=HEADS)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj_drop(self.proj(rearrange(out, 'b m (h w) d -> b h w (m d)', h=x.shape[1])))


def pooled(x: Tensor, d_convs: nn.ModuleList) -> Tensor:
    """The image at three scales: (b, h, w, c) -> (b, n, c), one scale after another.

    The authors' code takes the pixels, row after row, for those of an image of w rows and h columns. That shears an
    image that is not square; it is kept, as their weights are trained with it.
    """
    b, h, w, c = x.shape
    image = x.reshape(b, w, h, c).permute(0, 3, 1, 2)
    tokens = []
    for ratio, conv in zip(RATIOS, d_convs):
        size = (round(w / ratio), round(h / ratio))  # halves to even, as in Python and the authors' code
        scale = F.adaptive_avg_pool2d(image, size) + F.adaptive_max_pool2d(image, size)
        tokens.append((scale + conv(scale)).permute(0, 2, 3, 1).flatten(1, 2))
    return torch.cat(tokens, 1)


class SPAL(nn.Module):
    """Scale-aware pyramid pooling attention layer: attention beside convolutions, then an MLP.

    Args:
        dim: c.
        hidden: features inside the MLP.
        attn: the attention.
        drop: dropout in the MLP.
    """

    def __init__(self, dim: int, hidden: int, attn: PPSA, drop: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.conv_in = nn.Conv2d(dim, 2 * ATTENTION_FEAT, 1)
        self.attn = attn
        self.CAB = CAB(ATTENTION_FEAT, compress_ratio=3, squeeze_factor=16, scale=1.0)
        self.conv_up = nn.Conv2d(ATTENTION_FEAT, dim, 1)
        self.conv = nn.Conv2d(ATTENTION_FEAT, dim, 1)
        self.norm2 = nn.LayerNorm(dim)
        self.FFN = Mlp(dim, hidden, drop)

    def forward(self, x: Tensor, d_convs: nn.ModuleList) -> Tensor:
        """(b, h, w, c) -> the same; ``d_convs`` as in `PPSA`."""
        g, a = self.conv_in(self.norm1(x).permute(0, 3, 1, 2)).chunk(2, 1)
        p = self.attn(g.permute(0, 2, 3, 1), d_convs).permute(0, 3, 1, 2)
        x = x + (self.conv_up(p) + self.conv(self.CAB(a) - p)).permute(0, 2, 3, 1)
        return x + self.FFN(self.norm2(x))


class Fusion(nn.Module):
    """Back projection of one half of a block's features onto the other: two (b, c, h, w) -> one."""

    def __init__(self, dim: int):
        super().__init__()
        self.cab = CAB(dim, compress_ratio=6, squeeze_factor=16, scale=1.0)
        self.conv_1 = nn.Conv2d(dim, dim, 1)
        self.conv_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return self.conv_1(self.cab(a) - s) + self.conv_2(s)


class SPTB(nn.Module):
    """Scale-aware back-projection transformer block: SPALs on one half of its features, convolutions on the other.

    Args:
        dim: c.
        layers: SPALs.
        use_checkpoint: recompute them in backward, to save memory.
    """

    def __init__(self, dim: int, layers: Sequence[SPAL], use_checkpoint: bool):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.conv_split = nn.Conv2d(dim, 2 * dim, 1)
        self.Self_PPSA_Block = nn.ModuleList(layers)
        self.conv_sum = nn.Conv2d(dim, dim, 3, padding=1)
        self.fused = Fusion(dim)

    def forward(self, x: Tensor, d_convs: nn.ModuleList) -> Tensor:
        """(b, h, w, c) -> the same; ``d_convs`` as in `PPSA`."""
        s, a = self.conv_split(x.permute(0, 3, 1, 2)).chunk(2, 1)
        s = s.permute(0, 2, 3, 1)
        for layer in self.Self_PPSA_Block:
            s = recomputed(layer, s, d_convs, when=self.use_checkpoint)
        return x + self.fused(self.conv_sum(s.permute(0, 3, 1, 2)), a).permute(0, 2, 3, 1)


class SPT(nn.Module):
    """Scale-aware back-projection transformer. The options are those of the authors' code.

    It adds the mean of the colours once more than it subtracts it, as the authors' code does: a fresh network is too
    bright by it, and its first loss is near 0.4.

    Args:
        upscale: 2, 3, or a power of two.
        in_chans: channels of input and output.
        embed_dim: c, at least 16.
        SPTB_num, SPAL_num: blocks, and layers in each.
        FFN_ratio: how many times c the features inside an MLP are.
        qkv_bias, qk_scale: of attention; its products are scaled by 0.25, 1 / sqrt(16), if ``qk_scale`` is None.
        drop_rate: dropout where HAT has it: of the first features, of attention's result, in the MLPs.
        patch_norm: normalise the shallow feature before the first block.
        img_range: factor on the mean-free input.
        use_checkpoint: recompute layers in backward, to save memory. The authors' code names it and does nothing.
        ape: false; the authors' code makes an embedding of true, but never adds it.
        upsampler: ``pixelshuffle``.
        img_size, patch_size, num_head, drop_path_rate, attn_drop_rate, resi_connection: accepted because the authors'
            files may name them; without effect, as in their code. There are always 4 heads of 16 channels.
    """

    def __init__(self, *, upscale: int = 4, in_chans: int = 3, embed_dim: int = 96, SPTB_num: int = 6,  # noqa: N803
                 SPAL_num: int = 3, FFN_ratio: float = 2.0, qkv_bias: bool = True,  # noqa: N803
                 qk_scale: float | None = None, drop_rate: float = 0.0, patch_norm: bool = True,
                 img_range: float = 1.0, use_checkpoint: bool = False, ape: bool = False,
                 upsampler: str = 'pixelshuffle', img_size: Any = None, patch_size: Any = None, num_head: Any = None,
                 drop_path_rate: Any = None, attn_drop_rate: Any = None, resi_connection: Any = None):
        super().__init__()
        if upsampler != 'pixelshuffle':
            raise ValueError(f'SPT: upsampler is {upsampler!r}; there is pixelshuffle')
        if ape:
            raise ValueError('SPT: ape is true; its embedding would never be used, so it must be false')
        for name, given, least in (('embed_dim', embed_dim, 16), ('SPTB_num', SPTB_num, 1), ('SPAL_num', SPAL_num, 1)):
            if given < least:
                raise ValueError(f'SPT: {name} is {given}, must be at least {least}')
        if upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
            raise ValueError(f'SPT: upscale is {upscale}; there are 3 and the powers of two')
        self.upscale, self.img_range = upscale, img_range
        mean = torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)
        self.register_buffer('mean', mean.view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = PatchEmbed(embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        self.d_convs = nn.ModuleList(
            nn.Conv2d(ATTENTION_FEAT, ATTENTION_FEAT, 3, padding=1, groups=ATTENTION_FEAT) for _ in RATIOS)
        self.layers = nn.ModuleList(
            SPTB(embed_dim, [SPAL(embed_dim, int(embed_dim * FFN_ratio), PPSA(qkv_bias, qk_scale, drop_rate), drop_rate)
                             for _ in range(SPAL_num)], use_checkpoint) for _ in range(SPTB_num))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(embed_dim, UPSAMPLE_FEAT, 3, padding=1), nn.LeakyReLU(inplace=True))
        self.upsample = Upsample(upscale, UPSAMPLE_FEAT)
        self.conv_last = nn.Conv2d(UPSAMPLE_FEAT, in_chans, 3, padding=1)
        self.final_feat1 = nn.Conv2d(in_chans, UPSAMPLE_FEAT, 3, padding=1)
        self.final_feat2 = nn.Conv2d(UPSAMPLE_FEAT, in_chans, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, in_chans, h, w) in [0, 1], any h and w -> (b, in_chans, s h, s w)."""
        h, w = lr.shape[-2:]
        lr = pad_to_size(lr, max(h, LEAST_SIDE), max(w, LEAST_SIDE))
        shallow = self.conv_first((lr - self.mean) * self.img_range)
        x = self.pos_drop(self.patch_embed(shallow.permute(0, 2, 3, 1)))
        for layer in self.layers:
            x = layer(x, self.d_convs)
        x = self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + shallow
        x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        sr = x + resized(lr, x.shape[-2:])
        residual = lr - resized(sr, lr.shape[-2:])
        sr = sr + resized(self.final_feat2(self.final_feat1(residual)), sr.shape[-2:])
        return (sr / self.img_range + self.mean)[..., :h * self.upscale, :w * self.upscale]


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation to (h, w), without antialiasing."""
    return F.interpolate(image, size=size, mode='bilinear', align_corners=False)

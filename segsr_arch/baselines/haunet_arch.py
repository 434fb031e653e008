"""HAUNet: Hybrid Attention-Based U-Shaped Network for Remote Sensing Image Super-Resolution (TGRS 2023, repository
likakakaka/HAUNet_RSISR).

Written afresh from a description of it, with the state_dict keys of the authors' code, so that their checkpoints load
strictly. Feature maps are (b, c, h, w) and lie in memory channels last: norms and attention to pixels see a pixel's
channels side by side, and depthwise convolutions are faster so on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from segsr_arch.layers.padding import pad_to_multiple
from segsr_arch.layers.relu_attention import relu_attention

CROSS_SCALE_HEADS = 2
MULTIPLE = 4  # of the sides: the maps of the third scale are a quarter as large


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel: (b, c, h, w) -> the same."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def depthwise(width: int) -> nn.Conv2d:
    """A 3 x 3 convolution of each channel for itself."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width)


def scale_of(width: int) -> nn.Parameter:
    """A factor for each channel of what a block adds. It starts at 0, so that a block starts as the identity."""
    return nn.Parameter(torch.zeros(1, width, 1, 1))


def to_tokens(maps: Tensor, heads: int, count: int = 1) -> tuple[Tensor, ...]:
    """``count`` maps side by side, (b, count m c, h, w), each as the pixels of m heads, (b, m, h w, c)."""
    return rearrange(maps, 'b (t m c) h w -> t b m (h w) c', t=count, m=heads).unbind()


def to_map(tokens: Tensor, height: int) -> Tensor:
    """(b, m, h w, c) -> (b, m c, h, w)."""
    return rearrange(tokens, 'b m (h w) c -> b (m c) h w', h=height)


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention of channels to channels, which are compared over all pixels.

    Args:
        q, k: (b, m, n, c) and (b, m, n, d) of m heads; each channel is divided by its norm.
        v: (b, m, l, d), of these pixels or of some of them.
        temperature: (m, 1, 1), a factor on the products of each head. Negative products count as 0.

    Returns:
        (b, m, l, c).
    """
    scores = temperature * (F.normalize(q, dim=2).transpose(2, 3) @ F.normalize(k, dim=2))
    return v @ scores.relu().softmax(-1).transpose(2, 3)


def pixel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention of pixels to pixels, which are compared over a head's channels.

    Args:
        q, k, v: (b, m, n, c) of m heads; each pixel of q and k is divided by its norm.
        temperature: (m, 1, 1), a factor on the products of each head. Negative products count as 0.

    Returns:
        (b, m, n, c).
    """
    q, k = temperature * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    return relu_attention(*(t.to(v.dtype).flatten(0, 1) for t in (q, k, v))).unflatten(0, v.shape[:2])


def gated(x: Tensor, norm: nn.Module, expand: nn.Module, reduce: nn.Module, scale: Tensor) -> Tensor:
    """x and, times ``scale``, a feed-forward part that multiplies one half of its channels by the other."""
    a, b = expand(norm(x)).chunk(2, 1)
    return x + reduce(a * b) * scale


class CEMBlock(nn.Module):
    """Channel attention, then a gated feed-forward part: (b, c, h, w) -> the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm2d(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.qkv_dwconv = depthwise(3 * width)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project_out = nn.Conv2d(width, width, 1)
        self.beta = scale_of(width)
        self.norm2 = LayerNorm2d(width)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.gamma = scale_of(width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, height: int) -> Tensor:
        """What attention adds: (b, m, h w, c) each -> (b, m c, h, w)."""
        return self.project_out(to_map(channel_attention(q, k, v, self.temperature), height)) * self.beta

    def forward(self, x: Tensor) -> Tensor:
        qkv = to_tokens(self.qkv_dwconv(self.qkv(self.norm1(x))), len(self.temperature), 3)
        x = x + self.attend(*qkv, x.shape[2])
        return gated(x, self.norm2, self.conv4, self.conv5, self.gamma)


class SCEMBlock(CEMBlock):
    """`CEMBlock` with attention of pixels to pixels beside that of channels."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.temperature2 = nn.Parameter(torch.ones(heads, 1, 1))
        self.project_out2 = nn.Conv2d(width, width, 1)
        self.beta2 = scale_of(width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, height: int) -> Tensor:
        out = self.project_out2(to_map(pixel_attention(q, k, v, self.temperature2), height)) * self.beta2
        return super().attend(q, k, v, height) + out


class CIM(nn.Module):
    """Cross-scale module: the channels of each of three scales attend to those of all three.

    The keys of its parts end in nothing, 1 and 2 for the three scales. It is computed at the first one's size, to which
    the others are enlarged by repeating pixels; of their results every second and fourth pixel is kept. What
    works on each pixel for itself is done before the one and after the other, which is the same.
    """

    SCALES = (('', '', 1), ('1', '_1', 2), ('2', '_2', 4))  # how keys end, in the feed-forward part too; the factor

    def __init__(self, width: int):
        super().__init__()
        self.kv = nn.Conv2d(3 * width, 6 * width, 1)
        self.kv_dwconv = depthwise(6 * width)
        for key, key_, _ in self.SCALES:
            self.register_parameter(f'temperature{key}', nn.Parameter(torch.ones(CROSS_SCALE_HEADS, 1, 1)))
            self.register_parameter(f'beta{key}', scale_of(width))
            self.register_parameter(f'gamma{key}', scale_of(width))
            self.add_module(f'normq{key}', LayerNorm2d(width))
            self.add_module(f'q{key}', nn.Conv2d(width, width, 1))
            self.add_module(f'q{key}_dwconv', depthwise(width))
            self.add_module(f'project_out{key}', nn.Conv2d(width, width, 1))
            self.add_module(f'norm2{key_}', LayerNorm2d(width))
            self.add_module(f'conv4{key_}', nn.Conv2d(width, 2 * width, 1))
            self.add_module(f'conv5{key_}', nn.Conv2d(width, width, 1))
        # The authors' code never uses it: the third scale shares the second one's. Their checkpoints have it.
        self.project_out2.requires_grad_(False)

    def part(self, name: str, key: str) -> nn.Module | Tensor:
        """The part whose name has ``key`` in the place of {}."""
        return getattr(self, name.format(key))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Three maps (b, c, h, w), (b, c, h / 2, w / 2), (b, c, h / 4, w / 4) -> the same."""
        size = maps[0].shape[-2:]
        normed = [self.part('normq{}', key)(x) for (key, *_), x in zip(self.SCALES, maps)]
        k, v = self.kv_dwconv(self.kv(torch.cat([F.interpolate(x, size) for x in normed], 1))).chunk(2, 1)
        (k,) = to_tokens(k, CROSS_SCALE_HEADS)
        out = []
        for (key, key_, factor), x, y, project in zip(
                self.SCALES, maps, normed, (self.project_out, self.project_out1, self.project_out1)):
            q = self.part('q{}_dwconv', key)(F.interpolate(self.part('q{}', key)(y), size))
            (q,), (values,) = (to_tokens(t, CROSS_SCALE_HEADS) for t in (q, v[..., ::factor, ::factor]))
            attended = channel_attention(q, k, values, self.part('temperature{}', key))
            x = x + project(to_map(attended, x.shape[2])) * self.part('beta{}', key)
            feed_forward = (self.part(name, key_) for name in ('norm2{}', 'conv4{}', 'conv5{}'))
            out.append(gated(x, *feed_forward, self.part('gamma{}', key)))
        return tuple(out)


class HAUNet(nn.Module):
    """Hybrid attention U-shaped network. The options are those of the authors' code.

    ``lateral_nafblock.qkv.0.project_out2`` is frozen, see `CIM`.

    Args:
        up_scale: s.
        img_channel: channels of input and output.
        width: of all feature maps; divides by ``heads`` and by 2. The authors' code says 180 here, and builds with 96.
        middle_blk_num: blocks at the third scale, half of them before the cross-scale module and half after it; an odd
            number loses one, as in the authors' code.
        enc_blk_nums: blocks on the way down, at the first and the second scale.
        dec_blk_nums: blocks on the way up, at the second and the first scale.
        heads: of the blocks at the three scales.
    """

    def __init__(self, *, up_scale: int = 4, img_channel: int = 3, width: int = 96, middle_blk_num: int = 10,
                 enc_blk_nums: Sequence[int] = (5, 5), dec_blk_nums: Sequence[int] = (5, 5),
                 heads: Sequence[int] = (1, 2, 4)):
        super().__init__()
        for name, given, least in (('up_scale', up_scale, 1), ('middle_blk_num', middle_blk_num, 0)):
            if given < least:
                raise ValueError(f'HAUNet: {name} is {given}, must be at least {least}')
        for name, given, count in (('enc_blk_nums', enc_blk_nums, 2), ('dec_blk_nums', dec_blk_nums, 2),
                                   ('heads', heads, 3)):
            if len(given) != count or min(given) < 0:
                raise ValueError(f'HAUNet: {name} is {list(given)}, must be {count} numbers, none below 0')
        for count in (*heads, CROSS_SCALE_HEADS):
            if count < 1 or width % count:
                raise ValueError(f'HAUNet: width {width} does not divide by {count}; it must, by each of heads and by '
                                 f'{CROSS_SCALE_HEADS}')
        self.upscale = up_scale
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.encoders = nn.ModuleList([blocks(SCEMBlock, enc_blk_nums[0], width, heads[0]),
                                       blocks(CEMBlock, enc_blk_nums[1], width, heads[1])])
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in range(2))
        self.enc_middle_blks = blocks(CEMBlock, middle_blk_num // 2, width, heads[2])
        self.lateral_nafblock = nn.Sequential(OrderedDict(qkv=nn.Sequential(CIM(width))))
        self.dec_middle_blks = blocks(CEMBlock, middle_blk_num // 2, width, heads[2])
        self.ups = nn.ModuleList(nn.Sequential(nn.ConvTranspose2d(width, width, 2, stride=2)) for _ in range(2))
        self.decoders = nn.ModuleList([blocks(CEMBlock, dec_blk_nums[0], width, heads[1]),
                                       blocks(SCEMBlock, dec_blk_nums[1], width, heads[0])])
        self.up = nn.Sequential(nn.Conv2d(width, img_channel * up_scale**2, 3, padding=1), nn.PixelShuffle(up_scale))

    def forward(self, lr: Tensor) -> Tensor:
        """(b, img_channel, h, w) in [0, 1], any h and w -> (b, img_channel, s h, s w)."""
        base = F.interpolate(lr, scale_factor=self.upscale, mode='bilinear', align_corners=False)
        maps = []
        x = self.intro(pad_to_multiple(lr, MULTIPLE).contiguous(memory_format=torch.channels_last))
        for encoder, down in zip(self.encoders, self.downs):
            maps.append(encoder(x))
            x = down(maps[-1])
        *skips, x = self.lateral_nafblock((*maps, self.enc_middle_blks(x)))
        x = self.dec_middle_blks(x)
        for up, skip, decoder in zip(self.ups, reversed(skips), self.decoders):
            x = decoder(up(x) + skip)
        return base + self.up(x)[..., :base.shape[-2], :base.shape[-1]]


def blocks(block: type[CEMBlock], number: int, width: int, heads: int) -> nn.Sequential:
    """``number`` blocks of a kind, one after another."""
    return nn.Sequential(*(block(width, heads) for _ in range(number)))

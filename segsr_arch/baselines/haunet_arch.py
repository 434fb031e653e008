"""HAUNet: Hybrid Attention-Based U-Shaped Network for Remote Sensing Image Super-Resolution (TGRS 2023, repository
likakakaka/HAUNet_RSISR).

Written afresh from a description of it, with the state_dict keys of the authors' code, so that their checkpoints load
strictly. Feature maps are (b, c, h, w) and lie in memory channels last: norms and attention to pixels see a pixel's
channels side by side, and depthwise convolutions are faster so on a CPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segsr_arch.layers.padding import pad_to_multiple

CROSS_SCALE_HEADS = 2
MULTIPLE = 4  # of the sides: the maps of the third scale are a quarter as large
CPU_CHUNK, CHUNK = 2**18, 2**27  # elements of the attention matrices in work at a time: on a CPU, about a cache
LEAST_QUERIES = 64  # at a time, whatever the image's size: fewer make slow matrix products


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


def channel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention of channels to channels, which are compared over all pixels.

    Args:
        q, k: (b, m c, h, w) and (b, m d, h, w) of m heads; each channel is divided by its norm.
        v: (b, m d, y, x), of these pixels or of some of them.
        temperature: (m, 1, 1), a factor on the products of each head. Negative products count as 0.

    Returns:
        (b, m c, y, x).
    """
    heads, (height, width) = len(temperature), v.shape[-2:]
    q, k, v = (rearrange(t, 'b (m c) h w -> b m (h w) c', m=heads) for t in (q, k, v))
    scores = temperature * (F.normalize(q, dim=2).transpose(2, 3) @ F.normalize(k, dim=2))
    out = v @ scores.relu().softmax(-1).transpose(2, 3)
    return rearrange(out, 'b m (h w) c -> b (m c) h w', h=height, w=width)


def pixel_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention of pixels to pixels, which are compared over a head's channels.

    Args:
        q, k, v: (b, m c, h, w) of m heads; a pixel of q and k is divided by its norm.
        temperature: (m, 1, 1), a factor on the products of each head. Negative products count as 0.

    Returns:
        (b, m c, h, w).
    """
    heads, (height, width) = len(temperature), v.shape[-2:]
    q, k, v = (rearrange(t, 'b (m c) h w -> b m (h w) c', m=heads) for t in (q, k, v))
    q, k = (t.to(v.dtype) for t in (temperature * F.normalize(q, dim=-1), F.normalize(k, dim=-1)))
    out = _ReluAttention.apply(*(t.flatten(0, 1) for t in (q, k, v)))
    return rearrange(out, '(b m) (h w) c -> b (m c) h w', m=heads, h=height, w=width)


class _ReluAttention(torch.autograd.Function):
    """softmax(relu(q k^T)) v of (b, n, c), which PyTorch's fused attention has no way to compute.

    Rows of the (n, n) matrices are independent: both ways work off some at a time, and backward computes them again, so
    that memory grows with n and not with its square.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for some, rows in _parts(q):
            scores = torch.bmm(q[some, rows], k[some].transpose(1, 2)).relu_()
            out[some, rows] = torch.bmm(torch.softmax(scores, -1, out=scores), v[some])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_k, d_v = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (k, v))
        for some, rows in _parts(q):
            q_, k_, d_out_ = q[some, rows], k[some], d_out[some, rows]
            scores = torch.bmm(q_, k_.transpose(1, 2)).relu_()
            weights = torch.softmax(scores, -1)
            d_weights = torch.bmm(d_out_, v[some].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores = torch.ops.aten.threshold_backward(d_scores, scores, 0)
            d_q[some, rows] = torch.bmm(d_scores, k_)
            d_k[some] += torch.bmm(d_scores.transpose(1, 2), q_)
            d_v[some] += torch.bmm(weights.transpose(1, 2), d_out_)
        return d_q, d_k, d_v


def _parts(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which images and which of their queries are in work at a time; q is (b, n, c)."""
    images, n, _ = q.shape
    chunk = CPU_CHUNK if q.device.type == 'cpu' else CHUNK
    rows = min(n, max(LEAST_QUERIES, chunk // n))
    together = max(1, chunk // (rows * n))
    for image in range(0, images, together):
        for row in range(0, n, rows):
            yield slice(image, image + together), slice(row, row + rows)


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

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What attention adds: three maps (b, c, h, w) -> one."""
        return self.project_out(channel_attention(q, k, v, self.temperature)) * self.beta

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(*self.qkv_dwconv(self.qkv(self.norm1(x))).chunk(3, 1))
        return gated(x, self.norm2, self.conv4, self.conv5, self.gamma)


class SCEMBlock(CEMBlock):
    """`CEMBlock` with attention of pixels to pixels beside that of channels."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.temperature2 = nn.Parameter(torch.ones(heads, 1, 1))
        self.project_out2 = nn.Conv2d(width, width, 1)
        self.beta2 = scale_of(width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (super().attend(q, k, v)
                + self.project_out2(pixel_attention(q, k, v, self.temperature2)) * self.beta2)


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
        out = []
        for (key, key_, factor), x, y, project in zip(
                self.SCALES, maps, normed, (self.project_out, self.project_out1, self.project_out1)):
            q = self.part('q{}_dwconv', key)(F.interpolate(self.part('q{}', key)(y), size))
            y = channel_attention(q, k, v[..., ::factor, ::factor], self.part('temperature{}', key))
            x = x + project(y) * self.part('beta{}', key)
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
        if up_scale < 1:
            raise ValueError(f'HAUNet: up_scale is {up_scale}, must be at least 1')
        for name, given, count in (('enc_blk_nums', enc_blk_nums, 2), ('dec_blk_nums', dec_blk_nums, 2),
                                   ('heads', heads, 3)):
            if len(given) != count:
                raise ValueError(f'HAUNet: {name} is {list(given)}, must be {count} numbers')
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

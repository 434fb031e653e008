"""MFG-HMoE: Heterogeneous Mixture of Experts for Remote Sensing Image Super-Resolution (GRSL 2025, arXiv 2502.09654).

Written afresh, with the state_dict keys of the authors' code (repository Mr-Bamboo/MFG-HMoE), so that their checkpoints
load strictly. It is HAT with a norm after each group and, for each pixel, one of several upsampling convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import nn

from segsr_arch.baselines.hat_arch import HAT
from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.layers.padding import pad_to_multiple

SIDES = (1, 3)  # of the convolutions in each group of experts


def routed(rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Each row times the weight of its expert, as one batch of matrix products.

    Rows are dealt into blocks of one expert each, whose last is filled up with zeros. There are as many blocks as any
    choice may need: no size depends on the choice, so that a GPU need not be waited for, nor a compiled graph broken.

    Args:
        rows: (n, i).
        index: (n,) int64, the expert of each row.
        weight, bias: (e, i, o) and (e, o), of e experts.

    Returns:
        (n, o).
    """
    n, e, device = len(rows), len(weight), index.device
    size = -(-n // (2 * e))  # of a block, so that there are at most 2 e full ones and e others
    served = (index[:, None] == torch.arange(e, device=device)).cumsum(0)
    ends = ((served[-1] + size - 1) // size).cumsum(0)  # where an expert's blocks end
    starts = F.pad(ends, (1, -1))
    place = starts[index] * size + served.gather(1, index[:, None])[:, 0] - 1
    row = place.new_full((3 * e * size,), n).index_copy(0, place, torch.arange(n, device=device))
    expert = (torch.arange(3 * e, device=device)[:, None] >= ends[:-1]).sum(1)
    dealt = rows.new_zeros(len(row), rows.shape[1]).index_copy(0, place, rows).unflatten(0, (3 * e, size))
    chosen = F.embedding(expert, weight.flatten(1)).unflatten(1, weight.shape[1:])
    out = torch.baddbmm(F.embedding(expert, bias)[:, None], dealt, chosen).flatten(0, 1)
    return out.new_empty(n + 1, out.shape[1]).index_copy(0, row, out)[:n]  # selects as place does; its backward is fast


class Gate(nn.Module):
    """The router: for each pixel a group of experts, and an expert in each group, as logits.

    Args:
        num_feat: f.
        num_experts: e, in two groups.
    """

    def __init__(self, num_feat: int, num_experts: int):
        super().__init__()
        self.w_group_gate = nn.Linear(num_feat, len(SIDES))
        self.w_expert_gates = nn.ModuleList(nn.Linear(num_feat, num_experts // len(SIDES)) for _ in SIDES)
        self.group_embedding = nn.Embedding(len(SIDES), num_feat)
        for linear in (self.w_group_gate, *self.w_expert_gates):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, guide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, h, w, f) -> (b, h, w, 2) and (b, h, w, 2, e / 2)."""
        experts = [gate(guide + own) for gate, own in zip(self.w_expert_gates, self.group_embedding.weight)]
        return self.w_group_gate(guide), torch.stack(experts, -2)


class Mixture(nn.Module):
    """Convolutions, of which each pixel gets the one that its guide chooses, or all of them weighted.

    Args:
        num_feat, num_out: channels f and o.
        num_experts: e; the first half are 1 x 1 convolutions, the others 3 x 3.
        soft: the sum of all experts, times their probabilities; else the likeliest one of the likelier group.
    """

    def __init__(self, num_feat: int, num_out: int, num_experts: int, soft: bool):
        super().__init__()
        self.soft = soft
        self.experts = nn.ModuleList(nn.Conv2d(num_feat, num_out, side, padding=side // 2)
                                     for side in SIDES for _ in range(num_experts // len(SIDES)))
        self.gate = Gate(num_feat, num_experts)

    def choice(self, guide: torch.Tensor) -> torch.Tensor:
        """The expert of each pixel: (b, h, w, f) -> (b, h, w) int64."""
        group, experts = self.gate(guide)
        group = group.argmax(-1)
        best = experts.argmax(-1).gather(-1, group[..., None])[..., 0]
        return group * experts.shape[-1] + best

    def probabilities(self, guide: torch.Tensor) -> torch.Tensor:
        """(b, h, w, f) -> (b, h, w, e): of the group, times those of the expert in it."""
        group, experts = self.gate(guide)
        return (group.softmax(-1)[..., None] * experts.softmax(-1)).flatten(-2)

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """(b, f, h, w) and its guide (b, h, w, f) -> (b, o, h, w)."""
        if self.soft:
            shares = rearrange(self.probabilities(guide), 'b h w e -> e b 1 h w')
            return sum(recomputed(lambda x, share, expert=expert: share * expert(x), x, share)
                       for expert, share in zip(self.experts, shares))  # else each expert's output would be kept
        weight = torch.stack([F.pad(expert.weight, [1 - expert.padding[0]] * 4) for expert in self.experts])
        weight = rearrange(weight, 'e o f y x -> e (f y x) o')
        bias = torch.stack([expert.bias for expert in self.experts])
        rows = rearrange(F.unfold(x, 3, padding=1), 'b i n -> (b n) i')
        out = routed(rows, self.choice(guide).flatten(), weight, bias)
        return rearrange(out, '(b h w) o -> b o h w', h=x.shape[2], w=x.shape[3])


class MFGHMoE(HAT):
    """HAT whose upsampling is a mixture of experts, guided by features of all groups.

    **The router never learns.** As in the authors' code, the choice of an expert is hard and its output is not
    weighted, so no gradient reaches the gates, nor the branches that guide them. At paper size 1.35 of 27.1 million
    parameters keep their random start; they are frozen, and results depend on the seed more than those of other
    networks. A fresh one sends most pixels to one expert; an expert without pixels gets gradients of 0. In half
    precision close choices may go otherwise, which changes s x s pixels each.

    ``soft_routing`` adds up all experts by their probabilities instead, so that the router learns. It has the same
    weights, but is another network than the authors': train it from the start.

    Args:
        soft_routing: weight the experts by their gates.
        num_feat: channels of the reconstruction part.
        num_experts: convolutions to choose from, an even number.
        img_range: without effect, as in the authors' code: the input is used as it is.

    The other options are those of `HAT`.

    Raises:
        ValueError: an option that cannot be used.
    """

    name = 'MFGHMoE'

    def __init__(self, *, img_size: int = 64, patch_size: int = 1, in_chans: int = 3, embed_dim: int = 180,
                 depths: Sequence[int] = (6,) * 6, num_heads: Sequence[int] = (6,) * 6, window_size: int = 8,
                 compress_ratio: int = 3, squeeze_factor: int = 30, conv_scale: float = 0.01,
                 overlap_ratio: float = 0.5, mlp_ratio: float = 2.0, qkv_bias: bool = True, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.1, ape: bool = False, patch_norm: bool = True,
                 use_checkpoint: bool = False, upscale: int = 2, img_range: float = 1.0,
                 upsampler: str = 'pixelshuffle', resi_connection: str = '1conv', num_feat: int = 64,
                 num_experts: int = 16, soft_routing: bool = False):
        for option, value, usable, right in (
                ('depths', depths, len(depths) > 0, 'a list of one group or more'),
                ('num_feat', num_feat, num_feat >= 1, '1 or more'),
                ('num_experts', num_experts, num_experts >= 2 and num_experts % 2 == 0, 'an even number, 2 or more')):
            if not usable:
                raise ValueError(f'{self.name}: {option} is {value}, must be {right}')
        super().__init__(
            img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depths=depths,
            num_heads=num_heads, window_size=window_size, compress_ratio=compress_ratio, squeeze_factor=squeeze_factor,
            conv_scale=conv_scale, overlap_ratio=overlap_ratio, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
            drop_rate=drop_rate, drop_path_rate=drop_path_rate, ape=ape, patch_norm=patch_norm,
            use_checkpoint=use_checkpoint, upscale=upscale, upsampler=upsampler, resi_connection=resi_connection)

        def conv(inner: int, outer: int) -> nn.Conv2d:
            return nn.Conv2d(inner, outer, 3, padding=1)

        self.mfg = nn.ModuleList()
        for _ in depths:
            self.mfg += [nn.LayerNorm(embed_dim),
                         nn.Sequential(conv(embed_dim, num_feat), nn.LeakyReLU(), conv(num_feat, embed_dim))]
        self.aggr_conv = nn.Sequential(conv(embed_dim, num_feat), nn.LeakyReLU())
        self.conv_before_upsample = nn.Sequential(conv(embed_dim, num_feat), nn.LeakyReLU())
        self.upsample = nn.Sequential(Mixture(num_feat, num_feat * upscale**2, num_experts, soft_routing),
                                      nn.PixelShuffle(upscale))
        self.conv_last = conv(num_feat, in_chans)
        for router in (*self.mfg[1::2], self.aggr_conv, self.upsample[0].gate):
            router.requires_grad_(soft_routing)

    def shallow(self, lr: torch.Tensor) -> torch.Tensor:
        """(b, in_chans, h, w) in [0, 1] -> shallow feature (b, c, h, w)."""
        return self.conv_first(lr)

    def reconstruct(self, x: torch.Tensor, shallow: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """`HAT.reconstruct`, guided by the sum of all groups' branches, ``levels`` (b, c, h, w)."""
        guide = self.aggr_conv(self.norm(levels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + shallow
        mixture, shuffle = self.upsample
        x = mixture(self.conv_before_upsample(x), guide.permute(0, 2, 3, 1))
        return self.conv_last(shuffle(x))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """(b, in_chans, h, w) in [0, 1], any h and w -> (b, in_chans, s h, s w)."""
        h, w = lr.shape[-2:]
        shallow = self.shallow(pad_to_multiple(lr, self.window_size))
        x, levels = self.embed(shallow), 0
        for i, (norm, branch) in enumerate(zip(self.mfg[::2], self.mfg[1::2])):
            x = norm(self.group(i, x))
            levels = levels + branch(x.permute(0, 3, 1, 2))
        return self.reconstruct(x, shallow, levels)[..., :h * self.upscale, :w * self.upscale]

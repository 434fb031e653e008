"""Super-resolving one image with any of the networks, at any size, plain or as a self-ensemble."""

from __future__ import annotations

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.swinir_arch import SwinIR
from torch import nn

from segsr_arch.layers.padding import pad_to_multiple


def size_multiple(net: nn.Module) -> int:
    """What the sides of an LR image must divide by: 1 for networks that pad by themselves, as ours do."""
    if isinstance(net, SwinIR):
        return net.layers[0].residual_group.blocks[0].window_size
    if isinstance(net, RRDBNet):
        return {1: 4, 2: 2}.get(net.scale, 1)
    return 1


def super_resolve(net: nn.Module, lr: torch.Tensor, *, self_ensemble: bool = False) -> torch.Tensor:
    """Super-resolve an image of any size.

    Args:
        net: the network, in eval mode.
        lr: (b, 3, h, w) RGB in [0, 1].
        self_ensemble: the mean over the 8 flips and rotations of the image (EDSR's "+", Lim et al. 2017).

    Returns:
        (b, 3, s h, s w).
    """
    if not self_ensemble:
        return _padded(net, lr)
    outputs = []
    for turns in range(4):
        for flip in (False, True):
            x = torch.rot90(lr, turns, (-2, -1))
            sr = _padded(net, x.flip(-1) if flip else x)
            outputs.append(torch.rot90(sr.flip(-1) if flip else sr, -turns, (-2, -1)))
    return torch.stack(outputs).mean(0)


def _padded(net: nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """BasicSR's networks, unlike ours, do not take every size: extend the image by reflection, cut the result."""
    h, w = lr.shape[-2:]
    x = pad_to_multiple(lr, size_multiple(net))
    sr = net(x)
    scale = sr.shape[-1] // x.shape[-1]
    return sr[..., :h * scale, :w * scale]

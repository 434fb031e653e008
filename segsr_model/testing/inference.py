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


def alignment(net: nn.Module) -> int:
    """What the first row and column of a tile should divide by: its windows of attention are then the scene's."""
    backbone = getattr(net, 'backbone', net)
    return getattr(backbone, 'multiple_of', getattr(backbone, 'window_size', size_multiple(backbone)))


def super_resolve(net: nn.Module, lr: torch.Tensor, *, context: torch.Tensor | None = None,
                  self_ensemble: bool = False) -> torch.Tensor:
    """Super-resolve an image of any size.

    Args:
        net: the network, in eval mode.
        lr: (b, 3, h, w) RGB in [0, 1].
        context: guidance maps (b, k, h, w) that take the place of the network's own.
        self_ensemble: the mean over the 8 flips and rotations of the image (EDSR's "+", Lim et al. 2017).

    Returns:
        (b, 3, s h, s w).
    """
    return torch.stack(orientations(net, lr, context)).mean(0) if self_ensemble else _padded(net, lr, context)


def orientations(net: nn.Module, lr: torch.Tensor, context: torch.Tensor | None = None) -> list[torch.Tensor]:
    """The results for the 8 flips and rotations of an image, turned back; arguments as of `super_resolve`."""
    outputs = []
    for turns in range(4):
        for flip in (False, True):
            def turned(x: torch.Tensor | None, turns: int = turns, flip: bool = flip) -> torch.Tensor | None:
                if x is None:
                    return None
                x = torch.rot90(x, turns, (-2, -1))
                return x.flip(-1) if flip else x

            sr = _padded(net, turned(lr), turned(context))
            outputs.append(torch.rot90(sr.flip(-1) if flip else sr, -turns, (-2, -1)))
    return outputs


def _padded(net: nn.Module, lr: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    """BasicSR's networks, unlike ours, do not take every size: extend the image by reflection, cut the result."""
    h, w = lr.shape[-2:]
    x = pad_to_multiple(lr, size_multiple(net))
    sr = net(x) if context is None else net(x, context)
    scale = sr.shape[-1] // x.shape[-1]
    return sr[..., :h * scale, :w * scale]

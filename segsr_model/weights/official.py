"""Networks of published checkpoints, found from the names and shapes of their weights, without an option file.

EDSR, RCAN, SRResNet and RRDBNet are known here, as BasicSR names their weights and, EDSR and RCAN, as their authors do.
HAT, SwinIR and all others are found by spandrel.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from segsr_model.weights.building import build, networks
from segsr_model.weights.release import package_version

Weights = Mapping[str, torch.Tensor]
OURS = {'HAT': 'conv_scale 0.01, img_range 1', 'SwinIR': 'img_range 1'}  # networks, and what no weight of theirs tells
MANY_FEATURES = 256  # of an EDSR that was trained with residual scaling (Lim et al. 2017, Section 3.3)
DIV2K = {'rgb_mean': [0.4488, 0.4371, 0.4040], 'img_range': 255.0}  # EDSR's and RCAN's mean and range of values
# of the weights in the repositories of EDSR and RCAN, and in BasicSR
NAMES = ((r'head\.0\.(.+)', r'conv_first.\1'), (r'tail\.0\.(.+)', r'upsample.\1'), (r'tail\.1\.(.+)', r'conv_last.\1'),
         (r'body\.\d+\.(weight|bias)', r'conv_after_body.\1'))
EDSR_NAMES = (*NAMES, (r'body\.(\d+)\.body\.0\.(.+)', r'body.\1.conv1.\2'),
              (r'body\.(\d+)\.body\.2\.(.+)', r'body.\1.conv2.\2'))
BLOCK, RCAB = r'body\.(\d+)\.body\.(\d+)\.body\.', r'body.\1.residual_group.\2.rcab.'
RCAN_NAMES = (*NAMES, (r'body\.(\d+)\.body\.\d+\.(weight|bias)', r'body.\1.conv.\2'),
              (rf'{BLOCK}3\.conv_du\.0\.(.+)', rf'{RCAB}3.attention.1.\3'),
              (rf'{BLOCK}3\.conv_du\.2\.(.+)', rf'{RCAB}3.attention.3.\3'),
              (rf'{BLOCK}([02])\.(.+)', rf'{RCAB}\3.\4'))


class Foreign(nn.Module):
    """A network of spandrel's: (b, c, h, w) in [0, 1], any h and w -> (b, c, s h, s w) in [0, 1].

    Attributes:
        upscale: s.
        num_in_ch: c.
    """

    def __init__(self, descriptor: Any):
        super().__init__()
        self.net, self.upscale, self.num_in_ch = descriptor.model, descriptor.scale, descriptor.input_channels
        self._descriptor = descriptor

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self._descriptor(lr.clone()).clone()  # it may change its input, and its output may not be changed


def find_network(weights: Weights) -> tuple[nn.Module, dict[str, Any] | None, str]:
    """The network that a checkpoint is of.

    Returns:
        It, in eval mode, with the weights; its ``network_g``, None if it is spandrel's own; and what was assumed of
        it, since no weight tells.

    Raises:
        ValueError: none is known, its weights do not fit, or spandrel is needed and not installed.
    """
    weights = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    weights, shift = _basicsr_names(weights)
    for mark, describe in CONVOLUTIONAL.items():
        if mark in weights:
            try:
                network_g, assumed = describe(weights)
            except (LookupError, ArithmeticError):
                raise ValueError(f'its weights are not those of one network, though one is {mark}') from None
            if network_g['type'] in ('EDSR', 'RCAN'):
                network_g.update(shift)
                assumed += f', img_range {shift["img_range"]:g}, rgb_mean {shift["rgb_mean"]}'
            return build(network_g, weights), network_g, assumed
    return _by_spandrel(weights)


def _count(weights: Weights, prefix: str) -> int:
    """How many modules there are in a row: ``<prefix>.0``, ``<prefix>.1``, ..."""
    numbers = {key[len(prefix) + 1:].partition('.')[0] for key in weights if key.startswith(f'{prefix}.')}
    return len([number for number in numbers if number.isdecimal()])


def _upscale(weights: Weights) -> int:
    """s of BasicSR's Upsample."""
    shapes = [value.shape for key, value in weights.items() if re.fullmatch(r'upsample\.\d+\.weight', key)]
    return math.prod(math.isqrt(shape[0] // shape[1]) for shape in shapes)


def _channels(weights: Weights) -> dict[str, int]:
    first, last = weights['conv_first.weight'].shape, weights['conv_last.weight'].shape
    return {'num_in_ch': first[1], 'num_out_ch': last[0], 'num_feat': first[0]}


def _edsr(weights: Weights) -> tuple[dict[str, Any], str]:
    channels = _channels(weights)
    res_scale = 0.1 if channels['num_feat'] >= MANY_FEATURES else 1
    return {'type': 'EDSR', **channels, 'num_block': _count(weights, 'body'), 'upscale': _upscale(weights),
            'res_scale': res_scale}, f'res_scale {res_scale}'


def _rcan(weights: Weights) -> tuple[dict[str, Any], str]:
    channels = _channels(weights)
    squeezed = weights['body.0.residual_group.0.rcab.3.attention.1.weight'].shape[0]
    return {'type': 'RCAN', **channels, 'num_group': _count(weights, 'body'),
            'num_block': _count(weights, 'body.0.residual_group'), 'squeeze_factor': channels['num_feat'] // squeezed,
            'upscale': _upscale(weights)}, 'res_scale 1'


def _srresnet(weights: Weights) -> tuple[dict[str, Any], str]:
    channels, first = _channels(weights), weights['upconv1.weight'].shape
    upscale = 4 if 'upconv2.weight' in weights else math.isqrt(first[0] // first[1])
    return {'type': 'MSRResNet', **channels, 'num_block': _count(weights, 'body'), 'upscale': upscale}, ''


def _rrdbnet(weights: Weights) -> tuple[dict[str, Any], str]:
    channels = _channels(weights)
    folded = math.isqrt(channels['num_in_ch'] // channels['num_out_ch'])  # its x2 and x1 take pixels as channels
    return {'type': 'RRDBNet', **channels, 'num_in_ch': channels['num_out_ch'], 'num_block': _count(weights, 'body'),
            'num_grow_ch': weights['body.0.rdb1.conv1.weight'].shape[0], 'scale': 4 // folded}, ''


CONVOLUTIONAL: dict[str, Callable[[Weights], tuple[dict[str, Any], str]]] = {
    'body.0.residual_group.0.rcab.0.weight': _rcan, 'body.0.rdb1.conv1.weight': _rrdbnet, 'upconv1.weight': _srresnet,
    'body.0.conv1.weight': _edsr}


def _basicsr_names(weights: Weights) -> tuple[Weights, dict[str, Any]]:
    """Weights of EDSR or RCAN under BasicSR's names, and options for their mean and range; those of others as they are.

    Without a mean the authors' names are those of a variant on values up to 1.
    """
    if not {'head.0.weight', 'tail.0.0.weight', 'tail.1.weight'} <= set(weights):
        return weights, DIV2K
    names = RCAN_NAMES if 'body.0.body.0.body.0.weight' in weights else EDSR_NAMES
    mean = weights.get('sub_mean.bias')
    div2ks = -255 * torch.tensor(DIV2K['rgb_mean'])
    if mean is not None and not (mean.shape == div2ks.shape and torch.allclose(mean, div2ks, atol=0.1)):
        raise ValueError("it subtracts another mean than DIV2K's of values up to 255")
    renamed = {_renamed(key, names): value for key, value in weights.items()
               if not key.startswith(('sub_mean.', 'add_mean.'))}
    return renamed, DIV2K if mean is not None else {'rgb_mean': [0.0] * 3, 'img_range': 1.0}


def _renamed(key: str, names: Iterable[tuple[str, str]]) -> str:
    matches = ((re.fullmatch(pattern, key), name) for pattern, name in names)
    return next((match.expand(name) for match, name in matches if match), key)


def _by_spandrel(weights: Weights) -> tuple[nn.Module, dict[str, Any] | None, str]:
    """Ours with the options that spandrel finds, where we have that network and the weights fit; else spandrel's."""
    try:
        import spandrel
    except ImportError:
        raise ValueError("its network is found from its keys by spandrel: pip install 'segsr[spandrel]', or give the "
                         'option file with -opt') from None
    try:
        descriptor = spandrel.MAIN_REGISTRY.load(dict(weights))
    except spandrel.UnsupportedModelError:
        raise ValueError(f'its keys are those of no known network ({", ".join(list(weights)[:3])}, ...): give its '
                         'option file with -opt') from None
    except Exception as error:  # spandrel checks little: any error comes of weights that do not fit together
        raise ValueError('spandrel cannot build its network: '
                         + (str(error).splitlines() or [type(error).__name__])[0]) from None
    kind = descriptor.architecture.id
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.scale < 2:
        raise ValueError(f'it is {kind} for {descriptor.purpose}, which does not enlarge')
    by = f'options found by spandrel {package_version("spandrel")}'
    if kind in OURS:
        known = inspect.signature(networks()[kind].__init__).parameters
        options = {key: value for key, value in descriptor.model.hyperparameters.items()
                   if key in known and (value is None or isinstance(value, (bool, int, float, str, list, tuple)))}
        network_g = {'type': kind, **options}
        with contextlib.suppress(ValueError):  # a variant that ours is not
            return build(network_g, weights), network_g, f'{OURS[kind]}; {by}'
    return Foreign(descriptor).eval(), None, f'{kind} of spandrel, {by}'

"""Networks as a file of weights describes them: which there are, and building one no larger than the file."""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.swinir_arch import SwinIR
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

import segsr_arch
from segsr_arch.options import EncoderOptions
from segsr_arch.segsr_arch import SeGSR
from segsr_model.weights.loading import EXTRA_STATE, load_weights

MOST_VALUES, LARGEST, LONGEST = 1000, 1 << 16, 1000  # values of a network_g, a number among them, a text's characters
SPARE = 4  # while LoRA takes a linear's place, its weights are made up to four times


@functools.cache
def networks() -> dict[str, type]:
    """By name, the networks that a file may be of.

    None of other packages, which may have taken a name in BasicSR's registry, and none that reads files when it is
    built.
    """
    ours = {name: getattr(segsr_arch, name) for name in segsr_arch.__all__}
    return {**ours, **{cls.__name__: cls for cls in (EDSR, MSRResNet, RCAN, RRDBNet, SwinIR)}}


def network_class(network_g: Mapping[str, Any]) -> type:
    """The class of ``network_g``. ValueError: it is none of `networks`; names the nearest."""
    name, known = network_g.get('type'), networks()
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        raise ValueError(f"network_g:type: there is no network '{name}'; "
                         + (f"did you mean '{near[0]}'?" if near else f'there are {", ".join(known)}'))
    return known[name]


def scale_of(net: nn.Module, network_g: Mapping[str, Any]) -> int:
    """s of a network. BasicSR's EDSR and RCAN do not remember it, its RRDBNet under another name."""
    return getattr(net, 'upscale', getattr(net, 'scale', network_g.get('upscale', 4)))


def channels_of(network_g: Mapping[str, Any]) -> int:
    """How many bands a network takes and gives."""
    return network_g.get('num_in_ch', network_g.get('in_chans', 3))


class _Numbers(TorchFunctionMode):
    """What a constructor reads as numbers has values: SwinIR's rates of stochastic depth."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return func(*args, **({'device': 'cpu', **kwargs} if func is torch.linspace else kwargs))


def without_values(cls: type, options: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights: names and shapes alone."""
    with torch.device('meta'), _Numbers():
        return cls(**options)


def build(network_g: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build the network of a file, in eval mode, with the file's weights.

    Whatever the file says, no more is built than it has weights for, and nothing else is read.

    Args:
        network_g: as in an option file. The tower of a guided network is a model config, without ``pretrained``.
        weights: all of them, the tower's included.

    Raises:
        ValueError: the network cannot be built, or is another one than the weights are of.
    """
    cls = network_class(network_g)
    _check_extent(network_g)
    options = {key: value for key, value in network_g.items() if key != 'type'}
    if issubclass(cls, SeGSR):
        _check_tower(options)
    try:
        with _bounded(weights):
            shapes = {key: value.shape for key, value in without_values(cls, options).state_dict().items()}
        _check_shapes(shapes, weights)
        with torch.random.fork_rng(devices=[]):
            net = cls(**options).eval()
        if weights:
            load_weights(net, dict(weights))
    except Exception as error:  # BasicSR's classes check nothing: any error may come of a wrong option
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(reason if isinstance(error, ValueError) else f'network_g: {cls.__name__} cannot be built from '
                         f'these options: {type(error).__name__}: {reason}') from None
    return net


def _check_extent(network_g: Mapping[str, Any]) -> None:
    waiting, count = [network_g], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value
        if (count > MOST_VALUES or isinstance(value, str) and len(value) > LONGEST
                or isinstance(value, (int, float)) and not abs(value) <= LARGEST):
            raise ValueError(f'network_g: it has more than {MOST_VALUES} values, or an impossible one')


def _check_tower(options: Mapping[str, Any]) -> None:
    """ValueError: the network would have to be completed from elsewhere."""
    semantic = options.get('semantic')
    encoder = semantic.get('encoder') if isinstance(semantic, Mapping) else None
    if isinstance(semantic, Mapping) and semantic.get('guidance') == 'none':
        return
    if not (isinstance(encoder, Mapping) and isinstance(encoder.get('model', EncoderOptions.model), Mapping)
            and encoder.get('pretrained', '') is None):
        raise ValueError('network_g:semantic:encoder: it needs a CLIP tower from elsewhere; in a file that is enough '
                         'by itself, model is a model config and pretrained is ~')


@contextlib.contextmanager
def _bounded(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """ValueError as soon as a network that is being built has far more parameters, or values, than there are."""
    thread, parameters, values = threading.get_ident(), 0, 0
    most = SPARE * (len(weights) + 1)
    most_values = SPARE * (sum(math.prod(value.shape) for value in weights.values()) + 1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal parameters, values
        if threading.get_ident() == thread:
            parameters, values = parameters + 1, values + parameter.numel()
            if parameters > most or values > most_values:
                raise ValueError('network_g: it is of a larger network than the weights are')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_shapes(shapes: Mapping[str, torch.Size], weights: Mapping[str, torch.Tensor]) -> None:
    wrong = [f'{key} is missing' for key in shapes if key not in weights]
    wrong += [f'{key} is not of the network' for key in weights if key not in shapes]
    wrong += [f'{key} is {tuple(weights[key].shape)}, not {tuple(shape)}' for key, shape in shapes.items()
              if key in weights and weights[key].shape != shape and not key.endswith(EXTRA_STATE)]
    if wrong:
        raise ValueError(f'the weights are not those of network_g: {"; ".join(wrong[:3])}'
                         + (f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''))

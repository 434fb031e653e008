"""``network_g``: its type, its options, what its class says of them, and whether there are CLIP weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from os import path as osp
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from segsr_arch.clip_tower import find_pretrained
from segsr_arch.options import EncoderOptions, LocalizationOptions, OptionError, SemanticOptions, parse
from segsr_arch.segsr_arch import SeGSR, backbone_options
from segsr_arch.tensor_files import load_tensors
from segsr_model.checks.blocks import ANY, BLOCK, TEXT, Block, optional, parameters_of

OURS = ('basicsr.', 'segsr_arch.')  # where the classes are that can be built for a try


def network_problems(opt: Block) -> Iterator[str]:
    """Problems of type, keys and weights."""
    network = opt['network_g']
    if network:
        yield from network.check_type([name for name, _ in ARCH_REGISTRY], 'network')
    yield from _keys(network)
    yield from _weights(opt)


def build(opt: Block) -> tuple[nn.Module | None, list[str]]:
    """The network without values and with an untrained CLIP tower, and why it cannot be built.

    None without a reason: it has problems of its keys, or is a class of others that is not built for a try.
    """
    network = opt['network_g']
    cls = _class(network)
    if cls is None or not cls.__module__.startswith(OURS) or any(_keys(network)):
        return None, []
    options = {key: copy.deepcopy(value) for key, value in network.content.items() if key != 'type'}
    if issubclass(cls, SeGSR) and network['semantic']:
        options['semantic']['encoder'] = {**network['semantic']['encoder'].content, 'pretrained': None}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch's, of what is done without values
            return _built(cls, options), []
    except Exception as error:  # BasicSR's classes check nothing: any error comes of a wrong option
        reason = (str(error).splitlines() or [''])[0]
        if isinstance(error, OptionError) and reason.startswith('network_g'):
            return None, [reason]
        return None, [f'network_g: {cls.__name__} cannot be built from these options: {type(error).__name__}: {reason}']


def _built(cls: type, options: dict[str, Any]) -> nn.Module:
    """Without BasicSR's build_network: its logger must not be used before train.py has set it up."""
    try:
        with torch.device('meta'):
            return cls(**options)
    except RuntimeError as error:
        if 'meta' not in str(error):
            raise
        return cls(**options)  # SwinIR computes with values while it is built


def _class(network: Block) -> type | None:
    kind = network.get('type', TEXT)
    return ARCH_REGISTRY.get(kind) if kind in ARCH_REGISTRY else None


def _keys(network: Block) -> Iterator[str]:
    cls = _class(network)
    if cls is None:
        return
    if not issubclass(cls, SeGSR):
        known, required, open_ = parameters_of(cls)
        if not open_:
            yield from network.check({**dict.fromkeys(known, ANY), 'type': TEXT}, required)
        return
    known = backbone_options(cls.backbone_class)
    yield from network.check({**dict.fromkeys(known, ANY), 'type': TEXT, 'semantic': optional(BLOCK)},
                             [key for key, required in known.items() if required])
    semantic = network['semantic']
    plain = {key: value for key, value in semantic.content.items() if key not in ('encoder', 'localization')}
    for options, content, where in (
            (SemanticOptions, plain, semantic.where),
            (EncoderOptions, semantic.get('encoder'), semantic['encoder'].where),
            (LocalizationOptions, semantic.get('localization'), semantic['localization'].where)):
        try:
            parse(options, content, where)
        except OptionError as error:
            yield str(error)


def _weights(opt: Block) -> Iterator[str]:
    network, path = opt['network_g'], opt['path']
    weights = path.get('pretrain_network_g', TEXT)
    if not weights:
        if not opt.get('is_train') and network.get('type') not in ('Bicubic', None):
            yield 'path:pretrain_network_g is missing: the weights to test'
    else:
        yield from _readable(weights, bool(opt.get('is_train')))
    cls, encoder = _class(network), network['semantic']['encoder']
    if cls is None or not issubclass(cls, SeGSR) or network['semantic'].get('guidance') == 'none':
        return
    model, pretrained = (encoder.content.get(key, default) for key, default in (
        ('model', EncoderOptions.model), ('pretrained', EncoderOptions.pretrained)))
    if isinstance(model, str) and isinstance(pretrained, str):
        try:
            find_pretrained(model, pretrained)
        except OptionError as error:
            yield str(error)


def _readable(weights: str, training: bool) -> Iterator[str]:
    if not osp.isfile(weights):
        yield (f"path:pretrain_network_g: there is no weights file '{weights}'"
               + ('' if training else '; train first, with basicsr/train.py'))
        return
    try:
        content = load_tensors(weights, mmap=True)  # a glance is enough
    except ValueError as error:
        yield f'path:pretrain_network_g: {error}'
    else:
        if not isinstance(content, Mapping):
            yield f"path:pretrain_network_g: '{weights}' holds no weights"

"""``network_g``: its type, its options, what its class says of them, and whether there are CLIP weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from os import path as osp
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from segsr_arch.clip.clip_tower import check_tower
from segsr_arch.options import EncoderOptions, LocalizationOptions, OptionError, SemanticOptions, parse
from segsr_arch.segsr_arch import SeGSR, backbone_options
from segsr_arch.sfem import SFEM
from segsr_model.checks.blocks import (
    BLOCK,
    BOOL,
    NUMBER,
    TEXT,
    Block,
    Kind,
    number,
    optional,
    parameters_of,
    registered,
)
from segsr_model.weights.building import without_values
from segsr_model.weights.loading import match_weights
from segsr_model.weights.reading import read_weights

MODERATE = number('a number below 100,000', lambda value: abs(value) < 1e5)  # else building may never end
OURS = ('basicsr.', 'segsr_arch.')  # where the classes are that can be built for a try


def network_problems(opt: Block) -> tuple[nn.Module | None, list[str]]:
    """The network, without values and with an untrained CLIP tower, and the problems of its options and weights.

    The network is None if its options are wrong, or if it is a class of others that is not built for a try.
    """
    network, found = opt['network_g'], []
    if network:
        found += network.check_type(registered(ARCH_REGISTRY), 'network')
    found += _keys(network)
    net, unbuildable = _build(network)
    return net, [*found, *unbuildable, *_tower(network), *_weights(opt, net)]


def _build(network: Block) -> tuple[nn.Module | None, list[str]]:
    """The network from the options that are known, and why it cannot be built."""
    cls = _class(network)
    if cls is None or not cls.__module__.startswith(OURS):
        return None, []
    options = {key: copy.deepcopy(value) for key, value in network.content.items() if key != 'type'}
    if issubclass(cls, SeGSR):
        options = {key: value for key, value in options.items() if key in backbone_options(cls.backbone_class)}
        options['semantic'] = _known_semantics(network['semantic'])
        if any(Block(options).check(_kinds(cls))):
            return None, []  # a value is wrong, which is said
    elif any(_keys(network)):
        return None, []
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch's, of what is done without values
            net = _built(cls, options)
    except Exception as error:  # BasicSR's classes check nothing: any error comes of a wrong option
        reason = (str(error).splitlines() or [''])[0]
        if isinstance(error, OptionError) and reason.startswith('network_g'):
            return None, [reason]
        return None, [f'network_g: {cls.__name__} cannot be built from these options: {type(error).__name__}: {reason}']
    if any(p.numel() == 0 for p in net.parameters()):
        return None, ['network_g: its options make layers without any weights, such as of 0 channels']
    for module in net.modules():
        if isinstance(module, SFEM):
            module.stores_tower = network['semantic']['encoder'].content.get('pretrained', '') is None
    return net, []


def _known_semantics(semantic: Block) -> dict[str, Any]:
    """The ``semantic:`` block with an untrained tower, and the defaults instead of what is wrong."""
    plain, encoder, localization = ({} if problem else dict(content) for problem, content in _semantic_blocks(semantic))
    return {**plain, 'encoder': {**encoder, 'pretrained': None}, 'localization': localization}


def _semantic_blocks(semantic: Block) -> Iterator[tuple[str, Any]]:
    """``semantic:`` and the two blocks inside: what is wrong with each, or nothing, and its content."""
    plain = {key: value for key, value in semantic.content.items() if key not in ('encoder', 'localization')}
    for cls, content, where in (
            (SemanticOptions, plain, semantic.where),
            (EncoderOptions, semantic.content.get('encoder'), semantic['encoder'].where),
            (LocalizationOptions, semantic.content.get('localization'), semantic['localization'].where)):
        try:
            parse(cls, content, where)
        except OptionError as error:
            yield str(error), content
        else:
            yield '', content or {}


def _built(cls: type, options: dict[str, Any]) -> nn.Module:
    """Without BasicSR's build_network: its logger must not be used before train.py has set it up."""
    try:
        return without_values(cls, options)
    except (RuntimeError, OptionError) as error:
        if 'meta' not in str(error):
            raise
        return cls(**options)  # one of BasicSR's others computes with values while it is built


def _class(network: Block) -> type | None:
    kind = network.get('type', TEXT)
    for name in (kind, f'{kind}_basicsr'):
        if name in ARCH_REGISTRY:
            return ARCH_REGISTRY.get(name)
    return None


def _kinds(cls: type) -> dict[str, Kind]:
    """The options of a guided network."""
    kinds = {}
    for each in reversed(cls.backbone_class.__mro__[:cls.backbone_class.__mro__.index(nn.Module)]):
        if '__init__' in vars(each):
            kinds.update({key: MODERATE if kind is NUMBER else kind for key, kind in parameters_of(each)[0].items()})
    known = backbone_options(cls.backbone_class)
    return {**{key: kind for key, kind in kinds.items() if key in known}, 'type': TEXT, 'semantic': optional(BLOCK)}


def _keys(network: Block) -> Iterator[str]:
    cls = _class(network)
    if cls is None:
        return
    if not issubclass(cls, SeGSR):
        known, required, open_ = parameters_of(cls)
        if not open_:
            yield from network.check({**known, 'type': TEXT}, required)
        return
    required = [key for key, required in backbone_options(cls.backbone_class).items() if required]
    yield from network.check(_kinds(cls), required)
    yield from (problem for problem, _ in _semantic_blocks(network['semantic']) if problem)


def _tower(network: Block) -> Iterator[str]:
    """Problems of CLIP's weights. Those that are missing are fetched."""
    cls, semantic = _class(network), network['semantic']
    if cls is None or not issubclass(cls, SeGSR) or semantic.get('guidance') == 'none':
        return
    _, (problem, encoder), _ = _semantic_blocks(semantic)
    if problem:
        return  # which is said
    try:
        check_tower(parse(EncoderOptions, encoder, semantic['encoder'].where))
    except OptionError as error:
        yield str(error)


def _weights(opt: Block, net: nn.Module | None) -> Iterator[str]:
    path, training = opt['path'], bool(opt.get('is_train'))
    file = path.get('pretrain_network_g', TEXT)
    if not file:
        if not training and opt['network_g'].get('type') not in ('Bicubic', None):
            yield 'path:pretrain_network_g is missing: the weights to test'
        return
    if not osp.isfile(file):
        yield (f"path:pretrain_network_g: there is no weights file '{file}'"
               + ('' if training else '; train first, with basicsr/train.py'))
        return
    try:
        weights, _ = read_weights(file, path.get('param_key_g', TEXT) or 'params')
        if net is not None:
            match_weights(net, weights, strict=path.get('strict_load_g', BOOL, True))
    except ValueError as error:
        yield f"path:pretrain_network_g: {error}" if file in str(error) else (
            f"path:pretrain_network_g: '{file}': {error}")

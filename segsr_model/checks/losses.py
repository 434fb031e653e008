"""``pixel_opt`` and ``perceptual_opt``: the options of losses, and the weights that are fetched for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from os import path as osp

import torch
import torchvision
from basicsr.archs.vgg_arch import NAMES, VGG_PRETRAIN_PATH, insert_bn
from basicsr.losses import build_loss  # noqa: F401  (registers BasicSR's losses)
from basicsr.utils.registry import LOSS_REGISTRY

from segsr_arch.clip.tensor_files import load_tensors
from segsr_model.checks.blocks import NUMBER, Block, call_problems, choice, nearest, registered, tried, without_type

LIGHT = ('L1Loss', 'MSELoss', 'CharbonnierLoss')  # hold no network
VGGS = [f'{name}{ending}' for name in NAMES for ending in ('', '_bn')]


def loss_problems(block: Block) -> Iterator[str]:
    """Problems of a loss. Weights that are missing are fetched, as they would be at the start of a training."""
    problems = list(block.check_type(registered(LOSS_REGISTRY), 'loss'))
    kind = block.get('type')
    if not problems:
        problems = list(call_problems(block, LOSS_REGISTRY.get(kind), (), {
            'reduction': choice('mean', 'sum'), 'vgg_type': choice(*VGGS), 'criterion': choice('l1', 'fro')}))
    if not problems and kind in LIGHT:
        problems = tried(block, lambda: LOSS_REGISTRY.get(kind)(**without_type(block)))[1]
    if not problems and kind == 'PerceptualLoss':
        problems = [*_layers(block), *_vgg_weights(block)]
    yield from problems


def _layers(block: Block) -> Iterator[str]:
    kind, layers = block.get('vgg_type', default='vgg19'), block['layer_weights']
    names = NAMES[kind.removesuffix('_bn')]
    known = insert_bn(names) if kind.endswith('_bn') else names
    if not layers:
        yield f'{layers.where}: must be a block of layers and their weights, such as {{conv5_4: 1}}'
    for name, weight in layers.content.items():
        if name not in known:
            yield f"{layers.where}: {kind} has no layer '{name}'; {nearest(name, known)}"
        elif not NUMBER.fits(weight):
            yield f'{layers.path(name)}: is {weight!r}, must be {NUMBER.text}'


def _vgg_weights(block: Block) -> Iterator[str]:
    """Problems of VGG's weights, which BasicSR takes from its own folder if they are there, else from torchvision's."""
    kind, option = block.get('vgg_type', default='vgg19'), block.where
    file = VGG_PRETRAIN_PATH
    if not osp.exists(file):
        url = torchvision.models.get_model_weights(kind).IMAGENET1K_V1.url
        folder = osp.join(torch.hub.get_dir(), 'checkpoints')
        file = osp.join(folder, osp.basename(url))
        try:
            if not osp.exists(file):
                os.makedirs(folder, exist_ok=True)
                torch.hub.download_url_to_file(url, file, re.search(r'-([0-9a-f]+)\.', url)[1], progress=False)
        except Exception as error:  # whatever urllib or the disk raise
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            yield (f"{option}: the weights of {kind}, '{osp.basename(file)}', are not in '{folder}' and could not be "
                   f'fetched ({reason}). Without a network, fetch {url} on another machine and put it there')
            return
    try:
        with torch.device('meta'):
            net = torchvision.models.get_model(kind)
        net.load_state_dict(load_tensors(file, f'the weights of {kind}', mmap=True), assign=True)
    except ValueError as error:
        yield f'{option}: {error}'
    except RuntimeError:  # a list of all that does not fit
        yield f"{option}: '{file}' holds the weights of another network than {kind}"

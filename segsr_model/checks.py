"""What can be wrong with the options of a run, found before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import path as osp
from typing import Any

from PIL import Image

from segsr_arch.options import check_keys
from segsr_model.checkpoints import check_checkpoint_options
from segsr_model.metrics import check_metrics
from segsr_model.report.paper import check_rows

VAL_OPTIONS = ('val_freq', 'save_img', 'pbar', 'suffix', 'metrics', 'self_ensemble', 'amp')
PATH_OPTIONS = ('pretrain_network_g', 'param_key_g', 'strict_load_g', 'resume_state', 'ignore_resume_networks',
                'experiments_root', 'results_root', 'models', 'training_states', 'log', 'visualization')


def check_options(opt: Mapping[str, Any]) -> None:
    """Check the options of a training or test with SemanticGuidedSRModel, as BasicSR has parsed them.

    Raises:
        ValueError: one line that names the option or the file, what is wrong and what would be right.
    """
    check_rows(opt.get('rows') or [])
    if opt['is_train'] and 'train' not in opt['datasets']:
        raise ValueError('datasets:train is missing: this is an option file for basicsr/test.py')
    check_keys('path', opt['path'], PATH_OPTIONS)
    _check_network(opt)
    weights = opt['path'].get('pretrain_network_g')
    if weights and not osp.isfile(weights):
        raise ValueError(f"path:pretrain_network_g: there is no weights file '{weights}'"
                         + ('' if opt['is_train'] else '; train first, with basicsr/train.py'))
    val = opt.get('val') or {}
    check_keys('val', val, VAL_OPTIONS)
    check_metrics(val.get('metrics') or {})
    if opt['is_train']:
        check_checkpoint_options(opt)
    for phase, dataset in opt['datasets'].items():
        if dataset.get('type') == 'PairedImageDataset' and dataset.get('io_backend', {}).get('type') == 'disk':
            try:
                _check_pairs(dataset, compare_sizes=dataset['phase'] != 'train')
            except ValueError as error:
                raise ValueError(f'datasets:{phase}: {error}') from None


def _check_network(opt: Mapping[str, Any]) -> None:
    network = opt['network_g']
    upscale = network.get('upscale', network.get('scale', opt.get('scale')))  # RRDBNet says scale
    if upscale != opt.get('scale'):
        raise ValueError(f'scale: is {opt.get("scale")}, but network_g has upscale {upscale}')
    untrained = not opt['is_train'] and not opt['path'].get('pretrain_network_g') and network.get('type') != 'Bicubic'
    if untrained:
        raise ValueError('path:pretrain_network_g is missing: the weights to test')


def _check_pairs(dataset: Mapping[str, Any], *, compare_sizes: bool) -> None:
    """Each HR image has its LR image and the other way round, of the size that the scale demands."""
    for name in ('dataroot_gt', 'dataroot_lq'):
        if not dataset.get(name):
            raise ValueError(f"option '{name}' is missing")
    folders = [dataset['dataroot_gt'], dataset['dataroot_lq']]
    hr, lr = [_images(folder) for folder in folders]
    if dataset.get('meta_info_file') or dataset.get('filename_tmpl', '{}') != '{}':
        return
    for here, there, folder, other in ((hr, lr, *folders), (lr, hr, *reversed(folders))):
        missing = sorted(here - there)
        if missing:
            more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
            raise ValueError(f"'{osp.join(folder, missing[0])}'{more} has no image of the same name in '{other}'")
    if not hr:
        raise ValueError(f"'{folders[0]}' has no images")
    scale = dataset['scale']
    for name in sorted(hr) if compare_sizes else ():
        (hr_w, hr_h), (lr_w, lr_h) = [_size(osp.join(folder, name)) for folder in folders]
        if not (0 <= hr_w - lr_w * scale < scale and 0 <= hr_h - lr_h * scale < scale):
            raise ValueError(f"'{osp.join(folders[0], name)}' is {hr_w} x {hr_h}; for an LR image of {lr_w} x {lr_h} "
                             f'at x{scale} it must be {lr_w * scale} x {lr_h * scale}')


def _images(folder: str) -> set[str]:
    if not osp.isdir(folder):
        raise ValueError(f"there is no folder '{folder}'; \"segsr prepare --help\" says how to make it")
    return {entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith('.')}


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's, for a damaged header or a decompression bomb
        raise ValueError(f"'{path}' cannot be read as an image: {error}") from None

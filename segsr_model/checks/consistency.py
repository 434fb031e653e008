"""Values that are each right, but contradict each other, or do nothing beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from basicsr.archs.swinir_arch import SwinIR
from torch import nn

from segsr_arch.baselines.srformer_arch import SRFormer
from segsr_model.checks.blocks import BOOL, LIST, TEXT, Block, is_whole, steps, whole
from segsr_model.testing.metrics import needs_ground_truth

COUNT, NUMBER = whole(1), whole(0)
OF_TRAINING = ('gt_size', 'use_hflip', 'use_rot', 'use_shuffle', 'num_worker_per_gpu', 'batch_size_per_gpu',
               'dataset_enlarge_ratio')
UPSCALE = ('upscale', 'scale', 'up_scale')  # what networks call it


def contradictions(opt: Block, net: nn.Module | None) -> Iterator[str]:
    """Problems of values against each other.

    Args:
        opt: the options.
        net: the network, if it could be built.
    """
    training = bool(opt.get('is_train'))
    if training and 'train' not in opt['datasets'].content:
        yield 'datasets:train is missing: this is an option file for basicsr/test.py'
    yield from _scale(opt, net)
    if training:
        yield from _length(opt['train'])
        yield from _recomputing(opt['train'], net)
    for phase, dataset in opt['datasets'].blocks():
        kind = phase.split('_')[0]
        if kind not in (('train', 'val') if training else ('val', 'test')) or (kind == 'train' and phase != 'train'):
            known = 'train, val, val_1, ... in training' if training else 'val, test, test_1, ... in a test'
            yield f'{dataset.where}: is no phase that BasicSR uses; there are {known}'
        yield from _loader(opt, dataset, phase == 'train')
        yield from _patches(opt, dataset, net) if phase == 'train' else _without_effect(dataset)
        if dataset['io_backend'].get('type') == 'lmdb' and dataset.get('meta_info_file'):
            yield f'{dataset.path("meta_info_file")}: has no effect on an LMDB, of which BasicSR takes all images'
    yield from _ground_truth(opt)
    wandb = opt['logger']['wandb'].get('project', TEXT)
    if training and wandb and opt['logger'].get('use_tb_logger') is not True:
        yield 'logger:use_tb_logger: must be true, as logger:wandb:project is set'


def _scale(opt: Block, net: nn.Module | None) -> Iterator[str]:
    network = opt['network_g']
    key = next((key for key in UPSCALE if key in network.content), UPSCALE[0])
    upscale = network.get(key, default=getattr(net, 'upscale', opt.get('scale')))
    if upscale != opt.get('scale'):
        yield f'scale: is {opt.get("scale")}, but network_g has {key} {upscale}'


def _length(train: Block) -> Iterator[str]:
    total, scheduler = train.get('total_iter', steps(1)), train['scheduler']
    if not total:
        return
    late = [step for step in scheduler.get('milestones', LIST, []) if is_whole(step) and step > total]
    if late:
        yield (f'train:scheduler:milestones: {", ".join(map(str, late))} would never be reached; the '
               f'last is at most train:total_iter, {total}')
    periods = scheduler.get('periods', LIST, [])
    if periods and all(map(is_whole, periods)) and sum(periods) < total:
        yield f'train:scheduler:periods: add up to {sum(periods)}; must reach train:total_iter, {total}'


def _recomputing(train: Block, net: nn.Module | None) -> Iterator[str]:
    if net is None or train.get('use_checkpoint') is not True:
        return
    able = any(hasattr(module, 'use_checkpoint') for module in net.modules())
    if not able or isinstance(net, SwinIR):  # BasicSR's SwinIR has the option, but fails with it
        yield (f'train:use_checkpoint: {type(net).__name__} cannot compute its blocks again; HAT, SRFormer, '
               'TTST and the SeGSR networks can')


def _loader(opt: Block, dataset: Block, training: bool) -> Iterator[str]:
    workers = dataset.get('num_worker_per_gpu', NUMBER, 0) if training else 0
    persistent, mode = dataset.get('persistent_workers', BOOL, False), dataset.get('prefetch_mode')
    if persistent and not workers:
        needed = 'needs num_worker_per_gpu >= 1' if training else 'must be false: validation has no workers'
        yield f'{dataset.path("persistent_workers")}: {needed}'
    if persistent and mode == 'cpu':
        yield f'{dataset.path("prefetch_mode")}: cpu hangs with persistent_workers: true; set one of them to ~ or false'
    if mode == 'cuda' and training:
        if dataset.get('pin_memory') is not True:
            yield f'{dataset.path("prefetch_mode")}: cuda needs pin_memory: true'
        if opt.get('num_gpu') == 0:
            yield f'{dataset.path("prefetch_mode")}: cuda needs a GPU, but num_gpu is 0'


def _patches(opt: Block, dataset: Block, net: nn.Module | None) -> Iterator[str]:
    size, scale, window = dataset.get('gt_size', COUNT), opt.get('scale', COUNT), opt['network_g'].get('window_size')
    if not size or not scale:
        return
    if isinstance(getattr(net, 'backbone', net), SRFormer):
        window = None  # its authors' window of 22 divides no patch: the network pads
    where = dataset.path('gt_size')
    if size % scale:
        yield f'{where}: is {size}, must be a multiple of scale, {scale}'
    elif COUNT.fits(window) and size // scale % window:
        yield (f'{where}: is {size}, so that LR patches are {size // scale} pixels wide; they must be a multiple of '
               f'network_g:window_size, {window}')


def _without_effect(dataset: Block) -> Iterator[str]:
    """Options of a validation or test set that nobody looks at."""
    for key in OF_TRAINING:
        if key in dataset.content:
            yield f'{dataset.path(key)}: has no effect: here images are taken one by one, as they are; leave it out'


def _ground_truth(opt: Block) -> Iterator[str]:
    """Metrics that can never be computed, as they compare with images that a dataset does not have."""
    sets = [dataset for phase, dataset in opt['datasets'].blocks() if phase.split('_')[0] in ('val', 'test')]
    without = [dataset for dataset in sets if dataset.get('type') == 'SingleImageDataset']
    comparing = [name for name, metric in opt['val']['metrics'].blocks() if _compares(metric)]
    if comparing and without and len(without) == len(sets):
        yield (f'val:metrics: there is no ground truth for {", ".join(comparing)}: {without[0].where} is a '
               'SingleImageDataset; make it a PairedImageDataset, or leave them out (metrics: ~)')
    best = opt['logger'].get('save_best')
    if best is None or not sets:
        return
    name, metric = next(iter(best.items())) if isinstance(best, Mapping) and best else (sets[0].get('name'), best)
    if metric in comparing and name in [dataset.get('name') for dataset in without]:
        yield (f"logger:save_best: there is no ground truth for '{metric}': the validation set '{name}' is a "
               'SingleImageDataset, so that nothing would be saved')


def _compares(metric: Block) -> bool:
    try:
        return needs_ground_truth(metric.content)
    except (KeyError, TypeError, ValueError):  # no metric, or one that cannot be used here; which is said
        return False

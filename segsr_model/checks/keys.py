"""Keys and types of every block but ``network_g``: unknown or missing options, and values of the wrong kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from basicsr.models import lr_scheduler
from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from torch import nn

from segsr_model.checks.blocks import (
    ANY,
    BLOCK,
    BOOL,
    TEXT,
    Block,
    Kind,
    call_problems,
    choice,
    nearest,
    number,
    optional,
    registered,
    several,
    steps,
    tried,
    whole,
    without_type,
)
from segsr_model.checks.losses import loss_problems
from segsr_model.checks.results import unmeasurable
from segsr_model.testing.metrics import check_metrics
from segsr_model.training.checkpoints import best_metric
from segsr_model.training.settings import DEVICE_SETTINGS

PARSED = ('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path')  # what BasicSR adds
POSITIVE = number('a number > 0', lambda value: value > 0)
GPUS = Kind('a number of GPUs, or auto', lambda value: value == 'auto' or whole(0).fits(value))
TOP = {
    'name': TEXT, 'model_type': TEXT, 'scale': whole(1), 'num_gpu': GPUS, 'manual_seed': optional(whole(0)),
    'rows': ANY, 'find_unused_parameters': BOOL, **dict.fromkeys(('datasets', 'network_g', 'path'), BLOCK),
    **dict.fromkeys(('train', 'val', 'logger', 'dist_params'), optional(BLOCK)), **dict.fromkeys(PARSED, ANY)}
PATH = {
    **dict.fromkeys(('pretrain_network_g', 'param_key_g', 'resume_state', 'experiments_root', 'results_root', 'models',
                     'training_states', 'log', 'visualization'), optional(TEXT)),
    'strict_load_g': BOOL, 'ignore_resume_networks': ANY}
DATASET = {
    'name': TEXT, 'type': TEXT, 'phase': TEXT, 'scale': ANY, 'io_backend': BLOCK, 'meta_info_file': optional(TEXT),
    'dataroot_lq': optional(TEXT), 'color': optional(TEXT), 'mean': optional(several(number())),
    'std': optional(several(number())), 'use_hflip': BOOL, 'use_rot': BOOL, 'use_shuffle': BOOL,
    'gt_size': whole(1), 'num_worker_per_gpu': whole(0), 'batch_size_per_gpu': whole(1),
    'dataset_enlarge_ratio': POSITIVE, 'pin_memory': BOOL,
    'persistent_workers': BOOL, 'prefetch_mode': optional(choice('cpu', 'cuda')), 'num_prefetch_queue': whole(1),
    'max_corrupt_images': whole(0)}
DATASETS = {'SingleImageDataset': DATASET,
            'PairedImageDataset': {**DATASET, 'dataroot_gt': optional(TEXT), 'filename_tmpl': TEXT}}
BACKENDS = ('disk', 'lmdb', 'memcached')
LOADER = ('num_worker_per_gpu', 'batch_size_per_gpu')
TRAIN = {
    'ema_decay': number('a number in [0, 1)', lambda value: 0 <= value < 1), 'total_iter': steps(1),
    'warmup_iter': steps(-1), 'amp': Kind('bf16, fp16 or ~', lambda value: value in (None, False, 'bf16', 'fp16')),
    'accumulate': optional(whole(1)), 'max_bad_steps': whole(0), 'use_checkpoint': BOOL, 'channels_last': BOOL,
    'grad_clip': optional(number('a number >= 0', lambda value: value >= 0)), 'compile': BOOL,
    **dict.fromkeys(('optim_g', 'scheduler'), BLOCK), **dict.fromkeys(('pixel_opt', 'perceptual_opt'), optional(BLOCK))}
VAL = {'val_freq': steps(1), 'save_img': BOOL, 'pbar': BOOL, 'suffix': optional(TEXT), 'metrics': optional(BLOCK),
       'self_ensemble': BOOL, 'amp': TRAIN['amp']}
LOGGER = {'print_freq': steps(1), 'save_checkpoint_freq': steps(1), 'use_tb_logger': BOOL, 'wandb': optional(BLOCK),
          'keep_last': optional(Kind('a number of checkpoints, 1 or more', whole(1).fits)), 'save_best': ANY}
SCHEDULERS = {'MultiStepLR': lr_scheduler.MultiStepRestartLR, 'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
              'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR}


def key_problems(opt: Block) -> Iterator[str]:
    """Problems of all blocks but ``network_g``."""
    training = bool(opt.get('is_train'))
    blocks = ('datasets', 'network_g', 'path', *(('train', 'logger') if training else ('val',)))
    yield from opt.check(TOP, ('name', 'model_type', 'num_gpu', *blocks))
    models = registered(MODEL_REGISTRY)
    if opt.get('model_type', TEXT) and opt.get('model_type') not in models:
        yield f"model_type: there is no model '{opt.get('model_type')}'; {nearest(opt.get('model_type'), models)}"
    yield from opt['path'].check(PATH)
    for phase, content in opt['datasets'].content.items():
        dataset = opt['datasets'][phase]
        if isinstance(content, Mapping):
            yield from _dataset(dataset, training and phase == 'train')
        else:
            yield f'{dataset.where}: is {content!r}, must be {BLOCK.text}'
    if training and opt['train']:
        yield from _train(opt['train'])
    if opt.content.get('val') is not None:
        validates = any(phase.split('_')[0] == 'val' for phase in map(str, opt['datasets'].content))
        required = (*(('val_freq',) if training else ()), *(('save_img',) if validates or not training else ()))
        yield from opt['val'].check(VAL, required)
        yield from _metrics(opt['val']['metrics'])
    if training and opt.content.get('logger') is not None:
        yield from opt['logger'].check(LOGGER, ('print_freq', 'save_checkpoint_freq', 'use_tb_logger'))
        yield from opt['logger']['wandb'].check({'project': optional(TEXT), 'resume_id': optional(TEXT)})
        yield from _best(opt)
    yield from opt['dist_params'].check({'backend': choice('nccl', 'gloo'), 'port': whole(1), 'timeout': POSITIVE})


def _dataset(dataset: Block, training: bool) -> Iterator[str]:
    yield from dataset.check_type(registered(DATASET_REGISTRY), 'dataset')
    kinds = DATASETS.get(str(dataset.get('type')))
    if kinds is None:
        return
    required = ('name', 'io_backend', *(key for key in ('dataroot_gt', 'dataroot_lq') if key in kinds))
    augmented = ('gt_size', 'use_hflip', 'use_rot') if 'dataroot_gt' in kinds else ()
    yield from dataset.check(kinds, (*required, *((*augmented, *LOADER) if training else ())))
    if training and 'dataroot_gt' not in kinds:
        yield f'{dataset.path("type")}: {dataset.get("type")} has no ground truth to train on; PairedImageDataset has'
    backend = dataset['io_backend']
    if dataset.get('io_backend', BLOCK) is not None:
        yield from backend.check_type(BACKENDS, 'backend')
    if backend.get('type') == 'disk':
        yield from backend.check({'type': TEXT})


def _train(train: Block) -> Iterator[str]:
    yield from train.check(TRAIN, ('total_iter', 'optim_g', 'scheduler'))
    if not train['pixel_opt'] and not train['perceptual_opt']:
        yield "train: option 'pixel_opt' is missing: without it and perceptual_opt there is no loss"
    optimizer = None
    if train['optim_g']:
        optimizer, problems = _optimizer(train['optim_g'])
        yield from problems
    if train['scheduler']:
        optimizer = optimizer or torch.optim.Adam([nn.Parameter(torch.zeros(1))])
        yield from _scheduler(train['scheduler'], optimizer)
    for key in ('pixel_opt', 'perceptual_opt'):
        if train[key]:
            yield from loss_problems(train[key])


def _optimizer(block: Block) -> tuple[torch.optim.Optimizer | None, list[str]]:
    """An optimizer of a single number, for a try, and the problems of its options."""
    cls = getattr(torch.optim, str(block.get('type')), None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        return None, [f'{block.path("type")}: torch.optim has no optimizer {block.get("type")!r}; '
                      'there are Adam, AdamW, SGD, ...']
    problems = list(call_problems(block, cls, ('params',)))
    if problems:
        return None, problems
    options = {key: value for key, value in block.content.items() if key not in ('type', *DEVICE_SETTINGS)}
    return tried(block, lambda: cls([nn.Parameter(torch.zeros(1))], **options))


def _scheduler(block: Block, optimizer: torch.optim.Optimizer) -> Iterator[str]:
    problems = list(block.check_type(SCHEDULERS, 'scheduler'))
    if not problems:
        cls = SCHEDULERS[block.get('type')]
        lists = dict.fromkeys(('restarts', 'milestones', 'periods'), several(steps(0)))
        problems = list(call_problems(block, cls, ('optimizer',), lists))
        problems = problems or tried(block, lambda: cls(optimizer, **without_type(block)))[1]
    yield from problems


def _metrics(metrics: Block) -> Iterator[str]:
    for name, content in metrics.content.items():
        try:
            check_metrics({name: content})
        except ValueError as error:
            yield str(error)
            continue
        function = METRIC_REGISTRY.get(content['type'])
        problems = list(call_problems(metrics[name], function, ('img', 'img2'), {
            'crop_border': whole(0), 'better': choice('higher', 'lower'), 'input_order': choice('HWC', 'CHW')},
            closed=function.__module__.startswith('basicsr.')))
        yield from problems or unmeasurable(metrics[name])


def _best(opt: Block) -> Iterator[str]:
    named = {phase: {'name': str(dataset.get('name'))} for phase, dataset in opt['datasets'].blocks()}
    try:
        best_metric({'logger': opt['logger'].content, 'datasets': named,
                     'val': {'metrics': opt['val']['metrics'].content}})
    except ValueError as error:
        yield str(error)

"""What a run needs of the machine: folders to write to, room on the disk, optional packages, a state to resume."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from os import path as osp
from pathlib import Path

from torch import nn

from segsr_model.checks.blocks import TEXT, Block, steps, whole
from segsr_model.files import obstacle, place_of
from segsr_model.training.checkpoints import read_pair

LEAST = 1 << 24  # bytes that any run needs: logs and images
COUNT, STEPS = whole(1), steps(1)


def place_problems(opt: Block, net: nn.Module | None) -> Iterator[str]:
    """Problems of folders, disk, packages and files.

    Args:
        opt: the options.
        net: the network, if it could be built: how large its checkpoints are.
    """
    training = bool(opt.get('is_train'))
    state = opt['path'].get('resume_state', TEXT)
    if training and state and not opt.get('auto_resume'):
        try:
            read_pair(state, '', ())
        except ValueError as error:
            yield f'path:resume_state: {error}'
    yield from _packages(opt, training)
    resumed = opt.get('auto_resume') or state
    folder = opt['path'].get('experiments_root' if training else 'results_root', TEXT)
    if folder:
        yield from _folder(opt, Path(folder), _bytes(opt, net) if training and net else LEAST)
    if folder and training and _logs(opt) and opt['logger'].get('use_tb_logger') is True:
        yield from _place('logger:use_tb_logger', Path(folder).parents[1] / 'tb_logger' / Path(folder).name)
    if folder and resumed and osp.isdir(folder):
        for part in ('models', 'training_states', 'visualization'):
            yield from _place('name', Path(folder) / part)


def _packages(opt: Block, training: bool) -> Iterator[str]:
    logger, logs = opt['logger'], training and _logs(opt)
    needed = [('logger:use_tb_logger', 'tensorboard')] if logs and logger.get('use_tb_logger') is True else []
    if logs and logger['wandb'].get('project', TEXT):
        needed.append(('logger:wandb:project', 'wandb'))
    needed += [(dataset['io_backend'].path('type'), 'lmdb') for _, dataset in opt['datasets'].blocks()
               if dataset['io_backend'].get('type') == 'lmdb']
    for option, package in needed:
        if not _installed(package):
            yield f'{option}: needs the package {package}: pip install {package}'


def _logs(opt: Block) -> bool:
    """Whether a training of this name is logged beside its log file, as BasicSR decides it."""
    return 'debug' not in str(opt.get('name'))


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is kept from being imported
        return False


def _bytes(opt: Block, net: nn.Module) -> int:
    """What the checkpoints of a training take: weights, their average and Adam's two moments, in fp32."""
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    averaged = bool(opt['train'].get('ema_decay'))
    total, every = opt['train'].get('total_iter', STEPS, 1), opt['logger'].get('save_checkpoint_freq', STEPS)
    count = total // every if every else 1
    resumed = opt.get('auto_resume') or opt['path'].get('resume_state')
    count = min(count, opt['logger'].get('keep_last', COUNT, count), 2 if resumed else count)
    return int(LEAST + 4 * trained * (count * (3 + averaged) + 1 + averaged))  # and the weights at the end


def _folder(opt: Block, folder: Path, needed: int) -> Iterator[str]:
    problems, place = list(_place('name', folder)), place_of(folder)
    if problems:
        yield from problems
        return
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield f"name: '{folder}' cannot be made: '{place}': {error.strerror}"
        return
    if free < needed:
        what = 'the checkpoints take' if needed > LEAST else 'a run takes'
        advice = '; logger:keep_last keeps fewer' if needed > LEAST else ''
        option = 'logger:save_checkpoint_freq' if needed > LEAST else 'name'
        yield f"{option}: {what} about {needed / 1e9:.2f} GB, but '{place}' has {free / 1e9:.2f} GB left{advice}"


def _place(option: str, folder: Path) -> Iterator[str]:
    if obstacle(folder):
        yield f"{option}: '{folder}' cannot be made: {obstacle(folder)}"

"""Training in several processes: how they find each other, and what happens when one of them ends."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

LOST = ('closed by peer', 'reset by peer', 'broken pipe', 'timed out waiting', 'pair closure', 'communicator was abort',
        'remote process has terminated')


def timeout_of(dist_params: Mapping[str, Any] | None) -> datetime.timedelta:
    """How long a process waits for the others: ``dist_params: timeout``, in minutes.

    Raises:
        ValueError: the options cannot be used.
    """
    minutes = (dist_params or {}).get('timeout', 30)
    if type(minutes) not in (int, float) or not minutes > 0:
        raise ValueError(f'dist_params:timeout: must be a number of minutes above 0, not {minutes!r}')
    return datetime.timedelta(minutes=minutes)


def start(launcher: str, options: Mapping[str, Any]) -> None:
    """BasicSR's ``init_dist``, which also runs without GPUs and on several nodes.

    Args:
        launcher: ``pytorch`` (torchrun) or ``slurm``.
        options: the option file, for ``num_gpu`` and ``dist_params``.

    Raises:
        ValueError: the launcher has not started this process, or there are too few GPUs.
    """
    dist_params = options.get('dist_params') or {}
    timeout = timeout_of(dist_params)
    if launcher == 'slurm':
        _environment_of_slurm(dist_params.get('port'))
    if 'RANK' not in os.environ:
        raise ValueError('--launcher pytorch: start it with torchrun')
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')  # for data workers, as in BasicSR: CUDA does not survive a fork
    backend = dist_params.get('backend') or 'nccl'
    if options.get('num_gpu') == 0 or not torch.cuda.is_available():
        backend = 'gloo'
    else:
        _choose_gpu()
        backend = {'nccl': 'cpu:gloo,cuda:nccl'}.get(backend, backend)
    sys.excepthook = _one_line_for_lost_processes
    dist.init_process_group(backend, timeout=timeout)


def _environment_of_slurm(port: int | None) -> None:
    if 'SLURM_PROCID' not in os.environ:
        raise ValueError('--launcher slurm: start it with srun')
    first = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], check=True, text=True,
                           stdout=subprocess.PIPE).stdout.split()[0]
    os.environ.setdefault('MASTER_PORT', '29500')
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.update(MASTER_ADDR=first, WORLD_SIZE=os.environ['SLURM_NTASKS'], RANK=os.environ['SLURM_PROCID'],
                      LOCAL_RANK=os.environ['SLURM_LOCALID'])


def _choose_gpu() -> None:
    """That of the local rank; Slurm may show each process its own one only."""
    gpus, processes = torch.cuda.device_count(), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if processes > gpus:
        raise ValueError(f'torchrun --nproc_per_node={processes}: there are {gpus} GPUs')
    torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)) % gpus)


def _one_line_for_lost_processes(kind: type[BaseException], error: BaseException,
                                 traceback: TracebackType | None) -> None:
    """For ``sys.excepthook``: the end of another process needs no traceback here."""
    text = str(error).lower()
    if isinstance(error, RuntimeError) and any(words in text for words in LOST):
        sys.stderr.write(f'Process {dist.get_rank()} of {dist.get_world_size()} ends: another process of the training '
                         'has ended or does not answer; what it has said itself tells why. After that, go on with '
                         '--auto_resume.\n')
    else:
        sys.__excepthook__(kind, error, traceback)


def parallel(net: nn.Module, device: torch.device, find_unused_parameters: bool) -> nn.Module:
    """The network with its gradients averaged over the processes, and the weights of the first one in all of them."""
    if not any(p.requires_grad for p in net.parameters()):
        return net
    return DistributedDataParallel(net, device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
                                   broadcast_buffers=False, find_unused_parameters=find_unused_parameters)


def share_of(dataloader: DataLoader, rank: int, world_size: int) -> DataLoader:
    """A loader of every ``world_size``-th image of a validation set, from the ``rank``-th on."""
    if world_size == 1:
        return dataloader
    return DataLoader(dataloader.dataset, sampler=range(rank, len(dataloader.dataset), world_size),
                      pin_memory=dataloader.pin_memory)


def gather(value: Any) -> list[Any]:
    """The value of each process, in all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, in all of them; its error, too, is raised in all."""
    if not (dist.is_available() and dist.is_initialized()):
        return make()
    result = [None, None]
    if dist.get_rank() == 0:
        try:
            result[0] = make()
        except ValueError as error:
            result[1] = error
    dist.broadcast_object_list(result)
    if result[1]:
        raise result[1]
    return result[0]

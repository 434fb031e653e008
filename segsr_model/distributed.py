"""Training by several processes: started on CPUs too, validation spread over them, a lost process is said."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

TIMEOUT = timedelta(minutes=30)  # of a process that does not answer; a validation must fit in
LOST = re.compile(r'closed by peer|reset by peer|broken pipe|timed out|gloo|nccl|tcpstore', re.IGNORECASE)


def init_dist(launcher: str, backend: str = 'nccl', port: int | None = None) -> None:
    """BasicSR's ``init_dist``, which wants GPUs: without them processes talk through gloo.

    Args:
        launcher: ``pytorch`` for torchrun, ``slurm``.
        backend: for tensors on GPUs.
        port: of the first process; with Slurm only.
    """
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')
    if launcher == 'slurm':
        rank = int(os.environ['SLURM_PROCID'])
        first = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], check=True,
                               capture_output=True, text=True).stdout.split()[0]
        os.environ.update(RANK=str(rank), WORLD_SIZE=os.environ['SLURM_NTASKS'], MASTER_ADDR=first,
                          MASTER_PORT=str(port or os.environ.get('MASTER_PORT', 29500)),
                          LOCAL_RANK=os.environ.get('SLURM_LOCALID', str(rank % max(torch.cuda.device_count(), 1))))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', os.environ['RANK'])) % torch.cuda.device_count())
        backend = f'cpu:gloo,cuda:{backend}'
    else:
        backend = 'gloo'
    dist.init_process_group(backend=backend, timeout=TIMEOUT)


def wrapped(net: nn.Module, device: torch.device, find_unused_parameters: bool) -> DistributedDataParallel:
    """A network on its device whose gradients are averaged over the processes; they start from the same weights."""
    return DistributedDataParallel(
        net.to(device), device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
        broadcast_buffers=False, find_unused_parameters=find_unused_parameters)


class Share(Dataset):
    """Every nth image of a validation set.

    Args:
        dataset: BasicSR's.
        rank, world_size: which of how many shares.
    """

    def __init__(self, dataset: Dataset, rank: int, world_size: int) -> None:
        self.dataset, self.opt = dataset, dataset.opt
        self.indices = range(rank, len(dataset), world_size)
        self.paths = getattr(dataset, 'paths', [])[rank::world_size]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def share_of(loader: DataLoader, rank: int, world_size: int) -> DataLoader:
    """A loader of this process' share of a validation set."""
    return loader if world_size == 1 else DataLoader(Share(loader.dataset, rank, world_size), batch_size=1)


@contextlib.contextmanager
def lost_process_is_said(distributed: bool) -> Iterator[None]:
    """One line instead of the traceback of a collective operation that another process has left.

    Raises:
        SystemExit: that has happened.
    """
    try:
        yield
    except RuntimeError as error:
        if not distributed or not LOST.search(str(error)):
            raise
        raise SystemExit(
            f'Another process of this training has ended or does not answer ({str(error).splitlines()[0]}). '
            'What it has said tells why; go on with --auto_resume.') from None

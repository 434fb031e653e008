"""What a resumed training needs beside weights and optimiser to be the same run: its place in the data, random states.

The order of the data. Each sample is drawn with random numbers of its own, made of the run's seed, the epoch and the
position in it. So it does not matter how many workers read ahead, and a run may begin in the middle of an epoch.
"""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import get_root_logger
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from segsr_model.training.corrupt_images import replaced
from segsr_model.training.interrupts import ignore_in_worker


class Place(NamedTuple):
    """A sample's index in the dataset, and where in the run it is drawn.

    Attributes:
        index: in the dataset.
        epoch: counted from 0.
        position: in this process' part of the epoch, counted from 0.
        number: in the whole epoch, over all processes.
    """

    index: int
    epoch: int
    position: int
    number: int


class PlacedSampler(Sampler):
    """BasicSR's sampler, with the place of each sample; an epoch to be resumed begins where it was left.

    Args:
        sampler: BasicSR's, of which train.py sets the epoch.
        start: the ``data`` of a training state, or None.
    """

    def __init__(self, sampler: EnlargedSampler, start: Mapping[str, int] | None) -> None:
        self.sampler, self.start = sampler, start or {'epoch': -1}

    def __iter__(self) -> Iterator[Place]:
        epoch = self.sampler.epoch
        first = self.start['position'] if epoch == self.start['epoch'] else 0
        for position, index in enumerate(self.sampler):
            if position >= first:
                yield Place(index, epoch, position, position * self.sampler.num_replicas + self.sampler.rank)

    def __len__(self) -> int:
        return len(self.sampler)


class PlacedDataset(Dataset):
    """A dataset whose samples depend on nothing but their place and the seed.

    An item is the dataset's own, with ``place``: (epoch, position), and ``corrupt``, see `corrupt_images.replaced`.
    The random states of the process stay as they are.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: Place) -> dict[str, Any]:
        # another thread's random numbers for training must not be touched: PyTorch's are left alone there
        alone = get_worker_info() is not None or threading.current_thread() is threading.main_thread()
        before = random.getstate(), np.random.get_state(), torch.get_rng_state() if alone else None
        seeds = np.random.SeedSequence((self.seed, place.epoch, place.number)).generate_state(3)
        try:
            random.seed(int(seeds[0]))
            np.random.seed(seeds[1])
            if alone:
                torch.default_generator.manual_seed(int(seeds[2]))
            return {**replaced(self.dataset, place.index), 'place': (place.epoch, place.position)}
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            if alone:
                torch.set_rng_state(before[2])

    def __len__(self) -> int:
        return len(self.dataset)


def build_train_loader(build: Callable[..., DataLoader], dataset: Dataset, dataset_opt: Mapping[str, Any], *,
                       sampler: EnlargedSampler, seed: int, **options: Any) -> DataLoader:
    """BasicSR's training loader (from ``build``), which goes on in the middle of an epoch and draws samples by place.

    Args:
        build: BasicSR's ``build_dataloader``.
        dataset: as built by BasicSR.
        dataset_opt: ``datasets:train``; `resume_data` has set ``resume`` in it if a training is resumed.
        sampler: BasicSR's.
        seed: ``manual_seed``.
        options: further arguments of ``build``.
    """
    start = dataset_opt.get('resume')
    if start and (start['length'], start['processes']) != (len(sampler), sampler.num_replicas):
        get_root_logger().warning(
            f'Resuming epoch {start["epoch"]} from its start: it had {start["length"]} samples for each of '
            f'{start["processes"]} process(es), now it has {len(sampler)} for each of {sampler.num_replicas}.')
        start = None
    loader = build(PlacedDataset(dataset, seed), dataset_opt, sampler=PlacedSampler(sampler, start), seed=seed,
                   **options)
    loader.worker_init_fn = functools.partial(_start_worker, loader.worker_init_fn)
    loader.generator = torch.Generator()  # its own: starting an epoch must not move the random state of the training
    return loader


def _start_worker(then: Callable[[int], None] | None, worker: int) -> None:
    ignore_in_worker()
    if then:
        then(worker)


def resume_data(opt: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Let the data go on where a training state left them, with the seed of that run."""
    data = state.get('data')
    if data:
        opt['manual_seed'] = data['seed']
        opt['datasets']['train']['resume'] = {key: data[key] for key in ('epoch', 'position', 'length', 'processes')}


def random_states(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The random states of this process, in types that any ``torch.load`` reads."""
    kind, keys, *rest = np.random.get_state()
    return {'python': random.getstate(), 'numpy': (kind, keys.tolist(), *rest), 'torch': torch.get_rng_state(),
            'cuda': [torch.cuda.get_rng_state(device) for device in _devices(opt)]}


def set_random_states(opt: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Set what `random_states` returned."""
    kind, keys, *rest = states['numpy']
    random.setstate(states['python'])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states['torch'])
    for device, state in zip(_devices(opt), states['cuda']):
        torch.cuda.set_rng_state(state, device)


def _devices(opt: Mapping[str, Any]) -> list[int]:
    """The GPUs that this process trains on."""
    if not opt['num_gpu'] or not torch.cuda.is_available():
        return []
    return [torch.cuda.current_device()] if opt['dist'] else list(range(opt['num_gpu']))

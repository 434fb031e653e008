"""How fast BasicSR's data loader delivers training pairs, from a folder and from LMDB, and how fast LR images are."""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.matlab_functions import imresize

from segsr_model.files import write_file
from segsr_model.images.plain import encode_png
from segsr_model.prepare.lmdb_store import add_lmdb
from segsr_model.prepare.lowres import downscale

_PATCH = 64  # LR pixels, as in the paper
_DRAWN = 400_000  # pairs drawn at once: no measurement gets to their end


def measure_loader(*, images: int, side: int, scale: int, batch: int, seconds: float, workers: int) -> Iterator[str]:
    """Time ``PairedImageDataset`` as BasicSR's training uses it, on generated images.

    Args:
        images: Pairs to generate, in a temporary folder.
        side: Height and width of the HR images in pixels.
        scale: Scale of the pairs.
        batch: Batch size; the last, incomplete batch of an epoch is dropped.
        seconds: Time for each measurement, after the workers have started.
        workers: Worker processes; 0 loads in the main process.

    Yields:
        A line for each result: the loader from both stores, then the steps of one pair on one core, then
        LR images at each scale beside BasicSR's ``imresize``, on one core.
    """
    with tempfile.TemporaryDirectory(prefix='segsr-bench-') as name:
        folder = Path(name)
        _generate(folder, images, side, scale)
        cpus = min(os.cpu_count() or 1, max(workers, 1))
        options = {
            'name': 'bench', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': scale,
            'gt_size': min(_PATCH, side // scale) * scale, 'use_hflip': True, 'use_rot': True,
            'num_worker_per_gpu': workers, 'batch_size_per_gpu': batch,
        }
        for store, suffix in (('disk', ''), ('lmdb', '.lmdb')):
            roots = {'dataroot_gt': str(folder / f'HR{suffix}'), 'dataroot_lq': str(folder / f'LR{suffix}')}
            rate = _pairs_per_second({**options, **roots, 'io_backend': {'type': store}}, seconds)
            yield f'{store}: {rate:.0f} pairs/s with {workers} workers, batch {batch}; {rate / cpus:.0f} per core'
        yield from _time_steps(folder)
    yield from _time_downscale(side, seconds)


def _generate(folder: Path, images: int, side: int, scale: int) -> None:
    """Smooth random images with some noise, which compress about as aerial images do."""
    random = np.random.default_rng(0)
    records = []
    for kind in ('HR', 'LR'):
        (folder / kind).mkdir()
    for i in range(images):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        hr = (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        hr = hr[:side // scale * scale, :side // scale * scale]
        records.append({'name': f'noise_{i:04d}', 'hr_size': hr.shape[:2]})
        write_file(folder / 'HR' / f'noise_{i:04d}.png', encode_png(hr))
        write_file(folder / 'LR' / f'noise_{i:04d}.png', encode_png(downscale(hr, scale)))
    add_lmdb(folder, records, scale=scale, workers=1)


def _pairs_per_second(options: dict, seconds: float) -> float:
    dataset = build_dataset(options)
    sampler = EnlargedSampler(dataset, num_replicas=1, rank=0, ratio=1 + _DRAWN // len(dataset))
    loader = iter(build_dataloader(dataset, options, num_gpu=1, sampler=sampler, seed=0))
    for _ in range(2 * max(options['num_worker_per_gpu'], 1)):  # what was loaded while the workers started
        next(loader)
    pairs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        pairs += len(next(loader)['lq'])
    return pairs / (time.perf_counter() - start)


def _time_steps(folder: Path) -> Iterator[str]:
    """Where the time goes: the steps that work on whole images, on one core."""
    with lmdb.open(str(folder / 'HR.lmdb'), readonly=True, lock=False) as env, env.begin() as txn:
        stored = np.frombuffer(txn.get(b'noise_0000'), np.uint8)
    on_disk = {kind: np.frombuffer((folder / kind / 'noise_0000.png').read_bytes(), np.uint8) for kind in ('HR', 'LR')}
    image = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    steps = {
        'decode HR from disk': lambda: cv2.imdecode(on_disk['HR'], cv2.IMREAD_COLOR),
        'decode HR from lmdb': lambda: cv2.imdecode(stored, cv2.IMREAD_COLOR),
        'decode LR from disk': lambda: cv2.imdecode(on_disk['LR'], cv2.IMREAD_COLOR),
        'whole HR image to float': lambda: image.astype(np.float32) / 255.,
    }
    for title, step in steps.items():
        repeats, start = 100, time.perf_counter()
        for _ in range(repeats):
            step()
        yield f'  {title}: {(time.perf_counter() - start) / repeats * 1e3:.2f} ms'


def _time_downscale(side: int, seconds: float) -> Iterator[str]:
    """``downscale`` beside BasicSR's ``imresize``, in turn, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for scale in (2, 3, 4, 8):
            length = side // scale * scale
            image = np.random.default_rng(0).integers(0, 256, (length, length, 3), dtype=np.uint8)
            rounds = [
                [_mean_time(functools.partial(step, image, scale), seconds / 40) for step in (downscale, _imresize)]
                for _ in range(5)
            ]
            ours, theirs = (statistics.median(times) * 1e3 for times in zip(*rounds))
            yield (f'  LR x{scale} of {length} x {length}: {ours:.2f} ms; imresize {theirs:.2f} ms, '
                   f'{theirs / ours:.1f} times as long')
    finally:
        torch.set_num_threads(threads)


def _imresize(image: np.ndarray, scale: int) -> np.ndarray:
    """LR images as BasicSR's users make them, from 8 bits to 8 bits."""
    small = imresize(image.astype(np.float32) / 255, 1 / scale)
    return (small.clip(0, 1) * 255).round().astype(np.uint8)


def _mean_time(step: Callable[[], object], seconds: float) -> float:
    """Of a call, over about that many seconds, after one that warms up."""
    step()
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        step()
        calls += 1
    return (time.perf_counter() - start) / calls

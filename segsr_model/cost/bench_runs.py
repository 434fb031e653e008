"""Measuring inference and training steps of an option file's model, in this process."""

from __future__ import annotations

import copy
import importlib
import logging
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.data import build_dataset
from basicsr.models.base_model import BaseModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segsr_arch.baselines.srformer_arch import PermutedAttention
from segsr_arch.baselines.ttst_arch import TopKAttention
from segsr_arch.layers.checkpointing import without_recomputing
from segsr_arch.layers.swin import OCAB, Mlp, WindowAttention
from segsr_arch.lmm import LMM
from segsr_arch.sfem import SFEM
from segsr_arch.slm import SLM
from segsr_model.cost.measuring import (
    SMALLER,
    channels,
    machine,
    peak_memory,
    reset_peak_memory,
    seconds_of,
    synchronize,
)
from segsr_model.cost.profile_network import count_multiply_adds, plain_attention
from segsr_model.errors import in_memory
from segsr_model.training.training_step import autocast

PARTS = {SFEM: 'CLIP', SLM: 'SLM', LMM: 'LMM',
         **dict.fromkeys((WindowAttention, OCAB, PermutedAttention, TopKAttention), 'attention'), Mlp: 'MLPs',
         nn.Conv2d: 'convolutions'}
WHOLE = (SFEM, SLM, LMM)  # parts whose own convolutions and MLPs belong to them


@dataclass(frozen=True)
class Work:
    """What is run.

    Attributes:
        options: of training, as in the option file.
        size: side of the LR patches; None: the file's.
        batch: images of a step; None: the file's.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        repeat: timed runs after a first one.
        device: ``cpu`` or ``cuda``.
        memory_only: one step, for the sake of its memory.
    """

    options: Mapping[str, Any]
    size: int | None = None
    batch: int | None = None
    precision: str = 'fp32'
    repeat: int = 3
    device: str = 'cpu'
    memory_only: bool = False


@dataclass(frozen=True)
class Cost:
    """What it took.

    Attributes:
        size, batch: that were run.
        start: seconds to build the model.
        forward, step: seconds of an inference and of a training step with the whole batch.
        memory: peak of a training step in bytes, above that of Python and the libraries on a CPU; None if unknown.
        forward_flops, step_flops: of the whole batch, without what is computed again in backward.
        peak_rate: FLOP/s of a large matrix product in this precision.
        parts: seconds of an inference by part of the network; of EMA, of saving and of loading a batch.
        machine: device, threads and PyTorch.
    """

    size: int
    batch: int
    start: float
    forward: float
    step: float
    memory: int | None
    forward_flops: int
    step_flops: int
    peak_rate: float
    parts: Mapping[str, float]
    machine: str


def bench(work: Work, build: Callable[[dict[str, Any]], BaseModel]) -> Cost:
    """Build the model with random weights and measure it, in a fresh process for the sake of the memory.

    Raises:
        CommandError: it does not fit into memory.
        ValueError, KeyError, RuntimeError: the model cannot be built or run.
    """
    importlib.import_module('open_clip')  # a library, whose memory is not the model's; imported late elsewhere
    logging.getLogger('basicsr').setLevel(logging.WARNING)
    reset_peak_memory('cpu')
    libraries = peak_memory('cpu')
    with tempfile.TemporaryDirectory() as folder:
        options = runnable(work, folder)
        dataset = options['datasets']['train']
        batch = work.batch or dataset['batch_size_per_gpu']
        size = work.size or dataset['gt_size'] // options['scale']
        with in_memory(f'LR {size} x {size}, batch {batch}, {work.precision}', SMALLER):
            return _cost(work, options, size, batch, build, libraries)


def _cost(work: Work, options: dict[str, Any], size: int, batch: int, build: Callable[[dict[str, Any]], BaseModel],
          libraries: int | None) -> Cost:
    """The costs of `runnable` options; ``libraries`` take that much memory without them."""
    start = time.perf_counter()
    model = build(options)
    started = time.perf_counter() - start
    images = random_batch(batch, size, options['scale'], channels(options['network_g']))

    def step() -> None:
        model.feed_data(images)
        model.optimize_parameters(1)

    steps = seconds_of(step, 0 if work.memory_only else work.repeat, work.device)
    memory = peak_memory(work.device)
    if work.device == 'cpu' and memory is not None:
        memory -= libraries
    if work.memory_only:
        return Cost(size, batch, started, 0, steps, memory, 0, 0, 0, {}, machine(work.device))
    saving = time.perf_counter()
    model.save(0, 1)
    saving = time.perf_counter() - saving
    net = model.get_bare_model(model.net_g)
    forward_flops, step_flops = flops(model, net, images)
    net.eval()
    infer = inference(net, model, images['lq'], work.precision)
    forward = seconds_of(infer, work.repeat, work.device)
    parts = times_by_part(net, infer, work.device)
    if model.ema_decay > 0:
        parts['EMA'] = seconds_of(lambda: model.model_ema(model.ema_decay), 3, work.device)
    parts['saving'] = saving
    loading = loading_seconds(work.options, options, batch)
    if loading is not None:
        parts['data'] = loading
    return Cost(size, batch, started, forward, steps, memory, forward_flops, step_flops,
                matrix_rate(work.precision, work.device), parts, machine(work.device))


def runnable(work: Work, folder: str) -> dict[str, Any]:
    """The options as BasicSR passes them to a model, for one process, with all output in ``folder``."""
    options = copy.deepcopy(dict(work.options))
    options.update(is_train=True, dist=False, rank=0, world_size=1, num_gpu=int(work.device == 'cuda'),
                   root_path=folder, auto_resume=False)
    options['path'] = {key: folder for key in ('models', 'training_states', 'log', 'visualization', 'experiments_root')}
    options.setdefault('val', {})
    options.setdefault('manual_seed', 0)
    options['train']['amp'] = work.precision if work.precision != 'fp32' else None
    return options


def random_batch(batch: int, size: int, scale: int, channels: int) -> dict[str, torch.Tensor]:
    """What a loader gives."""
    return {'lq': torch.rand(batch, channels, size, size),
            'gt': torch.rand(batch, channels, size * scale, size * scale)}


def inference(net: nn.Module, model: BaseModel, lq: torch.Tensor, precision: str) -> Callable[[], None]:
    """A forward pass without gradient."""
    lq = lq.to(model.device)

    def infer() -> None:
        with torch.no_grad(), autocast(lq.device, precision if precision != 'fp32' else None):
            net(lq)

    return infer


def matrix_rate(precision: str, device: str) -> float:
    """FLOP/s of products of 2048 x 2048 matrices."""
    dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]
    a, b = (torch.rand(2048, 2048, device=device).to(dtype) for _ in range(2))
    return 2 * 2048**3 / seconds_of(lambda: a @ b, 5, device)


def flops(model: BaseModel, net: nn.Module, images: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """FLOPs of an inference and of a training step on a batch, counted with one image."""
    one = {name: tensor[:1] for name, tensor in images.items()}
    batch = len(images['lq'])
    forward = 2 * batch * count_multiply_adds(net, one['lq'].to(model.device))
    with without_recomputing(), plain_attention(), FlopCounterMode(display=False) as counter:
        model.feed_data(one)
        model.optimize_parameters(1)
    return forward, batch * counter.get_total_flops()


def times_by_part(net: nn.Module, run: Callable[[], None], device: str) -> dict[str, float]:
    """Seconds of one run by part of the network; what is left is under ``other``."""
    times: dict[str, float] = {}
    running = ['other']
    last = time.perf_counter()

    def switch(part: str | None) -> None:
        nonlocal last
        synchronize(device)
        now = time.perf_counter()
        times[running[-1]] = times.get(running[-1], 0) + now - last
        last = now
        if part:
            running.append(part)
        else:
            running.pop()

    hooks = []
    inside: set[int] = set()
    for module in net.modules():
        part = next((name for kind, name in PARTS.items() if isinstance(module, kind)), None)
        if part and id(module) not in inside:
            hooks.append(module.register_forward_pre_hook(lambda module, args, part=part: switch(part)))
            hooks.append(module.register_forward_hook(lambda module, args, out: switch(None)))
            if isinstance(module, WHOLE):
                inside.update(map(id, module.modules()))
    last = time.perf_counter()
    run()
    synchronize(device)
    times['other'] = times.get('other', 0) + time.perf_counter() - last
    for hook in hooks:
        hook.remove()
    return times


def loading_seconds(given: Mapping[str, Any], options: Mapping[str, Any], batch: int) -> float | None:
    """Seconds one process takes to load a batch from the file's training set; None where there is none."""
    dataset = {**copy.deepcopy(given['datasets']['train']), 'phase': 'train', 'scale': options['scale']}
    if not all(Path(str(dataset.get(key))).exists() for key in ('dataroot_gt', 'dataroot_lq')):
        return None
    images = build_dataset(dataset)
    chosen = [random.randrange(len(images)) for _ in range(4 * batch)]
    start = time.perf_counter()
    for i in chosen:
        images[i]
    return (time.perf_counter() - start) / 4

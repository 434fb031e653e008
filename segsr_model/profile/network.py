"""Measuring one network: parameters, multiply-adds, time and peak memory."""

from __future__ import annotations

import contextlib
import gc
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from segsr_arch import hat_arch
from segsr_arch.segsr_arch import SeGSR
from segsr_arch.sfem import SFEM


@dataclass(frozen=True)
class Workload:
    """What is run: LR images of ``height`` x ``width`` pixels, ``batch`` at a time, ``repeat`` times."""

    height: int
    width: int
    batch: int = 1
    repeat: int = 3
    device: str = 'cpu'


@dataclass(frozen=True)
class Profile:
    """What it took.

    Attributes:
        trained, frozen: numbers of parameters.
        multiply_adds: per image.
        seconds: per image, median of the runs.
        memory: peak in bytes, see `peak_memory`; None where the system does not tell.
        machine: device, threads and PyTorch.
        random_tower: CLIP's tower was built without its weights.
    """

    trained: int
    frozen: int
    multiply_adds: int
    seconds: float
    memory: int | None
    machine: str
    random_tower: bool


def profile(network: Mapping[str, Any], work: Workload) -> Profile:
    """Build ``network_g`` with random weights and measure it. The memory is right in a fresh process only.

    Raises:
        KeyError, OptionError, TypeError: the network cannot be built.
        RuntimeError: it cannot be run.
    """
    importlib.import_module('open_clip')  # a library, whose memory is not the network's; imported late elsewhere
    reset_peak_memory('cpu')
    before = peak_memory('cpu')
    net = build(network).to(work.device)
    channels = network.get('num_in_ch', network.get('in_chans', 3))
    lr = torch.rand(work.batch, channels, work.height, work.width, device=work.device)
    seconds, memory = measure(net, lr, work.repeat)
    if work.device == 'cpu' and memory is not None:
        memory -= before
    parameters = list(net.parameters())
    return Profile(
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        multiply_adds=count_multiply_adds(net, lr) // work.batch,
        seconds=seconds / work.batch,
        memory=memory,
        machine=machine(work.device),
        random_tower=any(isinstance(m, SFEM) for m in net.modules()))


def with_random_tower(network: Mapping[str, Any]) -> dict[str, Any]:
    """``network_g`` whose CLIP tower has random weights."""
    options = dict(network)
    semantic = options.get('semantic') or {}
    if issubclass(ARCH_REGISTRY.get(options['type']), SeGSR) and isinstance(semantic, Mapping):
        encoder = semantic.get('encoder') or {}
        if isinstance(encoder, Mapping):
            options['semantic'] = {**semantic, 'encoder': {**encoder, 'pretrained': None}}
    return options


def build(network: Mapping[str, Any]) -> nn.Module:
    """The network of ``network_g`` in evaluation mode, CLIP's tower with random weights."""
    options = with_random_tower(network)
    return ARCH_REGISTRY.get(options.pop('type'))(**options).eval()


@torch.no_grad()
def measure(net: nn.Module, lr: torch.Tensor, repeat: int) -> tuple[float, int | None]:
    """Median seconds of ``repeat`` runs on a batch, after one to warm up, and `peak_memory` during them all."""
    gc.collect()
    reset_peak_memory(lr.device.type)
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        net(lr)
        if lr.device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), peak_memory(lr.device.type)


@torch.no_grad()
def count_multiply_adds(net: nn.Module, lr: torch.Tensor) -> int:
    """Multiply-adds of a run on the batch ``lr``: convolutions, matrix products and attention, as PyTorch counts them.

    What is a fraction of that is left out: activations, norms, softmax, resizing, sums.
    """
    with plain_attention(), FlopCounterMode(display=False) as counter:
        net(lr)
    return counter.get_total_flops() // 2


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as matrix products, which the counter knows; its formulas have gaps for the fused ones on a CPU.

    HAT's heads are as wide as the network says, without the zeros that make them faster.
    """
    flash, multiple = torch.backends.cuda.flash_sdp_enabled(), hat_arch.HEAD_MULTIPLE
    torch.backends.cuda.enable_flash_sdp(False)  # the CPU's too
    hat_arch.HEAD_MULTIPLE = 1
    try:
        with BaseTorchFunctionMode():  # any function mode keeps nn.MultiheadAttention off its fused path
            yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        hat_arch.HEAD_MULTIPLE = multiple


def reset_peak_memory(device: str) -> None:
    """Forget the peak up to now; on a CPU, where the system lets us (Linux)."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path('/proc/self/clear_refs').write_text('5')


def peak_memory(device: str) -> int | None:
    """Peak in bytes: of PyTorch's allocation on a GPU, of the process's resident memory on a CPU; None if unknown."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, StopIteration):  # not getrusage on Linux: it starts from the parent's peak
        lines = Path('/proc/self/status').read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith('VmHWM:')).split()[1])
    with contextlib.suppress(ImportError):
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else 1024 * peak
    return None


def machine(device: str) -> str:
    """What it ran on."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}'
    return f'CPU ({processor()}, {torch.get_num_threads()} threads), PyTorch {torch.__version__}'


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line for line in lines if line.startswith('model name')).split(':', 1)[1].strip()
    return platform.processor() or platform.machine()

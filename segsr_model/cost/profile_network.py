"""Measuring one network: parameters, multiply-adds, time and peak memory."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from segsr_arch.layers import swin
from segsr_arch.segsr_arch import SeGSR
from segsr_arch.sfem import SFEM
from segsr_model.cost.measuring import SMALLER, channels, machine, peak_memory, reset_peak_memory, seconds_of
from segsr_model.errors import in_memory


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
        CommandError: it does not fit into memory.
        KeyError, OptionError, TypeError: the network cannot be built.
        RuntimeError: it cannot be run.
    """
    importlib.import_module('open_clip')  # a library, whose memory is not the network's; imported late elsewhere
    reset_peak_memory('cpu')
    before = peak_memory('cpu')
    with in_memory(f'LR {work.height} x {work.width}, batch {work.batch}', SMALLER):
        net = build(network).to(work.device)
        lr = torch.rand(work.batch, channels(network), work.height, work.width, device=work.device)
        seconds, memory = measure(net, lr, work.repeat)
        multiply_adds = count_multiply_adds(net, lr) // work.batch
    if work.device == 'cpu' and memory is not None:
        memory -= before
    parameters = list(net.parameters())
    return Profile(
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        frozen=sum(p.numel() for p in parameters if not p.requires_grad),
        multiply_adds=multiply_adds,
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
    seconds = seconds_of(lambda: net(lr), repeat, lr.device.type)
    return seconds, peak_memory(lr.device.type)


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
    flash, multiple = torch.backends.cuda.flash_sdp_enabled(), swin.HEAD_MULTIPLE
    torch.backends.cuda.enable_flash_sdp(False)  # the CPU's too
    swin.HEAD_MULTIPLE = 1
    try:
        with BaseTorchFunctionMode():  # any function mode keeps nn.MultiheadAttention off its fused path
            yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        swin.HEAD_MULTIPLE = multiple

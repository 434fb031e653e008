"""What `segsr bench` and `segsr profile` share: a process for each measurement, seconds, memory, and tables."""

from __future__ import annotations

import contextlib
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from segsr_model.errors import CommandError

SMALLER = 'take a smaller --size or --batch'


def check_device(device: str) -> None:
    """CommandError: there is no GPU."""
    if device == 'cuda' and not torch.cuda.is_available():
        raise CommandError('PyTorch finds no CUDA device')


def in_own_process(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a fresh process, so that memory is its own. CommandError: it failed, at ``name``."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise CommandError(f"'{name}': the process was ended, most likely for want of memory") from None
        except Exception as error:  # whatever a network raises when it is built or run
            reason = (str(error).strip().strip('"') or repr(error)).splitlines()[0]
            raise CommandError(f"'{name}': {reason}") from None


def measured(jobs: Iterable[Callable[[], Any]]) -> tuple[list[Any], list[str]]:
    """The results of jobs, and a line for each that failed: it takes nothing from the others."""
    results, failed = [], []
    for job in jobs:
        try:
            results.append(job())
        except CommandError as error:
            failed.append(str(error))
    return results, failed


def channels(network: Mapping[str, Any]) -> int:
    """Of the LR images of ``network_g``."""
    return network.get('num_in_ch', network.get('in_chans', 3))


def seconds_of(run: Callable[[], Any], repeat: int, device: str) -> float:
    """Median seconds of ``repeat`` runs after one to warm up; the first one's for 0."""
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds)


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == 'cuda':
        torch.cuda.synchronize()


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


def formatted(value: float | None, form: str) -> str:
    """A number, or a dash for none."""
    return '-' if value is None else format(value, form)


def aligned(table: list[list[str]]) -> list[str]:
    """Lines with names to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return ['  '.join(x.ljust(w) if i < 2 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths))).rstrip()
            for row in table]

"""Stopping a training on SIGTERM and SIGINT: the iteration is finished, a checkpoint is saved, the exit code is 75."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import timedelta
from multiprocessing.util import Finalize
from types import FrameType

import torch
import torch.distributed as dist

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptionError(Exception):
    """Raised in a validation when training is to stop."""


class StopRequest:
    """Whether a signal has asked this process, or another one of the training, to stop.

    The same signal again ends the process at once, as if nobody listened. (Not the other one: a launcher sends
    SIGTERM after the terminal's SIGINT.)

    Attributes:
        name: of the signal that this process has received, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._group: dist.ProcessGroup | None = None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._sum: dist.Work | None = None

    def listen(self, timeout: timedelta | None = None) -> None:
        """Take over the signals; with several processes, called by all, which wait so long for each other."""
        if dist.is_available() and dist.is_initialized():
            self._group = dist.new_group(backend='gloo', timeout=timeout)  # on the CPU: no GPU waits for it
        for number in SIGNALS:
            signal.signal(number, self._receive)
        Finalize(None, _end_workers, exitpriority=100)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.name = signal.Signals(number).name
        os.write(2, f'{self.name}: will stop after this iteration and save; once more stops at once.\n'.encode())

    def requested(self) -> bool:
        """Whether this process has been asked."""
        return self.name is not None

    def agreed(self) -> bool:
        """Whether any process has been asked; all call it at the same place, and get the same answer."""
        if self._group is None:
            return self.requested()
        self.settle()
        self._begin()
        return self.settle()

    def agreed_in_passing(self) -> bool:
        """As `agreed` at the last call of this, so that no process waits: for each iteration."""
        if self._group is None:
            return self.requested()
        stop = self.settle()
        if not stop:
            self._begin()
        return stop

    def settle(self) -> bool:
        """Wait for the answer that is under way, if any."""
        if self._sum is None:
            return False
        self._sum.wait()
        self._sum = None
        return bool(self._flag.item())

    def _begin(self) -> None:
        self._flag.fill_(self.requested())
        self._sum = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)

    def barrier(self) -> None:
        """Wait for all processes, so that none ends before the checkpoint is written."""
        if self._group is not None:
            dist.barrier(self._group)


def _end_workers() -> None:
    """At the end of the process, before multiprocessing sends its workers SIGTERM, which they ignore, and waits."""
    if hasattr(signal, 'SIGCHLD'):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch takes the end of a worker for a failure
    for worker in multiprocessing.active_children():
        worker.kill()


def ignore_in_worker() -> None:
    """A data worker lives on when the signal goes to the whole group: the training process ends it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

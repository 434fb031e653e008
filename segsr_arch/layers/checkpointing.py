"""Recomputing in backward what would take memory until then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

_allowed = True


def recomputed(function: Callable[..., Any], *inputs: Any, when: bool = True) -> Any:
    """``function(*inputs)``, of which only the inputs are kept for backward if ``when`` is set and there is one."""
    if when and _allowed and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)


@contextlib.contextmanager
def without_recomputing() -> Iterator[None]:
    """All is kept, whatever the options say: for counting operations."""
    global _allowed
    _allowed = False
    try:
        yield
    finally:
        _allowed = True

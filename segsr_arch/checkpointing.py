"""Recomputing in backward what would take memory until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Any, when: bool = True) -> Any:
    """``function(*inputs)``, of which only the inputs are kept for backward if ``when`` is set and there is one."""
    if when and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)

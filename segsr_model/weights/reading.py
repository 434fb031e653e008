"""Reading the files that networks' weights are in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from segsr_arch.clip.tensor_files import holds_numbers, load_tensors


def read_weights(path: str | Path, param_key: str | None = 'params') -> tuple[dict[str, torch.Tensor], str | None]:
    """Weights of a network from a ``.pth`` file.

    Args:
        path: written by BasicSR, by another repository, or by `torch.save(net.state_dict())`.
        param_key: which weights of the file are wanted, ``params`` or ``params_ema``.

    Returns:
        The weights and the key they were under: ``param_key`` if the file has it, else ``params``, ``params_ema`` or
        ``state_dict``, else None for a file that is a state_dict itself.

    Raises:
        ValueError: the file cannot be read or holds no weights.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"'{path}' holds a {type(content).__name__}, not a network's weights")
    keys = [k for k in (param_key, 'params', 'params_ema', 'state_dict') if k and isinstance(content.get(k), Mapping)]
    weights = content[keys[0]] if keys else content
    if not weights or not all(isinstance(k, str) and isinstance(v, torch.Tensor) and holds_numbers(v)
                              for k, v in weights.items()):
        raise ValueError(f"'{path}' holds no network's weights; its keys are {', '.join(map(str, list(content)[:5]))}")
    weights = {k[7:] if k.startswith('module.') else k: v for k, v in weights.items()}
    return weights, keys[0] if keys else None


def read_iterations(path: str | Path) -> int | None:
    """Iterations a checkpoint was trained for, from the file or its name (``net_g_5000.pth``); None if neither says.

    Raises:
        ValueError: the file cannot be read.
    """
    content = load_tensors(path, mmap=True)
    if isinstance(content, Mapping) and isinstance(content.get('iterations'), int):
        return content['iterations']
    number = re.fullmatch(r'.*_(\d+)', Path(path).stem)
    return int(number.group(1)) if number else None

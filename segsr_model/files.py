"""Reading and writing files so that neither a crash nor a foreign file does harm."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from segsr_arch.tensor_files import holds_numbers, load_tensors


def write_atomically(path: str | Path, write: Callable[[str], Any]) -> None:
    """Let ``write(temporary_path)`` write a file, then move it into place: ``path`` is either old or complete.

    The file and its folder are on the disk when this returns, so that a power cut does not undo it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part{path.suffix}')
    try:
        write(str(temporary))
        _to_disk(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if os.name == 'posix':  # elsewhere a folder cannot be opened
            _to_disk(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what `write_atomically` left in a folder where the process was killed."""
    for path in Path(folder).glob('.*.part*'):
        if re.fullmatch(r'\..+\.\d+\.part(\.\w+)?', path.name):
            path.unlink(missing_ok=True)


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


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()

"""Reading the files that networks' weights are in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from segsr_arch.clip.tensor_files import holds_numbers, load_tensors

MOST_HEADER = 1 << 24  # bytes of a safetensors file; a HAT with CLIP's tower has 160,000


def read_weights(path: str | Path, param_key: str | None = 'params') -> tuple[dict[str, torch.Tensor], str | None]:
    """Weights of a network from a ``.pth`` or ``.safetensors`` file.

    Args:
        path: written by BasicSR, by another repository, or by `torch.save(net.state_dict())`.
        param_key: which weights of the file are wanted, ``params`` or ``params_ema``.

    Returns:
        The weights and the key they were under: ``param_key`` if the file has it, else ``params``, ``params_ema`` or
        ``state_dict``, else None for a file that is a state_dict itself.

    Raises:
        ValueError: the file cannot be read or holds no weights.
    """
    content = read_safetensors(path)[0] if Path(path).suffix == '.safetensors' else load_tensors(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"'{path}' holds a {type(content).__name__}, not a network's weights")
    keys = [k for k in (param_key, 'params', 'params_ema', 'state_dict') if k and isinstance(content.get(k), Mapping)]
    weights = content[keys[0]] if keys else content
    if not weights or not all(isinstance(k, str) and isinstance(v, torch.Tensor) and holds_numbers(v)
                              for k, v in weights.items()):
        raise ValueError(f"'{path}' holds no network's weights; its keys are {', '.join(map(str, list(content)[:5]))}")
    weights = {k[7:] if k.startswith('module.') else k: v for k, v in weights.items()}
    return weights, keys[0] if keys else None


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file; what was stored in fp16 is fp32.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    try:
        with open(path, 'rb') as file:
            if int.from_bytes(file.read(8), 'little') > MOST_HEADER:
                raise ValueError('its header is too long')
        with safe_open(str(path), framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
            strange = [key for key, value in tensors.items() if not holds_numbers(value)]
            if strange:
                raise ValueError(f'{strange[0]} holds no plain numbers')
    except OSError as error:
        raise ValueError(f"cannot read '{path}': {error.strerror}") from None
    except Exception as error:  # safetensors' own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read '{path}': it is damaged, or no safetensors file: {reason}") from None
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, metadata


def read_iterations(path: str | Path) -> int | None:
    """Iterations a checkpoint was trained for, from the file or its name (``net_g_5000.pth``); None if neither says.

    Raises:
        ValueError: the file cannot be read.
    """
    content = None if Path(path).suffix == '.safetensors' else load_tensors(path, mmap=True)
    if isinstance(content, Mapping) and isinstance(content.get('iterations'), int):
        return content['iterations']
    number = re.fullmatch(r'.*_(\d+)', Path(path).stem)
    return int(number.group(1)) if number else None

"""LPIPS, DISTS and the other metrics of pyiqa as a BasicSR metric. pyiqa is optional and imported on first use.

    metrics:
      lpips:
        type: calculate_pyiqa
        metric: lpips  # pyiqa's name of it
        crop_border: 4
"""

from __future__ import annotations

import functools
import os
import threading

import numpy as np
import torch
from basicsr.utils import img2tensor
from basicsr.utils.registry import METRIC_REGISTRY
from torch import nn

_LOCK = threading.Lock()  # pyiqa switches cuDNN's settings for the whole process while it computes


@functools.cache
def create(metric: str, device: str) -> nn.Module:
    """pyiqa's metric, ready for use.

    Raises:
        ValueError: pyiqa is not installed, does not know the metric, or cannot get its weights.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise ValueError(f"metric '{metric}' needs pyiqa: pip install pyiqa ({error})") from None
    if metric not in pyiqa.list_models():
        raise ValueError(f"pyiqa has no metric '{metric}'; \"pyiqa.list_models()\" lists those it has")
    try:
        return pyiqa.create_metric(metric, device=torch.device(device))
    except Exception as error:  # whatever its download helpers raise: no network, no such file, wrong checksum
        cache = os.path.join(torch.hub.get_dir(), 'pyiqa')
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(f"the weights of pyiqa's '{metric}' could not be loaded ({type(error).__name__}: {reason}). "
                         f'Without a network, create the metric on another machine and copy {cache} and '
                         f'{os.path.join(torch.hub.get_dir(), "checkpoints")} from there') from None


@METRIC_REGISTRY.register()
def calculate_pyiqa(img: np.ndarray, img2: np.ndarray | None = None, *, metric: str, crop_border: int = 0,
                    device: str | None = None, better: str | None = None) -> float:
    """A metric of pyiqa.

    Args:
        img: (h, w, 3) BGR, 0 to 255.
        img2: the ground truth, for metrics that compare.
        metric: pyiqa's name of it, such as ``lpips``, ``dists``, ``niqe``.
        crop_border: pixels to leave out at each edge.
        device: where to compute; a GPU if there is one.
        better: ``higher`` or ``lower``; for BasicSR, which keeps the best value.
    """
    model = create(metric, device or default_device())
    images = [img] if model.metric_mode == 'NR' else [img, img2]
    if crop_border:
        images = [image[crop_border:-crop_border, crop_border:-crop_border] for image in images]
    tensors = [img2tensor(np.ascontiguousarray(image) / 255.0)[None] for image in images]
    with _LOCK, torch.no_grad():
        return float(model(*tensors))


def default_device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'

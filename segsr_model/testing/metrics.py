"""The metrics of an option file, ``val: metrics:``: checked before any work is done, and computed."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from segsr_model.testing import pyiqa_metric


def check_metrics(metrics: Mapping[str, dict[str, Any]]) -> None:
    """Raise a ValueError if a metric is unknown or cannot be computed here."""
    known = sorted(metric for metric, _ in METRIC_REGISTRY)
    for name, opt in metrics.items():
        if not isinstance(opt, Mapping) or opt.get('type') not in known:
            kind = opt.get('type') if isinstance(opt, Mapping) else opt
            raise ValueError(f'val:metrics:{name}: there is no metric of type {kind!r}; there are {", ".join(known)}')
        if opt['type'] == 'calculate_pyiqa':
            try:
                _pyiqa(opt)
            except ValueError as error:
                raise ValueError(f'val:metrics:{name}: {error}') from None


def set_better(metrics: Mapping[str, dict[str, Any]]) -> None:
    """Tell metrics of pyiqa which values are the better ones, BasicSR's ``better``, where the option file does not."""
    for opt in metrics.values():
        if opt['type'] == 'calculate_pyiqa':
            opt.setdefault('better', 'lower' if _pyiqa(opt).lower_better else 'higher')


def needs_ground_truth(opt: Mapping[str, Any]) -> bool:
    """Whether a metric compares with a second image."""
    if opt['type'] == 'calculate_pyiqa':
        return _pyiqa(opt).metric_mode != 'NR'
    parameter = inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters.get('img2')
    return parameter is not None and parameter.default is inspect.Parameter.empty


class NoValueError(Exception):
    """A metric that cannot be computed for an image, and why, on one line."""


def value_of(opt: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> float:
    """A metric's value for 8-bit images (h, w, 3): ``img`` and, for a metric that compares, ``img2``.

    Raises:
        NoValueError: it has no value, or none that can be averaged.
    """
    try:
        value = float(calculate_metric(images, opt))
    except Exception as error:  # metrics check nothing: what an image that is too small raises is by chance
        raise NoValueError((str(error).strip() or repr(error)).splitlines()[0]) from None
    if math.isinf(value):
        raise NoValueError('it is infinite, as the PSNR of two images that are the same')
    if math.isnan(value):
        raise NoValueError('it is not a number, as for an image that is too small or of one colour')
    return value


def trial(opt: Mapping[str, Any], height: int, width: int) -> str | None:
    """Why a metric cannot be computed for images of a size, tried on noise; None: it can."""
    generator = np.random.default_rng(0)
    images = {key: generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for key in ('img', 'img2')}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # NumPy's, of empty images
            value_of(opt, images if needs_ground_truth(opt) else {'img': images['img']})
    except NoValueError as error:
        return str(error)
    return None


def _pyiqa(opt: Mapping[str, Any]) -> Any:
    if not isinstance(opt.get('metric'), str):
        raise ValueError("option 'metric' is missing: the name of a metric of pyiqa, such as lpips")
    return pyiqa_metric.create(opt['metric'], opt.get('device') or pyiqa_metric.default_device())

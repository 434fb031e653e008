"""The metrics of an option file, ``val: metrics:``, checked before any work is done."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

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


def _pyiqa(opt: Mapping[str, Any]) -> Any:
    if not isinstance(opt.get('metric'), str):
        raise ValueError("option 'metric' is missing: the name of a metric of pyiqa, such as lpips")
    return pyiqa_metric.create(opt['metric'], opt.get('device') or pyiqa_metric.default_device())

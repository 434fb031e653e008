"""The settings of a resumed training are those of the option file, where BasicSR's are those of the training state.

A state holds the settings of optimizer and scheduler beside their values. As long as the option file says the same,
all is taken from the state. Otherwise the optimizer goes on with its moments under the new settings, and the learning
rate is what it would be had the new settings been there from the first iteration.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

DEVICE_SETTINGS = ('foreach', 'fused', 'capturable', 'differentiable')  # how an optimizer computes, not what
RATES = ('lr', 'initial_lr', 'scheduled_lr')  # what schedulers and warm-up set in an optimizer's group
SCHEDULE = ('milestones', 'gamma', 'restarts', 'restart_weights', 'periods', 'eta_min')  # of BasicSR's schedulers


def restore(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, optimizer_state: Mapping[str, Any],
            scheduler_state: Mapping[str, Any], *, steps: int) -> list[str]:
    """Let an optimizer of one group and its scheduler, as built from the option file, go on from their states.

    Args:
        steps: that the scheduler makes up to there.

    Returns:
        What there is to say: settings that are others than the run had, with both values.
    """
    group, saved = optimizer.param_groups[0], optimizer_state['param_groups'][0]
    had, has = _settings(saved), _settings(group)
    schedule_had, schedule_has = _schedule(scheduler_state), _schedule(scheduler.state_dict())
    notes = []
    fits = _fits(optimizer, optimizer_state)
    if fits:  # another version of PyTorch may know other settings
        common = had.keys() & has.keys()
        had, has = ({key: settings[key] for key in settings if key in common} for settings in (had, has))
    else:
        notes.append(f'train:optim_g: {type(optimizer).__name__} cannot use what the optimizer of the run has '
                     'gathered; it begins anew.')
    notes += [note for option, before, now in (('optim_g', had, has), ('scheduler', schedule_had, schedule_has))
              for note in _differences(f'train:{option}', before, now)]
    same_rates = fits and had['lr'] == has['lr'] and schedule_had == schedule_has
    if fits:
        kept = {key: value for key, value in saved.items() if key not in RATES or same_rates or key in group}
        new = {key: value for key, value in group.items() if key not in ('params', *(RATES if same_rates else ()))}
        optimizer.load_state_dict({'state': optimizer_state['state'], 'param_groups': [{**kept, **new}]})
    if same_rates:
        scheduler.load_state_dict(scheduler_state)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PyTorch's, that the optimizer has not stepped yet
            for _ in range(steps):
                scheduler.step()
    return notes


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an optimizer's group, with the full learning rate."""
    left_out = ('params', *DEVICE_SETTINGS, *RATES)
    return {'lr': group['initial_lr'],
            **{key: _plain(value) for key, value in group.items() if key not in left_out}}


def _schedule(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(state[key]) for key in SCHEDULE if key in state}


def _plain(value: Any) -> Any:
    """A setting as an option file has it."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    return list(value) if isinstance(value, tuple) else value


def _differences(option: str, had: Mapping[str, Any], has: Mapping[str, Any]) -> list[str]:
    different = [key for key in {**had, **has} if key not in had or key not in has or had[key] != has[key]]
    before, now = (', '.join(f'{key} {settings[key]}' for key in different if key in settings)
                   for settings in (had, has))
    return [f'{option}: the run had {before or "nothing of it"}; from here on, as the option file says, '
            f'{now or "nothing of it"}.'] if different else []


def _fits(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> bool:
    """Whether an optimizer can go on with what another one has gathered, its moments."""
    counts = [len(groups[0]['params']) if len(groups) == 1 else -1
              for groups in (optimizer.param_groups, state['param_groups'])]
    gathered = {key for entries in state['state'].values() for key, value in entries.items() if value is not None}
    return counts[0] == counts[1] and gathered in (set(), _gathers(optimizer))


def _gathers(optimizer: torch.optim.Optimizer) -> set[str] | None:
    """The names of what an optimizer gathers, from a step of one like it."""
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.ones(1, 1)
    try:
        trial = type(optimizer)([weight], lr=1e-3)
        trial.param_groups[0].update(_settings(optimizer.param_groups[0]))
        trial.step()
    except Exception:  # an optimizer of its own kind
        return None
    return {key for key, value in trial.state[weight].items() if value is not None}

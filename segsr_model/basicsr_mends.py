"""What has to be mended inside BasicSR 1.4.2, from outside. (What keeps it from importing is in `_segsr_autoload`.)"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import basicsr.test
import basicsr.train
import torch
from basicsr.utils import check_resume, options

OUR_MODEL = 'SemanticGuidedSRModel'


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """BasicSR's ``load_resume_state`` without its two faults.

    It reads the state to the CPU (the optimizer moves it where the network is), so that it works without a GPU, and
    ``--auto_resume`` looks in the experiment's folder instead of below the working directory.

    Args:
        opt: BasicSR's options; ``path`` is brought up to date.

    Returns:
        The training state, or None to start afresh.
    """
    path = opt['path']
    if opt['auto_resume']:
        states = [p for p in Path(path['training_states']).glob('*.state') if re.fullmatch(r'\d+', p.stem)]
        path['resume_state'] = str(max(states, key=lambda p: int(p.stem))) if states else None
    if not path.get('resume_state'):
        return None
    state = torch.load(path['resume_state'], map_location='cpu')
    check_resume(opt, state['iter'])
    return state


def _after_parsing(parse_options):
    """Wraps BasicSR's ``parse_options``: the one call of train.py that comes before resuming."""

    @functools.wraps(parse_options)
    def wrapper(*args, **kwargs):
        opt, arguments = parse_options(*args, **kwargs)
        if opt['num_gpu'] != 0 and not torch.cuda.is_available():
            raise SystemExit(f'{arguments.opt}: num_gpu: {opt["num_gpu"]}, but PyTorch finds no GPU; to run on the CPU '
                             'set num_gpu: 0')
        if opt.get('model_type') == OUR_MODEL or not torch.cuda.is_available():
            for name in ('__main__', 'basicsr.train'):  # train.py runs as the one and is imported as the other
                module = sys.modules.get(name)
                if hasattr(module, 'load_resume_state'):
                    module.load_resume_state = load_resume_state
        return opt, arguments

    return wrapper


def install() -> None:
    """Put the mends in place, once."""
    if not hasattr(options.parse_options, '__wrapped__'):
        options.parse_options = _after_parsing(options.parse_options)
        basicsr.train.parse_options = basicsr.test.parse_options = options.parse_options

"""Check option files without starting anything: all that is wrong, and what would be right.

Keys, types, contradictions, datasets, weights, packages, folders and disk are looked at as at the start of train.py or
test.py, but for the machine's GPUs. A file with a training set is checked as a training. Nothing is written but
weights of CLIP, VGG and pyiqa's metrics that are missing: they are fetched, as they would be then.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from os import path as osp
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

from segsr_model.checks import find_problems, report
from segsr_model.checks.names import check_names
from segsr_model.errors import CommandError
from segsr_model.files import printable
from segsr_model.option_files import as_test, read_options

EXAMPLES = """examples:
  segsr check -opt options/train_SeGSR_HAT_x4.yml
  segsr check -opt options/train_SeGSR_HAT_x4.yml --test"""
MODELS = ('SemanticGuidedSRModel', 'SRModel')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr check``."""
    parser.epilog = EXAMPLES
    parser.add_argument('-opt', nargs='+', required=True, help='option files')
    parser.add_argument('--test', action='store_true', help="check what test.py would do with a training's file")


def run(args: argparse.Namespace) -> int:
    """Check the files."""
    found = False
    for file in args.opt:
        try:
            options = read_options(file)
        except ValueError as error:
            raise CommandError(str(error)) from None
        problems = problems_of(options, test=args.test)
        found = found or bool(problems)
        text = report(file, problems) if problems else f'{printable(file)}: no problems found'
        sys.stdout.write(f'{text}\n')
    return int(found)


def problems_of(options: Mapping[str, Any], *, test: bool = False, root_path: str = '.') -> list[str]:
    """The problems of an option file's options.

    Args:
        options: as they were written.
        test: check a training's options as test.py takes them.
        root_path: where BasicSR keeps ``experiments`` and ``results``.
    """
    options = copy.deepcopy(dict(options))
    model = options.get('model_type')
    if isinstance(model, str) and model not in MODELS and model in MODEL_REGISTRY:
        return [f"model_type: the options of {' and '.join(MODELS)} can be checked, not those of '{model}'"]
    problems = []
    try:
        check_names(options)
    except ValueError as error:
        problems.append(str(error))
    datasets = options['datasets'] if isinstance(options.get('datasets'), dict) else {}
    trains = 'train' in datasets
    if trains and test and all(isinstance(options.get(key) or {}, dict) for key in ('train', 'val')) \
            and isinstance(options.get('name'), str):
        options, trains = as_test(options, root_path), False
    return list(dict.fromkeys(problems + find_problems(_parsed(options, trains, root_path))))


def _parsed(options: dict[str, Any], is_train: bool, root_path: str) -> dict[str, Any]:
    """Options as BasicSR's ``parse_options`` makes them, whatever is wrong with them."""
    options.update(is_train=is_train, dist=False, rank=0, world_size=1, auto_resume=False)
    for phase, dataset in (options['datasets'] if isinstance(options.get('datasets'), dict) else {}).items():
        if isinstance(dataset, dict):
            dataset['phase'] = str(phase).split('_')[0]
            for key in ('dataroot_gt', 'dataroot_lq'):
                if isinstance(dataset.get(key), str):
                    dataset[key] = osp.expanduser(dataset[key])
    path = options.get('path')
    if isinstance(path, dict):
        for key in ('pretrain_network_g', 'resume_state'):
            if isinstance(path.get(key), str):
                path[key] = osp.expanduser(path[key])
        folder = 'experiments' if is_train else 'results'
        path[f'{folder}_root'] = osp.join(root_path, folder, str(options.get('name')))
    return options

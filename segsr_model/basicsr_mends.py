"""What has to be mended inside BasicSR 1.4.2, from outside. (What keeps it from importing is in `_segsr_autoload`.)"""

from __future__ import annotations

import argparse
import atexit
import copy
import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import basicsr.test
import basicsr.train
import torch
import yaml
from basicsr import models
from basicsr.data import data_util, single_image_dataset
from basicsr.utils import check_resume, dist_util, misc, options
from basicsr.utils.registry import DATASET_REGISTRY

from segsr_model.checks import ProblemsError, check_options, report
from segsr_model.checks.command import problems_of
from segsr_model.checks.names import check_names
from segsr_model.files import escape_what_cannot_be_printed, printable
from segsr_model.option_files import OptionLoader, as_test, compose, read_options
from segsr_model.testing.protocol import protocol_of
from segsr_model.testing.scores import is_unfinished
from segsr_model.training.checkpoints import newest_pair, read_pair
from segsr_model.training.distributed import from_first, start
from segsr_model.training.ownership import own
from segsr_model.training.records import get_root_logger
from segsr_model.training.resume import resume_data
from segsr_model.training.training_run import TrainingRun

OUR_MODEL = 'SemanticGuidedSRModel'


def as_owner(function: Callable) -> Callable:
    """The function of train.py or test.py that first reads or moves the run's folder: the run then owns it.

    Raises:
        SystemExit: another run does.
    """

    @functools.wraps(function)
    def wrapper(opt: dict[str, Any]) -> Any:
        folder = opt['path']['experiments_root' if opt['is_train'] else 'results_root']
        try:
            from_first(lambda: own(folder))
        except ValueError as error:
            raise SystemExit(printable(f'name: {error}')) from None
        return function(opt)

    return wrapper


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """BasicSR's ``load_resume_state`` without its two faults.

    It reads the state to the CPU (the optimizer moves it where the network is), so that it works without a GPU, and
    ``--auto_resume`` looks in the experiment's folder instead of below the working directory. What it resumes from is
    verified; ``--auto_resume`` takes the newest complete checkpoint.

    Args:
        opt: BasicSR's options; ``path``, and for the data ``manual_seed`` and ``datasets:train``, are brought up to
            date.

    Returns:
        The training state, with ``notes`` for the log, or None to start afresh.

    Raises:
        SystemExit: there is no complete checkpoint; says which file is missing or damaged.
    """
    path = opt['path']
    ignored = path.get('ignore_resume_networks') or ()
    networks = [key.replace('network_', 'net_') for key in opt if key.startswith('network_') and key not in ignored]
    try:
        if opt['auto_resume']:
            path['resume_state'], notes = from_first(
                lambda: newest_pair(path['training_states'], path['models'], networks))
            networks = []  # are verified
        else:
            notes = []
        if not path.get('resume_state'):
            return None
        state, unrecorded = read_pair(path['resume_state'], path['models'], networks)
    except ValueError as error:
        option = '--auto_resume' if opt['auto_resume'] else 'path:resume_state'
        raise SystemExit(printable(f'{option}: {error}')) from None
    seed = opt.get('manual_seed')
    resume_data(opt, state)
    if opt.get('manual_seed') != seed:
        notes.append(f'manual_seed: the run goes on with its own, {opt["manual_seed"]}; {seed} is not used.')
    check_resume(opt, state['iter'])
    if 'network_g' not in ignored:
        path['strict_load_g'] = True  # what the optimizer has gathered fits the network of the run alone
    return {**state, 'notes': notes + unrecorded}


def build_model(opt: dict[str, Any]) -> Any:
    """BasicSR's ``build_model``, where a file that cannot be used, or fetched, ends the run with one line."""
    try:
        return models.build_model(opt)
    except (OSError, ValueError) as error:
        raise SystemExit(printable(f'{opt["name"]}: {error}')) from None


def make_exp_dirs(opt: dict[str, Any]) -> None:
    """BasicSR's ``make_exp_dirs``, which moves an older folder away, unless it is of a test that is to be gone on with.

    BasicSR's logger must not be used before this is done, hence no ``build_dataset``.
    """
    folder = opt['path'].get('results_root')
    if not opt['is_train'] and any(Path(folder).glob('scores_*.unfinished.jsonl')):
        datasets = [DATASET_REGISTRY.get(dataset['type'])(copy.deepcopy(dataset))
                    for dataset in opt['datasets'].values()]
        if any(is_unfinished(folder, protocol_of(opt, dataset)) for dataset in datasets):
            return
    misc.make_exp_dirs(opt)


def plain_option_file(path: str, root_path: str, is_train: bool) -> str:
    """The path of an option file as BasicSR reads it.

    It is a file of the same name in a temporary folder, which lasts as long as the process: a copy of the file, or for
    one with ``include``, and for a training's file that is given to test.py, what it comes to. (A copy, as the file may
    be in the experiment's folder, which is moved or gets a copy of it.) Files of other models are left as they are.

    Raises:
        ValueError: a file cannot be read or composed.
    """
    options, files = compose(path)
    ours = options.get('model_type') == OUR_MODEL
    if len(files) == 1 and not ours:
        return path
    if ours:
        check_names(options)
    folder = tempfile.mkdtemp(prefix='segsr_')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    plain = Path(folder) / Path(path).name
    testing_a_training = not is_train and ours and 'train' in (options.get('datasets') or {})
    if len(files) == 1 and not testing_a_training:
        shutil.copyfile(path, plain)
        return str(plain)
    if testing_a_training:
        options = as_test(options, root_path)
    first = {key: options[key] for key in ('name', 'rows') if key in options}
    text = ''.join(f'# {printable(str(file))}\n' for file in files)
    plain.write_text(f'# Made of\n{text}\n{yaml.safe_dump({**first, **options}, sort_keys=False)}', encoding='utf-8')
    return str(plain)


def _init_dist(options_of_file: dict[str, Any], launcher: str, **dist_params: Any) -> None:
    """BasicSR's ``init_dist``. What it is given for Slurm is in the option file, too."""
    start(launcher, options_of_file)


def _around_parsing(parse_options):
    """Wraps BasicSR's ``parse_options``, with which train.py and test.py begin."""

    @functools.wraps(parse_options)
    def wrapper(root_path, is_train=True):
        given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        given.add_argument('-opt')
        path = given.parse_known_args()[0].opt
        argv = sys.argv
        escape_what_cannot_be_printed()
        try:
            if path:
                plain = plain_option_file(path, root_path, is_train)
                content = read_options(plain)
                options.init_dist = (functools.partial(_init_dist, content) if content.get('model_type') == OUR_MODEL
                                     else dist_util.init_dist)
                sys.argv = [argument.replace(path, plain) if argument in (path, f'-opt={path}') else argument
                            for argument in argv]
            # torch.distributed.launch says --local-rank
            sys.argv = [re.sub('^--local-rank', '--local_rank', argument) for argument in sys.argv]
            opt, arguments = parse_options(root_path, is_train)
            if opt.get('model_type') == OUR_MODEL:
                if not opt['dist'] and 'TORCHELASTIC_RUN_ID' in os.environ and os.environ.get('WORLD_SIZE', '1') != '1':
                    raise ValueError('torchrun has started several processes: --launcher pytorch is missing')
                opt['manual_seed'] = from_first(lambda: opt['manual_seed'])  # BasicSR: each process its own random one
                check_options(opt)
            elif opt['num_gpu'] != 0 and not torch.cuda.is_available():
                raise ValueError(f'num_gpu: {opt["num_gpu"]}, but PyTorch finds no GPU; to run on the CPU set '
                                 'num_gpu: 0')
        except ProblemsError as error:
            raise SystemExit(report(path, error.problems)) from None
        except (OSError, ValueError) as error:
            raise SystemExit(printable(f'{path}: {error}')) from None
        except (AttributeError, LookupError, TypeError) as error:  # BasicSR takes it that all is as it should be
            problems = path and _problems(path, root_path, is_train)
            if problems:
                raise SystemExit(report(path, problems)) from None
            reason = printable(f'{type(error).__name__}: {error}')
            raise SystemExit(f'{path}: the options cannot be used: {reason}') from None
        finally:
            sys.argv = [printable(argument) for argument in argv]  # BasicSR writes them into a copy of the option file
        if opt.get('model_type') == OUR_MODEL and 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # PyTorch below 2.6, wherever BasicSR itself loads
        module = 'basicsr.train' if is_train else 'basicsr.test'
        if opt.get('model_type') == OUR_MODEL:
            writing = [as_owner(make_exp_dirs), misc.mkdir_and_rename, options.copy_opt_file, get_root_logger]
            run = TrainingRun(build_model)
            building = [run.init_tb_loggers, run.build_dataloader, run.build_model] if is_train else [build_model]
            for function in (as_owner(load_resume_state), *map(_with_errors_in_one_line, writing), *building):
                _replace(module, function)
        elif not torch.cuda.is_available():
            _replace(module, load_resume_state)
        return opt, arguments

    return wrapper


def _with_errors_in_one_line(function: Callable) -> Callable:
    """A function of train.py or test.py that makes folders and files; where it cannot, the run ends with one line."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise SystemExit(printable(f"the run's folder cannot be used: {error}")) from None

    return wrapper


def _problems(path: str, root_path: str, is_train: bool) -> list[str]:
    """What is wrong with an option file of ours that BasicSR stumbles over."""
    options = read_options(path)
    ours = options.get('model_type') == OUR_MODEL
    return problems_of(options, test=not is_train, root_path=root_path) if ours else []


def _replace(module_name: str, function: Callable) -> None:
    """Put a function in the place of its namesake in train.py or test.py, which runs as ``__main__``."""
    for name in ('__main__', module_name):
        module = sys.modules.get(name)
        if hasattr(module, function.__name__):
            setattr(module, function.__name__, function)


def install() -> None:
    """Put the mends in place, once."""
    if not hasattr(options.parse_options, '__wrapped__'):
        dumper = options.ordered_yaml()[1]
        options.ordered_yaml = lambda: (OptionLoader, dumper)
        options.parse_options = _around_parsing(options.parse_options)
        for module in (options, data_util, single_image_dataset):  # what they open is text
            module.open = functools.partial(open, encoding='utf-8')
        basicsr.train.parse_options = basicsr.test.parse_options = options.parse_options

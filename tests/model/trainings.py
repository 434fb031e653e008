"""Trainings by BasicSR's train.py in processes of their own, forked so that nothing is imported again, to be killed."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import basicsr.test
import basicsr.train
import torch
import yaml
from basicsr.utils import logger as basicsr_logger

from segsr_model.option_files import compose
from tests import ROOT

KILLED = -signal.SIGKILL
_fork = multiprocessing.get_context('fork')


def write_options(options, path, weights=None):
    """The options of the ``options`` fixture as an option file: without what ``parse_options`` adds."""
    added = ('is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path')
    path.write_text(yaml.safe_dump({k: v for k, v in {
        **options, 'path': {'pretrain_network_g': weights, 'resume_state': None}}.items() if k not in added}))
    return path


def write_demo(folder, *, iterations, save_freq, val_freq, workers):
    """Prepare the demo's data in ``folder`` and write its options there, with small batches and the first two tiles."""
    repository = ROOT
    subprocess.run([sys.executable, '-c', 'import sys; from segsr_model.cli import main; sys.exit(main())', 'prepare',
                    'folder', '--source', repository / 'datasets' / 'sample', '--out', folder / 'data', '--scale', '4'],
                   check=True, stdout=subprocess.DEVNULL)
    options, _ = compose(repository / 'options' / 'demo_SeGSR_EDSR_x4.yml')
    options['datasets']['train'].update(gt_size=32, batch_size_per_gpu=2, num_worker_per_gpu=workers,
                                        dataset_enlarge_ratio=2, persistent_workers=workers > 0)
    for phase, part in (('train', 'train'), ('val', 'test')):
        options['datasets'][phase].update({f'dataroot_{key}': str(folder / 'data' / 'x4' / part / kind)
                                           for key, kind in (('gt', 'HR'), ('lq', 'LR'))})
    for kind in ('HR', 'LR'):
        for image in sorted((folder / 'data' / 'x4' / 'test' / kind).iterdir())[2:]:
            image.unlink()
    encoder = options['network_g']['semantic']['encoder']
    encoder.update(model=str(repository / encoder['model']), lora_dropout=0.1)
    options['train'].update(total_iter=iterations, warmup_iter=10)
    options['train']['scheduler']['milestones'] = [iterations // 20]
    options['val'].update(val_freq=val_freq, pbar=False)
    options['logger'].update(save_checkpoint_freq=save_freq, keep_last=3, save_best='psnr', print_freq=10)
    path = folder / 'demo.yml'
    path.write_text(yaml.safe_dump(options))
    return path, options['name']


def start(root, option_file, *arguments, before=lambda: None, pipeline='train', environment=None):
    """Start a run of train.py or test.py whose folders are in ``root``.

    Args:
        before: is called in the new process first.
        environment: variables of the new process.
    """
    (Path(root) / 'output.txt').write_text('')
    arguments = [str(argument) for argument in ('-opt', option_file, *arguments)]
    process = _fork.Process(target=_run, args=(Path(root), pipeline, arguments, before, environment or {}))
    process.start()
    return process


def train(root, option_file, *arguments, **how):
    """Run a training to its end. Returns the exit code (negative: the signal) and what it has said."""
    process = start(root, option_file, *arguments, **how)
    process.join()
    return process.exitcode, (Path(root) / 'output.txt').read_text()


def run_together(root, option_file, *arguments, processes=2, before=lambda rank: None, pipeline='train'):
    """Run processes that find each other as those of torchrun do. Returns their exit codes and what all have said."""
    Path(root).mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        common = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free.getsockname()[1]), 'WORLD_SIZE': str(processes),
                  'LOCAL_WORLD_SIZE': str(processes)}
    runs = [start(root, option_file, '--launcher', 'pytorch', *arguments, before=functools.partial(before, rank),
                  pipeline=pipeline, environment={**common, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
            for rank in range(processes)]
    for each in runs:
        each.join()
    return [each.exitcode for each in runs], (Path(root) / 'output.txt').read_text()


def _run(root, pipeline, arguments, before, environment):
    output = os.open(root / 'output.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = [open(n, 'w', buffering=1, closefd=False) for n in (1, 2)]  # noqa: SIM115
    basicsr_logger.initialized_logger.clear()
    logging.getLogger('basicsr').handlers.clear()
    sys.argv = [f'{pipeline}.py', *arguments]
    os.environ.update(environment)
    torch.set_num_threads(1)
    before()
    try:
        {'train': basicsr.train.train_pipeline, 'test': basicsr.test.test_pipeline}[pipeline](str(root))
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


def kill_at_write(number, moment):
    """For ``before``: kill this process at its nth atomic write, at 'fsync', 'replace' or 'after' it."""
    def prepare():
        count, (fsync, replace) = 0, (os.fsync, os.replace)

        def killing_fsync(descriptor):
            die('fsync')
            fsync(descriptor)

        def killing_replace(source, target):
            nonlocal count
            die('replace')
            replace(source, target)
            count += 1
            if moment == 'after' and count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def die(here):
            if moment == here and count + 1 == number:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync, os.replace = killing_fsync, killing_replace
    return prepare


def until(condition, ended, timeout=600):
    """Wait until ``condition()``; fails when ``ended()`` is no longer None, as the training's exit code."""
    end = time.monotonic() + timeout
    while not condition():
        if ended() is not None or time.monotonic() > end:
            raise AssertionError('the training has not come so far')
        time.sleep(0.01)


def result(root, name='run'):
    """All that a training leaves: of the last state and weights, the values."""
    folder = Path(root) / 'experiments' / name
    states = sorted((folder / 'training_states').glob('*.state'), key=lambda path: int(path.stem))
    content = {'state': torch.load(states[-1])}
    for path in (folder / 'models').glob('*.pth'):
        with contextlib.suppress(ValueError):
            if int(path.stem.split('_')[-1]) < int(states[-1].stem):
                continue
        content[path.name] = torch.load(path)
    return content


def differences(a, b, where=''):
    """Where two results differ, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [d for key in a for d in differences(a[key], b[key], f'{where}:{key}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f'{where}:{i}')]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [where]

"""Trainings by BasicSR's train.py in processes of their own, forked so that nothing is imported again, to be killed."""

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

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


def start(root, option_file, *arguments, before=lambda: None):
    """Start a training whose experiments are in ``root``; ``before()`` runs in the new process first."""
    (Path(root) / 'output.txt').write_text('')
    arguments = [str(argument) for argument in ('-opt', option_file, *arguments)]
    process = _fork.Process(target=_train, args=(Path(root), arguments, before))
    process.start()
    return process


def train(root, option_file, *arguments, before=lambda: None):
    """Run a training to its end. Returns the exit code (negative: the signal) and what it has said."""
    process = start(root, option_file, *arguments, before=before)
    process.join()
    return process.exitcode, (Path(root) / 'output.txt').read_text()


def _train(root, arguments, before):
    output = os.open(root / 'output.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = [open(n, 'w', buffering=1, closefd=False) for n in (1, 2)]  # noqa: SIM115
    basicsr_logger.initialized_logger.clear()
    logging.getLogger('basicsr').handlers.clear()
    sys.argv = ['train.py', *arguments]
    torch.set_num_threads(1)
    before()
    try:
        basicsr.train.train_pipeline(str(root))
    except Exception:
        traceback.print_exc()
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


def until(condition, process, timeout=120):
    """Wait until ``condition()``; fails when the training has ended before."""
    end = time.monotonic() + timeout
    while not condition():
        if not process.is_alive() or time.monotonic() > end:
            raise AssertionError('the training has not come so far')
        time.sleep(0.002)


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

"""Training by two processes on the CPU, started by torchrun: the same run as by one, validated and resumed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from basicsr.data import build_dataset
from trainings import result, train, write_options

from segsr_model.distributed import Share, lost_process_is_said, share_of
from segsr_model.interrupts import EXIT_CODE

PROGRAM = """
import os, signal, sys
import segsr_arch
import basicsr.train
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
if os.environ.get('DIES') == os.environ['RANK']:
    SemanticGuidedSRModel.model_ema = lambda self, decay: os.kill(os.getpid(), signal.SIGKILL)
if __name__ == '__main__':
    basicsr.train.train_pipeline(sys.argv.pop(1))
"""


@pytest.fixture
def option_file(options, tmp_path):
    """Makes the file of a training of 5 iterations with 4 images each, 3 to an epoch."""
    def make(processes):
        options['datasets']['train'].update(dataset_enlarge_ratio=3, batch_size_per_gpu=4 // processes)
        options['train'].update(total_iter=5, optim_g={'type': 'SGD', 'lr': 0.01})
        options['train']['scheduler']['milestones'] = [3]
        options['val'].update(val_freq=2, save_img=False)
        options['logger'].update(save_checkpoint_freq=5, use_tb_logger=False, save_best='psnr')
        return write_options(options, tmp_path / f'{processes}.yml')
    return make


def torchrun(root, file, *arguments, **environment):
    """Start two processes whose experiments are in ``root``."""
    (root / 'program.py').write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')])
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1',
         f'--master_port={port}', 'program.py', str(root), '-opt', str(file), '--launcher', 'pytorch', *arguments],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths, **environment})


def test_two_processes_are_one_run_and_resume(option_file, tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for folder in (one, two):
        folder.mkdir()
    code, output = train(one, option_file(1))
    assert code == 0, output
    file = option_file(2)
    for arguments in (('--force_yml', 'train:total_iter=3', 'logger:save_checkpoint_freq=3'),
                      ('--local-rank=0', '--auto_resume')):
        process = torchrun(two, file, *arguments)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    assert re.search(r'Resuming training from epoch: \d, iter: 3\.', output), output
    a, b = result(one), result(two)
    for key in ('params', 'params_ema'):
        for name, weight in a['net_g_latest.pth'][key].items():
            torch.testing.assert_close(b['net_g_latest.pth'][key][name], weight, atol=1e-5, rtol=0)
    best = [content['state']['best']['pairs'] for content in (a, b)]
    assert best[0]['psnr']['iter'] == best[1]['psnr']['iter']
    assert best[1]['psnr']['val'] == pytest.approx(best[0]['psnr']['val'], abs=0.05)  # 8-bit images: a grey level
    assert len(b['state']['random']) == 2


def test_a_process_that_dies_ends_the_training(option_file, tmp_path):
    begin = time.monotonic()
    process = torchrun(tmp_path, option_file(2), DIES='1')
    output, _ = process.communicate(timeout=200)
    assert process.returncode not in (0, None)
    assert 'Signal 9 (SIGKILL)' in output  # torchrun names the process
    assert time.monotonic() - begin < 120


def test_sigterm_to_torchrun_saves(option_file, tmp_path):
    process = torchrun(tmp_path, option_file(2), '--force_yml', 'train:total_iter=99999', 'val:val_freq=99999')
    for line in process.stdout:
        if 'iter:       3' in line:
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert 'Go on with --auto_resume.' in output, output
    state, = tmp_path.rglob('*.state')
    assert int(state.stem) >= 3 and EXIT_CODE == 75


def test_shares_are_disjoint_and_complete(options):
    options['datasets']['val']['phase'] = 'val'
    loader = torch.utils.data.DataLoader(build_dataset(options['datasets']['val']))
    names = [[data['lq_path'][0] for data in share_of(loader, rank, 3)] for rank in range(3)]
    assert sorted(sum(names, [])) == sorted(pair['lq_path'] for pair in loader.dataset.paths)
    share = Share(loader.dataset, 1, 3)
    assert [pair['lq_path'] for pair in share.paths] == names[1] and share.opt['name'] == 'pairs'
    assert share_of(loader, 0, 1) is loader


def test_a_lost_process_is_one_line_and_other_errors_stay():
    with pytest.raises(SystemExit, match='Another process .* Connection closed by peer.*--auto_resume'), \
            lost_process_is_said(True):
        raise RuntimeError('[pair.cc:547] Connection closed by peer [127.0.0.1]\nmore')
    for distributed, text in ((True, 'shapes do not match'), (False, 'Connection closed by peer')):
        with pytest.raises(RuntimeError, match=text), lost_process_is_said(distributed):
            raise RuntimeError(text)

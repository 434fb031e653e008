"""Real torchrun, two processes on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml
from basicsr.data import build_dataset
from torch.utils.data import DataLoader

from segsr_model.training.distributed import share_of, timeout_of
from tests import ROOT
from tests.model.trainings import differences, result, train, write_options

LAUNCHER = '''
import os, signal, sys
import torch
import segsr_arch
import basicsr.test
import basicsr.train
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel as Model

torch.set_num_threads(1)
root, pipeline, moment, *arguments = sys.argv[1:]
sys.argv = [pipeline, *arguments]
step, take_over = Model.optimize_parameters, Model.take_over

def kept(self, run):
    take_over(self, run)
    values = torch.cat([p.detach().flatten() for p in self.net_g.parameters()])
    torch.save(values, f'{root}/start{self.opt["rank"]}.pth')

def watched(self, iteration):
    if moment == 'wait' and iteration == 2:
        open(f'{root}/ready{self.opt["rank"]}', 'w').close()
    if moment == 'wait':
        import time; time.sleep(0.2)
    if moment == 'stop' and iteration == 3 and self.opt['rank'] == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    if moment == 'die' and iteration == 3 and self.opt['rank'] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, iteration)
    assert all(p.grad is not None for p in self.net_g.parameters() if p.requires_grad)

Model.optimize_parameters, Model.take_over = watched, kept
{'train': basicsr.train.train_pipeline, 'test': basicsr.test.test_pipeline}[pipeline](root)
'''


@pytest.fixture
def option_file(options, tmp_path):
    options['datasets']['train']['dataset_enlarge_ratio'] = 4
    options['train'].update(total_iter=6, accumulate=2)
    options['val'].update(val_freq=3, save_img=False)
    options['logger'].update(save_checkpoint_freq=3, use_tb_logger=False)
    return write_options(options, tmp_path / 'tiny.yml')


def launch(root, option_file, *arguments, moment='', pipeline='train', processes=2):
    """Start processes by torchrun."""
    root.mkdir(exist_ok=True)
    (root / 'launcher.py').write_text(LAUNCHER)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    output = (root / 'output.txt').open('w')
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', f'--nproc_per_node={processes}',
         '--master_port', str(port), str(root / 'launcher.py'), str(root), pipeline, moment, '-opt', str(option_file),
         '--launcher', 'pytorch', *arguments],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        stdout=output, stderr=output)


def run(root, option_file, *arguments, **options):
    """Run two processes to their end. Returns torchrun's exit code and what all have said."""
    code = launch(root, option_file, *arguments, **options).wait(90)
    return code, (root / 'output.txt').read_text()


def test_two_processes_train_as_one_and_go_on_when_stopped(option_file, tmp_path):
    straight, stopped, single = [tmp_path / name for name in ('straight', 'stopped', 'single')]
    code, together = run(straight, option_file)
    assert code == 0 and len(validations(together)) == 3, together
    starts = [torch.load(straight / f'start{rank}.pth') for rank in (0, 1)]
    assert torch.equal(*starts)

    # one of them is told to stop, both do
    code, output = run(stopped, option_file, '--auto_resume', moment='stop')
    assert code != 0 and 'Stopped by another process after iteration' in output, output
    code, output = run(stopped, option_file, '--auto_resume')
    assert code == 0 and 'Resuming training from epoch' in output, output
    assert differences(result(straight), result(stopped)) == []

    # the same samples in batches of 4, from the same weights
    options = yaml.safe_load(option_file.read_text())
    options['datasets']['train']['batch_size_per_gpu'] = 4
    single.mkdir()
    whole = single / 'whole.yml'
    whole.write_text(yaml.safe_dump(options))
    assert train(single, whole)[0] == 0
    ours, theirs = result(straight), result(single)
    for key in ('params', 'params_ema'):
        for name, value in ours['net_g_6.pth'][key].items():
            torch.testing.assert_close(value, theirs['net_g_6.pth'][key][name], rtol=0, atol=1e-5)

    # resumed by one process, the last validation is repeated: on the same weights, with the same numbers
    code, alone = train(straight, option_file, '--auto_resume')
    assert code == 0 and validations(alone)[0] == validations(together)[-1], alone


def validations(output):
    """The tables per class that a training has logged: their head, two classes and the average."""
    return [text.splitlines()[:4] for text in output.split('pairs per class\n')[1:]]


def test_a_killed_process_ends_the_job_with_a_message(option_file, tmp_path):
    # --local-rank is torch.distributed.launch's
    begin = time.monotonic()
    code, output = run(tmp_path / 'run', option_file, '--local-rank=0', moment='die')
    assert code != 0 and 'another process of the training has ended' in output, output
    assert time.monotonic() - begin < 60


def test_sigterm_to_torchrun_saves(option_file, tmp_path):
    root = tmp_path / 'run'
    process = launch(root, option_file, '--force_yml', 'train:total_iter=9999', 'val:val_freq=9999',
                     'logger:save_checkpoint_freq=9999', moment='wait')
    end = time.monotonic() + 60
    while not all((root / f'ready{rank}').exists() for rank in (0, 1)):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    output = (root / 'output.txt').read_text()
    assert 'Stopped by SIGTERM after iteration' in output, output
    assert len(list(root.rglob('*.state'))) == 1


def test_shares_are_disjoint_and_complete(options):
    loader = DataLoader(build_dataset({**options['datasets']['val'], 'phase': 'val'}))
    names = [[data['lq_path'][0] for data in share_of(loader, rank, 3)] for rank in range(3)]
    assert [len(share) for share in names] == [2, 1, 1]
    assert sorted(sum(names, [])) == sorted(pair['lq_path'] for pair in loader.dataset.paths)


def test_the_time_to_wait_for_others_is_checked():
    assert timeout_of({'timeout': 0.5}).total_seconds() == 30 and timeout_of(None).total_seconds() == 1800
    with pytest.raises(ValueError, match='dist_params:timeout'):
        timeout_of({'timeout': 0})


def test_two_processes_test_as_one_and_name_corrupt_images(options, option_file, tmp_path, pairs):
    assert train(tmp_path, option_file)[0] == 0
    (tmp_path / 'data').mkdir()
    shutil.copytree(pairs / 'HR', tmp_path / 'data' / 'HR')
    shutil.copytree(pairs / 'LR', tmp_path / 'data' / 'LR')
    damaged = tmp_path / 'data' / 'LR' / 'woodland00.png'
    damaged.write_bytes(damaged.read_bytes()[:100])
    options['datasets'] = {'test_1': {**options['datasets']['val'], 'dataroot_gt': str(tmp_path / 'data' / 'HR'),
                                      'dataroot_lq': str(tmp_path / 'data' / 'LR'), 'max_corrupt_images': 1}}
    weights = str(next(tmp_path.rglob('net_g_6.pth')))
    file = write_options(options, tmp_path / 'test.yml', weights)
    code, output = run(tmp_path / 'two', file, pipeline='test')
    assert code == 0 and f'Corrupt image, passed over: {damaged}' in output, output
    code, output = run(tmp_path / 'one', file, pipeline='test', processes=1)
    assert code == 0, output
    one, two = [json.loads(next((tmp_path / name).rglob('scores_pairs.json')).read_text()) for name in ('one', 'two')]
    assert one == two and len(one['images']) == 3
    options['datasets']['test_1']['max_corrupt_images'] = 0
    code, output = run(tmp_path / 'none', write_options(options, tmp_path / 'test.yml', weights), pipeline='test')
    assert code != 0 and 'datasets:test_1:max_corrupt_images: 1 image(s) cannot be used' in output, output

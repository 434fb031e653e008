"""Two processes on the CPU, as torchrun starts them, and once torchrun itself."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from torch.utils.data import DataLoader

from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
from segsr_model.training.distributed import share_of, timeout_of
from tests import ROOT
from tests.model.trainings import KILLED, differences, result, run_together, train, until, write_options

STEP, TAKE_OVER = SemanticGuidedSRModel.optimize_parameters, SemanticGuidedSRModel.take_over


@pytest.fixture
def option_file(options, tmp_path):
    options['datasets']['train']['dataset_enlarge_ratio'] = 4
    options['train'].update(total_iter=6, accumulate=2)
    options['val'].update(val_freq=3, save_img=False)
    options['logger'].update(save_checkpoint_freq=3, use_tb_logger=False)
    return write_options(options, tmp_path / 'tiny.yml')


def watch(root, number, rank):
    """For ``before``: keep the first weights, demand all gradients, and send rank 1 a signal in iteration 3."""
    def kept(self, run):
        TAKE_OVER(self, run)
        values = torch.cat([p.detach().flatten() for p in self.net_g.parameters()])
        torch.save(values, f'{root}/start{rank}.pth')

    def watched(self, iteration):
        if number and iteration == 3 and rank == 1:
            os.kill(os.getpid(), number)
        STEP(self, iteration)
        assert all(p.grad is not None for p in self.net_g.parameters() if p.requires_grad)

    SemanticGuidedSRModel.optimize_parameters, SemanticGuidedSRModel.take_over = watched, kept


def run(root, option_file, *arguments, number=None):
    return run_together(root, option_file, *arguments, before=functools.partial(watch, root, number))


def test_two_processes_train_as_one_and_go_on_when_stopped(option_file, tmp_path):
    straight, stopped, single = [tmp_path / name for name in ('straight', 'stopped', 'single')]
    codes, together = run(straight, option_file)
    assert codes == [0, 0] and len(validations(together)) == 3, together
    starts = [torch.load(straight / f'start{rank}.pth') for rank in (0, 1)]
    assert torch.equal(*starts)

    # one of them is told to stop, both do
    codes, output = run(stopped, option_file, '--auto_resume', number=signal.SIGTERM)
    assert codes == [75, 75] and 'Stopped by another process after iteration' in output, output
    codes, output = run(stopped, option_file, '--auto_resume')
    assert codes == [0, 0] and 'Resuming training from epoch' in output, output
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
    codes, output = run(tmp_path / 'run', option_file, '--local-rank=0', number=signal.SIGKILL)
    assert codes[1] == KILLED and codes[0] == 1
    assert 'another process of the training has ended' in output and 'Traceback' not in output, output


WAITING = '''
import sys, time
import segsr_arch
import basicsr.train
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel as Model

root, *arguments = sys.argv[1:]
sys.argv = ['train.py', *arguments]
step = Model.optimize_parameters

def watched(self, iteration):
    step(self, iteration)
    open(f'{root}/ready{self.opt["rank"]}', 'w').close()
    time.sleep(0.2)

Model.optimize_parameters = watched
basicsr.train.train_pipeline(root)
'''


def test_sigterm_to_torchrun_saves(option_file, tmp_path):
    """The one test with torchrun itself: it starts the processes, and passes the signal on."""
    (tmp_path / 'launcher.py').write_text(WAITING)
    with (tmp_path / 'output.txt').open('w') as output:
        process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0',
             '--rdzv_backend=c10d', '--rdzv_endpoint=127.0.0.1:0', str(tmp_path / 'launcher.py'), str(tmp_path),
             '-opt', str(option_file), '--launcher', 'pytorch', '--force_yml', 'train:total_iter=9999',
             'val:val_freq=9999', 'logger:save_checkpoint_freq=9999'],
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}, stdout=output, stderr=output)
    until(lambda: all((tmp_path / f'ready{rank}').exists() for rank in (0, 1)), process.poll, timeout=600)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) != 0
    output = (tmp_path / 'output.txt').read_text()
    assert 'Stopped by SIGTERM after iteration' in output, output
    assert len(list(tmp_path.rglob('*.state'))) == 1


def test_shares_are_disjoint_and_complete(options):
    loader = DataLoader(build_dataset({**options['datasets']['val'], 'phase': 'val'}))
    names = [[data['lq_path'][0] for data in share_of(loader, rank, 3)] for rank in range(3)]
    assert [len(share) for share in names] == [2, 1, 1]
    assert sorted(sum(names, [])) == sorted(pair['lq_path'] for pair in loader.dataset.paths)


def test_the_time_to_wait_for_others_is_checked():
    assert timeout_of({'timeout': 0.5}).total_seconds() == 30 and timeout_of(None).total_seconds() == 1800
    with pytest.raises(ValueError, match='dist_params:timeout'):
        timeout_of({'timeout': 0})


def test_two_processes_test_as_one_and_name_corrupt_images(options, network, tmp_path, pairs):
    shutil.copytree(pairs, tmp_path / 'data')
    damaged = tmp_path / 'data' / 'LR' / 'woodland00.png'
    damaged.write_bytes(damaged.read_bytes()[:100])
    options['datasets'] = {'test_1': {**options['datasets']['val'], 'dataroot_gt': str(tmp_path / 'data' / 'HR'),
                                      'dataroot_lq': str(tmp_path / 'data' / 'LR'), 'max_corrupt_images': 1}}
    torch.save({'params': build_network(network).state_dict()}, tmp_path / 'net.pth')
    file = write_options(options, tmp_path / 'test.yml', str(tmp_path / 'net.pth'))
    scores = []
    for processes in (2, 1):
        root = tmp_path / str(processes)
        codes, output = run_together(root, file, pipeline='test', processes=processes)
        assert codes == [0] * processes and f'Corrupt image, passed over: {damaged}' in output, output
        scores.append(json.loads(next(root.rglob('scores_pairs.json')).read_text()))
    assert scores[0] == scores[1] and len(scores[0]['images']) == 3
    options['datasets']['test_1']['max_corrupt_images'] = 0
    write_options(options, file, str(tmp_path / 'net.pth'))
    codes, output = run_together(tmp_path / 'none', file, pipeline='test')
    assert codes == [1, 1] and f"datasets:test_1: '{damaged}': it is cut off" in output, output

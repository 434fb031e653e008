"""BasicSR's own commands with the plugin installed, as a user runs them: each test starts new processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import basicsr
import pytest
import torch
import yaml

from tests import ROOT


def run(*command, cwd, **environment):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A checkout of BasicSR beside which the plugin is installed, as on its master branch, never installed itself."""
    root = tmp_path_factory.mktemp('BasicSR')
    shutil.copytree(Path(basicsr.__file__).parent, root / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    (root / 'basicsr' / 'version.py').unlink()  # setup.py writes it
    return root


@pytest.fixture
def option_file(options, tmp_path):
    """The tiny training options as a file."""
    for key in ('is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path'):
        del options[key]
    options['path'] = {'pretrain_network_g': None, 'resume_state': None}
    options['train']['total_iter'] = 2
    options['train']['scheduler']['milestones'] = [1]
    options['val'].update(val_freq=2, save_img=False)
    options['logger'].update(save_checkpoint_freq=2, use_tb_logger=False)
    path = tmp_path / 'tiny.yml'
    path.write_text(yaml.safe_dump(options))
    return path


def test_an_unchanged_checkout_trains_resumes_and_tests(checkout, option_file, tmp_path):
    run_in_checkout = {'cwd': checkout, 'PYTHONPATH': './'}
    code, output = run('basicsr/train.py', '-opt', option_file, **run_in_checkout)
    assert code == 0, output
    assert 'Model [SemanticGuidedSRModel] is created' in output and 'meadow' in output
    models = checkout / 'experiments' / 'run' / 'models'
    assert (models / 'net_g_2.pth').is_file()

    # from another working directory, without a GPU
    code, output = run(checkout / 'basicsr' / 'train.py', '-opt', option_file, '--auto_resume', '--force_yml',
                       'train:total_iter=4', cwd=tmp_path, PYTHONPATH=str(checkout))
    assert code == 0, output
    assert 'Resuming training from epoch: 0, iter: 2' in output
    assert (models / 'net_g_4.pth').is_file()

    (tmp_path / 'row.yml').write_text('include: tiny.yml\nrows: [VII EDSR +4 unit]')
    code, output = run('basicsr/test.py', '-opt', tmp_path / 'row.yml', **run_in_checkout)
    assert code == 0, output
    protocol = json.loads((checkout / 'results' / 'run' / 'scores_pairs.json').read_text())['protocol']
    assert protocol['iterations'] == 4 and protocol['rows'] == ['VII EDSR +4 unit']
    assert protocol['checkpoint'] == 'experiments/run/models/net_g_latest.pth'
    assert len(list((checkout / 'results' / 'run' / 'visualization' / 'pairs').glob('*.png'))) == 4
    assert not list(checkout.glob('*/.*.lock'))  # they go with the processes


def test_the_launchers_of_this_checkout_do_the_same(option_file, tmp_path):
    launchers = tmp_path / 'checkout'
    shutil.copytree(ROOT / 'basicsr', launchers / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    code, output = run('basicsr/train.py', '-opt', option_file, cwd=launchers)
    assert code == 0, output
    content = torch.load(launchers / 'experiments' / 'run' / 'models' / 'net_g_latest.pth')
    assert set(content) == {'params', 'params_ema', 'iterations'} and content['iterations'] == 2


def test_no_gpu_where_one_is_asked_for_is_said_at_once(option_file, tmp_path):
    code, output = run(ROOT / 'basicsr' / 'train.py', '-opt', option_file, '--force_yml', 'num_gpu=1', cwd=tmp_path,
                       CUDA_VISIBLE_DEVICES='')
    assert code != 0
    assert 'num_gpu: 1' in output.splitlines()[-1] and 'num_gpu: 0' in output.splitlines()[-1]


def test_it_can_be_switched_off_and_leaves_others_alone(tmp_path):
    code, output = run('-c', 'import torchvision.transforms.functional_tensor', cwd=tmp_path)
    assert code != 0 and 'No module named' in output
    code, output = run('-c', 'import sys; import _segsr_autoload; print([f for f in sys.meta_path if f.__module__ == '
                             '"_segsr_autoload"])', cwd=tmp_path, SEGSR_NO_AUTOLOAD='1')
    assert code == 0 and output.strip() == '[]'


def test_basicsr_works_on_when_the_plugin_fails(tmp_path):
    (tmp_path / 'segsr_arch.py').write_text('raise RuntimeError("broken")')
    code, output = run('-c', 'import basicsr; print(basicsr.__version__)', cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 0 and 'could not be registered with BasicSR: RuntimeError: broken' in output
    assert '1.4.2' in output


def test_the_shim_serves_what_basicsr_needs():
    import torchvision.transforms.functional as functional
    from basicsr.data.degradations import rgb_to_grayscale
    assert rgb_to_grayscale is functional.rgb_to_grayscale
    assert functional.__spec__.name == 'torchvision.transforms.functional'

"""The option files that ship: each network builds, and the numbers are the paper's."""

import copy
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network

from segsr_model.files import read_options

OPTIONS = Path(__file__).parents[2] / 'options'
FILES = sorted(p.name for p in OPTIONS.glob('*.yml'))
PAPER = [(backbone, scale) for backbone in ('HAT', 'EDSR', 'RCAN') for scale in (2, 4)]


def shrunk(network, clip_config):
    """The network of an option file with fewer channels and blocks and a small CLIP; same units, same scale."""
    network = copy.deepcopy(network)
    small = {'num_feat': 8, 'num_block': 8 if 'EDSR' in network['type'] else 1, 'squeeze_factor': 4, 'embed_dim': 12,
             'depths': [1] * 6, 'num_heads': [2] * 6, 'window_size': 4}
    network.update({k: v for k, v in small.items() if k in network})
    if 'semantic' in network:
        network['semantic']['encoder'].update(model=str(clip_config), pretrained=None, lora_rank=2)
    return network


@pytest.mark.parametrize('file', FILES)
def test_its_network_runs(file, clip_config):
    options = read_options(OPTIONS / file)
    net = build_network(shrunk(options['network_g'], clip_config))
    with torch.no_grad():
        assert net(torch.rand(1, 3, 8, 6)).shape == (1, 3, 8 * options['scale'], 6 * options['scale'])
    assert options['model_type'] == 'SemanticGuidedSRModel'
    assert options['network_g']['upscale'] == options['scale']
    assert Path(file).stem == options['name']


@pytest.mark.parametrize(('backbone', 'scale'), PAPER)
def test_training_follows_the_paper(backbone, scale):
    options = read_options(OPTIONS / f'train_SeGSR_{backbone}_x{scale}.yml')
    data, train = options['datasets']['train'], options['train']
    assert data['gt_size'] == 64 * scale and data['batch_size_per_gpu'] == 4
    assert data['use_hflip'] and data['use_rot']
    assert train['optim_g']['type'] == 'Adam' and train['optim_g']['lr'] == 1e-4
    assert train['total_iter'] == 80000 and train['scheduler']['milestones'] == [50000]
    assert train['scheduler']['gamma'] == 0.5 and train['pixel_opt']['type'] == 'L1Loss'
    encoder = options['network_g']['semantic']['encoder']
    assert (encoder['model'], encoder['pretrained'], encoder['lora_rank']) == ('ViT-B-16', 'openai', 32)
    assert options['network_g']['num_units'] == {'HAT': 6, 'EDSR': 4, 'RCAN': 5}[backbone]
    for metric in options['val']['metrics'].values():
        assert metric['crop_border'] == scale and metric['test_y_channel'] is True


@pytest.mark.parametrize(('backbone', 'scale'), PAPER)
def test_testing_uses_the_network_that_was_trained(backbone, scale):
    train = read_options(OPTIONS / f'train_SeGSR_{backbone}_x{scale}.yml')
    test = read_options(OPTIONS / f'test_SeGSR_{backbone}_x{scale}.yml')
    assert test['network_g'] == train['network_g'] and test['val']['metrics'] == train['val']['metrics']
    assert test['path']['pretrain_network_g'].split('/')[1] == train['name']
    assert test['path']['param_key_g'] == 'params_ema'


def test_the_demo_tests_the_network_it_trained():
    train, test = (read_options(OPTIONS / f'{name}SeGSR_EDSR_x4.yml') for name in ('demo_', 'test_demo_'))
    assert test['network_g'] == train['network_g']

"""The option files that ship: each network builds, the numbers are the paper's, each row of its tables has its run."""

import copy
import functools
import itertools
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network

from segsr_model.option_files import as_test, compose
from segsr_model.report.paper import paper_tables, read_row
from segsr_model.testing.inference import super_resolve
from tests import ROOT

OPTIONS = ROOT / 'options'
PARTS = {'base.yml', 'EDSR.yml', 'HAT.yml', 'SeGSR.yml'}  # of the sample runs
FILES = sorted(str(path.relative_to(OPTIONS)) for path in OPTIONS.glob('**/*.yml')
               if path.parent.name != 'base' and path.name not in PARTS)
RUNS = [file for file in FILES if not Path(file).name.startswith(('test_', 'demo_', 'sample_'))]
LEARNING_RATES = {'SRResNet': 1e-4, 'EDSR': 1e-4, 'RRDBNet': 2e-4, 'RCAN': 1e-4, 'SwinIR': 2e-4, 'HAT': 2e-4,
                  'HAUNet': 8e-4, 'MFGHMoE': 2e-4, 'SPT': 2e-4, 'SRFormer': 2e-4, 'TTST': 1e-4}
SCHEDULERS = {  # of a method's own recipe; the others follow Section IV-C
    'HAUNet': {'type': 'CosineAnnealingRestartLR', 'periods': {False: [80000], True: [120000]}, 'eta_min': 1e-7},
    'MFGHMoE': {'type': 'MultiStepLR', 'gamma': 0.5, 'milestones': {False: [30000, 50000, 65000, 70000, 75000],
                                                                    True: [45000, 75000, 97500, 105000, 112500]}}}
HALVED = {'type': 'MultiStepLR', 'gamma': 0.5, 'milestones': {False: [50000], True: [60000, 100000]}}


@functools.cache
def _read(file):
    return compose(OPTIONS / file)[0]


def read(file):
    return copy.deepcopy(_read(file))


def shrunk(network, clip_config):
    """The network of an option file with fewer channels and blocks and a small CLIP; same units, same scale."""
    network = copy.deepcopy(network)
    small = {'num_feat': 8, 'num_block': 8 if 'EDSR' in network['type'] else 1, 'squeeze_factor': 4, 'embed_dim': 16,
             'depths': [1] * 6, 'num_heads': [2] * 6, 'window_size': 4, 'num_grow_ch': 4, 'width': 8,
             'enc_blk_nums': [1, 1], 'middle_blk_num': 2, 'dec_blk_nums': [1, 1], 'SPTB_num': 1, 'SPAL_num': 1}
    network.update({k: v for k, v in small.items() if k in network})
    if 'semantic' in network:
        encoder = network['semantic']['encoder']
        encoder.update(model=str(clip_config), pretrained=None, lora_rank=encoder['lora_rank'] and 2)
    return network


@pytest.mark.parametrize('file', FILES)
def test_its_network_runs_at_any_size(file, clip_config):
    options = read(file)
    net = build_network(shrunk(options['network_g'], clip_config)).eval()
    with torch.no_grad():
        sr = super_resolve(net, torch.rand(1, 3, 9, 7))
    assert sr.shape == (1, 3, 9 * options['scale'], 7 * options['scale'])
    assert options['model_type'] == 'SemanticGuidedSRModel'
    assert Path(file).stem == options['name']
    assert 'include' not in options


def test_each_row_of_the_paper_has_one_run():
    runs = {}
    for file in RUNS:
        options = read(file)
        for claim in options['rows']:
            table, row, new = read_row(claim)
            assert not new or (table == 'VII' and options['network_g']['type'].startswith('SeGSR_'))
            assert options['datasets']['val']['name'] == paper_tables()[table].dataset
            if not new and (table != 'III' or options['scale'] == 4):
                assert runs.setdefault((table, row, options['scale']), file) == file
    assert set(runs) == {(table.number, name, scale) for table in paper_tables().values()
                         for name, row in table.rows.items() if row.ours for scale in table.scales}
    trained = [file for file in RUNS if 'train' in read(file)['datasets']]
    assert len(trained) == 80 and len({read(file)['name'] for file in FILES}) == len(FILES)


@pytest.mark.parametrize('file', RUNS)
def test_it_follows_the_papers_protocol(file):
    options = read(file)
    scale, aid = options['scale'], 'AID' in file
    method = Path(file).stem.split('_')[0]
    metrics = options['val']['metrics']
    assert all(metric['crop_border'] == scale for metric in metrics.values())
    assert [metrics[name].get('test_y_channel', False) for name in ('psnr', 'ssim', 'psnr_rgb', 'ssim_rgb')] == [
        True, True, False, False]
    assert not options['val']['self_ensemble']
    folder = f'datasets/{"AID" if aid else "UCMerced"}/x{scale}'
    assert options['datasets']['val']['dataroot_lq'] == f'{folder}/test/LR'
    if 'train' not in options['datasets']:
        assert options['network_g']['type'] == 'Bicubic'
        return
    data, train = options['datasets']['train'], options['train']
    assert data['dataroot_gt'] == f'{folder}/train/HR' and data['dataroot_lq'] == f'{folder}/train/LR'
    assert data['gt_size'] == 64 * scale and data['batch_size_per_gpu'] == 4
    assert data['use_hflip'] and data['use_rot']
    assert train['optim_g']['type'] == 'Adam' and train['pixel_opt']['type'] == 'L1Loss'
    assert train['optim_g']['lr'] == LEARNING_RATES.get(method, 1e-4)
    assert train['total_iter'] == (120000 if aid else 80000)
    assert train['scheduler'] == {key: value[aid] if isinstance(value, dict) else value
                                  for key, value in SCHEDULERS.get(method, HALVED).items()}


@pytest.mark.parametrize(('backbone', 'scale'), [
    *itertools.product(('HAT', 'EDSR', 'RCAN', 'SRFormer', 'SwinIR', 'TTST'), (2, 4))])
def test_the_guided_networks_are_the_papers(backbone, scale):
    options = read(f'train_SeGSR_{backbone}_x{scale}.yml')
    network, train = options['network_g'], options['train']
    assert network['num_units'] == {'EDSR': 4, 'RCAN': 5}.get(backbone, 6)
    assert (train['optim_g']['betas'], train['ema_decay']) == ([0.9, 0.99], 0.999)
    assert network['semantic'] == {
        'guidance': 'map',
        'encoder': {'model': 'ViT-B-16', 'pretrained': 'openai', 'lora_rank': 32, 'lora_alpha': None,
                    'lora_dropout': 0.0, 'lora_targets': ['qkv', 'ffn']},
        'localization': {'unit_descriptors': True, 'global_descriptor': True, 'scene_context': True}}
    plain = read(f'baselines/{backbone}_UCMerced_x{scale}.yml')['network_g']
    same = {k: v for k, v in network.items() if k not in ('type', 'num_units', 'semantic')}
    assert same == {k: v for k, v in plain.items() if k != 'type'} and network['type'] == f'SeGSR_{plain["type"]}'
    assert read(f'test_SeGSR_{backbone}_x{scale}.yml')['network_g'] == network


@pytest.mark.parametrize(('name', 'path', 'value'), [
    ('add', ('guidance',), 'add'), ('feature', ('guidance',), 'feature'),
    ('no_lora', ('encoder', 'lora_rank'), 0), ('rank16', ('encoder', 'lora_rank'), 16),
    ('rank64', ('encoder', 'lora_rank'), 64), ('qkv', ('encoder', 'lora_targets'), ['qkv']),
    ('pi', ('localization',), (True, False, False)), ('pi_pg', ('localization',), (True, True, False)),
    ('pi_ig', ('localization',), (True, False, True)), ('pg_ig', ('localization',), (False, True, True)),
])
def test_an_ablation_changes_one_thing(name, path, value):
    full = read('train_SeGSR_HAT_x4.yml')
    ablation = read(f'ablations/SeGSR_HAT_x4_{name}.yml')
    *outer, last = path
    place = full['network_g']['semantic']
    for key in outer:
        place = place[key]
    place[last] = dict(zip(place[last], value)) if last == 'localization' else value
    full.update(name=ablation['name'], rows=ablation['rows'])
    assert ablation == full


@pytest.mark.parametrize(('name', 'betas'), [('SRFormer', [0.9, 0.99]), ('TTST', [0.9, 0.999])])
def test_baselines_without_an_average_are_tested_without(name, betas):
    options = read(f'baselines/{name}_UCMerced_x4.yml')
    assert (options['train']['optim_g']['betas'], options['train']['ema_decay']) == (betas, 0)
    assert as_test(options, '.')['path']['param_key_g'] == 'params'


def test_a_test_file_and_a_training_file_test_the_same_weights():
    file = read('test_SeGSR_HAT_x4.yml')
    derived = as_test(read('train_SeGSR_HAT_x4.yml'), '.')
    assert file['path']['pretrain_network_g'] == derived['path']['pretrain_network_g'] == (
        'experiments/train_SeGSR_HAT_x4/models/net_g_latest.pth')
    assert file['path']['param_key_g'] == derived['path']['param_key_g'] == 'params_ema'
    for key in ('datasets', 'network_g', 'rows', 'val'):
        assert file[key] == derived[key]
    assert set(derived['datasets']) == {'val'} and derived['val']['save_img']


def test_the_readme_names_each_run():
    text = (OPTIONS / 'README.md').read_text(encoding='utf-8')
    lines = text.splitlines()
    for file in FILES:
        assert f'`{file}`' in text, file
    for file in RUNS:
        line = next(line for line in lines if line.startswith(f'| `{file}` |'))
        for claim in read(file)['rows']:
            table, row, _ = read_row(claim)
            assert f'{table} {row}' in [part.strip() for part in line.split('|')[2].split(';')], (file, claim)

"""Training, averaging, saving and resuming with SemanticGuidedSRModel."""

import copy
import json

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model

from segsr_model.basicsr_mends import load_resume_state


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return {'lq': torch.rand(2, 3, 8, 8, generator=generator), 'gt': torch.rand(2, 3, 32, 32, generator=generator)}


def train(model, iterations):
    for i in iterations:
        model.update_learning_rate(i)
        model.feed_data(batch(i))
        model.optimize_parameters(i)


def frozen_weights(net):
    return {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}


@pytest.fixture
def trained(options):
    model = build_model(options)
    train(model, range(1, 4))
    return model


def test_only_lora_slm_lmm_and_sr_weights_are_optimised(options):
    model = build_model(options)
    names = {id(p): n for n, p in model.net_g.named_parameters()}
    optimised = {names[id(p)] for group in model.optimizer_g.param_groups for p in group['params']}
    expected = {n for n in names.values() if not n.startswith('guidance.sfem.') or '.lora_' in n}
    assert optimised == expected
    assert {n.split('.')[1] for n in optimised if n.startswith('guidance.')} == {'sfem', 'slm', 'lmm'}


def test_frozen_weights_never_change(options, clip_weights):
    model = build_model(options)
    before = frozen_weights(model.net_g)
    train(model, range(1, 4))
    model.test()
    after = frozen_weights(model.net_g)
    assert before.keys() == after.keys() and len(before) > 20
    assert all(torch.equal(before[n], after[n]) for n in before)
    loaded = torch.load(clip_weights)
    assert torch.equal(model.net_g.guidance.sfem.visual.conv1.weight, loaded['conv1.weight'])
    q = loaded['transformer.resblocks.0.attn.in_proj_weight'].chunk(3)[0]
    assert torch.equal(model.net_g.guidance.sfem.visual.transformer.resblocks[0].attn.q.weight, q)


def test_ema_is_the_running_average_of_trained_weights_lora_included(options):
    model = build_model(options)
    average = {n: p.detach().clone().double() for n, p in model.net_g.named_parameters()}
    for i in range(1, 6):
        train(model, [i])
        model.test()  # validation in between must leave no trace
        for n, p in model.net_g.named_parameters():
            average[n] = 0.9 * average[n] + 0.1 * p.detach().double()
    ema = dict(model.net_g_ema.named_parameters())
    for n, p in model.net_g.named_parameters():
        torch.testing.assert_close(ema[n].double(), average[n], atol=1e-6, rtol=1e-5)
        assert (ema[n] is p) == (not p.requires_grad)
    moved = [n for n in ema if 'lora_B' in n and not torch.equal(ema[n], torch.zeros_like(ema[n]))]
    assert len(moved) == 10  # q, k, v, c_fc, c_proj of two blocks


def test_a_checkpoint_leaves_out_the_tower_and_brings_everything_back(options, trained, tmp_path):
    trained.save(0, 3)
    content = torch.load(tmp_path / 'models' / 'net_g_3.pth')
    assert set(content) == {'params', 'params_ema', 'iterations'} and content['iterations'] == 3
    frozen = set(frozen_weights(trained.net_g))
    for key in ('params', 'params_ema'):
        assert not frozen & set(content[key])

    options['path'].update(pretrain_network_g=str(tmp_path / 'models' / 'net_g_3.pth'), param_key_g='params')
    again = build_model(options)
    lr = batch(9)['lq']
    for net in ('net_g', 'net_g_ema'):
        with torch.no_grad():
            assert torch.equal(getattr(again, net).eval()(lr), getattr(trained, net).eval()(lr))
    assert not torch.equal(again.net_g.backbone.conv_first.weight, again.net_g_ema.backbone.conv_first.weight)


def test_a_checkpoint_is_the_same_in_train_and_eval_mode(trained, tmp_path):
    trained.net_g.train()
    trained.save(0, 1)
    trained.net_g.eval()
    trained.save(0, 2)
    one, two = (torch.load(tmp_path / 'models' / f'net_g_{i}.pth') for i in (1, 2))
    assert all(torch.equal(one[k][n], two[k][n]) for k in ('params', 'params_ema') for n in one[k])


def test_a_random_tower_is_stored_once(options, tmp_path):
    options['network_g']['semantic']['encoder']['pretrained'] = None
    model = build_model(options)
    train(model, [1])
    model.save(0, 1)
    content = torch.load(tmp_path / 'models' / 'net_g_1.pth')
    for name in frozen_weights(model.net_g):
        assert content['params'][name].data_ptr() == content['params_ema'][name].data_ptr()
    options['path'].update(pretrain_network_g=str(tmp_path / 'models' / 'net_g_1.pth'))
    again = build_model(options)
    with torch.no_grad():
        assert torch.equal(again.net_g.eval()(batch(1)['lq']), model.net_g.eval()(batch(1)['lq']))


def test_another_tower_is_refused_by_name_and_checksum(options, trained, tmp_path, clip_weights):
    trained.save(0, 3)
    other = {n: w + 0.01 for n, w in torch.load(clip_weights).items()}
    torch.save(other, tmp_path / 'other.pt')
    options['network_g']['semantic']['encoder']['pretrained'] = str(tmp_path / 'other.pt')
    options['path'].update(pretrain_network_g=str(tmp_path / 'models' / 'net_g_3.pth'))
    expected = r'(?s)net_g_3\.pth.*trained with the CLIP image tower .*small\.pt.*sha256'
    with pytest.raises(ValueError, match=expected) as error:
        build_model(options)
    assert trained.net_g.guidance.sfem.source['sha256'][:12] in str(error.value)


def test_resume_on_cpu_continues_the_same_run(options):
    straight = build_model(copy.deepcopy(options))
    train(straight, range(1, 4))
    straight.save(0, 3)
    train(straight, range(4, 7))

    options['auto_resume'] = True
    state = load_resume_state(options)
    assert options['path']['pretrain_network_g'].endswith('net_g_3.pth')
    resumed = build_model(options)
    resumed.resume_training(state)
    train(resumed, range(4, 7))
    for a, b in ((resumed.net_g, straight.net_g), (resumed.net_g_ema, straight.net_g_ema)):
        for (name, p), q in zip(a.named_parameters(), b.parameters()):
            assert torch.equal(p, q), name
    assert resumed.get_current_learning_rate() == straight.get_current_learning_rate() == [5e-4]


def test_plain_networks_train_with_the_same_model(options, tmp_path):
    options['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2,
                            'upscale': 4}
    model = build_model(options)
    before = model.net_g_ema.conv_first.weight.clone()
    train(model, range(1, 3))
    assert not torch.equal(before, model.net_g_ema.conv_first.weight)
    model.save(0, -1)
    assert set(torch.load(tmp_path / 'models' / 'net_g_latest.pth')) == {'params', 'params_ema', 'iterations'}


@pytest.fixture
def validated(options, trained):
    """Results of testing the model on the pairs, and the file they were saved in."""
    trained.is_train = trained.opt['is_train'] = False
    loader = build_dataloader(build_dataset(options['datasets']['val']), options['datasets']['val'])
    trained.validation(loader, 'run', None, True)
    return trained, json.loads(open(trained.opt['path']['results_root'] + '/scores_pairs.json').read())


def test_validation_reports_each_class_and_the_average(validated, pairs, tmp_path):
    import cv2
    from basicsr.metrics import calculate_psnr
    model, content = validated
    assert set(content['classes']) == {'meadow', 'woodland'}
    for name, values in content['images'].items():
        sr = cv2.imread(str(tmp_path / 'visualization' / 'pairs' / f'{name}_run.png'))
        hr = cv2.imread(str(pairs / 'HR' / f'{name}.png'))
        assert values['psnr'] == pytest.approx(calculate_psnr(sr, hr, 4, test_y_channel=True))
    meadow = [content['images'][n]['psnr'] for n in ('meadow00', 'meadow01')]
    assert content['classes']['meadow']['psnr'] == pytest.approx(sum(meadow) / 2)
    average = sum(v['psnr'] for v in content['images'].values()) / 4
    assert content['average']['psnr'] == model.metric_results['psnr'] == pytest.approx(average)
    assert content['protocol']['metrics']['psnr']['test_y_channel'] is True
    assert content['protocol']['network'] == 'SeGSR_EDSR'


def test_validation_without_ground_truth_has_no_reference_metrics_only(options, trained, pairs, tmp_path):
    data = {'name': 'lr', 'type': 'SingleImageDataset', 'phase': 'val', 'dataroot_lq': str(pairs / 'LR'), 'scale': 4,
            'io_backend': {'type': 'disk'}}
    trained.validation(build_dataloader(build_dataset(data), data), 5, None, True)
    assert trained.metric_results == {}
    assert (tmp_path / 'visualization' / 'meadow00' / 'meadow00_5.png').is_file()

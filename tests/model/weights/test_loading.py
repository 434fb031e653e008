"""Warm start from stock checkpoints, and what is said about the weights."""

import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model

from segsr_model.files import write_atomically
from segsr_model.weights.loading import load_weights, network_from_options
from segsr_model.weights.reading import read_weights

STOCK = {
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_block': 4},
    'RCAN': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_group': 2, 'num_block': 2, 'squeeze_factor': 4},
    'HAT': {'embed_dim': 24, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'img_size': 8,
            'squeeze_factor': 4},
    'SRFormer': {'embed_dim': 24, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'img_size': 8},
    'SwinIR': {'embed_dim': 24, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'img_size': 8,
               'upsampler': 'pixelshuffle'},
    'TTST': {'embed_dim': 24, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'img_size': 8},
}


@pytest.mark.parametrize('name', STOCK)
@pytest.mark.parametrize('layout', ['params', 'params_ema', 'bare', 'module.'])
def test_a_stock_checkpoint_warm_starts_the_backbone(name, layout, network, tmp_path):
    stock = build_network({'type': name, 'upscale': 4, **STOCK[name]})
    weights = stock.state_dict()
    if layout == 'module.':
        weights = {f'module.{k}': v for k, v in weights.items()}
    path = tmp_path / 'stock.pth'
    torch.save({layout: weights} if layout.startswith('params') else weights, path)
    net = build_network({'type': f'SeGSR_{name}', 'upscale': 4, 'num_units': 2, 'semantic': network['semantic'],
                         **STOCK[name]})
    before = copy.deepcopy({k: v for k, v in net.state_dict().items() if k.startswith('guidance.')})
    report = load_weights(net, read_weights(path)[0])
    assert report.warm_start and not report.unused and not report.reshaped
    assert set(report.loaded) == {f'backbone.{k}' for k in stock.state_dict()}
    assert {k.split('.')[0] for k in report.new} == {'guidance'}
    for k, v in stock.state_dict().items():
        assert torch.equal(net.backbone.state_dict()[k], v)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize('dropped', [True, False])
def test_what_a_network_computes_by_itself_need_not_be_in_the_file_nor_fit(network, dropped):
    """SRFormer's masks, whose size follows from ``img_size``."""
    stock = build_network({'type': 'SRFormer', 'upscale': 4, **STOCK['SRFormer'], 'img_size': 32})
    weights = {k: v for k, v in stock.state_dict().items() if not (dropped and k.endswith('attn_mask'))}
    net = build_network({'type': 'SeGSR_SRFormer', 'upscale': 4, 'num_units': 2, 'semantic': network['semantic'],
                         **STOCK['SRFormer']})
    for target in (net, net.backbone):
        report = load_weights(target, weights)
        assert not report.unused and not report.reshaped and len(report.loaded) == len(weights)
        assert not [name for name in report.new if not name.startswith('guidance.')]
    assert torch.equal(net.backbone.conv_last.weight, stock.conv_last.weight)


def test_the_warm_start_is_logged_and_reaches_the_ema_network(options, tmp_path, log):
    stock = build_network({'type': 'EDSR', 'upscale': 4, **STOCK['EDSR']})
    torch.save({'params': stock.state_dict()}, tmp_path / 'edsr.pth')
    options['path']['pretrain_network_g'] = str(tmp_path / 'edsr.pth')
    model = build_model(options)
    assert torch.equal(model.net_g.backbone.conv_first.weight, stock.conv_first.weight)
    for p, q in zip(model.net_g.parameters(), model.net_g_ema.parameters()):
        assert torch.equal(p, q)
    message = next(r.getMessage() for r in log.records if 'Warm start' in r.getMessage())
    assert 'edsr.pth' in message and f'{len(stock.state_dict())} loaded' in message and 'new' in message


def test_a_misfit_is_an_error_unless_strict_load_is_off(network):
    stock = build_network({'type': 'EDSR', 'upscale': 2, **STOCK['EDSR'], 'num_block': 5})
    net = build_network(network)
    with pytest.raises(ValueError, match=r'backbone\.upsample\.2\.weight is not in the file') as error:
        load_weights(net, stock.state_dict())
    assert 'backbone.body.4.conv1.weight is not in the network' in str(error.value)
    assert 'strict_load_g: false' in str(error.value)
    report = load_weights(net, stock.state_dict(), strict=False)
    assert 'backbone.conv_first.weight' in report.loaded
    assert 'backbone.body.4.conv1.weight' in report.unused
    assert 'backbone.upsample.2.weight' in report.new
    assert torch.equal(net.backbone.conv_first.weight, stock.conv_first.weight)


def test_another_tower_is_a_warning_with_strict_load_off(network, clip_weights, tmp_path, log):
    weights = build_network(network).state_dict()
    torch.save({k: v + 0.01 for k, v in torch.load(clip_weights).items()}, tmp_path / 'other.pt')
    network['semantic']['encoder']['pretrained'] = str(tmp_path / 'other.pt')
    net = build_network(network)
    before = net.guidance.sfem.visual.conv1.weight.clone()
    load_weights(net, weights, strict=False)
    assert any(r.levelname == 'WARNING' and 'was trained with the CLIP image tower' in r.getMessage()
               for r in log.records)
    assert torch.equal(net.guidance.sfem.visual.conv1.weight, before)
    assert torch.equal(net.backbone.conv_last.weight, weights['backbone.conv_last.weight'])


def test_weights_without_the_record_of_their_tower_are_refused(network):
    """Nothing would tell whether they were trained with the tower at hand."""
    weights = build_network(network).state_dict()
    del weights['guidance.sfem._extra_state']
    with pytest.raises(ValueError, match=r'guidance\.sfem\._extra_state is not in the file'):
        load_weights(build_network(network), weights)
    load_weights(build_network(network), weights, strict=False)


def test_shapes_that_differ_are_named(network):
    stock = build_network({'type': 'EDSR', 'upscale': 4, **STOCK['EDSR'], 'num_feat': 8})
    with pytest.raises(ValueError, match=r'conv_first\.weight is \(8, 3, 3, 3\) in the file and \(16, 3, 3, 3\)'):
        load_weights(build_network(network), stock.state_dict())
    with pytest.raises(ValueError, match='do not fit SeGSR_EDSR'):
        load_weights(build_network(network), {'something': torch.zeros(1)}, strict=False)


def test_files_that_hold_no_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no weights file '.*none\.pth'"):
        read_weights(tmp_path / 'none.pth')
    (tmp_path / 'damaged.pth').write_bytes(b'PK\3\4 not a checkpoint')
    with pytest.raises(ValueError, match=r"cannot read weights from '.*damaged\.pth'"):
        read_weights(tmp_path / 'damaged.pth')
    torch.save({'iter': 3}, tmp_path / 'state.pth')
    with pytest.raises(ValueError, match=r"state\.pth' holds no network's weights; its keys are iter"):
        read_weights(tmp_path / 'state.pth')


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file.pth'
    path.write_text('old')

    def fail(temporary):
        open(temporary, 'w').close()
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_atomically(path, fail)
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_network_comes_from_an_option_file(network, tmp_path):
    import yaml
    net = build_network(network)
    torch.save({'params_ema': net.state_dict()}, tmp_path / 'net.pth')
    (tmp_path / 'net.yml').write_text(yaml.safe_dump(
        {'network_g': network, 'path': {'pretrain_network_g': str(tmp_path / 'net.pth'), 'param_key_g': 'params_ema'}}))
    again = network_from_options(str(tmp_path / 'net.yml'))
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    for text, message in (('a: [', 'not a YAML option file'), ('- 1', 'has no options'),
                          ('name: x', 'has no network_g'),
                          ('network_g: {type: EDRS}', "BasicSR has no network 'EDRS'"),
                          ('network_g: {type: EDSR, num_feats: 3}', "bad.yml': .*num_feats")):
        (tmp_path / 'bad.yml').write_text(text)
        with pytest.raises(ValueError, match=message):
            network_from_options(str(tmp_path / 'bad.yml'))

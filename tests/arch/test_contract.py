"""What every network promises: those of segsr_arch, and BasicSR's that the option files name. A line each."""

import io

import pytest
import torch
import yaml
from basicsr.archs import build_network

import segsr_arch
from segsr_model.testing.inference import super_resolve
from tests import ROOT

SWIN = {'img_size': 8, 'embed_dim': 8, 'depths': [2], 'num_heads': [2], 'window_size': 4, 'mlp_ratio': 1,
        'drop_path_rate': 0.0}
HAT = {**SWIN, 'squeeze_factor': 1}
GROUPS = {'depths': [1, 1], 'num_heads': [2, 2]}
RGB = {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8}
EDSR = {**RGB, 'num_block': 2}
RCAN = {**RGB, 'num_group': 2, 'num_block': 1, 'squeeze_factor': 1}

# The smallest configuration of each network: its type, and perhaps words for a variant of it. A guided one is cut into
# two units, around a tiny CLIP.
NETWORKS = {
    'Bicubic': {},
    'HAT': HAT,
    'HAT without convolutions': {**HAT, 'resi_connection': 'identity', 'qkv_bias': False, 'ape': True},
    'HAUNet': {'width': 8, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]},
    'MFGHMoE': {**HAT, 'num_feat': 8, 'num_experts': 2},
    'MFGHMoE soft': {**HAT, 'num_feat': 8, 'num_experts': 4, 'soft_routing': True},
    'SPT': {'embed_dim': 16, 'SPTB_num': 1, 'SPAL_num': 1},
    'SRFormer': SWIN,
    'TTST': SWIN,
    'SeGSR_EDSR': EDSR,
    'SeGSR_EDSR add': {**EDSR, 'guidance': 'add'},
    'SeGSR_EDSR feature': {**EDSR, 'guidance': 'feature'},
    'SeGSR_EDSR none': {**EDSR, 'guidance': 'none'},
    'SeGSR_HAT': {**HAT, **GROUPS},
    'SeGSR_RCAN': RCAN,
    'SeGSR_SRFormer': {**SWIN, **GROUPS},
    'SeGSR_SwinIR': {**SWIN, **GROUPS, 'upsampler': 'pixelshuffle'},
    'SeGSR_TTST': {**SWIN, **GROUPS},
    'EDSR': EDSR,
    'MSRResNet': EDSR,
    'RCAN': RCAN,
    'RRDBNet': {**EDSR, 'num_grow_ch': 4},
    'SwinIR': {**SWIN, 'upsampler': 'pixelshuffle'},
}
SCALE_OPTION = {'HAUNet': 'up_scale', 'RRDBNet': 'scale'}  # the others': upscale
SCALES = {'MSRResNet': (2, 3, 4), 'RRDBNet': (2, 4)}  # of BasicSR's that have fewer
SIZES = [(1, 1), (7, 5), (8, 12)]
# Compiling takes a second. Bicubic, whose matrices are made of fractions, has nothing to be trained.
COMPILED = [name for name in NETWORKS if ' ' not in name and name != 'Bicubic']
COMPILED_WITH_BACKWARD = ('HAT',)  # which holds all that has a backward of its own; that takes three


@pytest.fixture(params=NETWORKS)
def network(request, encoder):
    """Makes a network with weights that differ from any initialisation."""
    kind = request.param.split()[0]

    def make(upscale=2):
        options = {'type': kind, SCALE_OPTION.get(kind, 'upscale'): upscale, **NETWORKS[request.param]}
        if kind.startswith('SeGSR_'):
            options |= {'num_units': 2, 'semantic': {'guidance': options.pop('guidance', 'map'), 'encoder': encoder()}}
        net = build_network(options).eval()
        with torch.no_grad():
            for p in net.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn_like(p))
        return net

    make.kind, make.scales = kind, SCALES.get(kind, (2, 3, 4, 8))
    return make


def test_each_network_has_a_line():
    options = [yaml.safe_load(path.read_text(encoding='utf-8')) for path in ROOT.glob('options/base/*.yml')]
    used = {file['network_g']['type'] for file in options if 'type' in file.get('network_g', {})}
    assert {name.split()[0] for name in NETWORKS} >= {*segsr_arch.__all__, *used}


def test_any_size_each_image_for_itself_in_any_layout(network):
    net = network()
    for h, w in SIZES:
        lr = torch.rand(2, 3, h, w)
        with torch.no_grad():
            sr = super_resolve(net, lr)
            assert sr.shape == (2, 3, 2 * h, 2 * w) and sr.isfinite().all()
            one_by_one = torch.cat([super_resolve(net, image[None]) for image in lr])
            channels_last = super_resolve(net, lr.contiguous(memory_format=torch.channels_last))
            if (h, w) == SIZES[-1]:
                assert torch.equal(net(lr), sr)  # a size that needs no padding gets none
        torch.testing.assert_close(one_by_one, sr, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(channels_last, sr, rtol=1e-3, atol=1e-4)


def test_scales(network):
    lr = torch.rand(1, 3, 4, 8)
    for scale in network.scales:
        with torch.no_grad():
            assert super_resolve(network(scale), lr).shape == (1, 3, 4 * scale, 8 * scale)


def test_each_trained_parameter_gets_a_gradient_and_no_other(network):
    net = network().train()
    parameters = dict(net.named_parameters())
    if parameters:
        net(torch.rand(2, 3, 8, 12)).square().mean().backward()
    trained = {name for name, p in parameters.items() if p.requires_grad}
    assert {name for name, p in parameters.items() if p.grad is not None and p.grad.any()} == trained


def test_is_saved_and_loaded(network):
    net, other, file, lr = network(), network(), io.BytesIO(), torch.rand(1, 3, 8, 8)
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(other(lr), net(lr))


def test_nothing_is_left_over_from_one_call_for_the_next(network):
    net, lr = network(), torch.rand(1, 3, 8, 12)
    with torch.inference_mode():
        first = net(lr)
        net(torch.rand(2, 3, 12, 8))
        assert torch.equal(net(lr), first)
    sr = net(lr)
    torch.testing.assert_close(sr.detach(), first)
    if sr.requires_grad:
        sr.mean().backward()


@pytest.mark.parametrize('network', COMPILED, indirect=True)
def test_is_compiled_without_a_break_in_its_graph(network):
    net, lr = network(), torch.rand(1, 3, 8, 8)
    torch._dynamo.reset()
    with torch.set_grad_enabled(network.kind in COMPILED_WITH_BACKWARD):
        sr = torch.compile(net, fullgraph=True, backend='eager')(lr)
        torch.testing.assert_close(sr, net(lr))

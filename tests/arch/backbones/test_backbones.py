"""Backbones: the stock networks, cut into units."""

import itertools

import basicsr.archs.edsr_arch
import basicsr.archs.rcan_arch
import basicsr.archs.swinir_arch
import pytest
import torch

import segsr_arch
from segsr_arch.backbones import (
    EDSRBackbone,
    HATBackbone,
    RCANBackbone,
    SRFormerBackbone,
    SwinIRBackbone,
    TTSTBackbone,
)
from segsr_arch.backbones.units import split_units
from segsr_arch.options import OptionError
from segsr_model.testing.inference import super_resolve
from tests.arch.baselines.golden import golden as golden_vectors

STOCK = {'SeGSR_HAT': segsr_arch.HAT, 'SeGSR_EDSR': basicsr.archs.edsr_arch.EDSR,
         'SeGSR_RCAN': basicsr.archs.rcan_arch.RCAN, 'SeGSR_SRFormer': segsr_arch.SRFormer,
         'SeGSR_SwinIR': basicsr.archs.swinir_arch.SwinIR, 'SeGSR_TTST': segsr_arch.TTST}
ADAPTERS = {'SeGSR_HAT': HATBackbone, 'SeGSR_EDSR': EDSRBackbone, 'SeGSR_RCAN': RCANBackbone,
            'SeGSR_SRFormer': SRFormerBackbone, 'SeGSR_SwinIR': SwinIRBackbone, 'SeGSR_TTST': TTSTBackbone}
OTHERS = ['SeGSR_SRFormer', 'SeGSR_SwinIR', 'SeGSR_TTST']  # that the paper does not guide
# Table VII: the paper's blocks or groups, and the numbers of units they are cut into
TABLE_VII = [('SeGSR_EDSR', {'num_block': 32}, 'residual blocks', 32, [2, 4, 8]),
             ('SeGSR_RCAN', {'num_group': 10}, 'residual groups', 10, [2, 5, 10]),
             ('SeGSR_HAT', {'depths': [1] * 6, 'num_heads': [2] * 6}, 'groups', 6, [2, 3, 6])]
GROUPS = [(name, {'depths': [1] * 4, 'num_heads': [2] * 4}, 'groups', 4, [2, 4]) for name in OTHERS]


@pytest.fixture(params=list(STOCK))
def name(request):
    return request.param


def stock_network(name, **options):
    """With weights that differ from any initialisation."""
    net = STOCK[name](**options).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(('name', 'upscale', 'num_units'), [
    *itertools.product(('SeGSR_HAT', 'SeGSR_EDSR', 'SeGSR_RCAN'), (2, 3, 4, 8), (1, 2)),
    *((name, *case) for name in OTHERS for case in ((2, 1), (3, 2), (4, 2)))])
def test_without_guidance_it_is_the_stock_network(options, backbone_options, name, upscale, num_units):
    """A13: with the same weights, to the last bit; where the stock network must be padded, with its own padding."""
    stock = stock_network(name, **backbone_options(name, upscale=upscale))
    net = getattr(segsr_arch, name)(
        **options(name, guidance='none', upscale=upscale, num_units=num_units)).eval()
    net.backbone.load_state_dict(stock.state_dict())
    for size in [(8, 12), (7, 5), (1, 1)]:
        lr = torch.rand(2, 3, *size)
        with torch.no_grad():
            assert torch.equal(net(lr), super_resolve(stock, lr))


def test_adapter_adds_nothing_to_the_state_dict(backbone_options, name):
    stock = STOCK[name](**backbone_options(name, upscale=3))
    adapter = ADAPTERS[name](num_units=2, **backbone_options(name, upscale=3))
    assert isinstance(adapter, STOCK[name])
    assert {k: v.shape for k, v in adapter.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}


@pytest.mark.parametrize('name, changes, blocks, count, choices', TABLE_VII + GROUPS)
def test_every_number_of_units_of_table_vii(backbone_options, name, changes, blocks, count, choices):
    """A17: each a run of blocks; in a row they equal the stock network."""
    stock = stock_network(name, **backbone_options(name, upscale=2, **changes))
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = stock(lr)
        for num_units in choices:
            net = ADAPTERS[name](num_units=num_units, **backbone_options(name, upscale=2, **changes)).eval()
            net.load_state_dict(stock.state_dict())
            assert net.num_units == num_units
            assert [len(unit) for unit in net.units] == [count // num_units] * num_units
            feat = skip = net.head(lr)
            for i in range(num_units):
                feat = net.unit(i, feat)
                assert feat.shape == (1, net.num_feat, 8, 8)
            assert torch.equal(net.tail(feat, skip), expected)


@pytest.mark.parametrize('name, changes, blocks, count, choices', TABLE_VII + GROUPS)
def test_every_row_of_table_vii_is_guided(build, name, changes, blocks, count, choices):
    """A17: from options alone, with a map for each unit."""
    lr = torch.rand(1, 3, 8, 8)
    for num_units in choices:
        net = build(name, upscale=2, num_units=num_units, **changes)
        assert len(net.guidance.lmm) == num_units
        with torch.no_grad():
            assert net(lr).shape == (1, 3, 16, 16)
            assert net.guidance_maps(lr).shape == (1, num_units, 8, 8)


@pytest.mark.parametrize('name, changes, blocks, count, choices', TABLE_VII + GROUPS)
def test_units_that_do_not_divide(options, name, changes, blocks, count, choices):
    with pytest.raises(OptionError) as caught:
        getattr(segsr_arch, name)(**options(name, guidance='none', num_units=7, **changes))
    message = str(caught.value)
    for part in ['network_g:num_units', '7', str(count), blocks, *map(str, choices)]:
        assert part in message, message


@pytest.mark.parametrize('num_units', [0, -1, 33, 2.0, '2', None, True])
def test_units_that_are_no_number_of_units(num_units):
    with pytest.raises(OptionError, match='num_units'):
        split_units(32, num_units, 'blocks')


@pytest.mark.parametrize('count, num_units, expected', [(6, 3, [[0, 1], [2, 3], [4, 5]]), (4, 1, [[0, 1, 2, 3]]),
                                                        (3, 3, [[0], [1], [2]])])
def test_split(count, num_units, expected):
    assert [list(unit) for unit in split_units(count, num_units, 'blocks')] == expected


def test_what_a_backbone_says_of_itself(backbone_options, name):
    net = ADAPTERS[name](num_units=2, **backbone_options(name, upscale=8))
    assert net.upscale == 8
    windowed = name not in ('SeGSR_EDSR', 'SeGSR_RCAN')
    assert net.num_feat == (12 if windowed else 8)
    assert net.multiple_of == (4 if windowed else 1)


def test_features_between_units_are_those_of_the_official_groups(golden):
    """Modulation acts on the output of each RHAG, before HAT's last norm."""
    case = golden['hat_x2_w4_resi_identity']
    net = HATBackbone(num_units=3, **case['config']).eval()
    net.load_state_dict(case['state_dict'])
    with torch.no_grad():
        feat = skip = net.head(case['inputs'][0])
        for i, expected in enumerate(case['unit_outputs_first_input']):
            feat = net.unit(i, feat)
            torch.testing.assert_close(feat.flatten(2).transpose(1, 2), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(net.tail(feat, skip), case['outputs'][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(('name', 'files'), [('SeGSR_SRFormer', 'srformer'), ('SeGSR_TTST', 'ttst')])
def test_features_between_units_are_those_of_the_official_groups_of_hats_kin(name, files):
    case = golden_vectors(files)['cases'][0]
    net = ADAPTERS[name](num_units=2, **case['config']).eval()
    net.load_state_dict(case['state_dict'])
    with torch.no_grad():
        feat = skip = net.head(case['inputs'][0])
        for i in range(2):
            feat = net.unit(i, feat)
            expected = case['intermediates'][0][f'layers.{i}']
            torch.testing.assert_close(feat.flatten(2).transpose(1, 2), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(net.tail(feat, skip), case['outputs'][0], rtol=0, atol=1e-5)


def test_the_lightweight_swinir_is_guided_and_others_are_refused(backbone_options):
    options = backbone_options('SeGSR_SwinIR', upscale=3, upsampler='pixelshuffledirect', ape=True)
    stock, lr = stock_network('SeGSR_SwinIR', **options), torch.rand(1, 3, 8, 8)
    net = SwinIRBackbone(num_units=1, **options).eval()
    net.load_state_dict(stock.state_dict())
    with torch.no_grad():
        feat = net.head(lr)
        assert torch.equal(net.tail(net.unit(0, feat), feat), stock(lr))
    with pytest.raises(OptionError, match=r"upsampler: is 'nearest\+conv', must be pixelshuffle or pixelshuffledirect"):
        SwinIRBackbone(num_units=1, **{**options, 'upsampler': 'nearest+conv'})

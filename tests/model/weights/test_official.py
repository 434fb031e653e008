"""Checkpoints of others: the network is found from the weights, and gives what theirs gives."""

import sys

import pytest
import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.RCAN import RCAN as AuthorsRCAN  # noqa: N811
from torch import nn

from segsr_model.weights.building import networks
from segsr_model.weights.official import Foreign, find_network

CONVOLUTIONAL = {
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 3, 'upscale': 4},
    'RCAN': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 2, 'num_block': 3, 'squeeze_factor': 4,
             'upscale': 3},
    'MSRResNet': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2, 'upscale': 3},
    'RRDBNet': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4, 'scale': 2}}
WINDOWS = {'embed_dim': 12, 'depths': [2, 2], 'num_heads': [2, 2], 'window_size': 4, 'mlp_ratio': 2.0,
           'upsampler': 'pixelshuffle', 'upscale': 2}
ALL = {**CONVOLUTIONAL, 'SwinIR': {**WINDOWS, 'img_size': 16},
       'HAT': {**WINDOWS, 'compress_ratio': 3, 'squeeze_factor': 4}}


def moved(net):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize('name', ALL)
def test_a_network_of_the_tables_is_found(name):
    net = moved(networks()[name](**ALL[name]))
    again, network_g, _ = find_network(net.state_dict())
    assert type(again) is type(net) and not again.training
    assert {key: network_g[key] for key in ALL[name]} == ALL[name] and network_g['type'] == name
    lr = torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        assert torch.equal(again(lr), net(lr))


@pytest.mark.parametrize(('num_feat', 'res_scale'), [(8, 1), (256, 0.1)])
def test_edsrs_residual_scaling_goes_by_its_width(num_feat, res_scale):
    """As in the authors' and BasicSR's option files; no weight tells."""
    net = networks()['EDSR'](**{**CONVOLUTIONAL['EDSR'], 'num_feat': num_feat, 'num_block': 1, 'res_scale': res_scale})
    again, network_g, assumed = find_network(net.state_dict())
    assert network_g['res_scale'] == again.body[0].res_scale == res_scale and f'res_scale {res_scale}' in assumed


class Branch(nn.Module):
    """x + body(x) of EDSR's repository."""

    def __init__(self, *body):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x):
        return x + self.body(x)


class AuthorsEDSR(nn.Module):
    """EDSR with the names of the authors' repository, on values up to 255."""

    def __init__(self, c, scale, mean):
        super().__init__()

        def conv(in_c, out_c):
            return nn.Conv2d(in_c, out_c, 3, padding=1)

        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for shift, sign in ((self.sub_mean, -1), (self.add_mean, 1)):
            shift.weight.data, shift.bias.data = torch.eye(3)[..., None, None], sign * 255 * torch.tensor(mean)
        self.head = nn.Sequential(conv(3, c))
        blocks = [Branch(conv(c, c), nn.ReLU(), conv(c, c)) for _ in range(2)]
        self.body = nn.Sequential(*blocks, conv(c, c))
        steps = [(3, 9)] if scale == 3 else [(2, 4)] * (scale // 2)
        up = [layer for s, n in steps for layer in (conv(c, n * c), nn.PixelShuffle(s))]
        self.tail = nn.Sequential(nn.Sequential(*up), conv(c, 3))

    def forward(self, x):
        x = self.head(self.sub_mean(255 * x))
        return self.add_mean(self.tail(x + self.body(x))) / 255


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_edsr_of_its_authors(scale):
    net, lr = AuthorsEDSR(8, scale, (0.4488, 0.4371, 0.4040)).eval(), torch.rand(1, 3, 7, 5)
    again, network_g, _ = find_network(net.state_dict())
    assert network_g['upscale'] == scale
    with torch.no_grad():
        torch.testing.assert_close(again(lr), net(lr), atol=1e-5, rtol=0)


def test_another_mean_is_not_taken_for_div2ks():
    with pytest.raises(ValueError, match="another mean than DIV2K's"):
        find_network(AuthorsEDSR(8, 2, (0.5, 0.5, 0.5)).state_dict())


@pytest.mark.parametrize(('scale', 'norm'), [(4, True), (3, False)])
def test_rcan_of_its_authors(scale, norm):
    net = AuthorsRCAN(scale=scale, n_resgroups=2, n_resblocks=3, n_feats=8, reduction=4, norm=norm).eval()
    again, network_g, _ = find_network(net.state_dict())
    assert network_g['type'] == 'RCAN' and network_g['upscale'] == scale
    lr = torch.rand(1, 3, 7, 5)
    with torch.no_grad():
        torch.testing.assert_close(again(lr), net(lr.clone()), atol=1e-5, rtol=0)


def test_a_network_that_we_have_not_is_spandrels():
    net, lr = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4).eval(), torch.rand(2, 3, 7, 5)
    again, network_g, assumed = find_network(net.state_dict())
    assert type(again) is Foreign and network_g is None and again.upscale == 4 and 'Compact of spandrel' in assumed
    with torch.no_grad():
        torch.testing.assert_close(again(lr), net(lr).clamp(0, 1))
        again(lr).add_(1)  # the output is one's own


def test_the_input_is_left_as_it_is():
    """Some of spandrel's networks work in it."""
    net = AuthorsRCAN(scale=1, n_resgroups=1, n_resblocks=1, n_feats=8, reduction=4, unshuffle_mod=True)
    lr = torch.rand(1, 3, 8, 8)
    before = lr.clone()

    class Descriptor:
        model, scale, input_channels = net, 1, 3

        def __call__(self, x):
            with torch.inference_mode():
                return net(x)

    Foreign(Descriptor())(lr)
    assert torch.equal(lr, before)


@pytest.mark.parametrize(('weights', 'message'), [
    ({'a.weight': torch.zeros(3)}, r'its keys are those of no known network \(a.weight, ...\)'),
    ({'body.0.conv1.weight': torch.zeros(3)}, 'are not those of one network'),
    ({'conv_first.weight': torch.zeros(3), 'conv_last.weight': torch.zeros(3), 'body.0.conv1.weight': torch.zeros(3)},
     'are not those of one network')])
def test_weights_of_no_network(weights, message):
    with pytest.raises(ValueError, match=message):
        find_network(weights)


def test_a_damaged_hat_is_one_line():
    weights = networks()['HAT'](**ALL['HAT']).state_dict()
    del weights['relative_position_index_OCA']
    with pytest.raises(ValueError, match='^spandrel cannot build its network: [^\n]+$'):
        find_network(weights)


def test_a_network_that_does_not_enlarge():
    net = networks()['SwinIR'](**{**WINDOWS, 'upscale': 1, 'upsampler': ''})
    with pytest.raises(ValueError, match='it is SwinIR for Restoration, which does not enlarge'):
        find_network(net.state_dict())


def test_without_spandrel_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, 'spandrel', None)
    find_network(networks()['EDSR'](**CONVOLUTIONAL['EDSR']).state_dict())  # which needs none
    with pytest.raises(ValueError, match=r"by spandrel: pip install 'segsr\[spandrel\]'"):
        find_network(networks()['SwinIR'](**WINDOWS).state_dict())

"""ONNX at any height and width: what onnxruntime gives is what PyTorch gives, or nothing is written."""

import os
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from segsr_arch.layers.padding import pad_to_multiple
from segsr_model.weights import onnx_file
from segsr_model.weights.building import networks, scale_of
from segsr_model.weights.onnx_file import write_onnx
from segsr_model.weights.release import KEY, Release
from tests.conftest import SMALL

HAT = {**SMALL['SeGSR_HAT'], 'depths': [2], 'num_heads': [2], 'embed_dim': 8, 'drop_path_rate': 0.9}
UNITS = {'SeGSR_HAT': 1, 'SeGSR_EDSR': 2, 'SeGSR_RCAN': 2}


def session_of(path):
    """What runs an ONNX file. onnxruntime is imported after `onnx_file`, which lets it report nothing."""
    import onnxruntime
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def written(name, network, folder):
    """The network, and what runs its ONNX file."""
    net = networks()[name](**network).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    path = folder / 'net.onnx'
    write_onnx(path, net, Release(network_g={'type': name, **network}, scale=scale_of(net, network)))
    assert not any(module.training for module in net.modules())
    return net, session_of(path)


@pytest.mark.parametrize('size', [(1, 1), (3, 17)])
def test_plain_networks_at_any_size(size, tmp_path):
    for name, network in (('EDSR', SMALL['SeGSR_EDSR']), ('RCAN', SMALL['SeGSR_RCAN'])):
        net, session = written(name, {**network, 'upscale': 3}, tmp_path)
        lr = torch.rand(2, 3, *size)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {'lr': lr.numpy()})[0], net(lr), atol=1e-5)


def test_hat_at_any_size(tmp_path):
    """Smaller than a window, of one row of windows or more, and not of whole windows."""
    net, session = written('HAT', {**HAT, 'upscale': 2}, tmp_path)
    with torch.no_grad():
        for size in ((1, 1), (4, 4), (4, 11), (13, 3), (18, 25)):
            lr = torch.rand(2, 3, *size)
            np.testing.assert_allclose(session.run(None, {'lr': lr.numpy()})[0], net(lr), atol=1e-5)


@pytest.mark.parametrize('name', UNITS)
def test_guidance_is_an_input(name, encoder, tmp_path):
    """The file has none of CLIP, and says what it is."""
    k = UNITS[name]
    network = {**(HAT if name == 'SeGSR_HAT' else SMALL[name]), 'upscale': 4, 'num_units': k,
               'semantic': {'encoder': encoder()}}
    net, session = written(name, network, tmp_path)
    shapes = {x.name: x.shape for x in session.get_inputs()}
    assert shapes == {'lr': ['batch', 3, 'height', 'width'], 'guidance': ['batch', k, 'height', 'width']}
    names = {weight.name for weight in onnx.load(tmp_path / 'net.onnx').graph.initializer}
    assert not any('sfem' in each or 'slm' in each for each in names)
    assert '"scale": 4' in session.get_modelmeta().custom_metadata_map[KEY]
    with torch.no_grad():
        for size in ((2, 9, 14), (1, 5, 3)):
            lr, maps = torch.rand(size[0], 3, *size[1:]), torch.rand(size[0], k, *size[1:]) * 2 - 1
            out = session.run(None, {'lr': lr.numpy(), 'guidance': maps.numpy()})[0]
            np.testing.assert_allclose(out, net(lr, maps), atol=1e-4)
            assert not np.allclose(out, net(lr, -maps), atol=1e-3)


@pytest.mark.parametrize('multiple', [4, 7])
@pytest.mark.parametrize('size', [(1, 1), (2, 9), (8, 28)])
def test_it_is_extended_as_networks_do(multiple, size):
    graph = onnx_file._AnySize(nn.Identity(), 1)
    graph.multiple = multiple
    x = torch.rand(1, 2, *size)
    assert torch.equal(graph._extend(graph._extend(x, -2), -1), pad_to_multiple(x, multiple))


class Sized(nn.Module):
    """A network that a trace fixes to one size."""

    def forward(self, lr):
        return lr + float(lr.shape[-1])


@pytest.mark.parametrize(('name', 'network', 'message'), [
    ('Bicubic', {'upscale': 4}, 'Bicubic cannot be written as ONNX with dynamic height and width'),
    ('RRDBNet', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2, 'scale': 2},
     'RRDBNet cannot be written'),
    ('Sized', {}, 'at 10 x 5 pixels it differs by')])
def test_what_would_be_wrong_is_not_written(name, network, message, tmp_path, monkeypatch, capfd):
    net = Sized() if name == 'Sized' else networks()[name](**network).eval()
    found = Release(network_g={'type': name, **network}, scale=network.get('scale', 1))
    with pytest.raises(ValueError, match=message) as caught:
        write_onnx(tmp_path / 'net.onnx', net, found)
    assert '\n' not in str(caught.value) and not any(tmp_path.iterdir()) and capfd.readouterr().out == ''


@pytest.mark.parametrize('guidance', ['add', 'feature'])
def test_guidance_by_features_has_no_onnx_form(guidance, network, tmp_path):
    network['semantic']['guidance'] = guidance
    net = networks()[network.pop('type')](**network)
    with pytest.raises(ValueError, match='with guidance: none or map it has'):
        write_onnx(tmp_path / 'net.onnx', net, Release(network_g=network, scale=4))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match=r"ONNX needs the package onnxruntime: pip install 'segsr\[onnx\]'"):
        write_onnx(tmp_path / 'net.onnx', Sized(), Release(network_g={}, scale=1))


def test_nothing_is_reported_to_onnxruntimes_makers():
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'

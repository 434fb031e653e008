"""``segsr export``: a file that needs no CLIP weights, and never one that was there before."""

import pytest
import torch
import yaml
from basicsr.archs import build_network

from segsr_model.cli import main
from segsr_model.weights.loading import load_weights
from segsr_model.weights.release import load_release
from tests.model.weights.test_onnx_file import session_of


@pytest.fixture
def trained(network, tmp_path):
    """An option file with a checkpoint, and the network."""
    net = build_network(network).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
    torch.save({'params_ema': net.state_dict()}, tmp_path / 'net.pth')
    file = tmp_path / 'net.yml'
    file.write_text(yaml.safe_dump({'network_g': network, 'path': {
        'pretrain_network_g': str(tmp_path / 'net.pth'), 'param_key_g': 'params_ema'}}))
    return file, net


def test_the_file_is_enough_for_a_network_with_a_random_tower(trained, network, tmp_path):
    file, net = trained
    assert main(['export', '-opt', str(file), '--out', str(tmp_path / 'release.pth')]) == 0
    network['semantic']['encoder']['pretrained'] = None
    other = build_network(network).eval()
    load_weights(other, torch.load(tmp_path / 'release.pth')['params'])
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.equal(other(lr), net(lr))


@pytest.mark.parametrize(('out', 'message'), [
    ('net.yml', 'exists already'), ('net.pth', 'exists already'), ('.', 'exists already'),
    ('release.zip', 'must end in .safetensors, .onnx, .pth'), ('net.yml/release.pth', 'cannot write')])
def test_nothing_is_overwritten(trained, out, message, tmp_path, capsys):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(['export', '-opt', str(trained[0]), '--out', str(tmp_path / out)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_random_weights_are_not_released(network, tmp_path, capsys):
    (tmp_path / 'net.yml').write_text(yaml.safe_dump({'network_g': network}))
    assert main(['export', '-opt', str(tmp_path / 'net.yml'), '--out', str(tmp_path / 'release.pth')]) == 2
    assert 'names no weights: give --checkpoint' in capsys.readouterr().err
    assert not (tmp_path / 'release.pth').exists()


def test_a_checkpoint_of_another_network_is_one_line(trained, network, tmp_path, capsys):
    network['semantic']['encoder']['lora_rank'] = 2
    (tmp_path / 'other.yml').write_text(yaml.safe_dump({'network_g': network}))
    assert main(['export', '-opt', str(tmp_path / 'other.yml'), '--checkpoint', str(tmp_path / 'net.pth'),
                 '--out', str(tmp_path / 'release.pth')]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and 'net.pth' in error[0] and "LoRA's alpha" in error[0]


# files that are more than weights

@pytest.mark.parametrize('name', ['release.safetensors', 'release.onnx', 'release.pth'])
def test_the_ending_says_what_is_written(name, trained, tmp_path):
    file, net = trained
    assert main(['export', '-opt', str(file), '--out', str(tmp_path / name)]) == 0
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        if name.endswith('.safetensors'):
            again, _ = load_release(tmp_path / name)
            assert torch.equal(again(lr), net(lr))
        elif name.endswith('.onnx'):
            session = session_of(tmp_path / name)
            maps = net.guidance_maps(lr)
            out = session.run(None, {'lr': lr.numpy(), 'guidance': maps.numpy()})[0]
            torch.testing.assert_close(torch.from_numpy(out), net(lr), atol=1e-4, rtol=0)
            assert '"halo": null' in session.get_modelmeta().custom_metadata_map['segsr_release']
        else:
            assert set(torch.load(tmp_path / name)['params']) > set(net.state_dict())


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--out', 'a.pth', '--half'], '--half is of no use to a .pth file'),
    (['--out', 'a.onnx', '--merge-lora'], '--merge-lora is of no use to a .onnx file'),
    (['--out', 'a.pth', '--training-patch', '64'], '--training-patch is of no use to a .pth file'),
    (['--out', 'a.safetensors', '--halo', '-3'], 'halo: is -3.0, must be a number of LR pixels'),
    (['--out', 'a.safetensors', '--halo', 'nan'], 'halo: is nan'),
    (['--out', 'a.onnx', '--training-patch', '0'], 'training_patch: is 0'),
    (['--out', 'a.safetensors', '--licence', ''], "licence: is ''"),
    (['--out', 'a.onnx', '--licence', 'a\nb'], 'licence: is'),
    (['--out', 'net.yml/a.safetensors'], 'cannot write')])
def test_options_that_do_not_go_with_the_file(arguments, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    assert main(['export', '-opt', str(trained[0]), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error and sorted(tmp_path.rglob('*')) == before


def test_lora_that_is_not_there_is_not_merged(trained, network, tmp_path, capsys):
    for change in ({'encoder': {**network['semantic']['encoder'], 'lora_rank': 0}}, {'guidance': 'none'}):
        net = build_network({**network, 'semantic': {**network['semantic'], **change}})
        torch.save({'params': net.state_dict()}, tmp_path / 'other.pth')
        (tmp_path / 'other.yml').write_text(yaml.safe_dump(
            {'network_g': {**network, 'semantic': {**network['semantic'], **change}}}))
        assert main(['export', '-opt', str(tmp_path / 'other.yml'), '--checkpoint', str(tmp_path / 'other.pth'),
                     '--out', str(tmp_path / 'a.safetensors'), '--merge-lora']) == 2
        assert '--merge-lora: the network has no LoRA' in capsys.readouterr().err

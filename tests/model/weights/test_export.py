"""``segsr export``: a file that needs no CLIP weights, and never one that was there before."""

import pytest
import torch
import yaml
from basicsr.archs import build_network

from segsr_model.cli import main
from segsr_model.weights.loading import load_weights


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

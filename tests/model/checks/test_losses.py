"""Losses: their options, and VGG's weights, which BasicSR fetches when a training starts."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from basicsr.losses import build_loss

from segsr_model.checks.blocks import Block
from segsr_model.checks.losses import loss_problems

LOSS = {'type': 'PerceptualLoss', 'layer_weights': {'conv1_1': 1, 'relu5_2': 0.1}, 'vgg_type': 'vgg11'}
FILE = 'vgg11-8a719046.pth'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty, on a machine without a network; the working directory is empty, too."""
    def fail(url, *rest, **options):
        raise urllib.error.URLError('no network')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


def weights(kind='vgg11'):
    """Weights of VGG's shapes; each tensor is one number in the file."""
    with torch.device('meta'):
        shapes = {key: value.shape for key, value in torchvision.models.get_model(kind).state_dict().items()}
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


def problems(**changes):
    return list(loss_problems(Block({**LOSS, **changes}, 'train:perceptual_opt')))


def test_weights_that_cannot_be_fetched_are_named_with_option_file_and_folder(hub):
    assert problems() == [
        f"train:perceptual_opt: the weights of vgg11, '{FILE}', are not in '{hub}' and could not be fetched (URLError: "
        f'<urlopen error no network>). Without a network, fetch https://download.pytorch.org/models/{FILE} on another '
        'machine and put it there']


def test_weights_are_fetched_to_where_basicsr_finds_them(hub, monkeypatch):
    def fetch(url, file, sha256, progress):
        assert (url, sha256) == (f'https://download.pytorch.org/models/{FILE}', '8a719046')
        torch.save(weights(), file)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    assert problems() == [] and (hub / FILE).is_file()
    monkeypatch.delattr(torch.hub, 'download_url_to_file')
    assert problems() == []
    with torch.device('meta'), pytest.warns(UserWarning):  # of parameters that are of no use
        build_loss(dict(LOSS))


@pytest.mark.parametrize(('content', 'said'), [
    (lambda: b'half a f', "cannot read the weights of vgg11 from '{}': "),
    (lambda: weights('vgg13'), "'{}' holds the weights of another network than vgg11")])
def test_weights_that_cannot_be_used_are_named(hub, content, said):
    hub.mkdir(parents=True)
    content = content()
    (hub / FILE).write_bytes(content) if isinstance(content, bytes) else torch.save(content, hub / FILE)
    problem, = problems()
    assert problem.startswith('train:perceptual_opt: ' + said.format(hub / FILE))


def test_basicsrs_own_file_is_taken_first_whatever_network_it_is_of(hub):
    own = Path('experiments/pretrained_models/vgg19-dcbb9e9d.pth')
    own.parent.mkdir(parents=True)
    torch.save(weights('vgg19'), own)
    assert problems(vgg_type='vgg19') == []
    assert problems() == [f"train:perceptual_opt: '{own}' holds the weights of another network than vgg11"]


@pytest.mark.parametrize(('change', 'said'), [
    ({'vgg_type': 'vgg15'}, "vgg_type: is 'vgg15', must be one of vgg11, vgg11_bn, vgg13"),
    ({'criterion': 'l2'}, "criterion: is 'l2', must be one of l1, fro"),  # BasicSR has it, but it fails
    ({'layer_weights': {'conv6_1': 1}}, "layer_weights: vgg11 has no layer 'conv6_1'; did you mean 'conv"),
    ({'layer_weights': {'bn1_1': 1}}, "layer_weights: vgg11 has no layer 'bn1_1'; did you mean"),
    ({'layer_weights': {}}, "option 'layer_weights' is missing"),
    ({'layer_weights': ['conv1_1']}, 'layer_weights: must be a block of layers and their weights'),
    ({'layer_weights': {'conv1_1': 'x'}}, "layer_weights:conv1_1: is 'x', must be a number")])
def test_options_of_a_perceptual_loss(hub, change, said):
    hub.mkdir(parents=True)
    torch.save(weights(), hub / FILE)
    problem, = problems(**change)
    assert problem.startswith('train:perceptual_opt') and said in problem

"""A checkpoint and a network meet: their frozen towers must be the same, or there must be an error."""

import copy
import json

import open_clip
import pytest
import torch

from .stored import TOWER, output, saved


@pytest.fixture
def another(tiny_clip, tmp_path):
    """A weights file of the same architecture with other weights."""
    path = tmp_path / 'another.pt'
    torch.save({k: v + 0.01 for k, v in tiny_clip.clip.state_dict().items()}, path)
    return str(path)


def test_another_tower_is_an_error(build, tiny_clip, another):
    net = build('SeGSR_EDSR')
    other = build('SeGSR_EDSR', encoder_options={'pretrained': another})
    with pytest.raises(RuntimeError) as caught:
        other.load_state_dict(saved(net.state_dict()))
    message = str(caught.value)
    for part in (tiny_clip.model, tiny_clip.weights, another, net.guidance.sfem.source['sha256'][:8],
                 other.guidance.sfem.source['sha256'][:8], 'semantic:encoder'):
        assert part in message, message
    assert net.guidance.sfem.source['sha256'] != other.guidance.sfem.source['sha256']


def test_random_tower_in_place_of_a_named_one_is_an_error(build, tiny_clip):
    state = saved(build('SeGSR_EDSR').state_dict())
    with pytest.raises(RuntimeError, match='random weights') as caught:
        build('SeGSR_EDSR', encoder_options={'pretrained': None}).load_state_dict(state)
    assert tiny_clip.weights in str(caught.value)


def test_checkpoint_that_should_hold_its_random_tower_but_does_not_is_an_error(build):
    changes = {'encoder_options': {'pretrained': None}}
    net, other = build('SeGSR_EDSR', **changes), build('SeGSR_EDSR', **changes)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith(TOWER) or '.lora_' in k}
    with pytest.raises(RuntimeError):
        other.load_state_dict(state)


def test_same_tower_from_another_file_is_welcome(build, tiny_clip):
    """The checksum is of names and values: format, precision and place of the file do not matter."""
    net = build('SeGSR_EDSR')
    for name in ('fp16.safetensors', 'tower.pt'):
        other = build('SeGSR_EDSR', encoder_options={'pretrained': tiny_clip.files[name]})
        other.load_state_dict(saved(net.state_dict()))
        assert torch.equal(output(other), output(net))


def test_self_contained_state_dict(build, another):
    """``stores_tower``: everything is there, so that a network with random CLIP weights can take it."""
    net = build('SeGSR_EDSR')
    for sfem in (net.guidance.sfem, copy.deepcopy(net).guidance.sfem):
        sfem.stores_tower = True
    state = saved(net.state_dict())
    assert set(dict(net.named_parameters())) <= set(state)
    for pretrained in (None, another):
        other = build('SeGSR_EDSR', encoder_options={'pretrained': pretrained})
        other.load_state_dict(state)
        assert torch.equal(output(other), output(net))


def test_what_was_loaded_with_its_tower_is_not_saved_under_another_towers_name(build, another):
    """A release file loaded into a network built with other CLIP weights, then saved: the result must still load."""
    net = build('SeGSR_EDSR')
    net.guidance.sfem.stores_tower = True
    middle, last = (build('SeGSR_EDSR', encoder_options={'pretrained': another}) for _ in range(2))
    middle.load_state_dict(saved(net.state_dict()))
    last.load_state_dict(saved(middle.state_dict()))
    assert torch.equal(output(last), output(net))


@pytest.fixture
def wider_heads(tiny_clip, tmp_path):
    """A model config with fewer, wider heads: all shapes stay the same, the function does not."""
    config = copy.deepcopy(tiny_clip.config)
    config['vision_cfg']['head_width'] = 32
    path = tmp_path / 'wider_heads.json'
    path.write_text(json.dumps(config), encoding='utf-8')
    return str(path)


@pytest.mark.parametrize('contained', [False, True])
@pytest.mark.parametrize('trained_with, used_with', [
    ({'pretrained': 'openai.pt'}, {'pretrained': 'open_clip.safetensors'}),
    ({'model': 'tiny-quickgelu.json'}, {}), ({}, {'model': 'wider_heads.json'})])
def test_same_weights_computing_something_else_are_another_tower(build, tiny_clip, wider_heads, contained,
                                                                 trained_with, used_with):
    """The activation (QuickGELU by the file's origin or the model's name) and the heads are in no weight."""
    places = {**tiny_clip.files, 'tiny-quickgelu.json': tiny_clip.model_quickgelu, 'wider_heads.json': wider_heads}
    net, other = (build('SeGSR_EDSR', encoder_options={k: places[v] for k, v in options.items()})
                  for options in (trained_with, used_with))
    net.guidance.sfem.stores_tower = contained
    try:
        other.load_state_dict(saved(net.state_dict()))
    except RuntimeError as error:
        assert 'semantic:encoder' in str(error)
    else:
        torch.testing.assert_close(output(other), output(net), rtol=0, atol=1e-6)


def test_self_contained_weights_keep_openais_activation(build, tiny_clip):
    """A release file of a network trained with OpenAI's weights, used with ``pretrained: ~``: QuickGELU is not lost."""
    net = build('SeGSR_EDSR', encoder_options={'pretrained': tiny_clip.files['openai.pt']})
    net.guidance.sfem.stores_tower = True
    other = build('SeGSR_EDSR', encoder_options={'pretrained': None})
    other.load_state_dict(saved(net.state_dict()))
    torch.testing.assert_close(output(other), output(net), rtol=0, atol=1e-6)


@pytest.mark.parametrize('contained', [False, True])
def test_same_weights_normalised_otherwise_are_another_tower(build, tiny_clip, monkeypatch, contained):
    """A8: a tag may bring a mean and std of its own (ViT-L-14's laion2b does), which a file or ``~`` does not."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-model', {'half': {
        'url': 'site/half.pt', 'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-model', tiny_clip.config)
    monkeypatch.setattr('open_clip.pretrained.download_pretrained', lambda *args, **kwargs: tiny_clip.weights)
    net = build('SeGSR_EDSR', encoder_options={'model': 'tiny-model', 'pretrained': 'half'})
    net.guidance.sfem.stores_tower = contained
    other = build('SeGSR_EDSR', encoder_options={'model': 'tiny-model',
                                                 'pretrained': None if contained else tiny_clip.weights})
    try:
        other.load_state_dict(saved(net.state_dict()))
    except RuntimeError as error:
        assert 'semantic:encoder' in str(error)
    else:
        torch.testing.assert_close(output(other), output(net), rtol=0, atol=1e-6)


def test_another_lora_alpha_is_an_error(build):
    """No weight tells by what the increment is multiplied."""
    net = build('SeGSR_EDSR')
    other = build('SeGSR_EDSR', encoder_options={'lora_alpha': 64})
    with pytest.raises(RuntimeError, match=r"alpha at 4, this network has 64.*semantic:encoder:lora_alpha"):
        other.load_state_dict(saved(net.state_dict()))
    explicit = build('SeGSR_EDSR', encoder_options={'lora_alpha': 4})
    explicit.load_state_dict(saved(net.state_dict()))
    assert torch.equal(output(explicit), output(net))

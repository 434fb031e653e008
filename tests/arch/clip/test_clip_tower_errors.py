"""Every mistake in naming CLIP's weights is an error that names the option, the thing and the remedy."""

import copy
import json

import pytest
import torch

from segsr_arch.clip.clip_tower import load_tower
from segsr_arch.options import EncoderOptions, OptionError

MODEL, PRETRAINED = 'network_g:semantic:encoder:model', 'network_g:semantic:encoder:pretrained'


def error_of(**options):
    with pytest.raises(OptionError) as caught:
        load_tower(EncoderOptions(**options))
    return str(caught.value)


@pytest.fixture
def changed_config(tiny_clip, tmp_path):
    """Writes the tiny model's config with changes to ``vision_cfg``; returns its path."""
    def write(**vision):
        config = copy.deepcopy(tiny_clip.config)
        config['vision_cfg'].update(vision)
        path = tmp_path / 'changed.json'
        path.write_text(json.dumps(config), encoding='utf-8')
        return str(path)
    return write


@pytest.mark.parametrize('model, expected', [
    ('ViT-B16', ["no model 'ViT-B16'", 'near are', 'ViT-B-16', '.json']),
    ('zzzzzz', ["no model 'zzzzzz'", '.json']),
    ('nowhere/tiny.json', ["'nowhere/tiny.json'", 'No such file']),
])
def test_unknown_model(model, expected, no_network):
    message = error_of(model=model, pretrained=None)
    assert all(part in message for part in [MODEL, *expected]), message


@pytest.mark.parametrize('content, expected', [('not json', 'not a JSON file'), ('{"a": 1}', 'vision_cfg'),
                                               ('[1, 2]', 'vision_cfg')])
def test_file_that_is_no_model_config(tmp_path, content, expected):
    path = tmp_path / 'broken.json'
    path.write_text(content, encoding='utf-8')
    message = error_of(model=str(path), pretrained=None)
    assert all(part in message for part in (MODEL, 'broken.json', expected)), message


@pytest.mark.parametrize('vision', [{'layers': [1, 1, 1, 1], 'head_width': 64}, {'pool_type': 'avg'},
                                    {'attentional_pool': True}])
def test_tower_without_class_token_or_projection(changed_config, vision):
    message = error_of(model=changed_config(**vision), pretrained=None)
    assert all(part in message for part in (MODEL, 'changed.json', 'ViT-B-16')), message


@pytest.mark.parametrize('vision', [{'wdith': 32}, {'head_width': 20}, {'pos_embed_type': 'none'}])
def test_config_that_open_clip_cannot_build(changed_config, vision):
    message = error_of(model=changed_config(**vision), pretrained=None)
    assert all(part in message for part in (MODEL, 'cannot build', 'changed.json')), message


@pytest.mark.parametrize('model, pretrained, expected', [
    ('ViT-B-16', 'opneai', ["'opneai'", 'neither a file', 'openai, laion400m_e31']),
    ('ViT-B-16', 'weights/missing.pt', ["'weights/missing.pt'", 'neither a file', 'sought as /']),
    (None, 'openai', ["'openai'", 'neither a file', 'has none']),
    (None, '/nowhere/x.safetensors', ['/nowhere/x.safetensors', 'neither a file']),
])
def test_weights_that_are_neither_file_nor_tag(tiny_clip, no_network, model, pretrained, expected):
    message = error_of(model=model or tiny_clip.model, pretrained=pretrained)
    assert all(part in message for part in [PRETRAINED, *expected]), message
    assert no_network == []


def test_no_network(no_network):
    """Both places are tried, and the message says what to do."""
    message = error_of(model='ViT-B-16', pretrained='openai')
    for part in (PRETRAINED, 'ViT-B-16', "'openai'", 'ConnectionError', 'name resolution failed', 'cache',
                 'ViT-B-16.pt', 'vit_base_patch16_clip_224.openai', 'another machine', 'path'):
        assert part in message, message
    assert 'second line' not in message
    assert len(no_network) == 2


@pytest.mark.parametrize('name', ['weights.pt', 'weights.safetensors', 'empty.pt', 'list.pt', 'cut.pt', 'pickle.pt'])
def test_damaged_file(tiny_clip, tmp_path, name):
    path = tmp_path / name
    if name == 'cut.pt':
        with open(tiny_clip.weights, 'rb') as file:
            path.write_bytes(file.read()[:5000])
    elif name in ('list.pt', 'pickle.pt'):
        torch.save([1, 2] if name == 'list.pt' else {'visual.proj': tiny_clip}, path)
    else:
        path.write_bytes(b'' if name == 'empty.pt' else b'these are not weights' * 100)
    message = error_of(model=tiny_clip.model, pretrained=str(path))
    assert PRETRAINED in message and name in message and 'cannot read' in message


@pytest.mark.parametrize('vision, expected', [
    ({'width': 32}, 'class_embedding is (64,), not (32,)'),
    ({'layers': 3}, 'transformer.resblocks.2.ln_1.weight is missing'),
    ({'layers': 1}, 'transformer.resblocks.1.ln_1.weight is not part of the model'),
    ({'image_size': 64}, 'positional_embedding is (17, 64), not (65, 64)'),
])
def test_weights_of_another_architecture(tiny_clip, changed_config, vision, expected):
    message = error_of(model=changed_config(**vision), pretrained=tiny_clip.weights)
    assert all(part in message for part in (PRETRAINED, tiny_clip.weights, 'changed.json', expected)), message


def test_weights_of_something_else(tiny_clip, tmp_path):
    torch.save({'params': {'conv.weight': torch.zeros(1)}}, tmp_path / 'network.pth')
    message = error_of(model=tiny_clip.model, pretrained=str(tmp_path / 'network.pth'))
    assert PRETRAINED in message and 'network.pth' in message and 'is missing' in message

"""Loading CLIP's image tower: every file format gives the same weights."""

import json

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from segsr_arch.clip.clip_tower import fingerprint, load_tower, model_config
from segsr_arch.options import EncoderOptions, OptionError
from tests.arch import formulas

FORMATS = ['open_clip.pt', 'legacy.pt', 'state_dict.pt', 'module.pt', 'training.pt', 'tower.pt', 'fp16.pt',
           'open_clip.safetensors', 'fp16.safetensors', 'tower.safetensors']
OPENAI_FORMATS = ['openai.pt', 'openai_fp16.pt', 'openai_state.pt']


def activations(tower):
    return {type(block.mlp.gelu) for block in tower.visual.transformer.resblocks}


@pytest.mark.parametrize('name', FORMATS + OPENAI_FORMATS)
def test_every_format_gives_the_same_weights(tiny_clip, name):
    tower = load_tower(EncoderOptions(model=tiny_clip.model, pretrained=tiny_clip.files[name]))
    expected = tiny_clip.clip.visual.state_dict()
    state = tower.visual.state_dict()
    assert state.keys() == expected.keys()
    assert all(v.dtype == torch.float32 and torch.equal(v, expected[k]) for k, v in state.items())
    assert not any(p.requires_grad for p in tower.visual.parameters())
    assert tower.source == {'model': tiny_clip.model, 'pretrained': tiny_clip.files[name],
                            'sha256': fingerprint(expected), 'quick_gelu': name in OPENAI_FORMATS, 'heads': 4,
                            'mean': list(formulas.CLIP_MEAN), 'std': list(formulas.CLIP_STD)}


@pytest.mark.parametrize('name', FORMATS + OPENAI_FORMATS)
def test_activation_is_quick_gelu_where_it_should_be(tiny_clip, name):
    """By the file's origin (OpenAI's) or by the model config; the output then is QuickGELU's."""
    x = torch.randn(1, 3, 32, 32)
    outputs = {nn.GELU: tiny_clip.clip.encode_image(x), QuickGELU: tiny_clip.quick.encode_image(x)}
    assert not torch.allclose(outputs[nn.GELU], outputs[QuickGELU], atol=1e-3)
    for model, expected in ((tiny_clip.model, QuickGELU if name in OPENAI_FORMATS else nn.GELU),
                            (tiny_clip.model_quickgelu, QuickGELU)):
        tower = load_tower(EncoderOptions(model=model, pretrained=tiny_clip.files[name]))
        assert activations(tower) == {expected}
        torch.testing.assert_close(tower.visual(x), outputs[expected], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('quick_gelu', [True, False])
def test_tag_names_weights_activation_and_normalisation(tiny_clip, monkeypatch, quick_gelu):
    """A tag's own settings are taken; its weights are fetched once, by open_clip."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-model', {'mine': {
        'url': 'unused', 'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.3, 0.4), 'quick_gelu': quick_gelu}})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-model', tiny_clip.config)
    fetched = []
    monkeypatch.setattr('open_clip.pretrained.download_pretrained',
                        lambda config, *args, **kwargs: fetched.append(config['url']) or tiny_clip.weights)
    tower = load_tower(EncoderOptions(model='tiny-model', pretrained='mine'))
    assert fetched == ['unused']
    assert activations(tower) == {QuickGELU if quick_gelu else nn.GELU}
    assert tower.source == {'model': 'tiny-model', 'pretrained': 'mine',
                            'sha256': fingerprint(tiny_clip.clip.visual.state_dict()), 'quick_gelu': quick_gelu,
                            'heads': 4, 'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4]}


def test_a_file_is_normalised_as_clip_was_trained(tiny_clip):
    """A8: CLIP's mean and std, not DIV2K's mean."""
    for pretrained in (tiny_clip.weights, None):
        tower = load_tower(EncoderOptions(model=tiny_clip.model, pretrained=pretrained))
        assert tower.source['mean'] == list(formulas.CLIP_MEAN) and tower.source['std'] == list(formulas.CLIP_STD)


def test_random_weights(tiny_clip, no_network):
    first, second = (load_tower(EncoderOptions(model=tiny_clip.model, pretrained=None)) for _ in range(2))
    assert first.source['sha256'] is None
    assert not torch.equal(first.visual.proj, second.visual.proj)
    assert all(p.isfinite().all() and not p.requires_grad for p in first.visual.parameters())
    assert no_network == []


def test_model_of_open_clip_by_name(no_network):
    """A2: the paper's ViT-B/16 has 12 heads of 64 and a joint space of 512."""
    visual = load_tower(EncoderOptions(model='ViT-B-16', pretrained=None)).visual
    assert {block.attn.num_heads for block in visual.transformer.resblocks} == {12}
    assert (len(visual.transformer.resblocks), visual.conv1.out_channels, visual.output_dim) == (12, 768, 512)
    assert (visual.patch_size, visual.grid_size) == ((16, 16), (14, 14))
    assert no_network == []


def test_config_may_stand_in_open_clips_release_layout(tiny_clip, tmp_path):
    path = tmp_path / 'open_clip_config.json'
    path.write_text(json.dumps({'model_cfg': tiny_clip.config, 'preprocess_cfg': {}}), encoding='utf-8')
    tower = load_tower(EncoderOptions(model=str(path), pretrained=tiny_clip.weights))
    assert torch.equal(tower.visual.proj, tiny_clip.clip.visual.proj)


def test_fingerprint_depends_on_names_and_values(tiny_clip):
    state = tiny_clip.clip.visual.state_dict()
    shuffled = dict(sorted(state.items(), reverse=True))
    assert fingerprint(shuffled) == fingerprint(state) == fingerprint({k: v.half() for k, v in state.items()})
    changed = {**state, 'proj': state['proj'].clone()}
    changed['proj'][0, 0] += 1e-3
    renamed = {('projection' if k == 'proj' else k): v for k, v in state.items()}
    assert len({fingerprint(s) for s in (state, changed, renamed)}) == 3


@pytest.mark.parametrize('cached', [True, False])
def test_a_cached_file_is_asked_for_first_and_one_place_suffices(tiny_clip, monkeypatch, tmp_path, cached):
    """The hub first, unless OpenAI's clip package has fetched the file before; what fails there is no error yet."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / '.cache' / 'clip').mkdir(parents=True)
    if cached:
        (tmp_path / '.cache' / 'clip' / 'tiny.pt').touch()
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-model', {'mine': {
        'url': 'site/tiny.pt', 'hf_hub': 'someone/tiny/'}})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-model', tiny_clip.config)
    asked = []

    def download(config, *args, **kwargs):
        asked.extend(v for v in config.values() if v)
        if len(asked) == 1:
            raise OSError('not there')
        return tiny_clip.weights

    monkeypatch.setattr('open_clip.pretrained.download_pretrained', download)
    tower = load_tower(EncoderOptions(model='tiny-model', pretrained='mine'))
    assert asked == (['site/tiny.pt', 'someone/tiny/'] if cached else ['someone/tiny/', 'site/tiny.pt'])
    assert torch.equal(tower.visual.proj, tiny_clip.clip.visual.proj)


def test_a_model_config_may_bring_its_normalisation(tiny_clip, tmp_path):
    """open_clip_config.json, as on the Hugging Face hub."""
    path = tmp_path / 'open_clip_config.json'
    path.write_text(json.dumps({'model_cfg': tiny_clip.config,
                                'preprocess_cfg': {'mean': [0.5, 0.5, 0.5], 'std': [0.2, 0.2, 0.2]}}))
    for pretrained in (None, tiny_clip.weights):
        source = load_tower(EncoderOptions(model=str(path), pretrained=pretrained)).source
        assert (source['mean'], source['std']) == ([0.5, 0.5, 0.5], [0.2, 0.2, 0.2])


@pytest.mark.parametrize('name', ['open_clip.pt', 'openai.pt'])
def test_a_model_config_of_its_own_builds_the_same_tower_without_any_file(tiny_clip, name):
    options = EncoderOptions(model=tiny_clip.model, pretrained=tiny_clip.files[name])
    tower = load_tower(options)
    config = json.loads(json.dumps(model_config(options, tower.source)))
    again = load_tower(EncoderOptions(model=config, pretrained=None))
    again.visual.load_state_dict(tower.visual.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.visual(x), tower.visual(x))
    assert {key: again.source[key] for key in ('quick_gelu', 'heads', 'mean', 'std')} == {
        key: tower.source[key] for key in ('quick_gelu', 'heads', 'mean', 'std')}
    with pytest.raises(OptionError, match='model: it is not an open_clip model config'):
        load_tower(EncoderOptions(model={'embed_dim': 3}))

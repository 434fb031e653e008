"""Release files: enough by themselves, the same network as before, and refused in one line if they are not sound."""

import dataclasses
import json
import struct

import pytest
import torch
import yaml
from basicsr.archs import build_network
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from segsr_model.cli import main
from segsr_model.errors import CommandError
from segsr_model.weights import building, release
from segsr_model.weights.loading import read_trained
from segsr_model.weights.release import KEY, Release, describe, load_release, make_self_contained, write_release

PLAIN = {'type': 'EDSR', 'upscale': 2, 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}


def moved(net):
    """As after some training."""
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@pytest.fixture
def files(tmp_path):
    """Writes an option file with a checkpoint; gives the file and the network."""
    def make(network, **options):
        net = moved(build_network(network))
        torch.save({'params': {}, 'params_ema': net.state_dict()}, tmp_path / 'net_g_5000.pth')
        (tmp_path / 'own.yml').write_text(yaml.safe_dump({'network_g': network, **options, 'path': {
            'pretrain_network_g': str(tmp_path / 'net_g_5000.pth'), 'param_key_g': 'params_ema'}}))
        return str(tmp_path / 'own.yml'), net
    return make


@pytest.fixture
def nothing_else(clip_config, clip_weights, monkeypatch):
    """From its call on, no file of CLIP's can be read, and no model of open_clip's be found by its name."""
    def forbid():
        def fail(*args, **kwargs):
            raise AssertionError('something else is read')
        monkeypatch.setattr('open_clip.get_model_config', fail)
        for name in ('_fetch', '_find_weights', '_read_weights'):
            monkeypatch.setattr(f'segsr_arch.clip.clip_tower.{name}', fail)
        monkeypatch.setattr('pathlib.Path.read_text', fail)
    return forbid


@pytest.mark.parametrize('guidance', ['map', 'add', 'none'])
def test_it_is_enough_by_itself(guidance, files, network, tmp_path, nothing_else):
    network['semantic']['guidance'] = guidance
    file, net = files(network)
    out = str(tmp_path / 'net.safetensors')
    assert main(['export', '-opt', file, '--out', out]) == 0
    nothing_else()
    before = torch.get_rng_state()
    again, found = load_release(out)
    assert torch.equal(torch.get_rng_state(), before)
    assert not again.training and found.scale == 4 and (found.tower is None) == (guidance == 'none')
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.equal(again(lr), net(lr))


def test_a_tower_of_open_clips_by_name_needs_no_name(files, network, tiny_clip, tmp_path, monkeypatch, nothing_else):
    """With what the tag says, its normalisation and activation, which no weight tells."""
    import open_clip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, 'tiny-model', {'mine': {
        'url': 'unused', 'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.3, 0.4), 'quick_gelu': True}})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-model', tiny_clip.config)
    monkeypatch.setattr('open_clip.pretrained.download_pretrained', lambda *args, **kwargs: tiny_clip.weights)
    network['semantic']['encoder'].update(model='tiny-model', pretrained='mine')
    file, net = files(network)
    assert main(['export', '-opt', file, '--out', str(tmp_path / 'net.safetensors')]) == 0
    nothing_else()
    again, found = load_release(tmp_path / 'net.safetensors')
    assert [found.tower[key] for key in ('model', 'pretrained', 'mean')] == ['tiny-model', 'mine', [0.5, 0.4, 0.3]]
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.equal(again(lr), net(lr))


def test_what_it_says(files, network, clip_weights, tmp_path):
    file, _ = files(network, datasets={'train': {'name': 'x', 'type': 'y', 'gt_size': 64}})
    out = str(tmp_path / 'net.safetensors')
    assert main(['export', '-opt', file, '--out', out, '--halo', '12', '--licence', 'CC-BY-4.0']) == 0
    _, found = load_release(out)
    assert (found.scale, found.halo, found.training_patch, found.licence) == (4, 12, 16, 'CC-BY-4.0')
    assert (found.value_range, found.bands) == ((0, 1), ('red', 'green', 'blue'))
    assert found.provenance == {'segsr': release.package_version('segsr'), 'option_file': 'own.yml', 'iterations': 5000,
                                'sha256': release.sha256(tmp_path / 'net_g_5000.pth'), 'param_key': 'params_ema'}
    assert found.tower['pretrained'] == clip_weights.name  # without the folders of this machine
    with safe_open(out, 'pt') as opened:
        text = opened.metadata()
    assert list(text) == [KEY] and json.loads(text[KEY])['format'] == 1 and str(tmp_path.parent) not in text[KEY]
    assert b'small.json' in (tmp_path / 'net.safetensors').read_bytes()
    assert str(clip_weights.parent).encode() not in (tmp_path / 'net.safetensors').read_bytes()
    again = str(tmp_path / 'again.safetensors')
    main(['export', '-opt', file, '--out', again, '--halo', '12', '--licence', 'CC-BY-4.0'])
    assert release.sha256(again) == release.sha256(out)


@pytest.mark.parametrize('targets', [['qkv'], ['qkv', 'ffn']])
def test_merged_lora_gives_the_same_to_rounding(targets, files, network, tmp_path, nothing_else):
    network['semantic']['encoder'].update(lora_targets=targets, lora_alpha=8)
    file, net = files(network)
    assert main(['export', '-opt', file, '--out', str(tmp_path / 'net.safetensors'), '--merge-lora']) == 0
    nothing_else()
    again, found = load_release(tmp_path / 'net.safetensors')
    assert found.network_g['semantic']['encoder']['lora_rank'] == 0
    assert found.tower['pretrained'].endswith('with LoRA merged')
    assert not any('lora' in name for name in again.state_dict())
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(again(lr), net(lr))
        torch.testing.assert_close(again.guidance_maps(lr), net.guidance_maps(lr))


def test_half_is_half_the_size_and_close(files, network, tmp_path):
    file, net = files(network)
    for name, more in (('half', ['--half']), ('full', [])):
        assert main(['export', '-opt', file, '--out', str(tmp_path / f'{name}.safetensors'), *more]) == 0
    half, full = ((tmp_path / f'{name}.safetensors').stat().st_size for name in ('half', 'full'))
    assert half < 0.6 * full
    again, _ = load_release(tmp_path / 'half.safetensors')
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(again.state_dict()[key], value.half().float())
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert not torch.equal(again(lr), net(lr))
        torch.testing.assert_close(again(lr), net(lr), atol=2e-3, rtol=0)


def test_weights_beyond_fp16_are_not_stored_in_it(files, tmp_path):
    file, _ = files(PLAIN)
    trained = read_trained(file)
    with torch.no_grad():
        trained.net.conv_first.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match='conv_first.weight has values beyond those of fp16'):
        write_release(tmp_path / 'net.safetensors', trained.net, describe(trained), half=True)
    assert not (tmp_path / 'net.safetensors').exists()


@pytest.mark.parametrize('network_g', [
    PLAIN, {'type': 'Bicubic', 'upscale': 3}, {**PLAIN, 'type': 'MSRResNet', 'upscale': 4},
    {'type': 'RRDBNet', 'scale': 2, 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 2},
    {'type': 'SwinIR', 'upscale': 2, 'img_size': 8, 'window_size': 4, 'depths': [2], 'num_heads': [2], 'embed_dim': 8,
     'upsampler': 'pixelshuffle'},
    {'type': 'HAT', 'upscale': 2, 'img_size': 8, 'window_size': 4, 'depths': [2], 'num_heads': [2], 'embed_dim': 8,
     'in_chans': 4, 'squeeze_factor': 1}], ids=lambda network: network['type'])
def test_every_network_of_the_tables(network_g, tmp_path):
    net = moved(building.networks()[network_g['type']](**{k: v for k, v in network_g.items() if k != 'type'}))
    bands = release.band_names(building.channels_of(network_g))
    write_release(tmp_path / 'net.safetensors', net, Release(
        network_g=network_g, scale=building.scale_of(net, network_g), bands=bands))
    again, found = load_release(tmp_path / 'net.safetensors')
    assert found.bands == (bands if len(bands) == 4 else ('red', 'green', 'blue'))
    lr = torch.rand(1, len(bands), 8, 12)
    with torch.no_grad():
        assert torch.equal(again(lr), net(lr)) and again(lr).shape[-1] == 12 * found.scale


# files that are not sound

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """The weights and the metadata of a sound release file."""
    path = tmp_path_factory.mktemp('sound') / 'net.safetensors'
    with torch.random.fork_rng():
        net = building.networks()['EDSR'](**{k: v for k, v in PLAIN.items() if k != 'type'}).eval()
    write_release(path, net, Release(network_g=PLAIN, scale=2))
    with safe_open(path, 'pt') as opened:
        metadata = json.loads(opened.metadata()[KEY])
    return {key: value.clone() for key, value in net.state_dict().items()}, metadata, path.read_bytes()


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_release(path)
    assert '\n' not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(('change', 'message'), [
    ({'format': 2}, 'is a release file of format 2; this version of segsr reads format 1'),
    ({'format': None}, 'of format None'),
    ({'halo': -1}, 'halo: is -1, must be a number of LR pixels, or null'),
    ({'halo': float('nan')}, 'halo: is nan'), ({'halo': '3'}, "halo: is '3'"), ({'halo': True}, 'halo: is True'),
    ({'scale': 4}, 'scale: is not that of the network'), ({'scale': 2.0}, 'scale: is 2.0, must be a whole number'),
    ({'training_patch': 0}, 'training_patch: is 0'), ({'value_range': [1, 0]}, r'value_range: is \(1, 0\)'),
    ({'value_range': [0, None]}, 'value_range: '), ({'bands': ['red']}, 'bands: is not that of the network'),
    ({'bands': []}, 'bands: '), ({'bands': [3] * 3}, 'bands: '), ({'tower': {'model': 'x'}}, 'tower: is not that'),
    ({'tower': 'x'}, 'tower: is'), ({'licence': 'a\nb'}, 'licence: is'), ({'licence': 'x' * 999}, 'licence: is'),
    ({'provenance': {'a': []}}, 'provenance: is'), ({'provenance': {str(n): n for n in range(99)}}, 'provenance: is'),
    ({'more': 1}, "damaged: more is unknown"), ({'network_g': None}, "there is no network 'None'"),
    ({'network_g': {**PLAIN, 'type': 'EDRS'}}, "no network 'EDRS'; did you mean 'EDSR'"),
    ({'network_g': {**PLAIN, 'type': 'SpyNet'}}, "no network 'SpyNet'"), ({'network_g': {'type': []}}, 'no network'),
    ({'network_g': {**PLAIN, 'num_block': 2}}, 'not those of network_g: body.1.conv1.weight is missing'),
    ({'network_g': {**PLAIN, 'num_feat': 9}}, r'conv_first.weight is \(8, 3, 3, 3\), not \(9, 3, 3, 3\)'),
    ({'network_g': {**PLAIN, 'num_feats': 8}}, 'EDSR cannot be built .*num_feats'),
    ({'network_g': {**PLAIN, 'num_feat': 'x'}}, 'EDSR cannot be built'),
    ({'network_g': {**PLAIN, 'num_block': 60_000}}, 'of a larger network than the weights'),
    ({'network_g': {**PLAIN, 'num_feat': 60_000}}, 'of a larger network than the weights'),
    ({'network_g': {**PLAIN, 'num_feat': 1 << 60}}, 'an impossible one'),
    ({'network_g': {**PLAIN, 'rgb_mean': [0.1] * 2000}}, 'more than 1000 values'),
    ({'network_g': {'type': 'HAT', 'window_size': 4, 'depths': [60_000] * 99, 'num_heads': [2] * 99}}, 'of a larger'),
    ({'network_g': {'type': 'HAT', 'window_size': 60_000}}, 'of a larger network|cannot be built'),
    ({'network_g': {'type': 'SwinIR', 'window_size': 60_000, 'img_size': 60_000}}, 'larger network|cannot be built'),
])
def test_metadata_that_cannot_be(change, message, sound, tmp_path):
    weights, metadata, _ = sound
    save_file(weights, tmp_path / 'a.safetensors', {KEY: json.dumps({**metadata, **change})})
    refused(tmp_path / 'a.safetensors', message)


@pytest.mark.parametrize(('text', 'message'), [
    ('{', 'segsr_release is damaged'), ('[' * 5000, 'damaged'), ('3', 'damaged'), ('{}', 'of format None'),
    ('{"format": 1}', 'damaged: bands is missing'), ('"' + 'x' * (1 << 17) + '"', 'damaged'), ('9' * 5000, 'damaged')])
def test_metadata_that_are_no_release(text, message, sound, tmp_path):
    save_file(sound[0], tmp_path / 'a.safetensors', {KEY: text})
    refused(tmp_path / 'a.safetensors', message)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda b: b[:len(b) // 2], 'it is damaged'), (lambda b: b[:4], 'it is damaged'), (lambda b: b'', 'it is damaged'),
    (lambda b: b'\xff' * 8 + b[8:], 'header is too long'), (lambda b: struct.pack('<Q', 1 << 23) + b[8:], 'damaged'),
    (lambda b: b.replace(b'"F32"', b'"F33"'), 'it is damaged'), (lambda b: b'PK\3\4' + b, 'it is damaged')])
def test_damaged_files(change, message, sound, tmp_path):
    (tmp_path / 'a.safetensors').write_bytes(change(sound[2]))
    refused(tmp_path / 'a.safetensors', message)


def test_files_that_are_something_else(sound, tmp_path):
    refused(tmp_path / 'none.safetensors', 'No such file')
    refused(tmp_path, 'cannot read')
    save_file(sound[0], tmp_path / 'a.safetensors')
    refused(tmp_path / 'a.safetensors', 'it is no release file: its metadata have no segsr_release')
    torch.save(sound[0], tmp_path / 'b.safetensors')
    refused(tmp_path / 'b.safetensors', 'it is damaged, or no safetensors file')
    weights = {**sound[0], 'conv_first.bias': torch.zeros(8, dtype=torch.cfloat)}
    save_file(weights, tmp_path / 'c.safetensors', {KEY: json.dumps(sound[1])})
    refused(tmp_path / 'c.safetensors', 'conv_first.bias holds no plain numbers')


@pytest.mark.parametrize('change', [
    {'model': 'ViT-B-16'}, {'pretrained': 'openai'}, {'pretrained': '/etc/passwd'}, {'model': '/etc/passwd.json'}, None,
    'default'])
def test_a_tower_from_elsewhere_is_not_looked_for(change, files, network, tmp_path, nothing_else):
    file, _ = files(network)
    assert main(['export', '-opt', file, '--out', str(tmp_path / 'net.safetensors')]) == 0
    net, found = load_release(tmp_path / 'net.safetensors')
    semantic = found.network_g['semantic']
    if change == 'default':
        del found.network_g['semantic']
    else:
        semantic['encoder'] = {**semantic['encoder'], **change} if change else None
    save_file(net.state_dict(), tmp_path / 'a.safetensors', {KEY: release.as_json(found)})
    nothing_else()
    refused(tmp_path / 'a.safetensors', 'needs a CLIP tower from elsewhere')


@pytest.mark.parametrize(('vision', 'message'), [
    ({'layers': 60_000}, 'impossible size|larger network'), ({'width': 60_000}, 'impossible size'),
    ({'image_size': 16_000}, 'larger network'), ({'timm_model_name': 'vit_base_patch16_224'}, 'no vision transformer'),
    ({'mlp_ratio': 1e300}, 'impossible one'), ({'mlp_ratio': 6e4}, 'larger network'), ({'head_width': 32}, 'tower')])
def test_a_tower_that_cannot_be(vision, message, files, network, tmp_path):
    file, _ = files(network)
    trained = make_self_contained(read_trained(file))
    found = describe(trained)
    found.network_g['semantic']['encoder']['model']['vision_cfg'].update(vision)
    weights = {key: value.contiguous() for key, value in trained.net.state_dict().items()}
    text = json.dumps({'format': 1, **dataclasses.asdict(found)})
    save_file(weights, tmp_path / 'a.safetensors', {KEY: text})
    refused(tmp_path / 'a.safetensors', message)


def test_a_damaged_record_of_the_tower(files, network, tmp_path):
    file, _ = files(network)
    trained = make_self_contained(read_trained(file))
    weights = {**trained.net.state_dict(), 'guidance.sfem._extra_state': torch.zeros(5, dtype=torch.uint8)}
    save_file(weights, tmp_path / 'a.safetensors', {KEY: release.as_json(describe(trained))})
    refused(tmp_path / 'a.safetensors', 'record of the CLIP tower, is damaged')


# what is not written

def test_a_network_of_another_package_is_not_released(files, tmp_path, monkeypatch, capsys):
    class Other(nn.Conv2d):
        def __init__(self, upscale):
            super().__init__(3, 3, 3)

    from basicsr.utils.registry import ARCH_REGISTRY
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'HAT', Other)
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Mine', Other)
    for name, message in (('HAT', "is another package's"), ('Mine', "there is no network 'Mine'")):
        file, _ = files({'type': name, 'upscale': 1})
        assert main(['export', '-opt', file, '--out', str(tmp_path / 'net.safetensors')]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'net.safetensors').exists()


def test_a_full_disk_leaves_nothing(files, tmp_path, monkeypatch):
    file, _ = files(PLAIN)
    trained = read_trained(file)

    def fail(weights, path, metadata):
        open(path, 'w').close()
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(release, 'save_file', fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CommandError, match='cannot write .*No space left'):
        write_release(tmp_path / 'net.safetensors', trained.net, describe(trained))
    assert sorted(tmp_path.iterdir()) == before

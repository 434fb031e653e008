"""What a text stands for that names weights: one rule, and a line where it names nothing."""

import huggingface_hub
import pytest
import torch
import yaml
from basicsr.archs import build_network
from safetensors.torch import save_file

from segsr_arch.layers.resize import imresize
from segsr_model.cli import main
from segsr_model.files import sha256
from segsr_model.weights import resolve
from segsr_model.weights.building import networks
from segsr_model.weights.release import Release, write_release
from segsr_model.weights.resolve import load_any

PLAIN = {'type': 'EDSR', 'upscale': 2, 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """Calls of the Hugging Face Hub's client; it answers with the file that is set, or fails as without a network."""
    calls = []

    def fetch(*args, **kwargs):
        calls.append((args, kwargs))
        if not hasattr(fetch, 'file'):
            raise ConnectionError('name resolution failed\nsecond line')
        return fetch.file

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fetch)
    fetch.calls = calls
    return fetch


@pytest.fixture
def plain():
    return networks()['EDSR'](**{key: value for key, value in PLAIN.items() if key != 'type'}).eval()


@pytest.fixture
def release_file(plain, tmp_path):
    write_release(tmp_path / 'net.safetensors', plain, Release(network_g=PLAIN, scale=2, halo=4))
    return tmp_path / 'net.safetensors'


def assert_same(net, other):
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert not net.training and torch.equal(net(lr), other(lr))


def test_a_release_file(release_file, plain):
    for weights in (release_file, str(release_file)):
        net, found = load_any(weights)
        assert_same(net, plain)
        assert (found.scale, found.halo) == (2, 4)


@pytest.mark.parametrize('name', ['net_g_5000.pth', 'weights'])
def test_a_training_checkpoint_with_its_option_file(name, network, tmp_path):
    """Its averaged weights, if it has any."""
    average, other = build_network(network).eval(), build_network(network)
    torch.save({'params': other.state_dict(), 'params_ema': average.state_dict()}, tmp_path / name)
    (tmp_path / 'own.yml').write_text(yaml.safe_dump(
        {'network_g': network, 'datasets': {'train': {'gt_size': 64}}, 'path': {'pretrain_network_g': 'other.pth'}}))
    net, found = load_any(tmp_path / name, tmp_path / 'own.yml')
    assert_same(net, average)
    assert (found.scale, found.training_patch, found.provenance['param_key']) == (4, 16, 'params_ema')
    assert found.provenance['sha256'] == sha256(tmp_path / name) and found.tower == net.guidance.sfem.source
    assert found.provenance['iterations'] == (5000 if '5000' in name else None)


def test_an_exported_checkpoint_and_a_safetensors_one(network, tmp_path):
    net = build_network(network).eval()
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    (tmp_path / 'own.yml').write_text(yaml.safe_dump({'network_g': network}))
    save_file(net.state_dict(), tmp_path / 'own.safetensors')
    assert main(['export', '-opt', str(tmp_path / 'own.yml'), '--checkpoint', str(tmp_path / 'net.pth'), '--out',
                 str(tmp_path / 'whole.pth')]) == 0
    for name in ('whole.pth', 'own.safetensors'):
        assert_same(load_any(tmp_path / name, tmp_path / 'own.yml')[0], net)


@pytest.mark.parametrize('name', ['edsr.pth', 'edsr.safetensors'])
def test_a_checkpoint_of_others(name, plain, tmp_path):
    if name.endswith('pth'):
        torch.save({'params_ema': plain.state_dict(), 'params': {}}, tmp_path / name)
    else:
        save_file({key: value.half() for key, value in plain.half().state_dict().items()}, tmp_path / name)
    net, found = load_any(tmp_path / name, scale=2)
    assert_same(net, plain.float())
    assert found.network_g['type'] == 'EDSR' and found.bands == ('red', 'green', 'blue') and found.halo is None
    assert found.provenance['file'] == name and 'res_scale 1' in found.provenance['assumed']
    write_release(tmp_path / 'again.safetensors', net, found)  # it is all that a release file needs
    assert_same(load_any(tmp_path / 'again.safetensors')[0], plain)


def test_bicubic():
    net, found = load_any('bicubic', scale=3)
    lr = torch.rand(1, 3, 12, 9)
    assert torch.equal(net(lr), imresize(lr, 3)) and (found.scale, found.halo) == (3, 2)
    tile = net(lr[:, :, :6])  # what it says of its halo
    torch.testing.assert_close(tile[:, :, :4 * 3], net(lr)[:, :, :4 * 3])
    assert not torch.allclose(tile[:, :, :5 * 3], net(lr)[:, :, :5 * 3], atol=1e-4)


@pytest.mark.parametrize(('text', 'revision'), [
    ('owner/name', None), ('owner/name@v1.0', 'v1.0'), ('a-b/c.d_e@refs/pr/1', 'refs/pr/1')])
def test_a_model_on_the_hub(text, revision, hub, release_file, plain):
    hub.file = str(release_file)
    net, _ = load_any(text, local_files_only=True)
    assert_same(net, plain)
    assert hub.calls == [((text.split('@')[0], 'model.safetensors'), {'revision': revision, 'local_files_only': True})]


def test_a_shipped_model_by_its_name(hub, release_file, plain, monkeypatch):
    monkeypatch.setitem(resolve.SHIPPED, 'edsr-small-x2', 'owner/name@v1')
    hub.file = str(release_file)
    assert_same(load_any('edsr-small-x2')[0], plain)
    assert hub.calls[0][0][0] == 'owner/name'
    with pytest.raises(ValueError, match="no file or model 'edsr-smal-x2'; the nearest model is 'edsr-small-x2'"):
        load_any('edsr-smal-x2')


def test_without_a_network_one_line_says_what_to_do(hub):
    with pytest.raises(ValueError) as caught:
        load_any('owner/name')
    message = str(caught.value)
    assert '\n' not in message and "'owner/name'" in message and 'ConnectionError: name resolution failed' in message
    assert 'model.safetensors' in message and 'on another machine and give its path' in message


def test_a_file_on_the_hub_that_is_no_release(hub, plain, tmp_path):
    save_file(plain.state_dict(), tmp_path / 'model.safetensors')
    hub.file = str(tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='it is no release file'):
        load_any('owner/name')


@pytest.mark.parametrize('name', ['bicubic', 'owner/name', 'edsr-small-x2'])
def test_an_existing_file_always_wins(name, plain, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(resolve.SHIPPED, 'edsr-small-x2', 'owner/name')
    (tmp_path / 'owner').mkdir()
    torch.save(plain.state_dict(), tmp_path / name)
    assert_same(load_any(name, scale=2)[0], plain)
    assert hub.calls == []


def test_a_home_folder_is_found(plain, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(plain.state_dict(), tmp_path / 'net.pth')
    assert_same(load_any('~/net.pth')[0], plain)


@pytest.mark.parametrize(('text', 'options', 'message'), [
    ('none.pth', {}, "there is no weights file 'none.pth'"), ('models/none.safetensors', {}, 'no weights file'),
    ('./none', {}, 'no weights file'), ('../none', {}, 'no weights file'), ('/none', {}, 'no weights file'),
    ('~/none', {}, 'no weights file'), ('a\\none', {}, 'no weights file'), ('', {}, "no file or model ''"),
    ('bicubik', {}, "the nearest model is 'bicubic'"), ('xyz', {}, 'the models are bicubic'),
    ('a/b/c', {}, "no file or model 'a/b/c'"), ('bicubic', {}, 'bicubic needs a --scale'),
    ('bicubic', {'scale': 0}, 'needs a --scale'), ('bicubic', {'option_file': 'own.yml'}, "'bicubic' is no file"),
    ('none.pth', {'option_file': 'own.yml'}, "there is no weights file 'none.pth'")])
def test_a_text_that_names_nothing(text, options, message, hub):
    with pytest.raises(ValueError, match=message) as caught:
        load_any(text, **options)
    assert '\n' not in str(caught.value) and hub.calls == []


def test_what_does_not_go_together(release_file, network, tmp_path):
    with pytest.raises(ValueError, match=r"net.safetensors' is a release file, which needs no -opt"):
        load_any(release_file, tmp_path / 'own.yml')
    with pytest.raises(ValueError, match=r"--scale is 4, and '.*net.safetensors' enlarges by 2"):
        load_any(release_file, scale=4)
    torch.save({'params': build_network(network).state_dict()}, tmp_path / 'own.pth')
    with pytest.raises(ValueError, match=r"own.pth': it is a training checkpoint of SeG-SR: give its option file"):
        load_any(tmp_path / 'own.pth')


def test_weights_that_claim_to_be_larger_than_their_file(tmp_path):
    torch.save({'conv_first.weight': torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r"a.pth': its weights have more values than the file"):
        load_any(tmp_path / 'a.pth')

"""Files that would run code, or write elsewhere, if they were believed: each route a user has refuses them."""

import io
import json
import os
import pickle
import sys
import tarfile
import zipfile

import pytest
import torch
import yaml
from basicsr.utils import options as basicsr_options

from segsr_arch.clip.clip_tower import load_tower
from segsr_arch.clip.tensor_files import load_tensors, read_torchscript
from segsr_arch.options import EncoderOptions, OptionError
from segsr_model import basicsr_mends
from segsr_model.cli import main
from segsr_model.option_files import MOST_BYTES, read_options
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
from segsr_model.testing.scores import SavedScores, read_scores
from segsr_model.weights.reading import read_weights


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """What must never come into being."""
    path = tmp_path / 'marker'
    yield path
    assert not path.exists()


LAYOUTS = ('zip', 'legacy', 'bare', 'tar', 'polyglot')


def write_bomb(path, marker, layout, content=None):
    """A file of PyTorch's, in any layout it has ever had, that makes the marker when its pickle is believed."""
    content = {'params': {'w': torch.zeros(1)}, 'iter': 1} if content is None else content
    content = {**content, 'more': Bomb(marker)}
    if layout == 'zip':
        torch.save(content, path)
    elif layout == 'legacy':
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif layout == 'bare':
        path.write_bytes(pickle.dumps(content))
    else:  # PyTorch's format up to 0.1.11, three pickles; the second one ends as a zip archive does
        with tarfile.open(path, 'w') as archive:
            for name in ('storages', 'tensors', 'pickle'):
                data = pickle.dumps(Bomb(marker))
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        if layout == 'polyglot':
            with zipfile.ZipFile(path, 'a') as archive:
                archive.writestr('archive/data.pkl', b'N.')
    return path


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_bombs_are_live(layout, tmp_path, monkeypatch):
    """Believed, they make the marker: what is refused below would have worked."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)
    path, marker = write_bomb(tmp_path / 'a.pth', tmp_path / 'm', layout), tmp_path / 'm'
    if layout in ('tar', 'polyglot'):
        with tarfile.open(path) as archive:
            pickle.load(archive.extractfile('storages'))
    elif layout == 'bare':
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.is_dir()


@pytest.mark.parametrize('layout', LAYOUTS)
def test_no_reader_runs_a_pickle(layout, tmp_path, marker, clip_config):
    path = write_bomb(tmp_path / 'a.pth', marker, layout)
    for read in (read_weights, load_tensors):
        with pytest.raises(ValueError, match=r"^cannot read weights from '.*a\.pth': [^\n]+$"):
            read(path)
    with pytest.raises(OptionError, match=r"^network_g:semantic:encoder:pretrained: cannot read weights from .*a\.pth"):
        load_tower(EncoderOptions(model=str(clip_config), pretrained=str(path)))


def test_what_is_refused_is_named(tmp_path, marker):
    with pytest.raises(ValueError, match='holds more than tensors and plain values.* could run code; it is not loaded'):
        load_tensors(write_bomb(tmp_path / 'a.pth', marker, 'zip'))


@pytest.mark.parametrize('layout', ['zip', 'tar'])
def test_training_neither_warm_starts_nor_resumes_from_one(layout, options, tmp_path, marker):
    options['path']['pretrain_network_g'] = str(write_bomb(tmp_path / 'a.pth', marker, layout))
    with pytest.raises(ValueError, match=r"cannot read weights from '.*a\.pth'"):
        SemanticGuidedSRModel(options)
    with pytest.raises(SystemExit, match=r"cannot read weights from '.*a\.pth'"):
        basicsr_mends.build_model({**options, 'model_type': 'SemanticGuidedSRModel'})
    content = {'epoch': 0, 'iter': 1, 'optimizers': [], 'schedulers': []}
    for name, explicit in (('a.state', True), ('training_states/1.state', False)):
        write_bomb(tmp_path / name, marker, layout, content)
        options['path']['resume_state'] = str(tmp_path / name) if explicit else None
        options['auto_resume'] = not explicit
        with pytest.raises(SystemExit, match=rf'resume.*{name}'):
            basicsr_mends.load_resume_state(options)


def test_weights_given_as_a_training_state(options, tmp_path):
    torch.save({'params': {}}, tmp_path / 'net.pth')
    options['path']['resume_state'] = str(tmp_path / 'net.pth')
    with pytest.raises(SystemExit, match=r"net\.pth' is no training state of BasicSR: it has no epoch"):
        basicsr_mends.load_resume_state(options)


@pytest.mark.parametrize('command', ['export', 'maps'])
def test_commands_refuse_it_in_one_line(command, network, pairs, tmp_path, marker, capsys):
    path = write_bomb(tmp_path / 'a.pth', marker, 'zip')
    (tmp_path / 'own.yml').write_text(yaml.safe_dump({'network_g': network}))
    more = ['--lr', str(pairs / 'LR' / 'meadow00.png')] if command == 'maps' else []
    out = tmp_path / ('out.png' if more else 'out.pth')
    assert main([command, '-opt', str(tmp_path / 'own.yml'), '--checkpoint', str(path), *more, '--out', str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'a.pth' in error and 'could run code' in error and not out.exists()


# TorchScript

class Net(torch.nn.Module):
    """With shared, sliced, transposed and empty tensors."""

    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
        both = torch.randn(6, 4)
        self.visual[0].weight = torch.nn.Parameter(both[2:].t()[:4, :3])
        self.register_buffer('rest', both[:2])
        self.register_buffer('resolution', torch.tensor(32))
        self.register_buffer('none', torch.zeros(0, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('make', [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 3))])
def test_torchscript_weights_are_those_that_torch_reads(make, half, tmp_path):
    archive = make(Net().eval())
    (archive.half() if half else archive).save(str(tmp_path / 'a.pt'))
    expected, found = torch.jit.load(str(tmp_path / 'a.pt')).state_dict(), read_torchscript(tmp_path / 'a.pt')
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)


def repack(source, target, changes):
    """Copy a zip archive with other contents for the entries whose names end as told."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        for entry in old.infolist():
            content = old.read(entry)
            for ending, change in changes.items():
                content = change(content) if entry.filename.endswith(ending) else content
            new.writestr(entry, content)
    return target


@pytest.fixture
def archive(tmp_path):
    torch.jit.script(Net().eval()).save(str(tmp_path / 'good.pt'))
    return tmp_path / 'good.pt'


def test_a_torchscript_archive_runs_neither_its_pickles_nor_its_program(archive, clip_config, tmp_path, marker,
                                                                       monkeypatch):
    monkeypatch.setattr(torch.jit, 'load', None)
    bomb = pickle.dumps(Bomb(marker), protocol=2)
    constants = repack(archive, tmp_path / 'constants.pt', {'constants.pkl': lambda _: bomb, '.py': lambda _: b'('})
    assert read_torchscript(constants).keys() == read_torchscript(archive).keys()  # neither is looked at
    data = repack(archive, tmp_path / 'data.pt', {'/data.pkl': lambda _: bomb})
    assert read_torchscript(data) == {}
    for path in (constants, data):
        with pytest.raises(OptionError, match='pretrained: '):
            load_tower(EncoderOptions(model=str(clip_config), pretrained=str(path)))
        with pytest.raises(ValueError, match='it is a TorchScript archive, which is a program'):
            load_tensors(path)


@pytest.mark.parametrize(('old', 'new', 'message'), [
    (b'(K\x04K\x03t', b'(K\x7fK\x03t', 'of size .127, 3. in a storage of'),
    (b'X\x01\x00\x00\x000q', b'X\x01\x00\x00\x00/q', 'is missing'),
    (b'torch\nFloatStorage', b'torch\nFlootStorage', 'damaged'),
    (b'_rebuild_tensor_v2', b'_rebuild_tensor_v3', None)])
def test_a_torchscript_archive_whose_parts_do_not_fit(archive, tmp_path, old, new, message):
    def change(content):
        assert old in content
        return content.replace(old, new)

    path = repack(archive, tmp_path / 'bad.pt', {'/data.pkl': change})
    if message is None:
        assert read_torchscript(path) == {}
    else:
        with pytest.raises(ValueError, match=message):
            read_torchscript(path)


def test_a_tensor_with_a_million_times_its_storage_is_not_made_real(tmp_path, clip_config):
    torch.save({'visual.proj': torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / 'a.pt')
    with pytest.raises(OptionError, match='does not hold the image tower'):
        load_tower(EncoderOptions(model=str(clip_config), pretrained=str(tmp_path / 'a.pt')))


@pytest.mark.parametrize('weights', [
    {'w': torch.empty(3, device='meta')}, {'w': torch.eye(3).to_sparse()}, {3: torch.zeros(1)},
    {'w': torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, {'w': torch.zeros(1, dtype=torch.cfloat)}])
def test_tensors_that_are_no_weights(weights, tmp_path):
    torch.save({'params': weights}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_weights(tmp_path / 'a.pth')


@pytest.mark.parametrize('mmap', [False, True])
def test_a_tensor_that_claims_more_values_than_the_file_has(mmap, tmp_path):
    """PyTorch 2.1 would read beyond them, up to a crash."""
    torch.save({'w': torch.arange(4.)}, tmp_path / 'good.pth')
    path = repack(tmp_path / 'good.pth', tmp_path / 'a.pth', {'/data.pkl': lambda content: content.replace(
        b'K\x04tq', b'J\x00\x00\x00\x08tq').replace(b'K\x00K\x04\x85', b'K\x00J\x00\x00\x00\x08\x85')})
    with pytest.raises(ValueError, match="its part 'data/0' is missing, or of another size"):
        load_tensors(path, mmap=mmap)


def test_a_compressed_checkpoint_is_refused_before_it_unfolds(tmp_path):
    torch.save({'params': {'w': torch.zeros(1 << 20)}}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as old, zipfile.ZipFile(tmp_path / 'b.pth', 'w', 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match='it is compressed, which PyTorch never does'):
        read_weights(tmp_path / 'b.pth')


# option files

YAML_BOMBS = {
    'apply': 'x: !!python/object/apply:os.mkdir ["{marker}"]',
    'new': 'x: !!python/object/new:os.mkdir ["{marker}"]',
    'name': 'x: !!python/name:os.mkdir',
    'module': 'x: !!python/module:os',
}


@pytest.mark.parametrize('model', ['SemanticGuidedSRModel', 'SRModel'])
@pytest.mark.parametrize('kind', YAML_BOMBS)
def test_no_option_file_makes_python_objects(kind, model, tmp_path, marker, monkeypatch):
    """Given to train.py and test.py, whatever model it names, and to our commands."""
    path = tmp_path / 'own.yml'
    path.write_text(f'"model_type": {model}\nname: own\n' + YAML_BOMBS[kind].format(marker=marker))
    with pytest.raises(ValueError, match=r"own\.yml' is not a YAML option file: .*python/"):
        read_options(path)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path)])
    for is_train in (True, False):
        with pytest.raises(SystemExit, match=r'own\.yml.*python/'):
            basicsr_options.parse_options(str(tmp_path), is_train)
    with open(path) as file, pytest.raises(ValueError, match='python/'):
        yaml.load(file, Loader=basicsr_options.ordered_yaml()[0])  # BasicSR's own reader, whoever calls it


@pytest.mark.parametrize('text', [
    'a: &a [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
        f'{key}: &{key} [{", ".join(["*" + last] * 10)}]\n' for last, key in zip('abcdefgh', 'bcdefghi')),
    'a: &a {x: 1}\n' + ''.join(f'{key}: &{key} {{<<: [{", ".join(["*" + last] * 10)}]}}\n'
                               for last, key in zip('abcdefgh', 'bcdefghi')),
    'a: &a {b: *a}', 'a: ' + '[' * 5000, 'a: ' + '{b: ' * 100 + '1' + '}' * 100, 'a: 2001-99-99', 'a: !!bool x',
    'a: !!float x', f'a: {"9" * 5000}', '? [a]\n: b', 'a: \x01', '#' + 'x' * MOST_BYTES])
def test_what_yaml_can_do_to_a_reader(text, tmp_path):
    path = tmp_path / 'own.yml'
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^'.*own\.yml' is not a YAML option file: [^\n]+$"):
        read_options(path)


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('name', '../../elsewhere', 'name: '), ('name', '/tmp/elsewhere', 'name: '), ('name', '..', 'name: '),
    ('name', 'a\nb', 'name: '), ('name', 3, 'name: '),
    ('datasets', {'val': {'name': '../x'}}, 'datasets:val:name: '),
    ('datasets', {'val': {'name': 'x', 'filename_tmpl': '../{}'}}, 'datasets:val:filename_tmpl: '),
    ('datasets', {'val': {'name': 'x', 'filename_tmpl': '{:>9999999999}'}}, 'datasets:val:filename_tmpl: '),
    ('datasets', {'val': {'name': 'x', 'meta_info_file': 'list.txt'}}, 'datasets:val:meta_info_file: '),
    ('val', {'suffix': '../../x'}, 'val:suffix: '), ('path', {'models': '/tmp/elsewhere'}, 'path:models: '),
    ('path', 3, 'path: 3 must be a block')])
def test_no_name_in_an_option_file_leads_elsewhere(key, value, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'list.txt').write_text('a.png (1,1,3)\n../../b.png (1,1,3)\n')
    options = {'model_type': 'SemanticGuidedSRModel', 'name': 'own', 'datasets': {}, 'path': {}, key: value}
    (tmp_path / 'own.yml').write_text(yaml.safe_dump(options))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'own.yml'])
    with pytest.raises(SystemExit) as caught:
        basicsr_options.parse_options(str(tmp_path), True)
    assert str(caught.value).startswith(f'own.yml: {message}') and '\n' not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['list.txt', 'own.yml']


def test_options_that_basicsr_stumbles_over_are_one_line(tmp_path, monkeypatch):
    (tmp_path / 'own.yml').write_text('model_type: SemanticGuidedSRModel\nname: own\ndatasets: {}\npath: {}')
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(tmp_path / 'own.yml')])
    with pytest.raises(SystemExit, match='own.yml: '):
        basicsr_options.parse_options(str(tmp_path), True)


# scores

SCORES = {'protocol': {'name': 'run', 'dataset': 'set', 'metrics': {}}, 'average': {'psnr': 30.0},
          'classes': {}, 'images': {'a1': {'psnr': 30.0}}}


@pytest.mark.parametrize('change', [
    {'protocol': []}, {'protocol': {'name': 3}}, {'images': {'a': {'psnr': 'x'}}},
    {'images': {'a': {'psnr': True}}}, {'images': {'a': 3}}, {'protocol': {'metrics': {'psnr': 3}}},
    {'protocol': {'lr_recipe': 'x'}}])
def test_scores_of_another_kind_are_refused(change, tmp_path, capsys):
    (tmp_path / 'scores_set.json').write_text(json.dumps({**SCORES, **change}))
    with pytest.raises(ValueError, match='should be|is '):
        read_scores(tmp_path / 'scores_set.json')
    for arguments in (['scores', str(tmp_path)], ['report', '--results', str(tmp_path), '--out', str(tmp_path / 'r')]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count('\n') == 1
    assert not (tmp_path / 'r').exists()


@pytest.mark.parametrize('text', ['', '[' * 100_000, '{"protocol"', '\xff', '{}'])
def test_a_test_starts_afresh_on_damaged_scores(text, tmp_path):
    protocol = SCORES['protocol']
    for name in ('scores_set.json', 'scores_set.unfinished.jsonl'):
        (tmp_path / name).write_bytes(text.encode('latin-1'))
    scores = SavedScores(tmp_path, protocol)
    assert scores.images == {}
    scores.add('a1', {'psnr': 30})
    with scores.journal.open('a') as file:
        file.write('{"a2": 3}\n{"a3": {"psnr": 31.0}\x00}\n{"a4": {"psnr": 32.0}}\n')
    assert SavedScores(tmp_path, protocol).images == {'a1': {'psnr': 30.0}, 'a4': {'psnr': 32.0}}

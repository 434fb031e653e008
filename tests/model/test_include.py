"""Option files made of others, and what BasicSR gets to read."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils import options as basicsr_options

from segsr_model.basicsr_mends import plain_option_file
from segsr_model.option_files import compose, read_options


@pytest.fixture
def write(tmp_path):
    """Writes an option file and returns its path."""
    def make(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
    return make


def test_files_are_merged_in_order_and_ones_own_keys_win(write):
    write('base/common.yml', 'a: 1\nlist: [1, 2]\ndeep: {x: {y: 1, z: 1}, w: 1}')
    write('base/more.yml', 'a: 2\nb: 2\ndeep: {x: {y: 2}}')
    path = write('own.yml', 'include: [base/common.yml, base/more.yml]\nb: 3\nlist: [3]\ndeep: {w: ~}')
    assert read_options(path) == {'a': 2, 'b': 3, 'list': [3], 'deep': {'x': {'y': 2, 'z': 1}, 'w': None}}
    assert [file.name for file in compose(path)[1]] == ['common.yml', 'more.yml', 'own.yml']


def test_a_file_reached_twice_counts_where_it_is_reached_first(write):
    write('common.yml', 'a: common')
    write('left.yml', 'include: common.yml\na: left')
    write('right.yml', 'include: common.yml')
    assert read_options(write('own.yml', 'include: [left.yml, right.yml]'))['a'] == 'left'


def test_a_dataset_set_to_nothing_is_left_out(write):
    write('base.yml', 'datasets: {train: {name: a}, val: {name: b}}')
    options = read_options(write('own.yml', 'include: base.yml\ndatasets: {train: ~}'))
    assert options['datasets'] == {'val': {'name': 'b'}}


def test_a_schedulers_option_set_to_nothing_is_left_out(write):
    """Another scheduler takes other options."""
    write('base.yml', 'train: {scheduler: {type: MultiStepLR, gamma: 0.5}, warmup_iter: ~}')
    own = 'include: base.yml\ntrain: {scheduler: {type: Other, gamma: ~, periods: [1]}}'
    options = read_options(write('own.yml', own))
    assert options['train'] == {'scheduler': {'type': 'Other', 'periods': [1]}, 'warmup_iter': None}


@pytest.mark.parametrize(('text', 'message'), [
    ('include: missing.yml', r"cannot read the option file '.*missing\.yml', included by '.*own\.yml': No such file"),
    ('include: own.yml', r"'.*own\.yml' includes itself: .*own\.yml -> .*own\.yml"),
    ('include: loop.yml', r"'.*own\.yml' includes itself: .*own\.yml -> .*loop\.yml -> .*own\.yml"),
    ('include: {a: b}', r"own\.yml': include must be an option file or a list of them"),
    ('include: [list.yml]', r"'.*list\.yml', included by '.*own\.yml' is not an option file"),
    ('a: [', r"own\.yml' is not a YAML option file: [^\n]*$"),
])
def test_what_cannot_be_composed_is_one_clear_line(write, text, message):
    write('loop.yml', 'include: own.yml')
    write('list.yml', '- a')
    with pytest.raises(ValueError, match=message):
        read_options(write('own.yml', text))


def test_basicsr_gets_a_plain_file_of_the_same_name(write):
    write('base.yml', 'train: {lr: !!float 1e-4, betas: [0.9, 0.99]}\nname: base # ü')
    plain = plain_option_file(str(write('own.yml', 'include: base.yml\nname: own')), '.', True)
    assert plain.endswith('/own.yml')
    text = Path(plain).read_text(encoding='ascii')
    assert yaml.load(text, Loader=basicsr_options.ordered_yaml()[0]) == {
        'train': {'lr': 1e-4, 'betas': [0.9, 0.99]}, 'name': 'own'}


def test_a_file_without_include_stays_where_it_is(write):
    path = str(write('own.yml', 'name: own\ndatasets: {train: {}}'))
    assert plain_option_file(path, '.', True) == plain_option_file(path, '.', False) == path


def test_files_of_other_models_stay_where_they_are(write):
    path = str(write('other.yml', 'model_type: SRModel\nname: ../other\ndatasets: {train: {}}'))
    assert plain_option_file(path, '.', False) == path


@pytest.fixture
def row(write, pairs):
    """A row file, in the way of those that ship, on tiny pairs."""
    loader = {'gt_size': 32, 'use_hflip': True, 'use_rot': True, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2}
    write('base.yml', yaml.safe_dump({
        'model_type': 'SemanticGuidedSRModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {phase: {'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_gt': str(pairs / 'HR'),
                             'dataroot_lq': str(pairs / 'LR'), 'io_backend': {'type': 'disk'},
                             **(loader if phase == 'train' else {})}
                     for phase in ('train', 'val')},
        'path': {'pretrain_network_g': None},
        'train': {'ema_decay': 0.9, 'total_iter': 8, 'optim_g': {'type': 'Adam', 'lr': 1e-4},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [4]}, 'pixel_opt': {'type': 'L1Loss'}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'use_tb_logger': False},
        'val': {'val_freq': 4, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}}}))
    return write('row.yml', 'include: base.yml\nname: row\nrows: [I HAT]\nnetwork_g: '
                 '{type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, upscale: 4}')


def parse(monkeypatch, *arguments, is_train=True, root='.'):
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', *map(str, arguments)])
    return basicsr_options.parse_options(str(root), is_train)


def test_train_and_test_take_the_same_row(row, monkeypatch, tmp_path):
    opt, arguments = parse(monkeypatch, row, '--force_yml', 'num_gpu=0')
    assert sys.argv[2] == str(row)  # what BasicSR notes as the command
    assert arguments.opt != str(row) and arguments.opt.endswith('row.yml')
    assert opt['datasets']['train']['phase'] == 'train' and opt['name'] == 'row'

    weights = tmp_path / 'experiments' / 'row' / 'models' / 'net_g_latest.pth'
    with pytest.raises(SystemExit, match=r"row\.yml: path:pretrain_network_g: there is no weights file '.*latest"):
        parse(monkeypatch, row, is_train=False, root=tmp_path)
    weights.parent.mkdir(parents=True)
    torch.save({'params_ema': build_network(dict(opt['network_g'])).state_dict()}, weights)
    opt, _ = parse(monkeypatch, row, is_train=False, root=tmp_path)
    assert set(opt['datasets']) == {'val'} and opt['val']['save_img'] is True
    assert opt['path']['param_key_g'] == 'params_ema'
    assert (tmp_path / 'experiments/row/models/net_g_latest.pth').samefile(opt['path']['pretrain_network_g'])
    assert list(tmp_path.glob('results')) == []


@pytest.mark.parametrize(('line', 'message'), [
    ('rows: [IX HAT]', r"rows: 'IX HAT' should be a table \(I, II, .*\) and a row"),
    ('rows: [VII HAT +4 unit]', r"rows: Table VII has no row 'HAT \+4 unit' for a run; it has .*HAT \+3 unit"),
    ('rows: I HAT', r"rows: 'I HAT' should be a list"),
    ('val: {self_ensembel: true}', r"val: unknown option 'self_ensembel'; did you mean 'self_ensemble'\?"),
    ('val: {metrics: {psnr: {type: calculate_psnrr}}}', r"val:metrics:psnr: there is no metric of type '.*psnrr'; "),
    ('path: {pretrain_network_g: none.pth}', r"path:pretrain_network_g: there is no weights file 'none\.pth'$"),
    ('path: {pretrain_netwrok_g: a.pth}', r"path: unknown option 'pretrain_netwrok_g'; did you mean 'pret"),
    ('network_g: {upscale: 2}', r'scale: is 4, but network_g has upscale 2'),
    ('datasets: {train: {dataroot_lq: ~}}', r"datasets:train: option 'dataroot_lq' is missing"),
    ('datasets: {train: ~}', r'datasets:train is missing: this is an option file for basicsr/test\.py'),
    ('datasets: {train: {dataroot_lq: nowhere}}', r"datasets:train: there is no folder 'nowhere'; \"segsr prepare"),
])
def test_a_wrong_option_ends_in_one_line_before_anything_is_written(row, write, monkeypatch, line, message, tmp_path):
    path = write('wrong.yml', f'include: row.yml\n{line}')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit, match=message) as error:
        parse(monkeypatch, path, root=tmp_path)
    assert '\n' not in str(error.value) and str(error.value).startswith(str(path))
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(('text', 'key', 'line'), [
    ('name: a\ndatasets:\n  val: {name: x}\n  val: {name: y}\n', 'val', 4), ('a: 1\nb: 2\na: 1\n', 'a', 3),
    ('metrics: {psnr: 1, "psnr": 2}', 'psnr', 1)])
def test_a_key_that_is_there_twice_is_refused(tmp_path, text, key, line):
    """YAML's readers take the last one; the first data set would be gone without a word."""
    (tmp_path / 'twice.yml').write_text(text)
    with pytest.raises(ValueError, match=rf"twice\.yml' is not .* file: '{key}' is there twice, in line {line} again"):
        read_options(tmp_path / 'twice.yml')


def test_keys_of_different_blocks_may_be_the_same(tmp_path):
    (tmp_path / 'once.yml').write_text('base: &base {a: 1}\nx: {<<: *base, b: 1}\ny: {<<: *base, a: 2, 1: 3, "1": 4}\n')
    assert read_options(tmp_path / 'once.yml')['y'] == {'a': 2, 1: 3, '1': 4}

"""Images that cannot be read: named and passed over up to a limit, in training, validation and tests."""

import copy
import re
import shutil
import types
from pathlib import Path

import cv2
import lmdb
import pytest
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model

from segsr_model.training import corrupt_images
from segsr_model.training.corrupt_images import CorruptImageError, CorruptImages, read_sample, replaced
from tests.model.trainings import result, train, write_options


@pytest.fixture
def damaged(options, pairs, tmp_path):
    """The options with copies of the images; damages one of them."""
    folder = tmp_path / 'data'
    shutil.copytree(pairs, folder)
    for dataset in options['datasets'].values():
        dataset.update(dataroot_gt=str(folder / 'HR'), dataroot_lq=str(folder / 'LR'))

    def damage(kind, name):
        path = folder / kind / f'{name}.png'
        path.write_bytes(path.read_bytes()[:100])
        return path

    return damage


def dataset(options, phase='train'):
    return build_dataset(copy.deepcopy(options['datasets'][phase]))


def index_of(data, name):
    return next(i for i, pair in enumerate(data.paths) if name in pair['gt_path'])


@pytest.mark.parametrize('kind', ['HR', 'LR'])
def test_the_damaged_image_of_a_pair_is_named(options, damaged, kind):
    path = damaged(kind, 'meadow01')
    with pytest.raises(CorruptImageError, match=f'^{re.escape(str(path))}: it is cut off$'):
        read_sample(dataset(options), index_of(dataset(options), 'meadow01'))
    data = dataset(options)
    path.unlink()
    with pytest.raises(CorruptImageError, match=f'^{re.escape(str(path))}: there is no such file$'):
        read_sample(data, index_of(data, 'meadow01'))


@pytest.mark.parametrize('kind', ['HR', 'LR'])
@pytest.mark.parametrize('opened', [True, False])  # or only by the processes that read for this one
def test_the_damaged_image_of_a_pair_in_lmdbs_is_named(options, pairs, tmp_path, kind, opened):
    sizes = {'HR': 64, 'LR': 16}
    for folder, size in sizes.items():
        images = {path.stem: path.read_bytes() for path in (pairs / folder).iterdir()}
        if folder == kind:
            images['meadow01'] = images['meadow01'][:-40]
            del images['woodland01']
        with lmdb.open(str(tmp_path / f'{folder}.lmdb')) as base, base.begin(write=True) as transaction:
            for name, content in images.items():
                transaction.put(name.encode(), content)
        lines = [f'{path.stem}.png ({size},{size},3) 1\n' for path in sorted((pairs / folder).iterdir())]
        (tmp_path / f'{folder}.lmdb' / 'meta_info.txt').write_text(''.join(lines))
    options['datasets']['train'].update(dataroot_gt=str(tmp_path / 'HR.lmdb'), dataroot_lq=str(tmp_path / 'LR.lmdb'),
                                        io_backend={'type': 'lmdb'})
    data = dataset(options)
    assert data.paths[1]['gt_path'] == data.paths[1]['lq_path'] == 'meadow01'
    if opened:
        data[0]
    place = tmp_path / f'{kind}.lmdb'
    for index, reason in ((1, 'it is cut off'), (3, 'it is not in the LMDB')):
        name = data.paths[index]['gt_path']
        assert corrupt_images._describe(data, index, ValueError('x')) == f'{place}, {name}: {reason}'
    sound = corrupt_images._describe(data, 0, ValueError('x'))
    assert sound == f'{tmp_path}/LR.lmdb, meadow00 and {tmp_path}/HR.lmdb, meadow00: ValueError: x'


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp', '.tif', '.webp'])
def test_a_file_that_is_cut_off_is_told_from_the_other_of_its_pair(options, damaged, suffix):
    """By the reader that failed; another one may take what is there."""
    data = dataset(options)
    pair = next(pair for pair in data.paths if 'meadow01' in pair['gt_path'])
    path = Path(pair['gt_path'])
    content = cv2.imencode(suffix, cv2.imread(str(path)))[1].tobytes()
    path.write_bytes(content[:len(content) // 2])
    line = corrupt_images._describe(data, data.paths.index(pair), ValueError('x'))
    assert re.fullmatch(f'{re.escape(str(path))}: it .*cut off.*', line)


def test_a_dataset_of_others_reads_in_its_own_way():
    line = corrupt_images._describe(types.SimpleNamespace(paths=['sea01', 'sea02']), 1, ValueError('too dark'))
    assert line == 'sea02: ValueError: too dark'


def test_the_next_image_that_can_be_read_stands_in_and_says_so(options, damaged):
    data = dataset(options)
    first, second, third = (Path(data.paths[i]['lq_path']) for i in (3, 0, 1))
    damaged('HR', first.stem)
    damaged('LR', second.stem)
    sample = replaced(data, 3)
    assert sample['lq_path'] == str(third)
    assert sample['corrupt'] == (f"{data.paths[3]['gt_path']}: it is cut off\n{second}: it is cut off")
    assert replaced(data, 2)['corrupt'] == ''


def test_no_image_at_all_is_an_error(options, damaged):
    for name in ('meadow00', 'meadow01', 'woodland00', 'woodland01'):
        damaged('HR', name)
    with pytest.raises(CorruptImageError, match='4 images in a row cannot be used'):
        replaced(dataset(options), 2)


def test_each_image_counts_once_and_is_listed(tmp_path, log):
    images = CorruptImages('datasets:train:max_corrupt_images', 1, str(tmp_path))
    images.add(['', 'a.png: cannot be decoded'])
    images.add(['a.png: cannot be decoded'])
    with pytest.raises(CorruptImageError, match=r'^datasets:train:max_corrupt_images: 2 image.*at most 1.*b\.png'):
        images.add(['b.png: cannot be decoded\na.png: cannot be decoded'])
    assert (tmp_path / 'corrupt_images.txt').read_text().splitlines() == [
        'a.png: cannot be decoded', 'b.png: cannot be decoded']
    assert log.text.count('a.png') == 1 and log.text.count('b.png') == 1


def test_a_training_stops_saved_and_goes_on_with_a_higher_limit(options, damaged, tmp_path, monkeypatch):
    monkeypatch.setattr('segsr_model.checks.data.MOST_OPENED', 1)  # as of a large set, whose images are not all checked
    options['val'].update(val_freq=100, save_img=False)
    options['logger'].update(save_checkpoint_freq=100, use_tb_logger=False)
    options['train']['total_iter'] = 4
    options['datasets']['train'].update(num_worker_per_gpu=1, dataset_enlarge_ratio=4)
    del options['datasets']['val']
    file = write_options(options, tmp_path / 'tiny.yml')
    options['datasets']['train']['max_corrupt_images'] = 1
    patient = write_options(options, tmp_path / 'patient.yml')
    damaged('HR', 'woodland01')
    code, output = train(tmp_path, file, '--auto_resume')
    assert code == 1 and 'Traceback' not in output
    assert 'datasets:train:max_corrupt_images: 1 image(s) cannot be used, at most 0' in output
    assert 'woodland01.png: it is cut off' in output
    done = int(re.search(r'Iteration (\d) is saved', output).group(1))
    code, output = train(tmp_path, patient, '--auto_resume')
    assert code == 0, output
    assert f'iter: {done}.' in output and 'Corrupt image, passed over' in output
    assert result(tmp_path)['net_g_latest.pth']['iterations'] == 4


@pytest.mark.parametrize('limit', [0, 1])
def test_a_validation_names_it_and_leaves_it_out(options, damaged, log, limit):
    path = damaged('LR', 'meadow01')
    options['datasets']['val']['max_corrupt_images'] = limit
    model = build_model(copy.deepcopy(options))
    model.iterations = 3
    loader = build_dataloader(dataset(options, 'val'), options['datasets']['val'])
    if limit:
        model.validation(loader, 3, None)
        assert f'{path}: it is cut off' in log.text
        results = model.metric_results
        for folder in (path.parent, path.parents[1] / 'HR'):
            (folder / path.name).unlink()
        model.validation(build_dataloader(dataset(options, 'val'), options['datasets']['val']), 3, None)
        assert results == model.metric_results
    else:
        with pytest.raises(SystemExit, match=f'datasets:val:max_c.*{re.escape(str(path))}.*Iteration 3 is saved'):
            model.validation(loader, 3, None)

"""Images that cannot be read: named and passed over up to a limit, in training, validation and tests."""

import copy
import re
import shutil
from pathlib import Path

import pytest
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model

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


def test_a_training_stops_saved_and_goes_on_with_a_higher_limit(options, damaged, tmp_path):
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

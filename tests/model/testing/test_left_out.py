"""What a test or validation does with images that have no value, do not fit into memory, or cannot be saved."""

import copy
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.models import build_model
from torch.utils.data import DataLoader

from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
from segsr_model.testing import evaluation
from segsr_model.testing.metrics import NoValueError, trial, value_of
from segsr_model.testing.names import image_names

PSNR = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
SSIM = {**PSNR, 'type': 'calculate_ssim'}


@pytest.fixture
def own(options, pairs, tmp_path):
    """Options of a test of an enlarging network on a copy of the pairs."""
    shutil.copytree(pairs, tmp_path / 'pairs')
    options.update(is_train=False, network_g={'type': 'Bicubic', 'upscale': 4})
    options['datasets'] = {'val': {**options['datasets']['val'], 'dataroot_gt': str(tmp_path / 'pairs' / 'HR'),
                                   'dataroot_lq': str(tmp_path / 'pairs' / 'LR')}}
    root = tmp_path / 'results' / 'run'
    options['path'] = {'pretrain_network_g': None, 'results_root': str(root), 'log': str(root),
                       'visualization': str(root / 'visualization')}
    options['val']['metrics'] = {'psnr': PSNR, 'ssim': SSIM}
    return options


def replace(opt, name, hr):
    """Another HR image, with its LR image by the mean of 4 x 4 pixels."""
    cv2.imwrite(f'{opt["datasets"]["val"]["dataroot_gt"]}/{name}.png', hr)
    cv2.imwrite(f'{opt["datasets"]["val"]["dataroot_lq"]}/{name}.png',
                cv2.resize(hr, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA))


def run(opt, *, phase='val', model=None):
    """A test of one set; its scores file, if there is one."""
    dataset = copy.deepcopy(opt['datasets'][phase])
    loader = build_dataloader(build_dataset(dataset), dataset)
    (model or build_model(opt)).validation(loader, opt['name'], None, True)
    return scores_of(opt, dataset['name'])


def scores_of(opt, name='pairs'):
    file = Path(opt['path']['results_root'], f'scores_{name}.json')
    return json.loads(file.read_text()) if file.is_file() else None


def test_a_metric_without_a_value_is_left_out_of_its_average_alone(own, log):
    replace(own, 'meadow01', np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))  # SSIM: 11 pixels
    replace(own, 'woodland00', np.full((64, 64, 3), 77, np.uint8))  # enlarged without any error
    content = run(own)
    names = ('meadow00', 'meadow01', 'woodland00', 'woodland01')
    expected = {}
    for name in names:
        sr, hr = (cv2.imread(file) for file in (f'{own["path"]["visualization"]}/pairs/{name}_run.png',
                                                f'{own["datasets"]["val"]["dataroot_gt"]}/{name}.png'))
        expected[name] = {'psnr': calculate_psnr(sr, hr, 4, test_y_channel=True),
                          'ssim': None if name == 'meadow01' else calculate_ssim(sr, hr, 4, test_y_channel=True)}
    assert expected['woodland00'] == {'psnr': float('inf'), 'ssim': pytest.approx(1)}
    expected['woodland00']['psnr'] = None
    assert content['images'] == expected
    for metric in ('psnr', 'ssim'):
        values = [values[metric] for values in expected.values() if values[metric] is not None]
        assert content['average'][metric] == pytest.approx(sum(values) / 3) and content['counts'][metric] == 3
    assert content['classes']['woodland']['psnr'] == expected['woodland01']['psnr']
    for said in ("val:metrics:ssim has no value for 'meadow01': it is not a number", 'psnr is the average over 3 of 4',
                 "val:metrics:psnr has no value for 'woodland00': it is infinite", 'ssim is the average over 3 of 4'):
        assert said in log.text


def test_an_sr_image_that_is_not_finite_has_no_values(own, monkeypatch, log):
    def overflow(model):
        SemanticGuidedSRModel.super_test(model)
        model.output[..., 0, 0] = float('nan' if model.lq.mean() > 0.4 else 'inf')

    monkeypatch.setattr(SemanticGuidedSRModel, 'super_test', SemanticGuidedSRModel.test, raising=False)
    monkeypatch.setattr(SemanticGuidedSRModel, 'test', overflow)
    content = run(own)
    assert content['counts'] == {'psnr': 0, 'ssim': 0} and content['average'] == {}
    assert 'pairs: no image has a psnr.' in log.text and 'the SR image is not finite' in log.text


def test_a_metric_that_no_image_has_ends_no_training(options, log):
    options['val']['metrics'] = {'psnr': PSNR, 'niqe': {'type': 'calculate_niqe', 'crop_border': 4, 'better': 'lower'}}
    model = build_model(options)
    dataset = copy.deepcopy(options['datasets']['val'])
    model.validation(build_dataloader(build_dataset(dataset), dataset), 4, None, False)
    assert set(model.metric_results) == {'psnr'} and np.isfinite(model.metric_results['psnr'])
    assert model.best_metric_results['pairs']['niqe']['iter'] == -1
    assert 'pairs: no image has a niqe.' in log.text and log.text.count('val:metrics:niqe has no value') == 1


@pytest.mark.parametrize(('opt', 'height', 'width', 'possible'), [
    (SSIM, 19, 40, True), (SSIM, 18, 40, False), (PSNR, 9, 9, True), (PSNR, 8, 9, False),
    ({'type': 'calculate_niqe', 'crop_border': 0}, 96, 192, True),
    ({'type': 'calculate_niqe', 'crop_border': 0}, 96, 96, False), ({'type': 'calculate_psnr_pt', 'crop_border': 0},
                                                                    192, 192, False)])
def test_what_a_metric_needs_is_found_by_trying(opt, height, width, possible):
    assert (trial(opt, height, width) is None) == possible


def test_what_a_metric_raises_is_one_line(monkeypatch):
    def fail(images, opt):
        raise ZeroDivisionError('first\nsecond')

    monkeypatch.setattr('segsr_model.testing.metrics.calculate_metric', fail)
    with pytest.raises(NoValueError, match='^first$'):
        value_of(PSNR, {})


@pytest.fixture
def small_memory(monkeypatch):
    """A network that has no room for LR images wider than 16 pixels; returns the names that it was given."""
    test, seen = SemanticGuidedSRModel.test, []

    def lack(self):
        seen.append(self.lq.shape[-1])
        if self.lq.shape[-1] > 16:
            self.net_g.eval()
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')
        test(self)

    monkeypatch.setattr(SemanticGuidedSRModel, 'test', lack)
    return seen


def test_an_image_that_is_too_large_is_named_and_the_others_are_done(own, small_memory, monkeypatch, log):
    replace(own, 'meadow01', np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8))
    own['datasets']['test_2'] = {**copy.deepcopy(own['datasets']['val']), 'name': 'second'}
    path = f"{own['datasets']['val']['dataroot_lq']}/meadow01.png"
    model = build_model(own)
    assert run(own, model=model) is None
    with pytest.raises(SystemExit) as error:  # after the last set only
        run(own, phase='test_2', model=model)
    lines = str(error.value).splitlines()
    assert [line.split(':')[0] for line in lines] == ['pairs', 'second']
    assert all(f"1 of 4 images did not fit into memory, the first is '{path}' (20 x 16)." in line for line in lines)
    assert 'Cut it into smaller images; val:amp: bf16 takes less' in lines[0]
    assert sorted(small_memory) == 6 * [16] + 4 * [20]  # tried again alone
    assert f"'{path}' (20 x 16) does not fit into memory" in log.text
    assert len(list(Path(own['path']['visualization']).glob('pairs/*.png'))) == 3

    monkeypatch.undo()
    small_memory.clear()
    feed = SemanticGuidedSRModel.feed_data
    monkeypatch.setattr(SemanticGuidedSRModel, 'feed_data', lambda self, data: (
        small_memory.append(Path(data['lq_path'][0]).stem), feed(self, data)))
    content = run(own)
    assert small_memory == ['meadow01'] and content['counts'] == {'psnr': 4, 'ssim': 4}


def test_a_validation_without_room_goes_on_with_the_training(options, network, monkeypatch, log):
    model = build_model(options)
    net = model.net_g_ema
    del model.net_g_ema  # else it is the average that is tested, which is never trained
    forward = net.__class__.forward

    def lack(self, lr):
        if not self.training and lack.calls == 0:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return forward(self, lr)

    lack.calls = 0
    monkeypatch.setattr(net.__class__, 'forward', lack)
    dataset = copy.deepcopy(options['datasets']['val'])
    model.validation(build_dataloader(build_dataset(dataset), dataset), 4, None, False)
    assert model.net_g.training and model.metric_results == {}
    assert log.text.count('(16 x 16) does not fit into memory. Cut it') == 4


class Reading(torch.utils.data.Dataset):
    """A dataset whose first image does not fit into memory when it is read."""

    def __init__(self, dataset):
        self.dataset, self.opt, self.paths = dataset, dataset.opt, dataset.paths

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if index == 0:
            raise MemoryError
        return self.dataset[index]


def test_an_image_that_cannot_even_be_read_is_named_with_its_size(own):
    dataset = build_dataset(copy.deepcopy(own['datasets']['val']))
    first = Path(dataset.paths[0]['lq_path']).name
    with pytest.raises(SystemExit, match=rf"1 of 4 images did not fit into memory, .*{first}' \(16 x 16\)"):
        build_model(own).validation(DataLoader(Reading(dataset)), 'run', None, False)


def test_metrics_without_room_name_the_image(own, monkeypatch):
    tensor2img = evaluation.tensor2img

    def lack(tensors):
        if tensors[0].shape[-1] == 80:
            raise MemoryError
        return tensor2img(tensors)

    replace(own, 'woodland01', np.zeros((64, 80, 3), np.uint8))
    monkeypatch.setattr(evaluation, 'tensor2img', lack)
    with pytest.raises(SystemExit, match=r"'.*woodland01\.png' \(20 x 16\)\. The others are done"):
        run(own)


def test_a_picture_that_cannot_be_written_ends_a_test_with_one_line(own, monkeypatch):
    (Path(own['path']['visualization']) / 'pairs' / 'meadow01_run.png').mkdir(parents=True)
    with pytest.raises(SystemExit) as error:
        run(own)
    path = f'{own["path"]["visualization"]}/pairs/meadow01_run.png'
    assert str(error.value) == f"cannot write '{path}': Is a directory."
    assert Path(own['path']['results_root'], 'scores_pairs.unfinished.jsonl').is_file() and scores_of(own) is None
    Path(path).rmdir()
    assert len(run(own)['images']) == 4


def test_a_picture_that_cannot_be_written_is_a_warning_in_a_training(options, tmp_path, log):
    (tmp_path / 'visualization').write_text('in the way')
    model = build_model(options)
    dataset = copy.deepcopy(options['datasets']['val'])
    model.validation(build_dataloader(build_dataset(dataset), dataset), 4, None, True)
    assert len(model.metric_results) == 2
    assert f"4 SR images are left out: cannot write '{tmp_path}/visualization/" in log.text


def test_a_picture_that_cannot_be_made_is_not_half_there(own, monkeypatch):
    monkeypatch.setattr(evaluation.cv2, 'imencode', lambda kind, image: (False, image))
    with pytest.raises(SystemExit, match=r"^cannot write '.*_run\.png': OpenCV cannot make a PNG of it\.$"):
        run(own)
    assert not list(Path(own['path']['visualization']).rglob('*.png'))


@pytest.mark.parametrize('writes', ['scores_pairs.json', 'scores_pairs.unfinished.jsonl'])
def test_scores_that_cannot_be_written_end_a_test_with_one_line(own, writes):
    (Path(own['path']['results_root']) / writes).mkdir(parents=True)
    with pytest.raises(SystemExit, match=rf"^cannot write '.*{writes}': Is a directory\.$"):
        run(own)


def test_images_whose_results_would_be_one_are_refused(own, tmp_path):
    for kind in ('HR', 'LR'):
        shutil.copy(tmp_path / 'pairs' / kind / 'meadow00.png', tmp_path / 'pairs' / kind / 'meadow00.bmp')
    with pytest.raises(ValueError, match=r"'.*HR/meadow00\.(png|bmp)' and '.*HR/meadow00\.(bmp|png)' would both be "
                                         "called 'meadow00', with folder, ending and case left out"):
        image_names(build_dataset(copy.deepcopy(own['datasets']['val'])))


def test_names_of_nested_lists_and_of_lmdbs(tmp_path):
    for folder in 'ab':
        (tmp_path / 'LR' / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'LR' / folder / '1.png'), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'LR' / 'b' / '2.png'), np.zeros((8, 8, 3), np.uint8))
    opt = {'type': 'SingleImageDataset', 'name': 'x', 'phase': 'val', 'dataroot_lq': str(tmp_path / 'LR'),
           'meta_info_file': str(tmp_path / 'list.txt'), 'io_backend': {'type': 'disk'}}
    (tmp_path / 'list.txt').write_text('a/1.png\nb/2.png\n')
    assert image_names(build_dataset(copy.deepcopy(opt))) == ['1', '2']
    (tmp_path / 'list.txt').write_text('a/1.png\nb/1.png\n')
    with pytest.raises(ValueError, match=r"'.*LR/a/1\.png' and '.*LR/b/1\.png' would both be called '1'"):
        image_names(build_dataset(copy.deepcopy(opt)))

    (tmp_path / 'x.lmdb').mkdir()
    (tmp_path / 'x.lmdb' / 'meta_info.txt').write_text('Test.a.png (8,8,3) 1\ntest.b.png (8,8,3) 1\n')  # BasicSR's keys
    lmdb = {**opt, 'dataroot_lq': str(tmp_path / 'x.lmdb'), 'io_backend': {'type': 'lmdb'}}
    with pytest.raises(ValueError, match="'Test' and 'test' would both be called 'test'"):
        image_names(build_dataset(lmdb))

"""Names of results and metrics, checked before a run."""

import copy
import shutil

import cv2
import numpy as np
import pytest

from segsr_model.checks.command import problems_of

PSNR = {'type': 'calculate_psnr', 'crop_border': 4}


@pytest.fixture
def testing(options, pairs, tmp_path, monkeypatch):
    """Options of a test, as they are written, on a copy of the pairs."""
    shutil.copytree(pairs, tmp_path / 'own')
    monkeypatch.chdir(tmp_path)
    dataset = {'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_gt': 'own/HR', 'dataroot_lq': 'own/LR',
               'io_backend': {'type': 'disk'}}
    return {'name': 'run', 'model_type': 'SemanticGuidedSRModel', 'scale': 4, 'num_gpu': 0,
            'datasets': {'test_1': dataset}, 'network_g': {'type': 'Bicubic', 'upscale': 4}, 'path': {},
            'val': {'save_img': True, 'suffix': None, 'metrics': {'psnr': dict(PSNR)}}}


@pytest.fixture
def training(options, tmp_path, monkeypatch):
    """Options of a training, as they are written."""
    monkeypatch.chdir(tmp_path)
    for key in ('is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path'):
        del options[key]
    options['path'] = {}
    return options


def image(folder, name, height, width, scale=4):
    """A pair of noise."""
    for kind, factor in (('HR', scale), ('LR', 1)):
        noise = np.random.default_rng(0).integers(0, 255, (height * factor, width * factor, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / 'own' / kind / name), noise)


def test_a_test_whose_names_are_their_own_has_no_problems(testing):
    testing['datasets']['test_2'] = {**copy.deepcopy(testing['datasets']['test_1']), 'name': 'others'}
    assert problems_of(testing) == []


@pytest.mark.parametrize('name', ['pairs', 'Pairs'])
def test_two_sets_of_one_name_are_both_named(testing, training, name):
    testing['datasets']['test_2'] = {**copy.deepcopy(testing['datasets']['test_1']), 'name': name}
    problem, = problems_of(testing)
    assert problem.startswith(f"datasets:test_1:name and datasets:test_2:name: 'pairs' and '{name}' are one name")
    training['datasets']['val_2'] = {**copy.deepcopy(training['datasets']['val']), 'name': name}
    assert any(problem.startswith('datasets:val:name and datasets:val_2:name') for problem in problems_of(training))
    del training['datasets']['val_2']
    training['datasets']['train']['name'] = training['datasets']['val']['name']  # no results are called after it
    assert problems_of(training) == []


def test_two_metrics_of_one_name_are_both_named(testing):
    testing['val']['metrics'].update(PSNR=dict(PSNR), other=dict(PSNR))
    problem, = problems_of(testing)
    assert problem.startswith("val:metrics:psnr and val:metrics:PSNR: 'psnr' and 'PSNR' are one name")


def test_images_of_one_stem_are_both_named(testing, tmp_path):
    for kind in ('HR', 'LR'):
        shutil.copy(tmp_path / 'own' / kind / 'meadow00.png', tmp_path / 'own' / kind / 'meadow00.bmp')
    problem, = problems_of(testing)
    assert problem.startswith("datasets:test_1: the results of 'own/HR/meadow00.")
    assert "meadow00.bmp'" in problem and "meadow00.png'" in problem and '\n' not in problem


def test_images_of_a_training_may_have_one_stem(training, pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / 'own')
    for kind, key in (('HR', 'dataroot_gt'), ('LR', 'dataroot_lq')):
        shutil.copy(tmp_path / 'own' / kind / 'meadow00.png', tmp_path / 'own' / kind / 'meadow00.bmp')
        training['datasets']['train'][key] = str(tmp_path / 'own' / kind)
    assert problems_of(training) == []


def test_pictures_of_two_validation_sets_may_not_take_each_others_place(training):
    training['datasets']['val_2'] = {**copy.deepcopy(training['datasets']['val']), 'name': 'others'}
    assert problems_of(training) == []  # they are not saved
    training['val']['save_img'] = True
    problem, = problems_of(training)
    assert problem.startswith('val:save_img: datasets:val and datasets:val_2 both have an image called ')
    training['datasets'].update(val_3={**copy.deepcopy(training['datasets']['val']), 'name': 'third'})
    assert len(problems_of(training)) == 2


def test_names_of_pictures_that_are_too_long_are_told(testing, training, tmp_path):
    name = f'{"ö" * 90}.png'
    image(tmp_path, name, 16, 16)
    assert problems_of(testing) == []
    testing['val']['suffix'] = 's' * 80
    problem, = problems_of(testing)
    assert problem.startswith(f"datasets:test_1: the SR image '{'ö' * 90}_{'s' * 80}.png' would have a name of 265 ")
    assert problem.endswith('set a shorter val:suffix')
    testing['val']['save_img'] = False
    assert problems_of(testing) == []


@pytest.mark.parametrize(('metric', 'height', 'width', 'said'), [
    ({'type': 'calculate_ssim', 'crop_border': 4}, 4, 9,
     "cannot be computed for the smallest image of datasets:test_1, 'small.png', 36 x 16 pixels: it is not a number"),
    ({'type': 'calculate_ssim', 'crop_border': 4}, 5, 9, None),
    ({'type': 'calculate_ssim', 'crop_border': 8}, 4, 9, 'crop_border: is 8, which leaves nothing of the smallest'),
    ({'type': 'calculate_niqe', 'crop_border': 4}, 20, 40, "'meadow0"),
    ({'type': 'calculate_psnr_pt', 'crop_border': 4}, 9, 9, 'cannot be computed with these options: too many indices')])
def test_the_limits_of_metrics_are_told_for_the_smallest_image(testing, tmp_path, metric, height, width, said):
    image(tmp_path, 'small.png', height, width)
    testing['val']['metrics']['m'] = metric
    found = problems_of(testing)
    assert len(found) == bool(said) and (not said or found[0].startswith('val:metrics:m:') and said in found[0]), found


def test_a_set_without_ground_truth_is_asked_for_its_own_metrics_alone(testing, tmp_path):
    dataset = testing['datasets']['test_1']
    dataset['type'] = 'SingleImageDataset'
    del dataset['dataroot_gt']
    image(tmp_path, 'small.png', 4, 9)
    testing['val']['metrics'].update(ssim={'type': 'calculate_ssim', 'crop_border': 4})
    problem, = problems_of(testing)  # none of them is tried on the smallest image
    assert problem.startswith('val:metrics: there is no ground truth for psnr, ssim')
    testing['val']['metrics'] = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0}}
    problem, = problems_of(testing)
    assert problem.startswith('val:metrics:niqe: cannot be computed for the smallest image') and '36 x 16' in problem

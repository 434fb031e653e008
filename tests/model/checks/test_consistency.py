"""Options that do nothing for the data sets that they are given for."""

import pytest

from segsr_model.checks.blocks import Block
from segsr_model.checks.consistency import contradictions

PAIRED, SINGLE = {'name': 'paired', 'type': 'PairedImageDataset'}, {'name': 'single', 'type': 'SingleImageDataset'}
PSNR, NIQE = {'type': 'calculate_psnr', 'crop_border': 4}, {'type': 'calculate_niqe', 'crop_border': 4}


def problems(sets, metrics, **logger):
    training = bool(logger)
    datasets = {f'{"val" if training else "test"}_{i}': dataset for i, dataset in enumerate(sets)}
    return list(contradictions(Block({
        'scale': 4, 'network_g': {'upscale': 4}, 'is_train': training, 'val': {'metrics': metrics}, 'logger': logger,
        'datasets': {**datasets, **({'train': PAIRED} if training else {})}}), None))


@pytest.mark.parametrize(('sets', 'metrics', 'said'), [
    ([SINGLE], {'psnr': PSNR}, True), ([SINGLE, SINGLE], {'psnr': PSNR, 'niqe': NIQE}, True),
    ([SINGLE], {'niqe': NIQE}, False), ([SINGLE], {}, False), ([SINGLE, PAIRED], {'psnr': PSNR}, False),
    ([PAIRED], {'psnr': PSNR, 'niqe': NIQE}, False), ([], {'psnr': PSNR}, False),
    ([SINGLE], {'psnr': {'type': 'calculate_psnrr'}}, False), ([{**SINGLE, 'type': 'Others'}], {'psnr': PSNR}, False)])
def test_metrics_that_no_data_set_has_a_ground_truth_for(sets, metrics, said):
    expected = ['val:metrics: there is no ground truth for psnr: datasets:test_0 is a SingleImageDataset; make it a '
                'PairedImageDataset, or leave them out (metrics: ~)']
    assert problems(sets, metrics) == expected * said


@pytest.mark.parametrize(('sets', 'best', 'said'), [
    ([SINGLE, PAIRED], 'psnr', True), ([PAIRED, SINGLE], {'single': 'psnr'}, True), ([PAIRED, SINGLE], 'psnr', False),
    ([SINGLE, PAIRED], {'paired': 'psnr'}, False), ([SINGLE, PAIRED], 'niqe', False), ([SINGLE, PAIRED], [], False)])
def test_the_best_of_a_metric_that_its_data_set_cannot_have(sets, best, said):
    expected = ["logger:save_best: there is no ground truth for 'psnr': the validation set 'single' is a "
                'SingleImageDataset, so that nothing would be saved']
    assert problems(sets, {'psnr': PSNR, 'niqe': NIQE}, save_best=best) == expected * said


@pytest.mark.parametrize('option', ['gt_size', 'use_hflip', 'use_rot', 'use_shuffle', 'num_worker_per_gpu',
                                    'batch_size_per_gpu', 'dataset_enlarge_ratio'])
def test_options_of_training_in_a_set_that_is_not_trained_on(option):
    expected = [f'datasets:test_0:{option}: has no effect: here images are taken one by one, as they are; leave it out']
    assert problems([{**PAIRED, option: 1}], {}) == expected


def test_a_list_of_images_of_an_lmdb():
    base = {**PAIRED, 'io_backend': {'type': 'lmdb'}}
    assert problems([base, {**base, 'meta_info_file': None}], {}) == []
    assert problems([{**base, 'meta_info_file': 'list.txt'}], {}) == [
        'datasets:test_0:meta_info_file: has no effect on an LMDB, of which BasicSR takes all images']

"""Testing: self-ensemble, metrics beside inference, going on after an interruption."""

import copy
import hashlib
import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.models import build_model
from basicsr.utils import misc
from torch import nn

from segsr_model.basicsr_mends import make_exp_dirs
from segsr_model.checks import check_options
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
from segsr_model.testing import evaluation, pyiqa_metric
from segsr_model.testing.inference import super_resolve
from segsr_model.testing.metrics import check_metrics, needs_ground_truth
from segsr_model.testing.protocol import protocol_of, split_checksum
from segsr_model.testing.scores import SavedScores


class Shifted(nn.Module):
    """Enlarges twofold and adds a ramp to the right: flips and rotations must be undone for its mean to be known."""

    def forward(self, x):
        x = nn.functional.interpolate(x, scale_factor=2)
        return x + torch.linspace(0, 1, x.shape[-1])


def test_the_self_ensemble_is_the_mean_of_eight_undone_views():
    x = torch.rand(1, 3, 4, 6)
    plain = nn.functional.interpolate(x, scale_factor=2)
    assert torch.equal(super_resolve(Shifted(), x), plain + torch.linspace(0, 1, 12))
    torch.testing.assert_close(super_resolve(Shifted(), x, self_ensemble=True), plain + 0.5)


@pytest.fixture
def testing(options, monkeypatch, tmp_path):
    """Options of a test of an enlarging network on the pairs, as BasicSR passes them."""
    options.update(is_train=False, network_g={'type': 'Bicubic', 'upscale': 4}, rows=['I Bicubic'])
    options['datasets'] = {'val': options['datasets']['val']}
    root = tmp_path / 'results' / 'run'
    options['path'] = {'pretrain_network_g': None, 'results_root': str(root), 'log': str(root),
                       'visualization': str(root / 'visualization')}
    rgb = {'type': 'calculate_psnr', 'crop_border': 4}
    options['val']['metrics'].update(psnr_rgb=rgb, ssim_rgb={**rgb, 'type': 'calculate_ssim'})
    return options


def run_test(opt):
    """What test.py does with options."""
    make_exp_dirs(opt)
    dataset = copy.deepcopy(opt['datasets']['val'])
    model = build_model(opt)
    model.validation(build_dataloader(build_dataset(dataset), dataset), opt['name'], None, True)
    return json.loads(Path(opt['path']['results_root'], 'scores_pairs.json').read_text())


@pytest.mark.parametrize('workers', [1, 3])
def test_metrics_in_threads_are_basicsrs_own(testing, pairs, monkeypatch, workers):
    monkeypatch.setattr(evaluation, 'WORKERS', workers)
    content = run_test(testing)
    assert list(content['images']) == ['meadow00', 'meadow01', 'woodland00', 'woodland01']
    for name, values in content['images'].items():
        sr = cv2.imread(f'{testing["path"]["visualization"]}/pairs/{name}_run.png')
        hr = cv2.imread(str(pairs / 'HR' / f'{name}.png'))
        assert values == {
            'psnr': calculate_psnr(sr, hr, 4, test_y_channel=True),
            'ssim': calculate_ssim(sr, hr, 4, test_y_channel=True),
            'psnr_rgb': calculate_psnr(sr, hr, 4), 'ssim_rgb': calculate_ssim(sr, hr, 4)}
    assert content['average']['psnr'] - content['average']['psnr_rgb'] > 1  # Y reads higher than RGB


def test_metrics_run_beside_inference_and_few_images_wait(testing, monkeypatch):
    monkeypatch.setattr(evaluation, 'WORKERS', 1)
    feed, second, fed, scored = SemanticGuidedSRModel.feed_data, threading.Event(), [], []

    def feed_data(self, data):
        fed.append(data)
        assert len(fed) - len(scored) <= 2  # no more than two images for each thread
        if len(fed) == 2:
            second.set()
        feed(self, data)

    def metric(images, opt):
        assert second.wait(30)  # the first image's metrics end only after the second image has come
        return 1.0

    add = SavedScores.add
    monkeypatch.setattr(SemanticGuidedSRModel, 'feed_data', feed_data)
    monkeypatch.setattr(evaluation, 'value_of', lambda opt, images: metric(images, opt))
    monkeypatch.setattr(SavedScores, 'add', lambda self, name, values: (scored.append(name), add(self, name, values)))
    assert len(run_test(testing)['images']) == len(scored) == 4


def test_the_protocol_says_what_the_numbers_depend_on(testing, pairs, tmp_path):
    network = build_network({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1})
    torch.save({'params': network.state_dict(), 'iterations': 70}, tmp_path / 'net.pth')
    testing['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}
    testing['path'].update(pretrain_network_g=str(tmp_path / 'net.pth'))
    testing['val']['self_ensemble'] = True
    protocol = run_test(testing)['protocol']
    assert protocol == protocol_of(testing, build_dataset(testing['datasets']['val']))
    assert protocol['rows'] == ['I Bicubic'] and protocol['network'] == 'EDSR' and protocol['iterations'] == 70
    assert protocol['self_ensemble'] is True and protocol['images'] == 4 and protocol['lr_recipe'] is None
    assert protocol['split_sha256'] == split_checksum(['woodland01', 'meadow00', 'meadow01', 'woodland00'])
    assert protocol['checkpoint_sha256'] == hashlib.sha256((tmp_path / 'net.pth').read_bytes()).hexdigest()
    assert set(protocol['versions']) == {'segsr', 'basicsr', 'torch'}


class InterruptedTestError(Exception):
    """Stands for whatever ends a test before its time."""


@pytest.fixture
def stopping(testing, monkeypatch):
    """A test that was ended at its fourth image; ``done`` lists what it super-resolves from now on, up to ``limit``."""
    monkeypatch.setattr(evaluation, 'WORKERS', 1)
    feed, state = SemanticGuidedSRModel.feed_data, SimpleNamespace(done=[], limit=4)

    def feed_data(self, data):
        state.done.append(Path(data['lq_path'][0]).stem)
        if len(state.done) == state.limit:
            raise InterruptedTestError
        feed(self, data)

    monkeypatch.setattr(SemanticGuidedSRModel, 'feed_data', feed_data)
    with pytest.raises(InterruptedTestError):
        run_test(testing)
    state.done.clear()
    return testing, state


def test_an_interrupted_test_goes_on_where_it_stopped(stopping, tmp_path, log):
    testing, state = stopping
    root = tmp_path / 'results' / 'run'
    journal = root / 'scores_pairs.unfinished.jsonl'
    lines = journal.read_text().splitlines()
    assert len(lines) == 3 and not (root / 'scores_pairs.json').exists()
    journal.write_text(journal.read_text()[:-9])  # the last line was cut off while it was written
    log.clear()
    make_exp_dirs(testing)
    assert not log.records  # BasicSR sets its logger up after this; used before, it writes no log file
    content = run_test(testing)
    assert len(state.done) == 3 and not any(name in lines[1] for name in state.done)
    assert len(content['images']) == 4 and not journal.exists()
    assert [folder.name for folder in (tmp_path / 'results').iterdir()] == ['run']

    state.limit = None
    testing['path'].update(results_root=str(tmp_path / 'again'), visualization=str(tmp_path / 'again' / 'images'))
    assert run_test(testing)['images'] == content['images']


def test_another_protocol_starts_anew_and_keeps_what_was_there(stopping, tmp_path):
    testing, state = stopping
    state.limit = None
    testing['val']['metrics']['psnr']['crop_border'] = 2
    run_test(testing)
    assert len(state.done) == 4
    archived = [folder for folder in (tmp_path / 'results').iterdir() if '_archived_' in folder.name]
    assert len(archived) == 1 and (archived[0] / 'scores_pairs.unfinished.jsonl').is_file()


def test_a_finished_test_is_archived_as_basicsr_does(testing, monkeypatch):
    first = run_test(testing)
    moved = []
    monkeypatch.setattr(misc, 'mkdir_and_rename', moved.append)
    make_exp_dirs(testing)
    assert moved == [testing['path']['results_root']] and first['images']


@pytest.fixture
def pyiqa(monkeypatch):
    """Stands for pyiqa: a full-reference metric, a blind one, and one whose weights cannot be fetched."""
    class Metric:
        def __init__(self, mode):
            self.metric_mode, self.lower_better = mode, mode == 'FR'

        def __call__(self, img, img2=None):
            return img.mean() if img2 is None else (img - img2).abs().mean()

    def create_metric(name, device):
        if name == 'dists':
            raise OSError('no network\nat all')
        return Metric('NR' if name == 'niqe' else 'FR')

    module = SimpleNamespace(list_models=lambda: ['lpips', 'niqe', 'dists'], create_metric=create_metric)
    monkeypatch.setitem(sys.modules, 'pyiqa', module)
    pyiqa_metric.create.cache_clear()
    yield module
    pyiqa_metric.create.cache_clear()


def test_metrics_of_pyiqa_come_from_the_option_file(testing, pyiqa, pairs):
    testing['val']['metrics'].update(
        lpips={'type': 'calculate_pyiqa', 'metric': 'lpips', 'crop_border': 4},
        niqe={'type': 'calculate_pyiqa', 'metric': 'niqe'})
    metrics = testing['val']['metrics']
    check_metrics(metrics)
    assert needs_ground_truth(metrics['lpips']) and not needs_ground_truth(metrics['niqe'])
    values = run_test(testing)['images']['meadow00']
    sr = cv2.imread(f'{testing["path"]["visualization"]}/pairs/meadow00_run.png') / 255
    hr = cv2.imread(str(pairs / 'HR' / 'meadow00.png')) / 255
    assert values['lpips'] == pytest.approx(abs(sr - hr)[4:-4, 4:-4].mean(), abs=1e-6)
    assert values['niqe'] == pytest.approx(sr.mean(), abs=1e-6)


def test_the_best_values_of_a_metric_of_pyiqa_are_those_it_calls_better(testing, pyiqa):
    testing['val']['metrics'].update(
        lpips={'type': 'calculate_pyiqa', 'metric': 'lpips'}, niqe={'type': 'calculate_pyiqa', 'metric': 'niqe'},
        own={'type': 'calculate_pyiqa', 'metric': 'lpips', 'better': 'higher'})
    model = build_model(testing)
    model._initialize_best_metric_results('pairs')
    better = {name: record['better'] for name, record in model.best_metric_results['pairs'].items()}
    assert {name: better[name] for name in ('psnr', 'lpips', 'niqe', 'own')} == {
        'psnr': 'higher', 'lpips': 'lower', 'niqe': 'higher', 'own': 'higher'}


@pytest.mark.parametrize(('metric', 'message'), [
    ('dists', r"val:metrics:m: the weights of pyiqa's 'dists' could not be loaded \(OSError: no network\)\. Without"),
    ('lpipss', r"val:metrics:m: pyiqa has no metric 'lpipss'; "),
    (None, r"val:metrics:m: option 'metric' is missing"),
])
def test_what_pyiqa_cannot_do_is_said_before_the_test(pyiqa, metric, message):
    with pytest.raises(ValueError, match=message) as error:
        check_metrics({'m': {'type': 'calculate_pyiqa', **({'metric': metric} if metric else {})}})
    assert '\n' not in str(error.value)


def test_pyiqa_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    pyiqa_metric.create.cache_clear()
    with pytest.raises(ValueError, match=r"val:metrics:lpips: metric 'lpips' needs pyiqa: pip install pyiqa"):
        check_metrics({'lpips': {'type': 'calculate_pyiqa', 'metric': 'lpips'}})


@pytest.fixture
def own_pairs(testing, pairs, tmp_path):
    """The pairs, copied so that a test may spoil them; options of a test on them."""
    shutil.copytree(pairs, tmp_path / 'pairs')
    root = tmp_path / 'pairs'
    testing['datasets']['val'].update(dataroot_gt=str(root / 'HR'), dataroot_lq=str(root / 'LR'))
    return testing, root


def test_images_that_belong_together_are_accepted(own_pairs):
    check_options(own_pairs[0])


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda root: (root / 'LR' / 'meadow01.png').unlink(),
     r"datasets:val: '.*HR/meadow01\.png' has no image of the same name in '.*LR'"),
    (lambda root: (root / 'HR' / 'meadow01.png').unlink(),
     r"datasets:val: '.*LR/meadow01\.png' has no image of the same name in '.*HR'"),
    (lambda root: cv2.imwrite(str(root / 'LR' / 'meadow01.png'), cv2.imread(str(root / 'LR' / 'meadow01.png'))[:, :12]),
     r"datasets:val: '.*HR/meadow01\.png' is 64 x 64; for an LR image of 12 x 16 at x4 it must be 48 x 64"),
    (lambda root: (root / 'LR' / 'meadow01.png').write_text('no image'),
     r"datasets:val: '.*LR/meadow01\.png': it cannot be decoded"),
    (lambda root: [path.unlink() for path in root.glob('*/*.png')], r"datasets:val: '.*HR' has no images"),
])
def test_images_that_do_not_are_named(own_pairs, spoil, message):
    testing, root = own_pairs
    spoil(root)
    with pytest.raises(ValueError, match=message) as error:
        check_options(testing)
    assert '\n' not in str(error.value)

"""A training that is killed and resumed is the same run, bit for bit."""

import copy
import random

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model

from segsr_model.training.resume import build_train_loader, random_states, set_random_states
from tests.model.trainings import KILLED, differences, kill_at_write, result, train, write_options


@pytest.fixture
def option_file(options, tmp_path):
    """A training of 12 iterations, 6 in an epoch, with dropout, a warm-up, checkpoints and validation."""
    options['network_g']['semantic']['encoder']['lora_dropout'] = 0.2
    options['datasets']['train']['dataset_enlarge_ratio'] = 3
    options['train'].update(total_iter=12, warmup_iter=5)
    options['val'].update(val_freq=4, save_img=False)
    options['logger'].update(save_checkpoint_freq=3, use_tb_logger=False, save_best='psnr', keep_last=2)
    return write_options(options, tmp_path / 'tiny.yml')


def test_killed_and_resumed_is_the_same_run_whatever_reads_the_data(option_file, tmp_path):
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    for folder in (straight, killed):
        folder.mkdir()
    code, output = train(straight, option_file)
    assert code == 0, output

    # iterations 3, 6 and 9 have two files each; a best one follows from 4 on
    resumed = []
    for number, moment, *arguments in ((2, 'after'), (1, 'replace', 'datasets:train:num_worker_per_gpu=1'),
                                       (3, 'fsync', 'datasets:train:prefetch_mode=cpu')):
        force = ('--force_yml', *arguments) if arguments else ()
        code, output = train(killed, option_file, '--auto_resume', *force, before=kill_at_write(number, moment))
        assert code == KILLED, output
        resumed.append('Resuming training from epoch: 0, iter: 3' in output)
    code, output = train(killed, option_file, '--auto_resume')
    assert code == 0, output
    assert resumed == [False, True, True] and 'Resuming training from epoch: ' in output
    a, b = result(straight), result(killed)
    assert set(a) == {'state', 'net_g_12.pth', 'net_g_latest.pth', 'net_g_best.pth'}
    assert differences(a, b) == []
    assert a['state']['best']['pairs']['psnr']['iter'] in (4, 8, 12)
    assert not list((killed / 'experiments').rglob('.*.part*'))


def train_loader(options, *, start=None, workers=0, processes=1, rank=0):
    data = options['datasets']['train']
    data.update(num_worker_per_gpu=workers, **({'resume': start} if start else {}))
    dataset = build_dataset(data)
    sampler = EnlargedSampler(dataset, processes, rank, 3)
    return sampler, build_train_loader(build_dataloader, dataset, data, sampler=sampler, seed=5, num_gpu=0)


def epoch(sampler, loader, number):
    sampler.set_epoch(number)
    return [(batch['lq'], batch['gt_path'], [p.tolist() for p in batch['place']]) for batch in loader]


def test_an_epoch_goes_on_in_its_middle_with_the_same_crops(options):
    whole = epoch(*train_loader(options), 2)
    start = {'epoch': 2, 'position': 8, 'length': 12, 'processes': 1}
    sampler, loader = train_loader(options, start=start, workers=1)
    assert differences(epoch(sampler, loader, 2), whole[4:]) == [] and len(whole) == 6
    assert differences(epoch(sampler, loader, 3), epoch(*train_loader(options), 3)) == []
    assert differences(whole, epoch(*train_loader(options), 3)) != []


def test_samples_drawn_again_are_other_crops(options):
    crops = {}
    for lq, paths, _ in epoch(*train_loader(options), 0):
        for image, path in zip(lq, paths):
            crops.setdefault(path, []).append(image)
    assert all(len(images) == 3 and not torch.equal(images[0], images[1]) for images in crops.values())


def test_processes_share_an_epoch_and_each_resumes_its_part(options):
    parts = [epoch(*train_loader(options, processes=2, rank=rank), 1) for rank in range(2)]
    assert sorted(path for part in parts for _, paths, _ in part for path in paths) == sorted(
        path for _, paths, _ in epoch(*train_loader(options), 1) for path in paths)
    start = {'epoch': 1, 'position': 2, 'length': 6, 'processes': 2}
    assert differences(epoch(*train_loader(options, processes=2, rank=1, start=start), 1), parts[1][1:]) == []


def test_other_data_begin_the_epoch_again_and_say_so(options, log):
    start = {'epoch': 1, 'position': 2, 'length': 6, 'processes': 2}
    assert len(epoch(*train_loader(options, start=start), 1)) == 6
    assert '6 samples for each of 2 process(es), now it has 12 for each of 1' in log.text


def test_drawing_samples_leaves_no_trace_in_the_random_states(options):
    before = random_states({'num_gpu': 0})
    epoch(*train_loader(options), 0)
    assert differences(random_states({'num_gpu': 0}), before) == []
    numbers = random.random(), np.random.rand(), torch.rand(1).item()
    set_random_states({'num_gpu': 0}, before)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == numbers


def rates(model, iterations, warmup):
    for i in iterations:
        model.update_learning_rate(i, warmup_iter=warmup)
        model.optimizer_g.step()
        yield model.get_current_learning_rate()[0]


def test_warm_up_reaches_the_full_rate_and_a_milestone_in_it_counts(options):
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [2, 6], 'gamma': 0.5}
    model = build_model(options)
    base = 1e-3
    expected = [base / 4, base / 2, base * 3 / 4, base / 2, base / 2, base / 2, base / 4]
    assert list(rates(model, range(1, 8), 4)) == pytest.approx(expected)


def test_the_scaler_and_the_number_of_bad_steps_are_saved(options, tmp_path):
    options['train']['amp'] = 'fp16'
    model = build_model(options)
    model.step.scaler = torch.amp.GradScaler('cpu', init_scale=128.0)
    model.step.bad_steps = 3
    model.save(0, 1)
    state = torch.load(tmp_path / 'training_states' / '1.state')
    model.step.scaler = torch.amp.GradScaler('cpu', init_scale=2.0)
    model.step.bad_steps = 0
    model.resume_training(state)
    assert model.step.scaler.get_scale() == 128.0 and model.step.bad_steps == 3


def test_the_best_record_survives_also_when_a_metric_is_new(options, tmp_path):
    model = build_model(options)
    model._initialize_best_metric_results('pairs')
    model._update_best_metric_result('pairs', 'psnr', 30.0, 1)
    model.save(0, 1)
    options['val']['metrics']['psnr2'] = dict(options['val']['metrics']['psnr'])
    del options['val']['metrics']['ssim']
    options['train']['optim_g']['type'], options['train']['scheduler']['type'] = 'Adam', 'MultiStepLR'
    again = build_model(options)
    again.resume_training(torch.load(tmp_path / 'training_states' / '1.state'))
    assert again.best_metric_results['pairs'] == {'psnr': {'better': 'higher', 'val': 30.0, 'iter': 1},
                                                  'psnr2': {'better': 'higher', 'val': float('-inf'), 'iter': -1}}


def test_the_best_record_of_a_metric_that_is_another_now_begins_anew(options, tmp_path, log):
    model = build_model(copy.deepcopy(options))
    model._initialize_best_metric_results('pairs')
    for metric in ('psnr', 'ssim'):
        model._update_best_metric_result('pairs', metric, 30.0, 1)
    model.save(0, 1)
    state = torch.load(tmp_path / 'training_states' / '1.state')
    for change in ({'crop_border': 0}, {'better': 'lower'}):
        changed = copy.deepcopy(options)
        changed['val']['metrics']['psnr'].update(change)
        again = build_model(changed)
        again.resume_training(state)
        assert [again.best_metric_results['pairs'][metric]['iter'] for metric in ('psnr', 'ssim')] == [-1, 1]
    assert 'val:metrics:psnr: the run had type calculate_psnr, crop_border 4, test_y_channel True; from' in log.text

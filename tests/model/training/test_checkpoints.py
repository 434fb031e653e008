"""Checkpoints: whole or not there, verified, pruned, written beside the training."""

import copy
import logging
import os
import re
import resource
import threading

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model

from segsr_model.basicsr_mends import load_resume_state
from segsr_model.files import remove_leftovers
from segsr_model.training.checkpoints import CheckpointWriter, best_metric, read_pair, snapshot
from tests.model.trainings import differences


@pytest.fixture
def model(options):
    return build_model(copy.deepcopy(options))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'training_states', tmp_path / 'models'


def flip(path, part):
    """Damage a file: one bit at a part of its length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 1
    path.write_bytes(content)


def resumed_from(options):
    opt = {**copy.deepcopy(options), 'auto_resume': True}
    state = load_resume_state(opt)
    return (state['iter'], state['notes']) if state else None


def test_names_and_content_are_basicsrs_with_a_checksum_of_the_pair(model, folder):
    model.save(0, 5)
    states, models = folder
    state = torch.load(states / '5.state', weights_only=True)
    assert {'epoch', 'iter', 'optimizers', 'schedulers'} < set(state)
    assert state['files']['net_g_5.pth']['size'] == (models / 'net_g_5.pth').stat().st_size
    assert os.listdir(models) == ['net_g_5.pth'] and os.listdir(states) == ['5.state']
    assert read_pair(states / '5.state', models, ['net_g'])[1] == []


@pytest.mark.parametrize('damage, said', [
    (lambda s, m: flip(m / 'net_g_6.pth', 0.5), 'net_g_6.pth. is damaged, or is not the one saved with'),
    (lambda s, m: flip(s / '6.state', 0.5), '6.state. is damaged'),
    (lambda s, m: os.truncate(m / 'net_g_6.pth', 5000), 'net_g_6.pth. is damaged'),
    (lambda s, m: os.truncate(s / '6.state', 5000), '6.state. is damaged'),
    (lambda s, m: os.truncate(s / '6.state', 0), '6.state. is damaged'),
    (lambda s, m: (m / 'net_g_6.pth').unlink(), 'net_g_6.pth. is missing'),
    (lambda s, m: (m / 'net_g_5.pth').replace(m / 'net_g_6.pth'), 'net_g_6.pth. is damaged, or is not the one'),
    (lambda s, m: torch.save({'params': {}}, s / '6.state'), '6.state. is no training state of BasicSR: it has no epo'),
])
def test_auto_resume_falls_back_to_the_newest_complete_pair(model, options, folder, damage, said, log):
    for i in (4, 5, 6):
        model.iterations = i
        model.save(0, i)
    (folder[1] / 'net_g_7.pth').write_bytes(b'killed before its state was written')
    (folder[0] / 'best.state').write_bytes(b'')
    damage(*folder)
    iteration, notes = resumed_from(options)
    assert iteration == (4 if not (folder[1] / 'net_g_5.pth').exists() else 5)
    assert 'The checkpoint of iteration 6 is passed over' in notes[0]
    assert re.search(said, notes[0])

    opt = {**copy.deepcopy(options)}
    opt['path']['resume_state'] = str(folder[0] / '6.state')
    with pytest.raises(SystemExit, match=f'path:resume_state: .*{said}'):
        load_resume_state(opt)


def test_no_complete_pair_is_never_taken_for_a_new_run(model, options, folder):
    assert resumed_from(options) is None
    model.save(0, 1)
    os.truncate(folder[0] / '1.state', 10)
    with pytest.raises(SystemExit, match='none of the 1 checkpoints .* is complete.*1.state.*leave out --auto_resume'):
        resumed_from(options)


def test_pairs_of_basicsr_itself_resume_with_a_word(model, options, folder, log):
    model.save(0, 3)
    state = torch.load(folder[0] / '3.state')
    plain = {key: state[key] for key in ('epoch', 'iter', 'optimizers', 'schedulers')}
    torch.save(plain, folder[0] / '3.state')
    iteration, notes = resumed_from(options)
    assert iteration == 3 and 'net_g_3.pth' in notes[0] and 'without a checksum' in notes[0]
    model.resume_training({**plain, 'notes': notes})
    assert 'without a checksum' in log.text and 'holds no random states' in log.text
    flip(folder[1] / 'net_g_3.pth', 0.5)
    with pytest.raises(SystemExit, match='net_g_3.pth. is damaged'):
        resumed_from(options)


def test_keep_last_keeps_the_newest_pairs_and_the_best(options, folder):
    options['logger']['keep_last'] = 2
    model = build_model(options)
    for i in (30, 4, 5, 6):  # 30: of a run that was damaged later; a newer one than those pruned is left alone
        model.save(0, i)
        model.save_networks('best')
    assert {path.name for path in folder[0].iterdir()} == {'5.state', '6.state', '30.state'}
    assert {path.name for path in folder[1].iterdir()} == {f'net_g_{i}.pth' for i in (5, 6, 30, 'best')}


@pytest.mark.parametrize('save_best, better, values, kept', [
    ('psnr', 'higher', (20, 30, 25), 2), ('psnr', 'lower', (20, 30, 25), 1),
    ({'other': 'psnr'}, 'higher', (1, 2), None),
    ('psnr', 'higher', (30, float('nan'), 29), 1), ('psnr', 'higher', (30, 30), 2)])
def test_save_best_follows_the_metric_of_its_dataset(options, folder, save_best, better, values, kept):
    options['logger']['save_best'] = save_best
    options['datasets']['val_2'] = {**options['datasets']['val'], 'name': 'other'}
    options['val']['metrics']['psnr']['better'] = better
    model = build_model(options)
    model._initialize_best_metric_results('pairs')
    for i, value in enumerate(values, 1):
        model.iterations = i
        model._update_best_metric_result('pairs', 'psnr', value, i)
        model._update_best_metric_result('pairs', 'ssim', 0.1 * i, i)
    best = folder[1] / 'net_g_best.pth'
    assert (torch.load(best)['iterations'] if best.exists() else None) == kept


@pytest.mark.parametrize('save_best, said', [
    ('psrn', "logger:save_best: 'psrn' is not in val:metrics; there are psnr, ssim"),
    ({'set5': 'psnr'}, "logger:save_best: there is no validation set 'set5'; there are pairs"),
    (['psnr'], 'logger:save_best: must be a metric'),
])
def test_a_wrong_metric_is_named(options, save_best, said):
    options['logger']['save_best'] = save_best
    with pytest.raises(ValueError, match=said):
        best_metric(options)


def test_save_best_means_the_first_validation_set(options):
    options['logger']['save_best'] = 'ssim'
    assert best_metric(options) == ('pairs', 'ssim')
    del options['datasets']['val']
    with pytest.raises(ValueError, match='logger:save_best'):
        best_metric(options)


@pytest.fixture
def full_disk():
    """Files cannot grow beyond a few kB, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (4000 if full else before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_leaves_the_last_good_pair(model, options, folder, full_disk, log):
    model.save(0, 1)
    full_disk(True)
    model.save(0, 2)
    model.save(0, 1)  # not even one of the same name is harmed
    with pytest.raises(OSError, match='could not save .*net_g_latest.pth.: File too large'):
        model.save(-1, -1)
    full_disk(False)
    said = [record.message for record in log.records if record.levelno == logging.ERROR]
    assert len(said) == 3 and 'net_g_2.pth' in said[0] and 'Earlier checkpoints are as they were' in said[0]
    assert os.listdir(folder[1]) == ['net_g_1.pth'] and os.listdir(folder[0]) == ['1.state']
    assert resumed_from(options) == (1, [])
    model.save(0, 3)
    assert resumed_from(options) == (3, [])


def test_a_folder_that_cannot_be_written_to_is_said(model, options, folder, monkeypatch, log):
    def read_only(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    model.save(0, 1)
    monkeypatch.setattr('segsr_model.files.os.replace', read_only)
    model.save(0, 2)
    monkeypatch.undo()
    assert f"could not save '{folder[1] / 'net_g_2.pth'}': Permission denied" in log.text
    assert resumed_from(options) == (1, [])


def test_a_pair_is_written_beside_the_training_as_it_was_when_saved(options, folder):
    model, reference = build_model(copy.deepcopy(options)), build_model(copy.deepcopy(options))
    for same in (model, reference):
        same.net_g.load_state_dict(model.net_g.state_dict())
        same.net_g_ema.load_state_dict(model.net_g_ema.state_dict())
    reference.save(0, 1)
    expected = torch.load(folder[1] / 'net_g_1.pth')

    model.writer = CheckpointWriter(background=True)
    go = threading.Event()
    model.writer._pool.submit(go.wait)  # the thread is busy
    model.save(0, 1)
    with torch.no_grad():
        for p in model.net_g.parameters():
            p.add_(1)
    (folder[1] / 'net_g_1.pth').unlink()
    go.set()
    model.writer.finish()
    assert differences(torch.load(folder[1] / 'net_g_1.pth'), expected) == []
    assert model.writer.saved == 1


def test_an_error_in_the_background_is_logged_and_raised_at_the_end(options, log, monkeypatch):
    def full(descriptor):
        raise OSError(28, 'No space left on device')

    model = build_model(options)
    model.writer = CheckpointWriter(background=True)
    monkeypatch.setattr('segsr_model.files.os.fsync', full)
    model.save(0, 1)
    model.writer.wait()
    assert log.text.count('No space left on device') == 1  # the state without its network is not tried
    with pytest.raises(OSError, match='net_g_latest.pth.: No space left on device'):
        model.save(-1, -1)


def test_a_snapshot_shares_what_is_shared_and_keeps_kinds():
    from collections import Counter, OrderedDict
    weight = torch.rand(3)
    content = {'a': weight, 'b': OrderedDict(c=weight, d=weight[:2]), 'e': Counter({4: 1}), 'f': (1, [torch.zeros(0)])}
    copied = snapshot(content)
    weight.add_(1)
    assert copied['a'] is copied['b']['c'] and torch.equal(copied['a'] + 1, weight) and len(copied['b']['d']) == 2
    assert type(copied['b']) is OrderedDict and copied['e'] == content['e'] and type(copied['e']) is Counter
    assert type(copied['f']) is tuple and copied['f'][1][0].numel() == 0


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path):
    for name in ('.net_g_5.pth.123.part.pth', '.7.state.9.part.state', '.partial.pth', 'net_g_5.part.pth', '.x.part'):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'.partial.pth', 'net_g_5.part.pth', '.x.part'}


def test_validation_leaves_the_random_states_as_they_were(model, options):
    loader = build_dataloader(build_dataset(options['datasets']['val']), options['datasets']['val'])
    before = torch.get_rng_state()
    model.validation(loader, 1, None)
    assert torch.equal(before, torch.get_rng_state())

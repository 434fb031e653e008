"""Folders that are there as a name only."""

import shutil

import pytest

from segsr_model.checks.blocks import Block
from segsr_model.checks.places import place_problems


def problems(root, *, training=True, **logger):
    folder = root / ('experiments' if training else 'results') / 'run'
    return list(place_problems(Block({
        'name': 'run', 'is_train': training, 'auto_resume': True, 'logger': logger, 'datasets': {}, 'train': {},
        'path': {'experiments_root' if training else 'results_root': str(folder)}}), None))


@pytest.mark.parametrize(('training', 'link', 'options'), [
    (True, 'experiments', {}), (True, 'experiments/run', {}), (False, 'results', {}), (False, 'results/run', {}),
    (True, 'tb_logger', {'use_tb_logger': True}), (True, 'tb_logger/run', {'use_tb_logger': True}),
    (True, 'experiments/run/training_states', {}), (True, 'experiments/run/models', {})])
def test_a_link_to_nowhere_is_named_with_its_target(tmp_path, training, link, options):
    assert problems(tmp_path, training=training, **options) == []
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to('/no/such/disk')
    problem, = problems(tmp_path, training=training, **options)
    assert problem.startswith('logger:use_tb_logger: ' if options else 'name: ')
    assert problem.endswith(f"cannot be made: '{tmp_path / link}' is a link to '/no/such/disk', which is not there")


def test_links_in_a_circle_are_links_to_nowhere(tmp_path):
    (tmp_path / 'experiments').symlink_to(tmp_path / 'other')
    (tmp_path / 'other').symlink_to(tmp_path / 'experiments')
    assert 'is a link to' in problems(tmp_path)[0]


def test_a_link_to_a_disk_that_is_there_is_fine(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'experiments').symlink_to(tmp_path / 'disk')
    assert problems(tmp_path) == []


def test_a_disk_that_does_not_answer_is_named(tmp_path, monkeypatch):
    def stale(path):
        raise OSError(116, 'Stale file handle')

    monkeypatch.setattr(shutil, 'disk_usage', stale)
    problem, = problems(tmp_path)
    assert problem.startswith('name: ') and problem.endswith(f"'{tmp_path}': Stale file handle")

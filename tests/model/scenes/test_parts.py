"""Finished parts of a scene: whole or not there, made once, shared by processes."""

import os
import platform

import pytest

from segsr_model.scenes.parts import SETTINGS, SILENCE, Parts


def make(parts, name, content='x'):
    with parts.making(name) as folder:
        (folder / 'a.txt').write_text(content)


def test_a_part_is_there_when_it_is_whole(tmp_path):
    parts = Parts(tmp_path / 'work', {'tile': 256})
    with pytest.raises(RuntimeError), parts.making('strip_0') as folder:
        (folder / 'a.txt').write_text('half')
        assert 'strip_0' not in parts
        raise RuntimeError
    assert sorted(os.listdir(tmp_path / 'work')) == [SETTINGS]
    make(parts, 'strip_0')
    assert 'strip_0' in parts and parts.path('strip_0', 'a.txt').read_text() == 'x'
    make(parts, 'strip_0', 'made again')
    assert parts.path('strip_0', 'a.txt').read_text() == 'x'


def test_the_same_settings_go_on_and_others_start_over(tmp_path):
    settings = {'tile': 256, 'bands': (1, 2, 3), 'weights': 'abc'}
    make(Parts(tmp_path / 'work', settings), 'strip_0')
    again = Parts(tmp_path / 'work', settings)
    assert 'strip_0' in again and again.changed == []
    other = Parts(tmp_path / 'work', {**settings, 'tile': 128})
    assert 'strip_0' not in other and other.changed == ['tile']


def test_a_damaged_part_is_made_again(tmp_path):
    parts = Parts(tmp_path / 'work', {})
    make(parts, 'strip_0')
    make(parts, 'strip_1')
    parts.path('strip_1', 'a.txt').write_text('y')
    assert parts.verify(['strip_0', 'strip_1', 'strip_2']) == ['strip_1']
    assert 'strip_0' in parts and 'strip_1' not in parts


def test_processes_share_the_work_and_wait_for_each_other(tmp_path):
    names = ['a', 'b', 'c']
    one, two = Parts(tmp_path / 'work', {}), Parts(tmp_path / 'work', {})
    first, second = one.missing(names), two.missing(names)
    assert next(first) == 'a' and next(second) == 'b'
    make(one, 'a')
    assert next(first) == 'c'
    make(two, 'b')
    make(one, 'c')
    assert list(second) == [] and list(first) == []
    assert not list((tmp_path / 'work').glob('*.claim'))


@pytest.mark.parametrize('owner, age, free', [
    (f'{platform.node()} {os.getpid()}', 9999, False),  # it lives, however long it takes
    (f'{platform.node()} 999999999', 0, True),  # it has ended
    ('elsewhere 1', SILENCE / 2, False), ('elsewhere 1', SILENCE * 2, True), ('', 1, False)])
def test_the_claim_of_a_dead_process_counts_for_nothing(tmp_path, owner, age, free):
    parts = Parts(tmp_path / 'work', {})
    claim = tmp_path / 'work' / 'a.claim'
    claim.write_text(owner)
    stamp = claim.stat().st_mtime - age
    os.utime(claim, (stamp, stamp))
    assert parts._claim('a') is free

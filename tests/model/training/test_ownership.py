"""A run's folder belongs to one process at a time, on any number of machines."""

import contextlib
import copy
import errno
import multiprocessing
import os
import threading
import time

import pytest

from segsr_model.basicsr_mends import as_owner, load_resume_state, make_exp_dirs
from segsr_model.training import ownership
from segsr_model.training.ownership import own

_fork = multiprocessing.get_context('fork')


@contextlib.contextmanager
def owner(folder):
    """Another process that owns a folder, until it is killed."""
    ready = _fork.Event()
    process = _fork.Process(target=lambda: (own(folder), ready.set(), time.sleep(60)))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


@pytest.fixture
def quick(monkeypatch):
    """A machine gives up another one after 0.4 s instead of a minute."""
    monkeypatch.setattr(ownership, 'BEAT', 0.05)
    monkeypatch.setattr(ownership, 'SILENCE', 0.4)


def lock_of(host, folder):
    path = folder.with_name(f'.{folder.name}.lock')
    path.write_text(f'{host}\n7\n2020-01-02 03:04:05\n')
    return path


def test_the_second_process_is_refused_and_a_killed_one_has_no_claim(tmp_path, monkeypatch):
    folder = tmp_path / 'experiments' / 'run'
    with owner(folder) as process:
        with pytest.raises(ValueError, match=f"'{folder}' is in use by process {process.pid} on [^\n]*another name$"):
            own(folder)
        own(tmp_path / 'experiments' / 'other')
    monkeypatch.delattr(ownership, '_is_touched')  # nobody waits on the machine of the one that was killed
    own(folder)
    own(folder)  # it is ours
    assert os.listdir(folder.parent)  # beside the folder, which may be moved
    assert not folder.exists()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('resumed', [True, False])
def test_a_second_run_ends_before_anything_is_moved(options, tmp_path, training, resumed):
    opt = copy.deepcopy(options)
    root = tmp_path / 'runs' / 'run'
    opt.update(is_train=training, auto_resume=resumed)
    for key in ('experiments_root', 'results_root', 'models', 'training_states', 'visualization'):
        opt['path'][key] = str(root if key.endswith('root') else root / key)
    (root / 'models').mkdir(parents=True)
    begin = as_owner(load_resume_state if training else make_exp_dirs)
    with owner(root), pytest.raises(SystemExit, match="^name: '.*run' is in use by process [^\n]*$"):
        begin(opt)
    assert [path.name for path in root.parent.iterdir() if path.is_dir()] == ['run']
    begin(opt)


def test_a_dead_machine_loses_its_folder_and_a_living_one_keeps_it(quick, tmp_path, capsys):
    dead, alive = tmp_path / 'dead', tmp_path / 'alive'
    lock_of('elsewhere', dead)
    own(dead)
    assert 'dead: waiting up to 0 s: does process 7 on elsewhere, since 2020-01-02 03:04:05, still' in (
        capsys.readouterr().err)
    assert f'\n{os.getpid()}\n' in (tmp_path / '.dead.lock').read_text()

    path, done = lock_of('elsewhere', alive), threading.Event()
    beating = threading.Thread(target=lambda: [os.utime(path) for _ in iter(lambda: done.wait(0.05), True)])
    beating.start()
    with pytest.raises(ValueError, match="alive' is in use by process 7 on elsewhere, since 2020-01-02 03:04:05;"):
        own(alive)
    done.set()
    beating.join()
    assert path.read_text().startswith('elsewhere')


def test_an_owner_shows_that_it_is_alive(quick, tmp_path):
    own(tmp_path / 'run')
    path = tmp_path / '.run.lock'
    os.utime(path, (0, 0))
    end = time.monotonic() + 30
    while path.stat().st_mtime == 0:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_locks_touching_the_file_must_do(quick, tmp_path, monkeypatch):
    def none_here(*arguments):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(ownership.fcntl, 'lockf', none_here)
    with owner(tmp_path / 'run'), pytest.raises(ValueError, match='in use by process'):
        own(tmp_path / 'run')
    own(tmp_path / 'run')


def test_of_many_that_start_at_once_one_wins(tmp_path):
    results, go = _fork.Queue(), _fork.Event()

    def compete():
        go.wait()
        try:
            own(tmp_path / 'run')
            results.put(True)
        except ValueError:
            results.put(False)
        time.sleep(60)

    processes = [_fork.Process(target=compete) for _ in range(6)]
    for process in processes:
        process.start()
    go.set()
    won = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.kill()
    assert sorted(won) == [False] * 5 + [True]


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / 'experiments').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r"run' cannot be locked: '.*\.run\.lock': File exists$"):
        own(tmp_path / 'experiments' / 'run')
    assert not (tmp_path / 'nowhere').exists()


def test_the_file_goes_with_its_owner_unless_another_machine_took_it(tmp_path):
    for name, left in (('run', False), ('taken', True)):
        own(tmp_path / name)
        path = tmp_path / f'.{name}.lock'
        key, said = (os.getpid(), path), path.read_bytes()
        if left:
            path.write_text('elsewhere\n7\n\n')
        ownership._leave(key, said)
        assert path.exists() == left

"""Files that are written or not, with one line that says why, and names that are one file's."""

import errno
import pickle
from pathlib import Path

import pytest

from segsr_model.errors import CommandError
from segsr_model.files import (
    UnwrittenError,
    append_lines,
    check_output,
    doubles,
    is_file_name,
    labels_of,
    name_limit,
    write_atomically,
    write_file,
    write_output,
)


def full(path):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize(('name', 'write', 'reason'), [
    ('picture.png', full, 'No space left on device'), ('x' * 300 + '.png', None, 'File name too long'),
    ('file/picture.png', None, "'{}/file' is no folder that can be written to"), ('folder', None, 'Is a directory'),
    ('picture.png', lambda path: (_ for _ in ()).throw(OSError('the library says no')), 'the library says no')])
def test_what_cannot_be_written_is_named_with_the_reason(tmp_path, name, write, reason):
    (tmp_path / 'file').write_text('in the way')
    (tmp_path / 'folder').mkdir()
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UnwrittenError) as error:
        write_atomically(tmp_path / name, write) if write else write_file(tmp_path / name, b'x')
    said = f"cannot write '{tmp_path / name}': {reason.format(tmp_path)}"
    assert str(error.value) == said == str(pickle.loads(pickle.dumps(error.value)))  # as it goes between processes
    assert sorted(tmp_path.rglob('*')) == before
    with pytest.raises(CommandError) as error:
        write_output(tmp_path / name, write or (lambda path: open(path, 'wb').close()))
    assert str(error.value) == said


def test_a_list_that_cannot_be_written_is_named(tmp_path):
    append_lines(tmp_path / 'list.txt', ['a', 'b\udcff'])
    append_lines(tmp_path / 'list.txt', ['c'])
    assert (tmp_path / 'list.txt').read_text() == 'a\nb\\udcff\nc\n'
    with pytest.raises(UnwrittenError, match=r"^cannot write '/dev/full': No space left on device$"):
        append_lines('/dev/full', ['a'])


def test_the_longest_name_can_be_written(tmp_path):
    limit = name_limit(tmp_path / 'not' / 'there' / 'yet')
    write_file(tmp_path / ('ä' * ((limit - 4) // 2) + '.png'), b'x')
    assert len(next(tmp_path.iterdir()).name.encode()) in (limit, limit - 1) and limit > 220


def test_names_are_measured_in_bytes():
    assert is_file_name('名' * 66) and not is_file_name('名' * 67)  # three bytes each: with what BasicSR adds, 255


@pytest.mark.parametrize(('names', 'places'), [
    (['a', 'b', 'a'], (0, 2)), (['x', 'Test', 'tEST'], (1, 2)), (['\u00e4', 'a\u0308'], (0, 1)), (['a', 'b'], None),
    ([], None)])
def test_names_that_are_one_file_on_some_system(names, places):
    assert doubles(names) == places


def test_labels_are_names_unless_two_are_alike(tmp_path):
    (tmp_path / 'v1.0').mkdir()
    assert labels_of([tmp_path / 'v1.0', 'options/HAT.yml', 'EDSR.yml']) == ['v1.0', 'HAT', 'EDSR']
    assert labels_of(['a/HAT.yml', 'b/HAT.yml', 'c/x.yml']) == ['a/HAT.yml', 'b/HAT.yml', 'c/x.yml']


@pytest.mark.parametrize('folder', ['out', 'out/deep/er'])
def test_a_link_to_nowhere_is_said_before_the_work_and_after_it(tmp_path, folder):
    (tmp_path / 'out').symlink_to(tmp_path / 'disk')
    path = tmp_path / folder / 'x.csv'
    reason = f"cannot write '{path}': '{tmp_path / 'out'}' is a link to '{tmp_path / 'disk'}', which is not there"
    with pytest.raises(CommandError) as before:
        check_output(str(path), ['.csv'])
    with pytest.raises(CommandError) as after:
        write_output(path, lambda temporary: Path(temporary).write_text(''))
    assert str(before.value) == str(after.value) == reason

    (tmp_path / 'disk').mkdir()
    check_output(str(path), ['.csv'])
    write_output(path, lambda temporary: Path(temporary).write_text('a'))
    assert path.read_text() == 'a'


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(CommandError, match="'.*out' is no folder that can be written to$"):
        check_output(str(tmp_path / 'out' / 'x.csv'), ['.csv'])

"""Outputs in folders that are there as a name only."""

from pathlib import Path

import pytest

from segsr_model.errors import CommandError
from segsr_model.files import check_output, write_output


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

"""A short form of soak/fuzz_files.py: damaged files of every kind are taken or refused in one line, and no more."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segsr_arch.clip.tensor_files import _parse
from segsr_model.files import is_file_name, is_inside, printable
from soak import fuzz_files

SLOW = {'LMDB', 'test.py'}  # a process for each input: in the long form, and in tests of their own
KINDS = ['checkpoint', 'legacy checkpoint', 'release', 'release metadata', 'published checkpoint', 'training state',
         'TorchScript', 'CLIP state_dict', 'safetensors', 'CLIP config', 'option file', 'option file bytes', 'PNG',
         'JPEG', 'TIFF', 'GeoTIFF', 'zip', 'tar', 'tgz', 'rar', 'compared PNG', 'compared JPEG', 'scores', 'manifest']
short = settings(max_examples=12, deadline=None, derandomize=True, database=None,
                 suppress_health_check=list(HealthCheck))


@pytest.fixture(scope='module')
def seeds(tmp_path_factory):
    return fuzz_files.make_seeds(tmp_path_factory.mktemp('fuzz'))


def test_every_kind_is_here(seeds):
    assert set(seeds) == SLOW | set(KINDS)


@pytest.mark.parametrize('kind', KINDS)
def test_sound_files_are_taken(seeds, kind):
    suffix, sound, read = seeds[kind]
    content = sound if isinstance(sound, bytes) else fuzz_files.written(suffix, sound)
    assert fuzz_files.run_one(suffix, content, read) == ''


@pytest.mark.parametrize('kind', KINDS)
@short
@given(number=st.integers(0, 1 << 32))
def test_damaged_files_are_taken_or_refused_in_one_line(seeds, kind, number):
    suffix, sound, read = seeds[kind]
    content = fuzz_files.make_input(suffix, sound, random.Random(f'{kind} {number}'))
    fuzz_files.run_one(suffix, content, read)


@short
@given(text=st.text())
def test_names_that_pass_stay_in_their_folder(text):
    folder = Path('/a/b')
    if is_file_name(text):
        assert Path(folder / text).resolve().parent == folder
    if is_inside(text):
        assert folder in Path(folder / text).resolve().parents or (folder / text).resolve() == folder
    assert printable(text).isprintable()


@short
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_pickle(content):
    with contextlib.suppress(ValueError):
        _parse(b'\x80\x02' + content, lambda *_: None)

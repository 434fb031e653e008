"""Splits: the rule, the published lists, lists of the user."""

from __future__ import annotations

from collections import Counter

import pytest

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.catalogue import CATALOGUES, class_of
from segsr_model.prepare.sources.splits import apply_list, count_parts, draw_split, format_split, read_split
from tests import ROOT

LISTS = ROOT / 'datasets' / 'splits'
PUBLISHED = {
    'ucmerced_3-1.txt': ('ucmerced', (3, 1), 0.0, {'train': 1575, 'test': 525}),
    'ucmerced_945-105-1050.txt': ('ucmerced', (1, 1), 0.1, {'train': 945, 'val': 105, 'test': 1050}),
    'aid_4-1.txt': ('aid', (4, 1), 0.0, {'train': 8000, 'test': 2000}),
}


@pytest.mark.parametrize('file_name', PUBLISHED)
def test_published_lists_are_what_the_command_draws(file_name):
    dataset, ratio, val_fraction, counts = PUBLISHED[file_name]
    catalogue = CATALOGUES[dataset]
    drawn = draw_split(catalogue.names(), ratio=ratio, val_fraction=val_fraction, known_test=catalogue.known_test)
    assert read_split(LISTS / file_name) == drawn
    assert count_parts(drawn) == counts
    assert all(drawn[name] == 'test' for name in catalogue.known_test)
    per_class = Counter((part, class_of(name)) for name, part in drawn.items())
    for label, total in catalogue.counts.items():
        assert per_class['test', label] * sum(ratio) == total * ratio[1]


def test_the_order_is_that_of_sha256():
    """Pinned: ``printf 7/a02 | sha256sum`` gives the lowest of the four sums, so a02 comes first."""
    split = draw_split({'a': ['a00', 'a01', 'a02', 'a03']}, ratio=(1, 3), seed=7)
    assert [name for name, part in split.items() if part == 'train'] == ['a02']


def test_class_sizes_that_do_not_divide_are_rounded_to_the_nearest():
    split = draw_split({'a': [f'a{i}' for i in range(10)]}, ratio=(3, 1))
    assert count_parts(split) == {'train': 8, 'test': 2}


def test_classes_too_small_to_be_split_are_split_together():
    """Each of 20 scenes in a folder of its own: all would train. Larger classes are split by themselves."""
    small = {f'c{i}': [f'c{i}_0'] for i in range(20)}
    large = {'large': [f'large{i}' for i in range(8)]}
    split = draw_split({**small, **large}, ratio=(3, 1), val_fraction=0.1)
    assert count_parts(split) == {'train': 13 + 5, 'val': 2 + 1, 'test': 5 + 2}
    assert count_parts({name: split[name] for name in large['large']}) == {'train': 5, 'val': 1, 'test': 2}
    test = draw_split({**small, **large}, ratio=(3, 1))
    assert {name for name in split if split[name] == 'test'} == {name for name in test if test[name] == 'test'}
    assert count_parts(draw_split(small, ratio=(1, 9))) == {'train': 2, 'test': 18}


def test_validation_comes_out_of_the_training_part():
    names = {'a': [f'a{i:02d}' for i in range(40)]}
    without = draw_split(names, ratio=(3, 1))
    with_val = draw_split(names, ratio=(3, 1), val_fraction=0.1)
    assert count_parts(with_val) == {'train': 27, 'val': 3, 'test': 10}
    assert {n for n in without if without[n] == 'test'} == {n for n in with_val if with_val[n] == 'test'}


def test_neither_order_nor_other_classes_matter():
    forward = draw_split({'a': ['a1', 'a2', 'a3', 'a4'], 'b': ['b1', 'b2']}, ratio=(3, 1))
    backward = draw_split({'a': ['a4', 'a3', 'a2', 'a1']}, ratio=(3, 1))
    assert backward == {name: part for name, part in forward.items() if name.startswith('a')}
    assert draw_split({'a': ['a1', 'a2', 'a3', 'a4']}, ratio=(3, 1), seed=1) != backward


def test_lists_go_there_and_back(tmp_path):
    split = {'harbor07': 'train', 'harbor08': 'test', 'beach01': 'val'}
    path = tmp_path / 'list.txt'
    path.write_text(format_split(split, title='mine'), encoding='utf-8')
    assert read_split(path) == split


SOURCE = {'lake_0000': 'set/lake/IMG_1.png', 'lake_0001': 'set/lake/IMG_1.tif', 'lake_0002': 'set/lake/lake_0001.png',
          'sea_0000': 'set/sea/IMG_1.png', 'sea_0001': 'set/sea/IMG_2.png', 'harbor07': 'set/harbor/Harbor07.tif'}


@pytest.mark.parametrize(('entry', 'name'), [
    ('sea/IMG_1.png', 'sea_0000'), ('sea/IMG_1', 'sea_0000'), ('SEA/img_1.PNG', 'sea_0000'),  # folder and name
    ('IMG_2.png', 'sea_0001'), ('img_2', 'sea_0001'),  # a name that is there once
    ('/home/me/set/lake/IMG_1.tif', 'lake_0001'), ('.\\set\\lake\\IMG_1.png', 'lake_0000'),
    ('sea_0001', 'sea_0001'), ('other/x4/train/HR/sea_0001.png', 'sea_0001'), ('harbor07.png', 'harbor07'),  # as here
    ('lake_0001', 'lake_0001'), ('lake_0001.png', 'lake_0002'),  # without and with suffix: as here, as in the source
])
def test_lists_may_name_files_of_the_source(tmp_path, entry, name):
    path = tmp_path / 'list.txt'
    path.write_text(f'\ufeff# mine\n\ntrain {entry}\n', encoding='utf-8')
    split, notes = apply_list(SOURCE, path)
    assert split == {name: 'train'}
    assert len(notes) == (entry == 'lake_0001')
    assert all('lake_0001 for set/lake/IMG_1.tif, not for set/lake/lake_0001.png' in note for note in notes)


@pytest.mark.parametrize(('text', 'message'), [
    ('train IMG_1.png', r'1 names are those of several images: IMG_1.png \(set/lake/IMG_1.png, set/sea/IMG_1.png\)'),
    ('train lake/IMG_1', r'lake/IMG_1 \(set/lake/IMG_1.png, set/lake/IMG_1.tif\); give folder/name'),
    ('train river/IMG_2.png', '1 listed images are not in the source, such as river/IMG_2.png'),
    ('train sea_0001\ntest sea/IMG_2.png', 'sea/IMG_2.png is listed already by another name'),
])
def test_names_in_lists_that_do_not_tell_an_image(tmp_path, text, message):
    path = tmp_path / 'list.txt'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(CommandError, match=message):
        apply_list(SOURCE, path)


def test_a_source_file_stands_for_its_tiles(tmp_path):
    tiles = {f'a_{i:04d}': f'a/{"one" if i < 3 else "two"}.tif' for i in range(5)}
    path = tmp_path / 'list.txt'
    path.write_text('train a/one.tif\ntest a_0004\n', encoding='utf-8')
    assert apply_list(tiles, path)[0] == {'a_0000': 'train', 'a_0001': 'train', 'a_0002': 'train', 'a_0004': 'test'}


@pytest.mark.parametrize(('text', 'message'), [
    ('train a1\nharbor07\n', 'line 2: "harbor07" should be a part'),
    ('training a1\n', 'line 1: "training a1" should be a part'),
    ('train a1\ntest a1\n', 'line 2: a1 is listed twice'),
    ('train\n', 'line 1: "train" should be a part'),
    ('# nothing\n', 'lists no image'),
])
def test_bad_lists_are_named(tmp_path, text, message):
    path = tmp_path / 'list.txt'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(CommandError, match=message):
        read_split(path)


def test_missing_list(tmp_path):
    with pytest.raises(CommandError, match='none.txt: cannot be read'):
        read_split(tmp_path / 'none.txt')

"""Splits: the rule, the published lists, lists of the user."""

from __future__ import annotations

from collections import Counter

import pytest

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.catalogue import CATALOGUES, class_of
from segsr_model.prepare.sources.splits import count_parts, draw_split, format_split, read_split
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


def test_lists_may_name_files(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('# mine\n\ntrain Images/harbor/Harbor07.tif\ntest river_9.jpg\n', encoding='utf-8')
    assert read_split(path) == {'harbor07': 'train', 'river_9': 'test'}


@pytest.mark.parametrize(('text', 'message'), [
    ('train a1\nharbor07\n', 'line 2: "harbor07" should be a part'),
    ('training a1\n', 'line 1: "training a1" should be a part'),
    ('train a1\ntest a1\n', 'line 2: a1 is listed twice'),
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

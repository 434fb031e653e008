"""The plan of tiles: they cover a scene, their weights sum to 1, and what a network sees begins on its window."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segsr_model.scenes.tiles import Span, cut, partition, weighted

plans = st.fixed_dictionaries({
    'length': st.integers(1, 700), 'multiple': st.sampled_from([1, 7, 16]), 'cores': st.integers(2, 9),
    'halo': st.integers(0, 70), 'blend': st.sampled_from([0, 2, 8])})


def pieces_of(plan):
    return cut(plan['length'], core=16 * plan['multiple'] * plan['cores'], halo=plan['halo'], blend=plan['blend'],
               multiple=plan['multiple'])


@settings(max_examples=200, deadline=None, database=None)
@given(plan=plans, scale=st.integers(1, 4))
def test_weights_sum_to_one_everywhere(plan, scale):
    total = torch.zeros(scale * plan['length'])
    for piece in pieces_of(plan):
        kept = piece.kept.times(scale)
        total[slice(*kept)] += partition(kept.length, scale * piece.first, scale * piece.last)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@settings(max_examples=200, deadline=None, database=None)
@given(plan=plans)
def test_a_tile_sees_its_halo_from_a_multiple_on(plan):
    for piece in pieces_of(plan):
        assert piece.seen.start % plan['multiple'] == 0
        assert piece.seen.start <= max(0, piece.kept.start - plan['halo'])
        assert piece.seen.stop >= min(plan['length'], piece.kept.stop + plan['halo'])
        assert 0 <= piece.seen.start < piece.seen.stop <= plan['length']


def test_values():
    assert cut(10, core=4, halo=3, blend=2, multiple=2) == [
        (Span(0, 8), Span(0, 5), 0, 2), (Span(0, 10), Span(3, 9), 2, 2), (Span(4, 10), Span(7, 10), 2, 0)]
    assert len(cut(271, core=256, multiple=16)) == 1  # 15 pixels more are no tile of their own
    torch.testing.assert_close(partition(5, 2, 2), torch.tensor([0.1464466, 0.8535534, 1, 0.8535534, 0.1464466]))


def test_a_constant_stays_one_corners_too():
    axes = [cut(side, core=16, halo=5, blend=8) for side in (43, 61)]
    total = torch.zeros(1, 43 * 2, 61 * 2)
    for row, column in itertools.product(*axes):
        result = torch.full((1, 2 * row.seen.length, 2 * column.seen.length), 200.0)
        total[..., slice(*row.kept.times(2)), slice(*column.kept.times(2))] += weighted(result, row, column, 2)
    torch.testing.assert_close(total, torch.full_like(total, 200.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize('core', [4, 24, 0])
def test_tiles_that_cannot_be(core):
    with pytest.raises(ValueError, match=f'tiles of {core} pixels: must be a multiple of 16, and at least 8'):
        cut(100, core=core, multiple=16)

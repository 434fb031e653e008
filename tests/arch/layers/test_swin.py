"""Parts of networks of Swin's kind, against their definitions."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from segsr_arch.layers.swin import from_heads, position_bias, position_index, to_heads


@pytest.mark.parametrize('query, key', [(4, 4), (4, 6), (8, 12)])
def test_position_index(query, key):
    """Pixels at the same offset share an entry of the table, others do not; it stays within the table."""
    index = position_index(query, key) % (query + key - 1)**2
    margin = (key - query) // 2
    seen = {}
    for a in range(query**2):
        for b in range(key**2):
            offset = (a // query - b // key + margin, a % query - b % key + margin)
            assert seen.setdefault(offset, int(index[a, b])) == index[a, b]
    assert len(set(seen.values())) == len(seen) == (query + key - 1)**2


@pytest.mark.parametrize('index', [position_index(3, 3), position_index(2, 4)])
def test_position_bias_takes_from_the_table_what_the_index_says(index):
    table = torch.randn(25, 2)
    expected = table.T[:, index]  # a negative index counts from the end
    assert torch.equal(position_bias(table, index), expected)


@pytest.mark.parametrize('parts', [1, 3])
@pytest.mark.parametrize('bias', [True, False])
def test_heads_are_extended_by_zeros_which_change_nothing(parts, bias):
    linear, proj, x = nn.Linear(12, 12 * parts, bias=bias), nn.Linear(12, 12), torch.randn(5, 12)
    heads = to_heads(linear, x, 2)
    expected = linear(x).view(5, parts, 2, 6)
    assert heads.shape == (5, parts, 2, 8)
    torch.testing.assert_close(heads, F.pad(expected, (0, 2)))
    torch.testing.assert_close(from_heads(proj, heads[:, 0]), proj(expected[:, 0].flatten(1)))

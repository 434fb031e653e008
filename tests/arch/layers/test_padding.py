"""Padding by reflection against numpy's, which also takes images smaller than the padding."""

import numpy as np
import pytest
import torch

from segsr_arch.layers.padding import pad_to_multiple, pad_to_size


@pytest.mark.parametrize('size, target', [((1, 1), (4, 4)), ((2, 1), (9, 5)), ((3, 5), (16, 16)), ((5, 4), (8, 4)),
                                          ((7, 13), (8, 16)), ((2, 3), (31, 30)), ((6, 6), (6, 6))])
def test_equals_reflection(size, target):
    x = torch.randn(2, 3, *size)
    width = [(0, 0), (0, 0), (0, target[0] - size[0]), (0, target[1] - size[1])]
    assert np.array_equal(pad_to_size(x, *target).numpy(), np.pad(x.numpy(), width, mode='reflect'))


@pytest.mark.parametrize('size, multiple, target', [((7, 13), 8, (8, 16)), ((1, 1), 16, (16, 16)), ((5, 6), 1, (5, 6)),
                                                    ((16, 24), 8, (16, 24)), ((17, 8), 8, (24, 8))])
def test_multiple(size, multiple, target):
    x = torch.randn(1, 2, *size)
    assert torch.equal(pad_to_multiple(x, multiple), pad_to_size(x, *target))
    assert pad_to_multiple(x, multiple).shape[-2:] == target


def test_untouched_where_nothing_is_to_be_done():
    x = torch.randn(1, 2, 8, 8)
    assert pad_to_multiple(x, 4) is x


def test_gradient_counts_how_often_a_pixel_is_used():
    x = torch.zeros(1, 1, 1, 3, requires_grad=True)
    pad_to_size(x, 1, 7).sum().backward()  # 0 1 2 1 0 1 2
    assert x.grad.flatten().tolist() == [2, 3, 2]

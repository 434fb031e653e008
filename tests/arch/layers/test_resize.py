"""imresize against BasicSR's MATLAB imresize, and what it promises beyond."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from basicsr.utils.matlab_functions import imresize as reference

from segsr_arch.layers.resize import imresize, resize_matrix


@pytest.mark.parametrize('scale', [1 / 2, 1 / 3, 1 / 4, 1 / 8, 0.7, 1.5, 2, 3, 4])
@pytest.mark.parametrize('size', [(48, 64), (53, 61)])
def test_equals_the_reference(scale, size):
    image = torch.rand(3, *size)
    expected = reference(image, scale)
    assert imresize(image, scale).shape == expected.shape
    assert torch.allclose(imresize(image, scale), expected, atol=1e-5)  # the reference computes weights in float32


def test_a_ramp_stays_a_ramp():
    """Cubic convolution reproduces straight lines, so away from the edges the values are known exactly."""
    ramp = torch.arange(64, dtype=torch.float64).expand(1, 64, 64)
    assert torch.allclose(imresize(ramp, 1 / 4)[0, 8, 2:-2], torch.arange(16.)[2:-2].double() * 4 + 1.5, atol=1e-12)
    assert torch.allclose(imresize(ramp, 2)[0, 8, 4:-4], (torch.arange(128.).double() / 2 - 0.25)[4:-4], atol=1e-12)


def test_any_leading_dimensions():
    images = torch.rand(2, 5, 3, 16, 20)
    together = imresize(images, 1 / 2)
    assert together.shape == (2, 5, 3, 8, 10)
    assert torch.allclose(together[1, 4], imresize(images[1, 4], 1 / 2), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_dtype_and_computes_in_no_less_than_float32(dtype):
    image = torch.rand(1, 16, 16, dtype=torch.float64).to(dtype)
    result = imresize(image, 4)
    assert result.dtype == dtype
    assert torch.equal(result, imresize(image.to(torch.promote_types(dtype, torch.float32)), 4).to(dtype))


def test_autocast_does_not_lower_its_precision():
    image = torch.rand(1, 16, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = imresize(image, 4)
    assert torch.equal(result, imresize(image, 4))


def test_gradient():
    image = torch.rand(1, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, 1 / 2), image)
    assert torch.autograd.gradcheck(lambda x: imresize(x, 2), image)


@pytest.mark.parametrize(('length', 'scale', 'result'), [(1, Fraction(1, 4), 1), (2, 4, 8), (3, Fraction(1, 2), 2)])
def test_images_smaller_than_the_kernel(length, scale, result):
    matrix = resize_matrix(length, Fraction(scale))
    assert matrix.shape == (result, length)
    assert torch.allclose(matrix.sum(1), torch.ones(result, dtype=torch.float64))


def test_a_float_is_the_fraction_it_stands_for():
    image = torch.rand(1, 30, 30)
    assert imresize(image, 0.1).shape == (1, 3, 3)
    assert torch.equal(imresize(image, 1 / 3), imresize(image, Fraction(1, 3)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match='torch.uint8: convert'):
        imresize(torch.zeros(3, 8, 8, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match='positive, not -2'):
        imresize(torch.zeros(3, 8, 8), -2)
    with pytest.raises(ValueError, match='empty side'):
        imresize(torch.zeros(3, 0, 8), 2)

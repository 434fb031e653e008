"""LR images against BasicSR's imresize, and against whole-number arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numba
import numpy as np
import pytest
from basicsr.utils.matlab_functions import imresize as reference
from PIL import Image

from segsr_arch.layers.resize import resize_matrix
from segsr_model.prepare import lowres
from segsr_model.prepare.lowres import downscale
from tests import ROOT

SAMPLES = sorted(ROOT.glob('datasets/sample/Images/*/*.png'))


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_equals_basicsr_to_one_grey_level_in_ten_thousand_samples(scale):
    differences = []
    for path in SAMPLES:
        side = 256 // scale * scale
        image = np.array(Image.open(path))[:side, :side]
        expected = reference(image.astype(np.float32) / 255, 1 / scale)
        expected = (expected.clip(0, 1) * 255).round()
        differences.append(np.abs(downscale(image, scale) - expected))
    differences = np.concatenate([difference.ravel() for difference in differences])
    assert differences.max() <= 1
    assert np.mean(differences > 0) <= 1e-4


@pytest.mark.parametrize('scale', [2, 3, 4, 5, 8])
def test_equals_whole_number_arithmetic(scale):
    """No rounding happens before the last step, so no processor or library can give another result."""
    height, width = 9 * scale, 7 * scale
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def weights(length):
        return np.round(resize_matrix(length, Fraction(1, scale)).numpy() * 2**22).astype(int).astype(object)

    exact = np.einsum('ih,hwc->iwc', weights(height), image.astype(object))
    exact = np.einsum('jw,iwc->ijc', weights(width), exact)
    rounded = np.array([min(max((value + 2**43) // 2**44, 0), 255) for value in exact.ravel()], dtype=np.uint8)
    assert np.array_equal(downscale(image, scale).ravel(), rounded)


@pytest.mark.parametrize('value', [0, 1, 127, 255])
def test_flat_stays_flat(value):
    assert np.all(downscale(np.full((12, 21, 3), value, np.uint8), 3) == value)


def test_scale_one_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(downscale(image, 1), image)


def test_size_must_divide():
    with pytest.raises(ValueError, match='10 x 12 image does not divide by 4'):
        downscale(np.zeros((10, 12, 3), np.uint8), 4)


@pytest.mark.parametrize('scale', [1, 2, 3, 8])
def test_smaller_than_the_kernel(scale):
    image = np.random.default_rng(0).integers(0, 256, (scale, 2 * scale, 1), dtype=np.uint8)
    tiled = np.concatenate([image, image[::-1]] * 10)  # what the mirrored margins stand for
    tiled = np.concatenate([tiled, tiled[:, ::-1]] * 10, axis=1)
    inside = downscale(tiled, scale)[10:11, 20:22]
    assert np.array_equal(downscale(image, scale), inside)


def test_memory_in_any_order():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    expected = downscale(image, 4)
    turned = np.asfortranarray(image)
    turned.flags.writeable = False
    assert np.array_equal(downscale(turned, 4), expected)


def test_no_folder_for_the_compiled_code():
    """Nowhere to keep it, as numba finds for a file that is nowhere: it is compiled in memory."""
    module = {}
    exec(compile('def double(x): return 2 * x', '/nowhere/double.py', 'exec'), module)
    with pytest.raises(RuntimeError, match='cannot cache'):
        numba.njit(cache=True)(module['double'])
    assert lowres._compiled(module['double'])(21) == 42

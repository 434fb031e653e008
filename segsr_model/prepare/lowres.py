"""LR images: MATLAB's bicubic at 8 bits, with the same bytes on every machine."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from segsr_arch.resize import resize_matrix

_BAND = 4  # output lines of one matrix product: with more it multiplies more zeros, with fewer the products get small


def downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink an 8-bit image by MATLAB's antialiased bicubic and round to 8 bits, halves upwards.

    The weights are rounded to multiples of 2^-22. Every product and sum is then exact, so the result depends neither
    on the order of summation nor on the processor.

    Args:
        image: (h, w, c) uint8; h and w are multiples of ``scale``.
        scale: Whole number, 1 or more.

    Returns:
        (h / scale, w / scale, c) uint8.
    """
    height, width, channels = image.shape
    if height % scale or width % scale:
        raise ValueError(f'a {height} x {width} image does not divide by {scale}: crop it first')
    first, second = _band_weights(scale)
    lines = torch.from_numpy(image.reshape(height, -1)).index_select(0, _mirrored(height, scale))
    lines = _shrink(lines.to(first.dtype), first, scale)[:height // scale]
    turned = lines.view(-1, width, channels).transpose(0, 1).index_select(0, _mirrored(width, scale))
    small = _shrink(turned.to(second.dtype).flatten(1), second, scale)[:width // scale]
    rounded = (small + 0.5).clamp_(0, 255).to(torch.uint8)
    return rounded.view(width // scale, -1, channels).transpose(0, 1).contiguous().numpy()


def _shrink(lines: Tensor, band: Tensor, scale: int) -> Tensor:
    """Weighted sums of neighbouring lines: (n, m) with mirrored margins -> (n / scale, m), up to a few lines more."""
    windows = lines.unfold(0, band.shape[1], _BAND * scale).transpose(1, 2)
    return torch.bmm(band.expand(len(windows), -1, -1), windows).flatten(0, 1)


@functools.lru_cache(maxsize=16)
def _band_weights(scale: int) -> tuple[Tensor, Tensor]:
    """The weights of ``_BAND`` neighbouring output lines, for the first and the second pass.

    Sums of 8-bit samples and 14-bit weights fit a float32, so the first pass is in float32 where the weights allow it.
    The second is in float64: 8 + 2 * 22 bits, and one for weights that sum to more than 1 without their signs.
    """
    margin = _margin(scale)
    taps = resize_matrix(9 * scale, Fraction(1, scale))[4, 4 * scale - margin:5 * scale + margin]
    taps = (taps * 2**22).round() / 2**22
    band = torch.zeros(_BAND, _BAND * scale + 2 * margin, dtype=torch.float64)
    for i in range(_BAND):
        band[i, i * scale:i * scale + len(taps)] = taps
    single_is_exact = not (taps * 2**14 % 1).any()
    return band.float() if single_is_exact else band, band


@functools.lru_cache(maxsize=64)
def _mirrored(length: int, scale: int) -> Tensor:
    """Which of ``length`` lines to take so that each output line finds its margins, mirroring beyond the ends."""
    groups = -(-length // (scale * _BAND))
    positions = torch.arange(-_margin(scale), groups * scale * _BAND + _margin(scale)) % (2 * length)
    return torch.minimum(positions, 2 * length - 1 - positions)


def _margin(scale: int) -> int:
    """Lines beyond its own ``scale`` lines, on each side, that an output line looks at."""
    return 3 * scale // 2

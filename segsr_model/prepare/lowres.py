"""LR images: MATLAB's bicubic at 8 bits, with the same bytes on every machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numba import njit

from segsr_arch.layers.resize import resize_matrix

_UNIT = 2.0**-22  # of the weights


def downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink an 8-bit image by MATLAB's antialiased bicubic and round to 8 bits, halves upwards.

    The weights are rounded to multiples of 2^-22. Every product and sum is then exact, so the result depends neither
    on the order of summation nor on the processor.

    It runs on one core and lets other threads run meanwhile. The first call compiles it, in some seconds; later
    processes find the code beside this module or, where that folder is read-only, in the user's cache folder.

    Args:
        image: (h, w, c) uint8; h and w are multiples of ``scale``.
        scale: Whole number, 1 or more.

    Returns:
        (h / scale, w / scale, c) uint8.
    """
    height, width, channels = image.shape
    if height % scale or width % scale:
        raise ValueError(f'a {height} x {width} image does not divide by {scale}: crop it first')
    small = np.empty((height // scale, width // scale, channels), np.uint8)
    _shrink(np.ascontiguousarray(image), _mirrored(height, 2 * scale), _mirrored(width, 2 * scale), _weights(scale),
            small)
    return small


def _compiled(function: Callable) -> Callable:
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it can keep the code in
        return njit(nogil=True)(function)


@_compiled
def _shrink(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, small: np.ndarray) -> None:
    """Shrink ``image`` into ``small``, row by row: first the sums of its columns, then the sums along the row.

    The kernel is symmetric, so two lines of the same weight are added before they are multiplied, and two such pairs
    make one pass. The first pass takes the two pairs in the middle; with an odd scale the last pair is a single line,
    and its second weight 0.

    The weights sum to 1, and to less than 1.2 without their signs: with 8-bit samples the sums of columns fit an int32
    and the sums along the row, of 8 + 2 * 22 bits and one for the 1.2 squared, a float64.
    """
    height, width, channels = image.shape
    lines, output = image.reshape(height, -1), small.reshape(len(small), -1)
    pairs, scale, length = len(weights) - 1, len(weights) // 2, output.shape[1]
    last = 4 * scale - 1 - scale % 2
    skipped = (scale + 1) // 2  # of the mirrored margin of 2 * scale lines
    sums = np.empty((width + 4 * scale) * channels, np.int32)  # of columns, with margins
    inner = sums[2 * scale * channels:][:width * channels]
    phases = np.empty((scale, length + 4 * channels), np.float64)  # the same: every scale-th pixel side by side
    result = np.empty(length, np.float64)
    fine = weights * _UNIT**2

    for i in range(len(output)):
        for t in range(pairs - 2, -1, -2):
            first, second = i * scale + skipped + t, i * scale + skipped + last - t
            a, b, c, d = rows[first], rows[second], rows[first + 1], rows[second - 1]
            v, w, w_too = weights[t], weights[t + 1], weights[t + 2]
            if t == pairs - 2:
                for k in range(len(inner)):
                    pair = np.int32(np.uint16(lines[a, k]) + np.uint16(lines[b, k]))
                    inner[k] = v * pair + w * np.int32(lines[c, k]) + w_too * np.int32(lines[d, k])
            else:
                for k in range(len(inner)):
                    pair = np.int32(np.uint16(lines[a, k]) + np.uint16(lines[b, k]))
                    inner[k] += v * pair + w * np.int32(np.uint16(lines[c, k]) + np.uint16(lines[d, k]))

        for left in range(2 * scale):
            right = 2 * scale + width + left
            for channel in range(channels):
                sums[left * channels + channel] = inner[columns[left] * channels + channel]
                sums[right * channels + channel] = inner[columns[right] * channels + channel]
        for phase in range(scale):
            for channel in range(channels):
                for x in range(width // scale + 4):
                    phases[phase, x * channels + channel] = sums[(x * scale + phase) * channels + channel]

        for t in range(pairs - 2, -1, -2):
            first, second = skipped + t, skipped + last - t
            e = phases[first % scale][first // scale * channels:][:length]
            f = phases[second % scale][second // scale * channels:][:length]
            g = phases[(first + 1) % scale][(first + 1) // scale * channels:][:length]
            h = phases[(second - 1) % scale][(second - 1) // scale * channels:][:length]
            v, w, w_too = fine[t], fine[t + 1], fine[t + 2]
            if t == pairs - 2:
                for k in range(length):
                    result[k] = 0.5 + v * (e[k] + f[k]) + w * g[k] + w_too * h[k]
            else:
                for k in range(length):
                    result[k] += v * (e[k] + f[k]) + w * (g[k] + h[k])
        for k in range(length):
            output[i, k] = np.uint8(np.int32(min(max(result[k], 0.0), 255.0)))


@functools.lru_cache(maxsize=16)
def _weights(scale: int) -> np.ndarray:
    """The weights of the first half of the taps, in units of 2^-22, and that of the middle one's twin, if it has one.

    (2 * scale + 1,) int32.
    """
    margin = 3 * scale // 2  # lines beyond its own ``scale`` lines, on each side, that an output line looks at
    taps = resize_matrix(9 * scale, Fraction(1, scale))[4, 4 * scale - margin:5 * scale + margin]
    half = np.round(taps[:2 * scale].numpy() / _UNIT)
    return np.append(half, 0 if scale % 2 else half[-1]).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _mirrored(length: int, margin: int) -> np.ndarray:
    """Which of ``length`` lines stands at each place from ``-margin`` to ``length + margin``, mirrored at the ends."""
    places = np.arange(-margin, length + margin) % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)

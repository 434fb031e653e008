"""MATLAB's bicubic ``imresize``, which makes the LR images and the plain enlargement to compare with."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor


def imresize(images: Tensor, scale: float | Fraction) -> Tensor:
    """Resize by bicubic interpolation as MATLAB's ``imresize`` does, antialiased when it shrinks.

    It gives what ``basicsr.utils.matlab_functions.imresize`` gives, as two matrix products: differentiable, on the
    images' device, for any number of images at once.

    Args:
        images: (..., c, h, w), floating point, any value range.
        scale: Factor on height and width, above 0. A float is taken as the simplest fraction it stands for, so 1 / 3
            is one third.

    Returns:
        (..., c, ceil(h * scale), ceil(w * scale)) in the dtype of ``images``. Values are not rounded or clamped and may
        leave the input's range near edges.

    Raises:
        ValueError: ``scale`` is not positive, ``images`` is not floating point, or a side is empty.
    """
    if not images.is_floating_point():
        raise ValueError(f'imresize needs floating point images, not {images.dtype}: convert them first')
    ratio = as_ratio(scale)
    dtype = torch.promote_types(images.dtype, torch.float32)  # a half's 8 to 11 bits are too few for the weights
    rows = resize_matrix(images.shape[-2], ratio).to(images.device, dtype)
    columns = resize_matrix(images.shape[-1], ratio).to(images.device, dtype)
    with torch.autocast(images.device.type, enabled=False):
        return (rows @ images.to(dtype) @ columns.T).to(images.dtype)


def as_ratio(scale: float | Fraction) -> Fraction:
    """The fraction that ``scale`` stands for: 1 / 3 typed as a float becomes 1/3. ValueError if it is not positive."""
    ratio = Fraction(scale).limit_denominator(1 << 16)
    if ratio <= 0:
        raise ValueError(f'the scale must be positive, not {scale}')
    return ratio


@functools.lru_cache(maxsize=32)
def resize_matrix(length: int, ratio: Fraction) -> Tensor:
    """The (ceil(length * ratio), length) matrix that resizes a line of ``length`` samples; each row sums to 1.

    Float64 on the CPU, shared between callers: do not change it in place. Beyond its ends the line is mirrored, edge
    sample included.
    """
    if length < 1:
        raise ValueError('cannot resize an image with an empty side')
    with torch.inference_mode(False):  # for use in training, whoever asks first
        return _resize_matrix(length, ratio)


def _resize_matrix(length: int, ratio: Fraction) -> Tensor:
    step = float(1 / ratio)
    stretch = max(step, 1.0)  # antialiasing: a wider kernel when shrinking
    out_length = math.ceil(length * ratio)
    centres = (torch.arange(out_length, dtype=torch.float64) + 0.5) * step - 0.5
    taps = math.ceil(4 * stretch) + 2
    positions = torch.floor(centres - 2 * stretch)[:, None] + torch.arange(taps)
    weights = _cubic((centres[:, None] - positions) / stretch)
    weights /= weights.sum(1, keepdim=True)
    mirrored = positions.long() % (2 * length)
    mirrored = torch.minimum(mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(out_length, length, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, which is MATLAB's."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))

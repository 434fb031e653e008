"""From a network's result to the samples of the file: units, type, what lies beyond the range, holes, and how far to
trust it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from einops import reduce, repeat

from segsr_model.scenes.source import Source
from segsr_model.scenes.tiles import Span


@dataclasses.dataclass
class Trust:
    """How well a result agrees with the image it was made from: its averages over s x s pixels against the image.

    Attributes:
        count: of pixels that hold data.
        total, squares: sums of the differences, result minus image, and of their squares.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, differences: np.ndarray) -> None:
        """Those of a part; NaN: no data."""
        differences = differences[np.isfinite(differences)].astype(np.float64)
        self.count += differences.size
        self.total += float(differences.sum())
        self.squares += float(np.square(differences).sum())

    @property
    def bias(self) -> float:
        """Mean difference in the image's units."""
        return self.total / self.count if self.count else math.nan

    @property
    def rmse(self) -> float:
        """Root of the mean squared difference in the image's units."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan


class Finish:
    """Makes the file's samples of a network's result, part by part, the same however the scene is cut.

    Args:
        source: the scene.
        scale: s.
        extra: bands that are enlarged by bicubic interpolation and follow the three.
        dtype: of the samples; None: the scene's.
        correct: shift each block of s x s pixels so that its average is the pixel it was made from.

    Attributes:
        bands: numbers of the source's bands, in the order of the result's; the first three (or one) are the network's.
        nodata: the value of pixels without data in the result; None: no value marks them.
        needs_mask: whether nothing else than a mask can mark them.
    """

    def __init__(self, source: Source, scale: int, *, extra: list[int], dtype: np.dtype | None = None,
                 correct: bool = False) -> None:
        self.source, self.scale, self.correct = source, scale, correct
        self.colours = 1 if len(set(source.bands)) == 1 else 3
        self.bands = [*source.bands[:self.colours], *extra]
        self.extra, self.dtype, self.nodata = extra, np.dtype(dtype or source.dtype), source.nodata
        self.needs_mask = (self.nodata is None and self.dtype.kind != 'f' and source.alpha not in extra
                           and source.has_mask)

    def __call__(self, sr: torch.Tensor, rows: Span, columns: Span) -> np.ndarray:
        """Finish a part.

        Args:
            sr: (3, s h, s w), the network's result.
            rows, columns: the part of the scene, in LR pixels.

        Returns:
            Samples (bands, s h, s w).
        """
        source, s = self.source, self.scale
        values = sr.numpy() * np.float32(source.high - source.low) + np.float32(source.low)
        beyond = source.beyond(rows, columns, s)
        if beyond is not None:
            values = values.clip(source.low, source.high) + beyond
        if self.colours == 1:
            values = values.mean(0, keepdims=True)
        if self.correct:
            image = source.filled(rows, columns, 0)[:self.colours]
            values = values + repeat(image - self._averages(values), 'c h w -> c (h i) (w j)', i=s, j=s)
        if self.extra:
            values = np.concatenate([values, source.enlarged(rows, columns, s, self.extra)])
        return self._with_holes(self._samples(values), ~source.valid(rows, columns))

    def differences(self, samples: np.ndarray, rows: Span, columns: Span) -> np.ndarray:
        """The result's averages minus the image: (h, w) float32 in its units, in the mean of the bands.

        NaN where there is no data.

        Args:
            samples: of a part, as `__call__` gives them.
            rows, columns: the part of the scene, in LR pixels.
        """
        image = self.source.values(rows, columns)[:self.colours]
        values = samples[:self.colours].astype(np.float32) * np.float32(self.source.scale) + np.float32(
            self.source.offset)
        differences = (self._averages(values) - image).mean(0)
        return np.where(self.source.valid(rows, columns), differences, np.float32('nan'))

    def _averages(self, values: np.ndarray) -> np.ndarray:
        return reduce(values, 'c (h i) (w j) -> c h w', 'mean', i=self.scale, j=self.scale)

    def _samples(self, values: np.ndarray) -> np.ndarray:
        """Values in their units to samples of the file's type; integers are rounded, and stay within their type."""
        dataset = self.source.dataset
        factors, offsets = (np.array([each[band - 1] for band in self.bands], np.float32)[:, None, None]
                            for each in (dataset.scales, dataset.offsets))
        samples = (values - offsets) / factors
        if self.dtype.kind in 'ui':
            limits = np.iinfo(self.dtype)
            samples = np.rint(samples.astype(np.float64)).clip(limits.min, limits.max)
        return samples.astype(self.dtype)

    def _with_holes(self, samples: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """Where the image has no data the result has none, exactly; and nowhere else."""
        large = repeat(holes, 'h w -> (h i) (w j)', i=self.scale, j=self.scale)
        if self.source.alpha in self.extra:
            samples[self.bands.index(self.source.alpha)][large] = 0
        if self.nodata is None:
            if self.dtype.kind == 'f':
                samples[:, large] = np.nan
            return samples
        with np.errstate(all='ignore'):
            chance = (samples == self.nodata) & ~large
        if chance.any():  # a step away from the value, towards the inside of the type's range
            limits = np.iinfo(self.dtype) if self.dtype.kind in 'ui' else None
            if limits:
                samples[chance] += 1 if self.nodata < limits.max else -1
            else:
                samples[chance] = np.nextafter(self.dtype.type(self.nodata), self.dtype.type(np.inf))
        samples[:, large] = self.nodata
        return samples

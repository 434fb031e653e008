"""A scene as it is stored: any bands, samples and units, window by window, with the pixels that hold no data."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rasterio.enums import ColorInterp, MaskFlags
from scipy.ndimage import distance_transform_edt

from segsr_arch.layers.resize import imresize
from segsr_model.errors import CommandError
from segsr_model.images.raster import explained, open_raster
from segsr_model.scenes.tiles import Span

SAMPLED = 1024  # pixels on the longer side of the reduced scene that ``auto`` looks at
PERCENTILES = (2, 98)
MARGIN = 3  # LR pixels around a window, which bicubic enlargement looks at


class Source:
    """A raster file, and what of it is super-resolved.

    Values are in the file's own units: its samples times its scale plus its offset. They are shown to a network from 0,
    the low end of ``value_range``, to 1, the high one. A pixel holds no data where ``nodata``, a mask, an alpha band or
    NaN says so of any band that is used; the network then sees the nearest pixel that does.

    Args:
        path: of a file that rasterio reads.
        bands: the three that the network takes as red, green and blue, by number from 1 or by name; None: the file's
            colours, else its first three, else its only one thrice.
        value_range: low and high end, ``auto`` (2nd and 98th percentile of the scene), or None for 8 bits: 0 to 255.
        nodata: the value of pixels without data; None: as the file says.
        vrt: whether a VRT file may name other files.

    Attributes:
        dataset: rasterio's.
        height, width: in pixels.
        bands: the three, by number.
        low, high: of the value range.
        alpha: number of the alpha band; None: there is none.
        nodata: the value; None: there is none.

    Raises:
        CommandError: one line that names the file, or the option.
    """

    def __init__(self, path: str | Path, *, bands: Sequence[str] | None = None,
                 value_range: Sequence[float] | str | None = None, nodata: float | None = None,
                 vrt: bool = False) -> None:
        self.path, self._lock = Path(path), threading.Lock()
        self.dataset = open_raster(self.path, vrt=vrt)
        self.height, self.width = self.dataset.height, self.dataset.width
        colours = self.dataset.colorinterp
        self.alpha = colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else None
        self.bands = self._chosen(bands)
        self.nodata = self.dataset.nodatavals[self.bands[0] - 1] if nodata is None else nodata
        self._given_nodata = nodata
        first = self.bands[0] - 1
        self.scale, self.offset = self.dataset.scales[first], self.dataset.offsets[first]
        self.dtype = np.dtype(self.dataset.dtypes[first])
        if self.dtype.kind not in 'uif':
            raise CommandError(f"'{self.path}': its samples are {self.dtype}, not real numbers")
        self.low, self.high = self._range(value_range)

    @property
    def has_mask(self) -> bool:
        """Whether the file marks pixels without data in any way."""
        return any(self.dataset.mask_flag_enums[band - 1] != [MaskFlags.all_valid] for band in self.bands)

    def values(self, rows: Span, columns: Span, bands: Sequence[int] | None = None) -> np.ndarray:
        """(c, h, w) float32 values of bands, those that the network takes unless others are named, in their units."""
        bands = list(bands or self.bands)
        samples = self._read(bands, rows, columns).astype(np.float32)
        factors, offsets = (np.array([each[band - 1] for band in bands], np.float32)[:, None, None]
                            for each in (self.dataset.scales, self.dataset.offsets))
        return samples * factors + offsets

    def valid(self, rows: Span, columns: Span) -> np.ndarray:
        """(h, w) bool: which pixels hold data in all bands that the network takes."""
        if self._given_nodata is not None:
            samples = self._read(self.bands, rows, columns)
            return ((samples != self._given_nodata) & np.isfinite(samples)).all(0)
        with explained(self.path), self._lock:
            masks = self.dataset.read_masks(self.bands, window=(tuple(rows), tuple(columns)))
        valid = (masks > 0).all(0)
        if self.alpha and not any(MaskFlags.nodata in self.dataset.mask_flag_enums[band - 1] for band in self.bands):
            valid &= self._read([self.alpha], rows, columns)[0] > 0
        if self.dtype.kind == 'f':
            valid &= np.isfinite(self._read(self.bands, rows, columns)).all(0)
        return valid

    def filled(self, rows: Span, columns: Span, reach: int, bands: Sequence[int] | None = None) -> np.ndarray:
        """`values` where pixels without data, or NaN, have the nearest value within ``reach`` pixels, else the low end.

        The same whatever window is asked for.
        """
        around = self._around(rows, columns, reach)
        values, valid = self.values(*around, bands), self.valid(*around)
        inside = (slice(None), rows.within(around[0]), columns.within(around[1]))
        valid &= np.isfinite(values).all(0)
        if valid.all():
            return values[inside]
        if valid.any():
            distance, nearest = distance_transform_edt(~valid, return_indices=True)
            values = np.where(distance <= reach, values[:, nearest[0], nearest[1]], np.float32(self.low))
        else:
            values = np.full_like(values, self.low)
        return values[inside]

    def rgb(self, rows: Span, columns: Span, reach: int = MARGIN) -> torch.Tensor:
        """What the network sees of a window: (1, 3, h, w) in [0, 1]."""
        values = (self.filled(rows, columns, reach) - self.low) / (self.high - self.low)
        return torch.from_numpy(values).clamp_(0, 1)[None]

    def beyond(self, rows: Span, columns: Span, scale: int) -> np.ndarray | None:
        """What the value range leaves out, enlarged by bicubic interpolation, (3, s h, s w); None: nothing."""
        around = self._around(rows, columns, MARGIN)
        values = self.filled(*around, MARGIN)
        rest = values - values.clip(self.low, self.high)
        return self._enlarged(rest, rows, columns, around, scale) if rest.any() else None

    def enlarged(self, rows: Span, columns: Span, scale: int, bands: Sequence[int]) -> np.ndarray:
        """Bands enlarged by bicubic interpolation, (c, s h, s w), in their units."""
        around = self._around(rows, columns, MARGIN)
        return self._enlarged(self.filled(*around, MARGIN, bands), rows, columns, around, scale)

    @property
    def is_on_the_map(self) -> bool:
        """Whether the file says where on the earth it lies."""
        return bool(self.dataset.crs or self.dataset.gcps[0] or self.dataset.rpcs
                    or not self.dataset.transform.is_identity)

    def _around(self, rows: Span, columns: Span, margin: int) -> tuple[Span, Span]:
        return (Span(max(0, rows.start - margin), min(self.height, rows.stop + margin)),
                Span(max(0, columns.start - margin), min(self.width, columns.stop + margin)))

    @staticmethod
    def _enlarged(values: np.ndarray, rows: Span, columns: Span, around: tuple[Span, Span], scale: int) -> np.ndarray:
        large = imresize(torch.from_numpy(values.astype(np.float32)), scale)
        inside = (rows.times(scale).within(around[0].times(scale)),
                  columns.times(scale).within(around[1].times(scale)))
        return large[(slice(None), *inside)].numpy()

    def _read(self, bands: Sequence[int], rows: Span, columns: Span) -> np.ndarray:
        with explained(self.path), self._lock:
            return self.dataset.read(list(bands), window=(tuple(rows), tuple(columns)))

    def _chosen(self, bands: Sequence[str] | None) -> list[int]:
        count, names, colours = self.dataset.count, self.dataset.descriptions, self.dataset.colorinterp
        if bands is None:
            wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            if all(colour in colours for colour in wanted):
                return [colours.index(colour) + 1 for colour in wanted]
            data = [number for number in range(1, count + 1) if number != self.alpha]
            return data[:3] if len(data) >= 3 else data[:1] * 3
        found = []
        for band in bands:
            number = int(band) if str(band).isdecimal() else names.index(band) + 1 if band in names else 0
            if not 1 <= number <= count:
                there = f'{count} bands' + (f', {", ".join(name or "-" for name in names)}' if any(names) else '')
                raise CommandError(f"--bands {band}: '{self.path}' has {there}")
            found.append(number)
        if len(found) not in (1, 3):
            raise CommandError(f'--bands: takes three bands, or one, not {len(found)}')
        return found * (3 // len(found))

    def _range(self, given: Sequence[float] | str | None) -> tuple[float, float]:
        if given is None:
            if self.dtype != np.uint8:
                raise CommandError(f"'{self.path}': its samples are {self.dtype}: give the values that become black "
                                   'and white with --value-range LOW HIGH, or --value-range auto')
            return self.offset, 255 * self.scale + self.offset
        if given == 'auto':
            low, high = self._percentiles()
        else:
            low, high = map(float, given)
        if not low < high:
            raise CommandError(f"--value-range: '{self.path}' from {low:g} to {high:g}: the first must be lower")
        return low, high

    def _percentiles(self) -> tuple[float, float]:
        """Of a reduced read of the scene, of the three bands together."""
        factor = max(1, max(self.height, self.width) / SAMPLED)
        shape = (max(1, round(self.height / factor)), max(1, round(self.width / factor)))
        with explained(self.path), self._lock:
            samples = self.dataset.read(self.bands, out_shape=(3, *shape), masked=self._given_nodata is None)
        values = np.ma.filled(samples.astype(np.float64), np.nan)
        if self._given_nodata is not None:
            values[values == self._given_nodata] = np.nan
        values = values[np.isfinite(values)] * self.scale + self.offset
        if not values.size:
            raise CommandError(f"--value-range auto: '{self.path}' has no pixel with data")
        return tuple(float(value) for value in np.percentile(values, PERCENTILES))

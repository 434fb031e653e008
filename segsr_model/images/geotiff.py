"""GeoTIFF scenes: any size, any number of bands, any sample type, pixels without data. Needs rasterio."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segsr_model.errors import CommandError
from segsr_model.images.plain import ImageError, ImageFile, Scene, Window, explain_errors, open_plain

_TIFF_MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


def open_any(
    file: ImageFile, *, bands: Sequence[int] | None = None, value_range: Sequence[float] | None = None,
) -> Scene:
    """Open an image by Pillow where that will do, and a TIFF that is more than 8-bit RGB by rasterio.

    Raises:
        CommandError: rasterio is needed and not installed.
        ImageError: The image cannot be used.
    """
    if not _is_tiff(file):
        return open_plain(file)
    if bands is None and value_range is None:
        with contextlib.suppress(ImageError):
            return open_plain(file)
    return GeoScene(file, bands=bands, value_range=value_range)


class GeoScene:
    """A raster that is read window by window, so that it need not fit into memory.

    Args:
        file: A path, or a stream with the file's content.
        bands: The three bands shown as red, green and blue, counted from 1; none: 1 2 3, or the only band thrice.
        value_range: The values that become 0 and 255; values beyond are clipped. May be left out for 8-bit samples.

    Raises:
        CommandError: rasterio is not installed.
        ImageError: It is no raster, it has too few bands, or ``value_range`` is missing.
    """

    def __init__(
        self,
        file: ImageFile,
        *,
        bands: Sequence[int] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        try:
            import rasterio
        except ImportError as error:
            raise CommandError('multi-band, 16-bit and other GeoTIFF scenes need rasterio: pip install rasterio') \
                from error
        with explain_errors(), warnings.catch_warnings():
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            self.dataset = rasterio.open(file)
        self.bands = list(bands or ((1, 2, 3) if self.dataset.count >= 3 else (1, 1, 1)))
        self.value_range = value_range
        self.size = (self.dataset.height, self.dataset.width)
        if max(self.bands) > self.dataset.count:
            raise ImageError(f'it has {self.dataset.count} bands, not {max(self.bands)}')
        kinds = {self.dataset.dtypes[band - 1] for band in self.bands}
        if value_range is None and kinds != {'uint8'}:
            raise ImageError(f'its samples are {", ".join(sorted(kinds))}: give the values that become black and white '
                             'with --value-range LOW HIGH')

    def read(self, window: Window | None = None) -> np.ndarray:
        with explain_errors():
            samples = self.dataset.read(self.bands, window=_slices(window))
        if self.value_range is not None:
            low, high = self.value_range
            samples = np.nan_to_num((samples.astype(np.float64) - low) / (high - low), nan=0.0)
            samples = np.floor(samples.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(samples.transpose(1, 2, 0))

    def is_valid(self, window: Window) -> bool:
        with explain_errors():
            return bool(self.dataset.read_masks(self.bands, window=_slices(window)).all())

    def close(self) -> None:
        self.dataset.close()


def _is_tiff(file: ImageFile) -> bool:
    if isinstance(file, Path):
        with file.open('rb') as stream:
            return stream.read(4) in _TIFF_MAGIC
    return file.getvalue()[:4] in _TIFF_MAGIC


def _slices(window: Window | None) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """A window as rasterio takes it: (first row, row after the last), the same for columns."""
    if window is None:
        return None
    return (window.top, window.top + window.height), (window.left, window.left + window.width)

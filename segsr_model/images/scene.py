"""Source images of any format, size, number of bands and sample type, window by window, and which pixels hold data."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import rasterio
from einops import rearrange
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.enums import Interleaving, MaskFlags

from segsr_model.images.plain import MOST_PIXELS, ImageError, ImageFile, decode

_FORMATS = {  # what a file starts with, and GDAL's driver: no other is let near a file, as some follow names in it
    b'BM': 'BMP', b'\xff\xd8\xff': 'JPEG', b'\x89PNG': 'PNG', b'RIFF': 'WEBP',
    b'II*\0': 'GTiff', b'MM\0*': 'GTiff', b'II+\0': 'GTiff', b'MM\0+': 'GTiff',
    b'\0\0\0\x0cjP': 'JP2OpenJPEG', b'\xff\x4f\xff\x51': 'JP2OpenJPEG',
}
_BY_OPENCV = {'BMP', 'JPEG', 'PNG', 'WEBP'}
_SETTINGS = {
    'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE',  # masks and PAM files beside an image are asked for by name
    'GDAL_PNG_WHOLE_IMAGE_OPTIM': 'NO',  # this way of reading says nothing of a file that is cut off
}
_ORIENTATION = 0x0112
_TURNS = {  # how to show what is stored: (transpose it, then reverse its rows, its columns), by the EXIF mark
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}
_Slices = tuple[tuple[int, int], tuple[int, int]]

warnings.filterwarnings('ignore', category=rasterio.errors.NotGeoreferencedWarning)  # nothing here needs a place


class Window(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


class Scene:
    """An opened image, of which only the header is read yet.

    One rule holds for all formats. The bits of a sample are the file's own: fewer than 8 are stretched, more need a
    ``value_range``. A palette is its colours, a grey image is shown thrice, the orientation mark is followed. BMP,
    JPEG, PNG and WebP are decoded whole, by OpenCV as BasicSR's loader does (the colours that GDAL gives of a JPEG
    depend on its build); all else, and what is too large for that, is read by GDAL in windows.

    Args:
        file: A path, or a stream with the file's content.
        bands: The three bands shown as red, green and blue, counted from 1; none: 1 2 3, or the first thrice.
        value_range: The values that become 0 and 255; values beyond are clipped. May be left out for up to 8 bits.

    Attributes:
        size: Height and width in pixels.

    Raises:
        ImageError: It is no image, it has too few bands, or ``value_range`` is missing.
    """

    def __init__(
        self, file: ImageFile, *, bands: Sequence[int] | None = None, value_range: Sequence[float] | None = None,
    ) -> None:
        self._file = file
        with _reading():
            with self._stream() as stream:
                driver = _driver(stream.read(12))
                self._turn = _TURNS[_orientation(driver, stream)]
            _check_mask(file)
            path = file.absolute() if isinstance(file, Path) else file  # s3:old/a.tif would be taken for an address
            self.dataset = rasterio.open(path, driver=driver)
            height, width, stored = self.dataset.height, self.dataset.width, self.dataset.count
            self.size = (width, height) if self._turn[0] else (height, width)
            self._whole = driver in _BY_OPENCV and height * width <= MOST_PIXELS
            self._colours, self._transparent = _colour_table(self.dataset)
            of_colours = self._whole or self._colours is not None
            count = 3 if of_colours else stored
            self._bands = list(bands or ((1, 2, 3) if count >= 3 else (1, 1, 1)))
            if max(self._bands) > count:
                raise ImageError(f'it has {count} bands, not {max(self._bands)}')
            self._stored_bands = self._bands if stored >= 3 else [1]
            self._kind = np.dtype(self.dataset.dtypes[self._stored_bands[0] - 1])
            if self._kind.kind == 'c':
                raise ImageError(f'its samples are {self._kind}, not real numbers')
            if value_range is None and self._colours is None and self._kind != np.uint8:
                raise ImageError(f'its samples are {self._kind}: give the values that become black and white with '
                                 '--value-range LOW HIGH, which "segsr prepare folder" takes')
            bits = self.dataset.tags(1, ns='IMAGE_STRUCTURE').get('NBITS', 8)
            self._range = value_range or (0, 255 if of_colours else 2 ** int(bits) - 1)

    def read(self, window: Window | None = None) -> np.ndarray:
        """The image, or a window of it: (h, w, 3) uint8 RGB.

        Raises:
            ImageError: It is damaged, or pixels of it hold no data.
        """
        self.require_data(window)
        with _reading():
            samples = self._samples(self._stored(window))
            image = np.stack([self._to_8_bits(band) for band in samples])
            return np.ascontiguousarray(rearrange(self._turned(image), 'c h w -> h w c'))

    def is_valid(self, window: Window | None = None) -> bool:
        """Whether each pixel of the image, or of a window of it, holds data.

        A pixel holds none where a mask or alpha band says so, within the file or beside it, or a transparent colour;
        where a sample that is shown is NaN or infinite, or was never written to the file; and where one is the nodata
        value or, if that is a value between black and white too, where all three are.
        """
        stored = self._stored(window)
        with _reading():
            if self._kind.kind == 'f' and not np.isfinite(self._samples(stored)).all():
                return False
            if self._transparent.any() and self._transparent[self.dataset.read(1, window=stored)].any():
                return False
            return self._is_written(stored) and self._is_unmasked(stored)

    def require_data(self, window: Window | None = None) -> None:
        """Raise an :class:`ImageError` if a pixel of the image, or of a window of it, holds no data."""
        if not self.is_valid(window):
            raise ImageError('it has pixels that hold no data; "segsr prepare folder --tile" leaves such tiles out')

    def close(self) -> None:
        """Let go of the file."""
        self.dataset.close()

    def _is_written(self, stored: _Slices) -> bool:
        """Whether no block of a GeoTIFF is absent, by accident or on purpose: it would read as zeros."""
        if self.dataset.driver != 'GTiff':
            return True
        bands = self._stored_bands if self.dataset.interleaving == Interleaving.band else self._stored_bands[:1]
        blocks = [range(start // side, (end - 1) // side + 1)
                  for (start, end), side in zip(stored, self.dataset.block_shapes[0])]
        return all(self.dataset.get_tag_item(f'BLOCK_OFFSET_{column}_{row}', 'TIFF', bidx=band)
                   for band, row, column in itertools.product(bands, *blocks))

    def _is_unmasked(self, stored: _Slices) -> bool:
        flags = {flag for band in self._stored_bands for flag in self.dataset.mask_flag_enums[band - 1]}
        if flags == {MaskFlags.all_valid}:
            return True
        valid = self.dataset.read_masks(self._stored_bands, window=stored) > 0
        values = [self.dataset.nodatavals[band - 1] for band in self._stored_bands]
        low, high = self._range
        may_be_data = flags == {MaskFlags.nodata} and all(low <= value <= high for value in values)
        return bool((valid.any(0) if may_be_data else valid.all(0)).all())

    def _samples(self, stored: _Slices) -> np.ndarray:
        """(3, h, w) samples as they are stored."""
        if self._whole:
            rows, columns = (slice(*ends) for ends in stored)
            return self._decoded[[band - 1 for band in self._bands], rows, columns]
        if self._colours is not None:
            return self._colours[[band - 1 for band in self._bands]][:, self.dataset.read(1, window=stored)]
        return self.dataset.read(self._bands, window=stored)

    @functools.cached_property
    def _decoded(self) -> np.ndarray:
        with self._stream() as stream:
            image = decode(stream.read(), turned=False)
        return rearrange(image[..., ::-1], 'h w c -> c h w')

    def _to_8_bits(self, band: np.ndarray) -> np.ndarray:
        low, high = self._range
        if band.dtype == np.uint8 and (low, high) == (0, 255):
            return band
        return np.floor(((band.astype(np.float64) - low) / (high - low)).clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def _turned(self, image: np.ndarray) -> np.ndarray:
        transposed, rows, columns = self._turn
        image = rearrange(image, 'c h w -> c w h') if transposed else image
        return image[:, ::-1 if rows else 1, ::-1 if columns else 1]

    def _stored(self, window: Window | None) -> _Slices:
        """Where a window lies in the file: (first row, row after the last), the same for columns."""
        top, left, height, width = window or (0, 0, *self.size)
        transposed, rows, columns = self._turn
        top = self.size[0] - top - height if rows else top
        left = self.size[1] - left - width if columns else left
        slices = (top, top + height), (left, left + width)
        return slices[::-1] if transposed else slices

    def _stream(self) -> BinaryIO:
        return self._file.open('rb') if isinstance(self._file, Path) else io.BytesIO(self._file.getvalue())


def _driver(head: bytes) -> str:
    for start, driver in _FORMATS.items():
        if head.startswith(start):
            return driver
    raise ImageError('not an image, or a damaged one')


def _check_mask(file: ImageFile) -> None:
    """Refuse a mask beside an image that is no GeoTIFF: GDAL would follow the names of files and hosts in it."""
    mask = Path(f'{file}.msk')
    if isinstance(file, Path) and mask.exists():
        with mask.open('rb') as stream:
            if _FORMATS.get(stream.read(4)) != 'GTiff':
                raise ImageError(f'{mask.name} beside it is no GeoTIFF')


def _orientation(driver: str, stream: BinaryIO) -> int:
    """The mark that says how an image is to be shown, 1 to 8; 1 where there is none, or a damaged one."""
    stream.seek(0)
    value = 1
    with contextlib.suppress(Exception):  # Pillow's readers raise anything
        if driver == 'GTiff':
            head = stream.read(8)
            tags = ImageFileDirectory_v2(head + stream.read(8) if b'+' in head[:4] else head)
            stream.seek(tags.next)
            tags.load(stream)
            value = tags[_ORIENTATION]
        else:
            plugin = {'JPEG': JpegImagePlugin.JpegImageFile, 'PNG': PngImagePlugin.PngImageFile,
                      'WEBP': WebPImagePlugin.WebPImageFile}[driver]
            exif = Image.Exif()
            exif.load(plugin(stream).info['exif'])
            value = exif[_ORIENTATION]
    return value if value in _TURNS else 1


def _colour_table(dataset: rasterio.DatasetReader) -> tuple[np.ndarray | None, np.ndarray]:
    """(3, n) uint8 colours of the sample values, None if the image has no palette; and (n,) which are transparent."""
    try:
        colours = dataset.colormap(1)
    except ValueError:
        return None, np.zeros(0, bool)
    table = np.zeros((np.iinfo(dataset.dtypes[0]).max + 1, 4), np.uint8)
    table[:len(colours)] = [colours[value] for value in sorted(colours)]
    return table[:, :3].T, (table[:, 3] == 0) & (np.arange(len(table)) < len(colours))


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """GDAL with our settings; what it, or another library, raises for a damaged file becomes an :class:`ImageError`."""
    try:
        with rasterio.Env(**_SETTINGS):
            yield
    except ImageError:
        raise
    except UnicodeEncodeError:
        raise ImageError('its path is not UTF-8, as GDAL needs it: rename it') from None
    except MemoryError:
        raise ImageError('it does not fit into memory; "segsr prepare folder --tile" cuts it') from None
    except Exception as error:  # each library has its own family of errors
        if getattr(error, 'strerror', None):
            raise ImageError(f'it cannot be read: {error.strerror}') from None
        reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise ImageError(f'it is damaged, cut off, or of a kind that GDAL does not read ({reason[0]})') from error

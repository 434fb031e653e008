"""Reading an image, whole or in windows, and writing it as PNG."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import NamedTuple, Protocol, Union

import cv2
import numpy as np
from PIL import Image

# Level 1 with run-length matching: smaller, faster to write and to read than zlib's default on aerial images.
PNG_SETTINGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # where Pillow takes an image for a decompression bomb
_EIGHT_BIT_MODES = {'RGB', 'RGBA', 'RGBX', 'L', 'LA', 'P', 'PA', '1', 'CMYK', 'YCbCr'}
ImageFile = Union[Path, io.BytesIO]
_GDAL_NODATA = 42113  # TIFF tag


class ImageError(Exception):
    """An image that cannot be used, and why."""


class Window(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


class Scene(Protocol):
    """An opened image.

    Attributes:
        size: Height and width in pixels.
    """

    size: tuple[int, int]

    def read(self, window: Window | None = None) -> np.ndarray:
        """The image, or a window of it: (h, w, 3) uint8 RGB."""

    def is_valid(self, window: Window) -> bool:
        """Whether each pixel of the window holds data."""

    def close(self) -> None:
        """Let go of the file."""


class PlainScene:
    """An 8-bit image that Pillow reads: grey and palette images become RGB, an alpha channel is dropped."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.size = (image.height, image.width)

    def read(self, window: Window | None = None) -> np.ndarray:
        with explain_errors():
            return np.array(self._crop(window).convert('RGB'))

    def is_valid(self, window: Window) -> bool:
        if self.image.mode not in ('RGBA', 'LA', 'PA'):
            return True
        with explain_errors():
            return self._crop(window).getchannel('A').getextrema()[0] > 0

    def close(self) -> None:
        self.image.close()

    def _crop(self, window: Window | None) -> Image.Image:
        if window is None:
            return self.image
        return self.image.crop((window.left, window.top, window.left + window.width, window.top + window.height))


def open_plain(file: ImageFile) -> PlainScene:
    """Open an 8-bit image. Only its header is read yet.

    Raises:
        ImageError: Pillow cannot read it, it has samples of more than 8 bits, or pixels that it marks as missing.
    """
    with explain_errors():
        image = Image.open(file)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f'its samples are {image.mode}, not 8-bit')
    if image.format == 'TIFF' and _GDAL_NODATA in image.tag_v2:
        raise ImageError('it has a GDAL nodata value')
    return PlainScene(image)


@contextlib.contextmanager
def explain_errors():
    """Turn what Pillow raises for a damaged image into an :class:`ImageError` of one line."""
    try:
        yield
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... depending on the format
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith('cannot identify image file'):
            reason = 'not an image, or a damaged one'
        raise ImageError(reason) from error


def encode_png(image: np.ndarray) -> bytes:
    """(h, w, 3) uint8 RGB to the bytes of a PNG file."""
    ok, content = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), PNG_SETTINGS)
    if not ok:
        raise ImageError('OpenCV could not encode it as PNG')
    return content.tobytes()


def pixel_sum(image: np.ndarray) -> str:
    """SHA-256 of an image's size and (h, w, 3) uint8 RGB samples.

    Two PNG files of one image can differ, because zlib builds compress differently; their pixel sums cannot.
    """
    header = 'x'.join(map(str, image.shape)).encode()
    return hashlib.sha256(header + b'\n' + np.ascontiguousarray(image).tobytes()).hexdigest()

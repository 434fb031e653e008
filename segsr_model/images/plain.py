"""8-bit images as BasicSR's loader sees them, PNG files, and what all readers of images share."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Union

import cv2
import numpy as np
from PIL import Image

# Level 1 with run-length matching: smaller, faster to write and to read than zlib's default on aerial images.
PNG_SETTINGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # where Pillow takes an image for a decompression bomb
ImageFile = Union[Path, io.BytesIO]
BESIDE = ('.msk', '.aux.xml')  # what files with a mask or a nodata value are called, after the image's name

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # ImageError says what is wrong with an image
warnings.filterwarnings('ignore', module='PIL')  # it reads headers only, and MOST_PIXELS is the limit


class ImageError(Exception):
    """An image that cannot be used, and why."""


def decode(content: bytes, *, turned: bool = True) -> np.ndarray:
    """Decode an image as BasicSR's loader does, by OpenCV, but keep samples of more than 8 bits.

    Palette, grey and CMYK images become BGR, alpha is dropped. A JPEG file that is cut off is refused; OpenCV 4 gives
    the loader what is there of it.

    Args:
        content: The file's.
        turned: Whether the file's orientation mark (EXIF) is followed, as the loader does.

    Returns:
        (h, w, 3) BGR; uint8 for all but images of more than 8 bits, of which the loader keeps the high byte.

    Raises:
        ImageError: OpenCV cannot decode it, it is cut off, or it has more than :data:`MOST_PIXELS`.
    """
    if _is_cut_off(content):
        raise ImageError('it is cut off')
    if _pixels(content) > MOST_PIXELS:
        raise ImageError(f'it has more than {MOST_PIXELS:,} pixels')
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError('it cannot be decoded: damaged, cut off, or no image that OpenCV reads')
    return image


def _is_cut_off(content: bytes) -> bool:
    """Whether it is a JPEG or PNG file without its last mark."""
    if content.startswith(b'\xff\xd8'):
        return content.rfind(b'\xff\xd9') <= content.rfind(b'\xff\xda')  # the end; a scan's start, after thumbnails
    return content.startswith(b'\x89PNG') and content.rfind(b'IEND') < 0


def _pixels(content: bytes) -> int:
    """How many pixels an image has, by its header; 0 if Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MOST_PIXELS + 1
    except Exception:  # its many readers raise anything; OpenCV, which reads the image, fails on a damaged one
        return 0


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

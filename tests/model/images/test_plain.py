"""Images as BasicSR's loader decodes them, and what it would not say of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from basicsr.utils import imfrombytes
from PIL import Image

from segsr_model.images import plain
from segsr_model.images.plain import ImageError, decode
from tests.model.prepare.archives import encode, photo

RGB = photo(40, 56, seed=2)


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF block holds a whole JPEG of its own, and an orientation mark."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x927c] = encode(RGB[:16, :16], 'JPEG')
    return encode(RGB, 'JPEG', exif=exif)


@pytest.mark.parametrize('content', [encode(RGB, 'PNG'), encode(RGB, 'JPEG'), with_thumbnail(),
                                     encode(RGB[..., 0], 'BMP')], ids=['PNG', 'JPEG', 'turned', 'grey'])
def test_it_is_the_loaders_image(content):
    assert np.array_equal(decode(content), imfrombytes(content))
    assert decode(content, turned=False).shape == RGB.shape


def test_samples_of_more_bits_are_kept():
    deep = RGB.astype(np.uint16) * 16
    content = cv2.imencode('.png', deep)[1].tobytes()
    assert np.array_equal(decode(content), deep)
    assert np.array_equal(imfrombytes(content), RGB // 16)  # what BasicSR makes of them


@pytest.mark.parametrize('content', [encode(RGB, 'JPEG'), encode(RGB, 'JPEG', progressive=True), with_thumbnail(),
                                     encode(RGB, 'PNG')], ids=['JPEG', 'progressive', 'thumbnail', 'PNG'])
def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(content):
    """OpenCV 4 decodes what is there of a JPEG."""
    for end in (*range(60, len(content) - 12, 97), len(content) - 12):
        with pytest.raises(ImageError, match='cut off'):
            decode(content[:end])
    with pytest.raises(ImageError, match='cut off'):
        decode(content[:len(content) // 2] + bytes(len(content) // 2))  # a download that was to be filled in


@pytest.mark.parametrize('content', [b'', b'no image', encode(RGB, 'TIFF')[:900], encode(RGB, 'BMP')[:900]])
def test_what_is_no_image_is_said_in_one_line(content, capfd):
    with pytest.raises(ImageError, match='^it cannot be decoded: damaged, cut off, or no image that OpenCV reads$'):
        decode(content)
    assert capfd.readouterr().err == ''


def test_the_size_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(plain, 'MOST_PIXELS', 1000)
    monkeypatch.setattr(cv2, 'imdecode', None)
    with pytest.raises(ImageError, match='^it has more than 1,000 pixels$'):
        decode(encode(RGB, 'PNG'))

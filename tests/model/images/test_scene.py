"""One rule for images of all formats: bits, colours, orientation, pixels without data, damage."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from basicsr.utils import imfrombytes
from PIL import Image

from segsr_model.images import scene as scene_module
from segsr_model.images.plain import ImageError
from segsr_model.images.scene import Scene, Window
from tests.model.prepare.archives import encode, photo

RGB = photo(24, 40, seed=1)
DEEP = RGB.astype(np.uint16) * 16  # up to 4080, as a 12-bit camera's


def read(content: bytes, window: Window | None = None, **options) -> np.ndarray:
    with closing(Scene(io.BytesIO(content), **options)) as opened:
        return opened.read(window)


def png(image: np.ndarray) -> bytes:
    """By OpenCV, as Pillow writes no RGB of 16 bits; RGB or RGBA."""
    order = [2, 1, 0, 3][:image.shape[2]]
    return cv2.imencode('.png', image[..., order])[1].tobytes()


def tiff(image: np.ndarray, **options) -> bytes:
    """(h, w, c) samples as a GeoTIFF."""
    with rasterio.MemoryFile() as file:
        with file.open(driver='GTiff', height=image.shape[0], width=image.shape[1], count=image.shape[2],
                       dtype=image.dtype, **options) as dataset:
            dataset.write(image.transpose(2, 0, 1))
        return file.read()


def picture(mode: str) -> Image.Image:
    return Image.fromarray(RGB).quantize(50) if mode == 'P' else Image.fromarray(RGB).convert(mode)


def saved(mode: str, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture(mode).save(stream, kind, **options)
    return stream.getvalue()


def chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + tag + body + struct.pack('>I', zlib.crc32(tag + body))


def interlaced() -> bytes:
    """A PNG in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b''.join(b'\0' + row.tobytes() for top, left, down, right in passes for row in RGB[top::down, left::right])
    header = struct.pack('>IIBBBBB', RGB.shape[1], RGB.shape[0], 8, 2, 0, 0, 1)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


EIGHT_BITS = {
    **{f'{mode} PNG': saved(mode, 'PNG') for mode in ('RGB', 'L', 'P', '1', 'LA', 'RGBA')},
    **{f'{mode} TIFF': saved(mode, 'TIFF') for mode in ('RGB', 'L', 'P', '1', 'LA', 'RGBA')},
    **{f'{mode} BMP': saved(mode, 'BMP') for mode in ('RGB', 'L', 'P', '1')},
    **{f'{mode} JPEG': saved(mode, 'JPEG', quality=90) for mode in ('RGB', 'L', 'CMYK')},
    'progressive': saved('RGB', 'JPEG', progressive=True, subsampling=2), 'interlaced': interlaced(),
    'WebP': saved('RGB', 'WEBP', lossless=True), 'WebP with alpha': saved('RGBA', 'WEBP'),
    'JPEG 2000': saved('RGB', 'JPEG2000'), 'CMYK TIFF': saved('CMYK', 'TIFF'),
    'LZW': saved('RGB', 'TIFF', compression='tiff_lzw'), 'fax': saved('1', 'TIFF', compression='group4'),
    'planar': tiff(RGB, interleave='band'), 'four bands': tiff(np.dstack([RGB, RGB[..., :1]]), photometric='rgb'),
    'tiled': tiff(RGB, tiled=True, blockxsize=16, blockysize=16, compress='deflate'),
    'white is 0': tiff(RGB[..., :1], photometric='miniswhite'), 'big': tiff(RGB, bigtiff='yes'),
}


@pytest.mark.parametrize('name', EIGHT_BITS)
def test_eight_bits_are_what_basicsrs_loader_gives(name):
    expected = imfrombytes(EIGHT_BITS[name])[..., ::-1]
    assert np.array_equal(read(EIGHT_BITS[name]), expected)
    assert np.array_equal(read(EIGHT_BITS[name], Window(3, 5, 7, 9)), expected[3:10, 5:14])


DEEP_FILES = {
    'PNG': png(DEEP), 'PNG with alpha': png(np.dstack([DEEP, np.full(DEEP.shape[:2], 65535, np.uint16)])),
    'TIFF': tiff(DEEP, photometric='rgb'), 'planar': tiff(DEEP, interleave='band', photometric='rgb'),
    'tiled': tiff(DEEP, tiled=True, blockxsize=16, blockysize=16, compress='lzw'),
    'four bands': tiff(np.dstack([DEEP, DEEP[..., :1]]), photometric='rgb'),
    '12 bits': tiff(DEEP, nbits=12), '12 bits, planar': tiff(DEEP, nbits=12, interleave='band', compress='deflate'),
    '32 bits': tiff(DEEP.astype(np.uint32)), 'signed': tiff(DEEP.astype(np.int16)),
    'float': tiff(DEEP.astype(np.float32)),
}


@pytest.mark.parametrize('name', DEEP_FILES)
def test_more_bits_keep_their_values(name):
    with pytest.raises(ImageError, match='^its samples are u?(int|float)(16|32): give .* --value-range LOW HIGH'):
        read(DEEP_FILES[name])
    expected = np.floor((DEEP.clip(100, 4000) - 100.0) / 3900 * 255 + 0.5)
    assert np.array_equal(read(DEEP_FILES[name], value_range=(100, 4000)), expected)
    assert np.array_equal(read(DEEP_FILES[name], value_range=(100, 4000), bands=(3, 1, 2)), expected[..., [2, 0, 1]])


@pytest.mark.parametrize('name', ['RGB PNG', 'RGB BMP', 'RGB JPEG', 'P PNG', 'P TIFF', 'LZW', 'WebP', 'L PNG'])
def test_bands_and_range_hold_for_every_format(name):
    plain = read(EIGHT_BITS[name]).astype(float)
    chosen = read(EIGHT_BITS[name], bands=(3, 2, 1), value_range=(50, 150))
    assert np.array_equal(chosen, np.floor((plain[..., ::-1].clip(50, 150) - 50) / 100 * 255 + 0.5))
    with pytest.raises(ImageError, match='^it has 3 bands, not 4'):
        read(EIGHT_BITS[name], bands=(1, 2, 4))


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_fewer_bits_are_stretched(bits):
    few = RGB >> (8 - bits)
    assert np.array_equal(read(tiff(few, nbits=bits)), np.floor(few / (2 ** bits - 1) * 255 + 0.5))


def test_complex_samples_are_refused():
    with pytest.raises(ImageError, match='^its samples are complex64, not real numbers'):
        read(tiff(RGB.astype(np.complex64)), value_range=(0, 1))


SHOWN = {  # by EXIF's mark: how the stored image is to be turned
    1: lambda image: image, 2: np.fliplr, 3: lambda image: np.rot90(image, 2), 4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2), 8: np.rot90,
}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'deep TIFF'])
@pytest.mark.parametrize('mark', SHOWN)
def test_the_orientation_mark_is_followed(kind, mark):
    exif = Image.Exif()
    exif[0x0112] = mark
    options = {'value_range': (0, 255)} if kind == 'deep TIFF' else {}
    if kind == 'deep TIFF':
        content = encode(RGB[..., 0].astype(np.uint16), 'TIFF', tiffinfo={0x0112: mark})
        image = RGB[..., [0, 0, 0]]
    elif kind == 'TIFF':
        content, image = encode(RGB, 'TIFF', tiffinfo={0x0112: mark}), RGB
    else:
        content = encode(RGB, kind, exif=exif, **({'lossless': True} if kind == 'WEBP' else {}))
        image = read(encode(RGB, 'JPEG')) if kind == 'JPEG' else RGB
    expected = SHOWN[mark](image)
    assert Scene(io.BytesIO(content), **options).size == expected.shape[:2]
    assert np.array_equal(read(content, **options), expected)
    assert np.array_equal(read(content, Window(2, 3, 10, 12), **options), expected[2:12, 3:15])
    if kind == 'JPEG':
        assert np.array_equal(read(content), imfrombytes(content)[..., ::-1])


def test_pixels_without_data_are_turned_too():
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[2, 30] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = Scene(io.BytesIO(encode(np.dstack([RGB, alpha]), 'PNG', exif=exif)))
    row, column = np.argwhere(np.rot90(alpha, -1) == 0)[0]
    assert not opened.is_valid(Window(row, column, 1, 1))
    assert opened.is_valid(Window(0, 0, row, 24)) and opened.is_valid(Window(row, 0, 10, column))


def with_alpha() -> dict[str, bytes]:
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[0, 0] = 0
    return {'a.png': encode(np.dstack([RGB, alpha]), 'PNG')}


def transparent(**options) -> dict[str, bytes]:
    image = RGB.copy()
    image[0, 0] = 1, 2, 3
    image[1:, 1:] |= 128
    mode = options.pop('mode', 'RGB')
    stream = io.BytesIO()
    (Image.fromarray(image) if mode == 'RGB' else Image.fromarray(image[..., 0])).save(stream, 'PNG', **options)
    return {'a.png': stream.getvalue()}


def palette(transparency) -> dict[str, bytes]:
    indices = np.full(RGB.shape[:2], 7, np.uint8)
    indices[0, 0] = 2
    image = Image.fromarray(indices, 'L')
    image.putpalette(list(range(30)))
    stream = io.BytesIO()
    image.save(stream, 'PNG', transparency=transparency)
    return {'a.png': stream.getvalue()}


def masked(tmp_path: Path, *, inside: bool) -> dict[str, bytes]:
    """A GeoTIFF with a mask; and the mask file, if it is not inside."""
    mask = np.full(RGB.shape[:2], 255, np.uint8)
    mask[0, 0] = 0
    path = tmp_path / 'made.tif'
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(
            path, 'w', driver='GTiff', height=24, width=40, count=3, dtype='uint8', photometric='rgb') as dataset:
        dataset.write(RGB.transpose(2, 0, 1))
        dataset.write_mask(mask)
    beside = {} if inside else {'a.tif.msk': path.with_name('made.tif.msk').read_bytes()}
    return {'a.tif': path.read_bytes(), **beside}


def with_pam(kind: str) -> dict[str, bytes]:
    bands = ''.join(f'<PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
                    for band, value in enumerate((1, 2, 3), 1))
    image = RGB | 4
    image[0, 0] = 1, 2, 3
    return {f'a.{kind}': encode(image, 'TIFF' if kind == 'tif' else 'PNG'),
            f'a.{kind}.aux.xml': f'<PAMDataset>{bands}</PAMDataset>'.encode()}


def with_value(value: float, *, bands=slice(None), dtype=np.float32, **options) -> dict[str, bytes]:
    image = (RGB | 4).astype(dtype)
    image[0, 0, bands] = value
    return {'a.tif': tiff(image, **options)}


def never_written(tmp_path: Path) -> dict[str, bytes]:
    path = tmp_path / 'made.tif'
    with rasterio.open(path, 'w', driver='GTiff', height=32, width=48, count=3, dtype='uint8', tiled=True,
                       blockxsize=16, blockysize=16, sparse_ok=True) as dataset:
        for row, column in ((0, 16), (0, 32), (16, 0), (16, 16), (16, 32)):
            dataset.write(np.full((3, 16, 16), 9, np.uint8), window=((row, row + 16), (column, column + 16)))
    return {'a.tif': path.read_bytes()}


WAYS = {
    'alpha': lambda _: with_alpha(), 'grey tRNS': lambda _: transparent(mode='L', transparency=1),
    'colour tRNS': lambda _: transparent(transparency=(1, 2, 3)), 'palette tRNS': lambda _: palette(2),
    'palette, several': lambda _: palette(bytes([255, 0, 0])), 'mask inside': lambda path: masked(path, inside=True),
    'mask beside': lambda path: masked(path, inside=False),
    'mask beside PNG': lambda path: {'a.png': EIGHT_BITS['RGB PNG'],
                                     'a.png.msk': masked(path, inside=False)['a.tif.msk']},
    'mask beside JPEG': lambda path: {'a.jpg': EIGHT_BITS['RGB JPEG'],
                                      'a.jpg.msk': masked(path, inside=False)['a.tif.msk']},
    'PAM, TIFF': lambda _: with_pam('tif'), 'PAM, PNG': lambda _: with_pam('png'),
    'nodata': lambda _: with_value(0, dtype=np.uint8, nodata=0),
    'nodata of one band': lambda _: with_value(-9999, bands=1, nodata=-9999),
    'NaN': lambda _: with_value(np.nan, bands=2), 'infinite': lambda _: with_value(np.inf, bands=0),
    'NaN as nodata': lambda _: with_value(np.nan, nodata=np.nan), 'never written': never_written,
}


@pytest.mark.parametrize('way', WAYS)
def test_pixels_without_data_are_seen_whatever_marks_them(way, tmp_path):
    """The one at the upper left; the others hold data."""
    for name, content in WAYS[way](tmp_path).items():
        (tmp_path / name).write_bytes(content)
    with closing(Scene(next(tmp_path.glob('a.???')), value_range=(0, 255))) as opened:
        assert not opened.is_valid() and not opened.is_valid(Window(0, 0, 3, 4))
        assert opened.is_valid(Window(0, 16, 24, 24)) and opened.is_valid(Window(16, 0, 8, 16))
        assert opened.read(Window(16, 16, 4, 5)).shape == (4, 5, 3)
        for window in (None, Window(0, 0, 8, 8)):
            with pytest.raises(ImageError, match='pixels that hold no data; "segsr prepare folder --tile"'):
                opened.read(window)


def test_a_nodata_value_that_is_a_colour_too_must_be_in_all_bands():
    """Else each shadow with a 0 in its blue would be a hole."""
    shadow = with_value(0, bands=2, dtype=np.uint8, nodata=0)['a.tif']
    assert Scene(io.BytesIO(shadow)).is_valid()
    assert not Scene(io.BytesIO(shadow), value_range=(10, 255)).is_valid()


@pytest.mark.parametrize('kind', ['RGB JPEG', 'progressive', 'RGB PNG', 'interlaced', 'RGB BMP', 'WebP', 'RGB TIFF',
                                  'LZW', 'planar'])
@pytest.mark.parametrize('left', [1, 30, -20, -1000])
def test_files_that_are_cut_off_are_refused(kind, left):
    with pytest.raises(ImageError) as error:
        read(EIGHT_BITS[kind][:left])
    assert '\n' not in str(error.value)


def test_what_is_too_large_for_opencv_is_read_by_windows(monkeypatch):
    monkeypatch.setattr(scene_module, 'MOST_PIXELS', 100)
    monkeypatch.setattr(scene_module, 'decode', None)
    for name in ('RGB PNG', 'L PNG', 'P PNG', '1 PNG', 'RGBA PNG', 'P BMP', 'interlaced', 'L JPEG'):
        assert np.array_equal(read(EIGHT_BITS[name], Window(3, 5, 7, 9)),
                              imfrombytes(EIGHT_BITS[name])[3:10, 5:14, ::-1]), name
    for name in ('RGB PNG', 'RGB JPEG'):
        with pytest.raises(ImageError, match='^it is damaged, cut off'):
            read(EIGHT_BITS[name][:-300])


@pytest.mark.parametrize('path', ['s3:old/a.tif', 'http:/x.tif', 'file:a.tif', 'a.tif?x', 'a#b.tif', 'zip:a!b.tif',
                                  'GTIFF_DIR:1:a.tif', 'vsizip/a.tif', '\u00fc.tif', '%41.tif', 'no.suffix'])
def test_a_path_is_a_path(path, tmp_path, monkeypatch):
    """And no address or name in a language of GDAL's."""
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(DEEP_FILES['TIFF'])
    with closing(Scene(Path(path), value_range=(0, 4080))) as opened:
        assert np.array_equal(opened.read(), RGB)


def test_a_path_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ImageError, match='^it cannot be read: No such file'):
        Scene(tmp_path / 'none.tif')
    path = tmp_path / os.fsdecode(b'\xff.tif')
    path.write_bytes(DEEP_FILES['TIFF'])
    with pytest.raises(ImageError, match='^its path is not UTF-8'):
        Scene(path, value_range=(0, 4080))


def test_names_in_a_file_are_not_followed(tmp_path):
    """GDAL's own format for virtual images names other files, and hosts."""
    (tmp_path / 'secret.tif').write_bytes(EIGHT_BITS['RGB TIFF'])
    virtual = ('<VRTDataset rasterXSize="40" rasterYSize="24"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
               f'<SourceFilename>{tmp_path}/secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')
    (tmp_path / 'a.tif').write_text(virtual)
    (tmp_path / 'b.tif').write_bytes(EIGHT_BITS['RGB TIFF'])
    (tmp_path / 'b.tif.msk').write_text(virtual)
    for name, message in (('a.tif', 'not an image'), ('b.tif', 'b.tif.msk beside it is no GeoTIFF')):
        with pytest.raises(ImageError, match=message):
            Scene(tmp_path / name)

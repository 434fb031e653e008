"""Files: what is sharpened stays the data that it was. Most tests stand for a report on another tool."""

import os

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image, ImageCms
from rasterio.control import GroundControlPoint
from torch import nn

from segsr_arch.layers.resize import imresize
from segsr_model.errors import CommandError
from segsr_model.scenes.resolver import SuperResolver
from segsr_model.scenes.source import Source
from segsr_model.scenes.tiles import Span

from .conftest import Nearest, kron

RNG = np.random.default_rng(0)
UTM = {'crs': 'EPSG:32632', 'transform': Affine(10, 0, 399960.0, 0, -10, 5300040.0)}


@pytest.mark.parametrize('shape', [(3, 1, 1), (3, 5, 300), (3, 17, 16), (3, 33, 64), (1, 130, 101)])
@pytest.mark.parametrize('scale', [2, 3])
def test_each_pixel_becomes_a_block(save, upscale, read, shape, scale):
    """Any size, off the square, tiles of leftover pixels: axes swapped, strips missing, outputs smaller."""
    bands = RNG.integers(0, 256, shape, dtype=np.uint8)
    out, outcome = upscale(save('a.tif', bands), scale=scale)
    assert np.array_equal(read(out), kron(bands, scale))
    assert outcome.trust.rmse == 0 and outcome.trust.bias == 0 and outcome.trust.count == shape[1] * shape[2]


def test_a_constant_stays_one_corners_too(save, upscale, read):
    out, _ = upscale(save('c.tif', np.full((3, 101, 117), 200, np.uint8)), net=nn.Upsample(scale_factor=2))
    assert (read(out) == 200).all()


def test_tiles_make_what_the_whole_image_makes_whatever_their_size(save, upscale, read, edsr):
    path = save('a.tif', RNG.integers(0, 256, (3, 70, 95), dtype=np.uint8))
    with torch.no_grad():
        whole = edsr(Source(path).rgb(Span(0, 70), Span(0, 95)))[0].numpy()
    expected = np.rint(whole.astype(np.float64).clip(0, 1) * 255)
    for tile in (16, 24, 96):
        result = read(upscale(path, net=edsr, tile=tile, out=path.with_name(f'{tile}.tif'))[0]).astype(int)
        assert np.abs(result - expected).max() <= 1 and (result != expected).mean() < 1e-3


def test_bounds_and_corners_are_those_of_the_scene(save, upscale):
    path = save('a.tif', np.zeros((3, 51, 52), np.uint8), **UTM)
    out, _ = upscale(path)
    with rasterio.open(path) as before, rasterio.open(out) as after:
        assert np.allclose(before.bounds, after.bounds, rtol=0, atol=1e-9)
        assert after.crs == before.crs and (after.height, after.width) == (102, 104)
        assert after.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'


def test_a_rotated_transform_stays_rotated(save, upscale):
    turned = Affine.translation(5e5, 5e6) * Affine.rotation(30) * Affine.scale(2, -2)
    path = save('a.tif', np.zeros((3, 20, 30), np.uint8), crs='EPSG:32632', transform=turned)
    out, _ = upscale(path, window=(4, 6, 10, 8))
    with rasterio.open(out) as file:
        for column, row in ((0, 0), (10, 0), (0, 8), (10, 8), (3.5, 2.5)):
            assert np.allclose(file.transform * (2 * column, 2 * row), turned * (4 + column, 6 + row), atol=1e-9)


def test_control_points_and_polynomials_name_the_same_places(save, upscale):
    points = [GroundControlPoint(row, column, 10 + column, 50 - row, 0) for row, column in ((0, 0), (0, 19), (9, 0))]
    path = save('g.tif', np.zeros((3, 10, 20), np.uint8))
    with rasterio.open(path, 'r+') as file:
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)
    out, _ = upscale(path)
    with rasterio.open(out) as file:
        found, crs = file.gcps
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(2 * p.row, 2 * p.col, p.x, p.y) for p in points]
        assert crs.to_epsg() == 4326


def test_sixteen_bits_units_and_names_are_kept(save, upscale, read):
    """Bands by name or number; the rest enlarged beside them; what lies beyond the range is not lost."""
    bands = RNG.integers(300, 3000, (4, 40, 50)).astype(np.uint16)
    bands[0, 10:12, 20:22] = 9000  # a bright roof
    names = ('B02', 'B03', 'B04', 'B08')
    path = save('s2.tif', bands, descriptions=names, **UTM)
    by_name, _ = upscale(path, bands=['B04', 'B03', 'B02'], value_range=(0, 4000))
    by_number, _ = upscale(path, bands=['3', '2', '1'], value_range=(0, 4000), out=path.with_name('n.tif'))
    result = read(by_name)
    assert np.array_equal(result, read(by_number)) and result.dtype == np.uint16
    with rasterio.open(by_name) as file:
        assert file.descriptions == ('B04', 'B03', 'B02', 'B08')
    assert np.abs(result[:2].astype(int) - kron(bands[[2, 1]], 2)).max() <= 1
    roof = result[2, 20:24, 40:44]
    assert roof.max() > 8500 and np.abs(result[2].astype(int) - kron(bands[:1], 2)[0])[:, :30].max() <= 1
    nir = imresize(torch.from_numpy(bands[None, 3:].astype(np.float32)), 2)[0, 0].numpy()
    assert np.abs(result[3] - nir).max() <= 0.51


def test_scales_and_offsets_are_used_and_written_back(save, upscale, read):
    reflectance = RNG.random((3, 30, 30), dtype=np.float32) * 0.4
    stored = np.rint(1000 + reflectance * 10000).astype(np.uint16)
    tagged = save('t.tif', stored, scales=(1e-4,) * 3, offsets=(-0.1,) * 3)
    plain = save('f.tif', (stored * np.float32(1e-4) - np.float32(0.1)).astype(np.float32))
    results = []
    for path in (tagged, plain):
        out, _ = upscale(path, value_range=(0, 0.3))
        with rasterio.open(out) as file:
            results.append(file.read() * file.scales[0] + file.offsets[0])
    assert np.abs(results[0] - results[1]).max() <= 1e-4
    with rasterio.open(tmp := upscale(tagged, value_range=(0, 0.3), out=tagged.with_name('again.tif'))[0]) as file:
        assert file.scales == (1e-4,) * 3 and file.offsets == (-0.1,) * 3, tmp


def test_more_than_eight_bits_need_a_range(save, upscale):
    path = save('a.tif', np.zeros((3, 8, 8), np.uint16))
    with pytest.raises(CommandError, match=r"a\.tif': its samples are uint16: give the values .*--value-range"):
        upscale(path)


def test_an_automatic_range_is_that_of_the_scene(save, upscale):
    values = np.arange(10000, dtype=np.uint16).reshape(1, 100, 100)
    values[0, :10] = 60000
    source = Source(save('a.tif', values, nodata=60000), value_range='auto')
    low, high = np.percentile(values[values < 60000], (2, 98))
    assert source.low == pytest.approx(low) and source.high == pytest.approx(high)


def test_holes_are_exact_and_nothing_leaks_out_of_them(save, upscale, read, edsr):
    bands = np.full((3, 60, 60), 1000, np.int16)
    hole = np.triu(np.ones((60, 60), bool), 20)
    bands[:, hole] = -9999
    out, outcome = upscale(save('n.tif', bands, nodata=-9999), value_range=(0, 2000), net=nn.Upsample(scale_factor=2))
    result, large = read(out), kron(hole[None], 2)[0]
    assert (result[:, large] == -9999).all() and np.abs(result[:, ~large] - 1000).max() <= 1
    assert outcome.trust.count == (~hole).sum()


def test_a_value_that_is_nodata_by_chance_is_moved_a_step(save, upscale, read):
    bands = np.full((3, 20, 20), 7, np.uint8)
    bands[:, :4] = 0
    out, _ = upscale(save('a.tif', bands, nodata=0), net=Nearest(2), value_range=(7, 255))
    assert (read(out)[:, 8:] == 7).all() and (read(out)[:, :8] == 0).all()


class Zero(Nearest):
    def forward(self, x):
        return 0 * super().forward(x)


def test_no_valid_pixel_is_made_a_hole(save, upscale, read):
    bands = np.full((3, 20, 20), 7, np.uint8)
    bands[:, :4] = 0
    out, _ = upscale(save('a.tif', bands, nodata=0), net=Zero(2))
    assert (read(out)[:, 8:] == 1).all() and (read(out)[:, :8] == 0).all()


def test_one_nan_stays_one_block(save, upscale, read, edsr):
    bands = np.full((3, 40, 40), 0.2, np.float32)
    bands[:, 20, 20] = np.nan
    result = read(upscale(save('f.tif', bands), value_range=(0, 1), net=Nearest(2))[0])
    assert np.isnan(result[:, 40:42, 40:42]).all() and np.isnan(result).sum() == 3 * 4
    assert np.nanmax(np.abs(result - 0.2)) < 1e-6


def test_a_mask_stays_a_mask(save, upscale):
    mask = np.full((30, 30), 255, np.uint8)
    mask[:7, :9] = 0
    out, _ = upscale(save('m.tif', np.full((3, 30, 30), 90, np.uint8), mask=mask))
    with rasterio.open(out) as file:
        assert np.array_equal(file.dataset_mask(), kron(mask[None], 2)[0]) and file.nodata is None


def test_empty_tiles_are_not_run_and_the_others_in_small_batches(save, upscale, read):
    net = Nearest(2)
    bands = np.zeros((3, 100, 100), np.uint8)
    bands[:, 60:90, 60:90] = 50
    out, _ = upscale(save('e.tif', bands, nodata=0), net=net, tile=32, halo=4)
    assert np.array_equal(read(out), kron(bands, 2))
    assert sum(net.given) <= 3 * 4 * 52 * 52 and max(net.given) <= 2 * 3 * 52 * 52


def test_alpha_has_no_dark_fringe(tmp_path, upscale):
    y, x = np.mgrid[:64, :64]
    disc = ((y - 32) ** 2 + (x - 32) ** 2 < 400).astype(np.uint8) * 255
    Image.fromarray(np.dstack([disc] * 4)).save(tmp_path / 'disc.png')
    out, _ = upscale(tmp_path / 'disc.png', net=nn.Upsample(scale_factor=2, mode='bilinear'))
    image = Image.open(out)
    over_white = Image.new('RGBA', image.size, 'white')
    over_white.alpha_composite(image)
    assert image.mode == 'RGBA' and np.asarray(over_white).min() >= 250


def test_a_photo_is_turned_upright_and_keeps_its_profile(tmp_path, upscale):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    photo = Image.fromarray(RNG.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    exif = photo.getexif()
    exif[0x0112], exif[0x010F] = 6, 'a camera'
    photo.save(tmp_path / 'p.jpg', exif=exif, icc_profile=profile, quality=95)
    out, _ = upscale(tmp_path / 'p.jpg', scale=4)
    result = Image.open(out)
    assert out.suffix == '.png' and result.size == (80, 160) and result.info['icc_profile'] == profile
    assert result.getexif()[0x010F] == 'a camera' and result.getexif().get(0x0112, 1) == 1
    upright = np.asarray(Image.open(tmp_path / 'p.jpg').transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(result)[::4, ::4], upright)


def test_a_name_of_any_script(tmp_path, upscale):
    path = tmp_path / 'Luft bild \u00e4 \u822a\u7a7a.png'
    Image.fromarray(RNG.integers(0, 256, (9, 9), dtype=np.uint8)).save(path)
    out, _ = upscale(path)
    assert np.asarray(Image.open(out)).shape == (18, 18)


def test_trust_correction_and_uncertainty(save, upscale, read, edsr):
    path = save('a.tif', RNG.integers(100, 150, (3, 40, 50), dtype=np.uint8), **UTM)
    out, outcome = upscale(path, net=edsr, layers=('trust', 'uncertainty'))
    differences = read(out)[:3].reshape(3, 40, 2, 50, 2).mean((2, 4)) - read(path)
    with rasterio.open(out.with_name(f'{out.stem}_trust.tif')) as trust, rasterio.open(path) as scene:
        assert np.allclose(trust.read(1), differences.mean(0), atol=1e-4) and trust.transform == scene.transform
    assert outcome.trust.rmse == pytest.approx(np.sqrt(np.square(differences.mean(0)).mean()), rel=1e-5)
    assert outcome.trust.bias == pytest.approx(differences.mean(), rel=1e-4)
    spread = read(out.with_name(f'{out.stem}_uncertainty.tif'))
    assert spread.shape == (1, 80, 100) and spread.min() > 0
    corrected, after = upscale(path, net=edsr, correct=True, out=path.with_name('c.tif'))
    assert after.trust.rmse < 0.5 and after.trust.rmse < outcome.trust.rmse


class KilledError(Exception):
    """In place of a signal."""


class Dying(Nearest):
    def __init__(self, scale, after):
        super().__init__(scale)
        self.after = after

    def forward(self, x):
        if len(self.given) == self.after:
            raise KilledError
        return super().forward(x)


@pytest.mark.parametrize('after', [0, 3, 5, 8])
def test_whenever_it_is_killed_it_goes_on_to_the_same_pixels(save, upscale, read, after):
    bands = RNG.integers(0, 256, (3, 120, 100), dtype=np.uint8)
    path = save('k.tif', bands)
    with pytest.raises(KilledError):
        upscale(path, net=Dying(2, after))
    folder = path.parent / 'out' / '.k_x2.tif.parts'
    assert folder.is_dir() and not (path.parent / 'out' / 'k_x2.tif').exists()
    net = Nearest(2)
    out, _ = upscale(path, net=net)
    assert np.array_equal(read(out), kron(bands, 2)) and not folder.exists()
    assert len(net.given) == 12 - after // 3 * 3  # of four strips with three batches: finished ones are kept


def test_a_damaged_part_is_made_again_and_other_settings_start_over(save, upscale, read):
    bands = RNG.integers(0, 256, (3, 120, 100), dtype=np.uint8)
    path = save('k.tif', bands)
    with pytest.raises(KilledError):
        upscale(path, net=Dying(2, 8))
    folder = path.parent / 'out' / '.k_x2.tif.parts'
    body = folder / 'strip_00000' / 'body.tif'
    body.write_bytes(body.read_bytes()[:-100])
    net = Nearest(2)
    out, _ = upscale(path, net=net)
    assert np.array_equal(read(out), kron(bands, 2)) and len(net.given) == 9
    assert os.listdir(out.parent) == ['k_x2.tif']


def test_a_result_that_is_there_is_not_made_again(save, tmp_path):
    from segsr_model.scenes.upscale import Flags, Upscaling
    path, out = save('a.tif', np.zeros((3, 20, 20), np.uint8)), tmp_path / 'a_x2.tif'
    resolver = SuperResolver(Nearest(2), scale=2, identity='test')
    jobs = [Upscaling(resolver, 'test', path, out, Flags(**flags)) for flags in ({}, {'correct': True})]
    assert not jobs[0].is_done()
    jobs[0].run()
    assert jobs[0].is_done()
    with pytest.raises(CommandError, match=r"a_x2\.tif' is there, made otherwise .*--overwrite"):
        jobs[1].is_done()


def test_a_file_of_blocks_is_no_larger_than_it_has_to_be(save, upscale):
    """Blocks that are written twice, or band by band, make a compressed file swell."""
    bands = RNG.integers(0, 256, (3, 600, 700), dtype=np.uint8)
    out, _ = upscale(save('b.tif', bands), tile=128)
    with rasterio.open(out) as file:
        again = out.with_name('again.tif')
        profile = {**file.profile, 'zlevel': 6, 'predictor': 2}
        with rasterio.open(again, 'w', **profile) as copy:
            copy.write(file.read())
        assert file.block_shapes[0] == (512, 512)
    assert out.stat().st_size <= 1.02 * again.stat().st_size


@pytest.mark.parametrize('flags, reason', [
    ({'bands': ['B99', '1', '2']}, r"--bands B99: '.*a\.tif' has 3 bands"),
    ({'bands': ['1', '2']}, 'takes three bands, or one, not 2'),
    ({'value_range': (5, 5)}, 'the first must be lower'),
    ({'window': (50, 0, 5, 5)}, r"--window: no pixel of '.*a\.tif' \(20 x 20\) lies in it"),
    ({'bounds': (0, 0, 1, 1)}, '--bounds: .* lies nowhere on the map; --window'),
    ({'layers': ['maps']}, '--maps: this network has no guidance maps')])
def test_bad_input_is_one_line(save, upscale, flags, reason):
    with pytest.raises(CommandError, match=reason):
        upscale(save('a.tif', np.zeros((3, 20, 20), np.uint8)), **flags)


def test_a_vrt_may_name_any_file(save, tmp_path, upscale):
    save('a.tif', np.zeros((3, 20, 20), np.uint8))
    vrt = tmp_path / 'a.vrt'
    vrt.write_text('<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1">'
                   '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
                   '</SimpleSource></VRTRasterBand></VRTDataset>')
    with pytest.raises(CommandError, match='--allow-vrt'):
        upscale(vrt, out=tmp_path / 'v.tif')
    assert upscale(vrt, out=tmp_path / 'v.tif', allow_vrt=True)[1].trust.count == 400

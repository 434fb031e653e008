"""segsr maps: the picture, the arrays and the GeoTIFF layers are the network's."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
import yaml
from basicsr.archs import build_network
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import img2tensor, tensor2img

from segsr_model.cli import main
from segsr_model.figures.drawing import read_image
from segsr_model.figures.maps import draw, look
from segsr_model.figures.maps_files import write_layers


@pytest.fixture
def trained(network, tmp_path):
    """A network with weights, and its option file."""
    net = build_network(network).eval()
    with torch.no_grad():
        for p in net.backbone.parameters():
            p.mul_(0.5)
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    file = tmp_path / 'test.yml'
    file.write_text(yaml.safe_dump({'network_g': network, 'path': {'pretrain_network_g': str(tmp_path / 'net.pth')}}))
    return net, str(file)


@pytest.fixture
def geotiff(pairs, tmp_path):
    """The LR image of meadow00 as a GeoTIFF of 2.4 m pixels in UTM 11 N, not square."""
    rgb = cv2.imread(str(pairs / 'LR' / 'meadow00.png'))[:12, :, ::-1]
    path = tmp_path / 'lr.tif'
    with rasterio.open(path, 'w', driver='GTiff', dtype='uint8', count=3, height=12, width=16, crs='EPSG:32611',
                       transform=rasterio.transform.from_origin(450000, 4600000, 2.4, 2.4)) as file:
        file.write(rgb.transpose(2, 0, 1))
    return path


def expected(net, lr):
    x = img2tensor(lr / 255.0)[None]
    with torch.no_grad():
        return net.guidance_maps(x)[0].numpy(), tensor2img(net(x))


def test_arrays_and_layers_are_the_networks(trained, geotiff, tmp_path):
    net, option_file = trained
    out = [str(tmp_path / f'maps.{kind}') for kind in ('png', 'npz', 'npy', 'tif')]
    assert main(['maps', '-opt', option_file, '--lr', str(geotiff), '--out', *out]) == 0
    lr = read_image(geotiff)
    maps, sr = expected(net, lr)
    assert maps.shape == (2, 12, 16) and maps.std() > 0.01
    assert np.array_equal(np.load(out[2]), maps)
    arrays = np.load(out[1])
    assert sorted(arrays) == ['bicubic', 'lr', 'maps', 'sr']
    assert np.array_equal(arrays['maps'], maps)
    assert np.array_equal(arrays['lr'], lr[..., ::-1]) and np.array_equal(arrays['sr'], sr[..., ::-1])
    with rasterio.open(out[3]) as file, rasterio.open(geotiff) as source:
        assert np.array_equal(file.read(), maps)
        assert file.descriptions == ('M_1', 'M_2') and file.dtypes == ('float32', 'float32')
        assert file.transform == source.transform and file.crs == source.crs == 'EPSG:32611'


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_layers_of_an_image_without_georeference_have_none(trained, pairs, tmp_path):
    _, option_file = trained
    out = str(tmp_path / 'maps.tif')
    assert main(['maps', '-opt', option_file, '--lr', str(pairs / 'LR' / 'meadow00.png'), '--out', out]) == 0
    with rasterio.open(out) as file:
        assert file.crs is None and file.transform == rasterio.Affine.identity() and file.count == 2


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_gcps_are_kept(trained, geotiff, tmp_path):
    _, option_file = trained
    points = [rasterio.control.GroundControlPoint(row=row, col=col, x=10 + col, y=50 - row)
              for row, col in ((0, 0), (0, 9), (9, 0))]
    with rasterio.open(geotiff) as file:
        pixels = file.read()
    with rasterio.open(tmp_path / 'gcps.tif', 'w', driver='GTiff', dtype='uint8', count=3, height=12, width=16) as file:
        file.write(pixels)
        file.gcps = points, 'EPSG:4326'
    out = str(tmp_path / 'maps.tif')
    assert main(['maps', '-opt', option_file, '--lr', str(tmp_path / 'gcps.tif'), '--out', out]) == 0
    with rasterio.open(out) as file:
        assert [(p.row, p.col, p.x, p.y) for p in file.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]
        assert file.gcps[1] == 'EPSG:4326'


def test_paths_of_layers_are_no_addresses(geotiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('s3:lr').mkdir()
    shutil.copy(geotiff, 's3:lr/a.tif')
    write_layers('s3:lr/maps.tif', np.ones((1, 12, 16), np.float32), 's3:lr/a.tif')
    with rasterio.open(tmp_path / 's3:lr' / 'maps.tif') as file:
        assert file.crs == 'EPSG:32611'


def test_the_picture_shows_maps_and_scores(trained, pairs):
    net, _ = trained
    lr, hr = (read_image(pairs / kind / 'woodland00.png') for kind in ('LR', 'HR'))
    maps, sr = expected(net, lr)
    page = draw([look(net, lr, hr)])
    texts = [text.get_text() for text in page.figure.texts]
    psnr = calculate_psnr(sr, hr, crop_border=4, test_y_channel=True)
    ssim = calculate_ssim(sr, hr, crop_border=4, test_y_channel=True)
    assert texts[:2] == ['LR', 'Bicubic'] and texts[5:] == ['HR', '$M_{1}$', '$M_{2}$']
    assert texts[3:5] == ['SR', f'{psnr:.2f} dB / {ssim:.4f}']
    *pictures, bar = page.figure.axes
    assert np.array_equal(pictures[2].images[0].get_array(), sr[..., ::-1])
    for axes, values in zip(pictures[4:], maps):
        assert np.array_equal(axes.images[0].get_array(), values)
        assert axes.images[0].get_clim() == (-np.abs(maps).max(), np.abs(maps).max())
    assert bar.get_xlim() == (-np.abs(maps).max(), np.abs(maps).max()) and 'cosine' in bar.get_xlabel()


def test_without_hr_each_image_is_a_row_as_in_the_paper(trained, pairs):
    net, _ = trained
    scenes = [look(net, read_image(pairs / 'LR' / f'{name}.png')[:rows], None)
              for name, rows in (('meadow00', 16), ('woodland00', 12))]
    page = draw(scenes, own_scale=True)
    texts = [text.get_text() for text in page.figure.texts]
    assert texts[:3] == texts[6:9] == ['LR', 'SR', '$M_{1}$']
    low, high = scenes[0].maps[0].min(), scenes[0].maps[0].max()
    assert texts[3] == f'{low:.3f} to {high:.3f}'.replace('-', '\N{MINUS SIGN}')
    assert page.figure.axes[2].images[0].get_clim() == (low, high)
    tops = [axes.get_position().y1 for axes in page.figure.axes[:8]]
    assert len(set(tops[:4])) == len(set(tops[4:])) == 1 and tops[4] < tops[0]


@pytest.mark.parametrize('change, message', [
    (['--lr', 'LR/none.png'], "there is no image 'LR/none.png'"),
    (['--hr', 'LR/meadow00.png'], "'LR/meadow00.png' is 16 x 16; for 'LR/meadow00.png' at x4 it must be 64 x 64"),
    (['--hr', 'HR/meadow00.png', 'HR/meadow01.png'], '--lr names 1 images and --hr 2'),
    (['--lr', 'LR/meadow00.png', 'LR/meadow01.png'], "--out 'maps.npz' takes the maps of one image"),
    (['--out', 'LR/meadow00.png'], "'LR/meadow00.png' is to be read, so it is not written"),
    (['--out', 'maps.gif'], "'maps.gif' must end in"),
    (['--checkpoint', 'none.pth'], "no weights file 'none.pth'"),
    (['-opt', 'none.yml'], "cannot read the option file 'none.yml'"),
])
def test_bad_input_is_one_line(change, message, trained, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ('LR', 'HR'):
        (tmp_path / kind).symlink_to(pairs / kind)
    before = sorted(x.name for x in tmp_path.iterdir())
    arguments = ['-opt', trained[1], '--lr', 'LR/meadow00.png', '--out', 'maps.npz']
    assert main(['maps', *arguments, *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('segsr maps: error: ') and message in error
    assert sorted(x.name for x in tmp_path.iterdir()) == before


@pytest.mark.parametrize('change, message', [
    ({}, 'names no weights'),
    ({'type': 'EDSRR'}, 'EDSRR'),
    ({'semantic': {'guidance': 'none'}}, 'has guidance maps with guidance: map only'),
    (None, 'Bicubic, which has no guidance maps'),
])
def test_networks_without_maps_are_named(change, message, network, pairs, tmp_path, capsys):
    options = {'network_g': {**network, **change} if change is not None else {'type': 'Bicubic', 'upscale': 4}}
    if change and 'semantic' in change:
        torch.save(build_network(options['network_g']).state_dict(), tmp_path / 'net.pth')
        options['path'] = {'pretrain_network_g': str(tmp_path / 'net.pth')}
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(options))
    assert main(['maps', '-opt', str(tmp_path / 'test.yml'), '--lr', str(pairs / 'LR' / 'meadow00.png'),
                 '--out', str(tmp_path / 'maps.png')]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'maps.png').exists()


@pytest.mark.parametrize('size', [(600, 4), (4, 600)])
def test_extreme_shapes_stay_on_a_page(trained, size, tmp_path):
    cv2.imwrite(str(tmp_path / 'strip.png'), np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    strip, out = str(tmp_path / 'strip.png'), str(tmp_path / 'o.png')
    assert main(['maps', '-opt', trained[1], '--lr', strip, '--out', out]) == 0
    height, width = cv2.imread(out).shape[:2]
    assert width == 2148 and height < 3000


def test_too_many_images_are_refused_before_the_network_runs(trained, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('segsr_model.figures.maps.look', None)
    assert main(['maps', '-opt', trained[1], '--lr', *[str(pairs / 'LR' / 'meadow00.png')] * 40,
                 '--out', str(tmp_path / 'o.png')]) == 2
    assert 'inches tall, at most 60 are possible; draw fewer images at a time' in capsys.readouterr().err


def test_an_image_too_large_for_the_memory_is_named(trained, pairs, tmp_path, monkeypatch, capsys):
    def lack(self, lr):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(type(trained[0]), 'forward', lack)
    path = pairs / 'LR' / 'meadow00.png'
    assert main(['maps', '-opt', trained[1], '--lr', str(path), '--out', str(tmp_path / 'o.png')]) == 2
    assert capsys.readouterr().err == (
        f"segsr maps: error: '{path}' (16 x 16) does not fit into memory; cut it into smaller images\n")

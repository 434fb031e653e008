"""Any folder of images: names, classes, tiles, GeoTIFF."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from segsr_model.prepare.manifest import read_manifest
from segsr_model.prepare.sources.archives import open_source
from segsr_model.prepare.sources.find import find_any
from tests import ROOT
from tests.model.prepare.archives import encode, pack, photo

SAMPLE = ROOT / 'datasets' / 'sample'


def test_the_sample(prepare, tmp_path):
    code, out, _ = prepare('folder', '--source', SAMPLE, '--out', tmp_path / 'demo', '--scale', '4')
    assert code == 0
    assert 'train 30, test 10 images' in out
    for label in ('meadow', 'woodland'):
        assert len(list((tmp_path / 'demo/x4/train/HR').glob(f'{label}*.png'))) == 15
        assert len(list((tmp_path / 'demo/x4/test/LR').glob(f'{label}*.png'))) == 5
    for path in (tmp_path / 'demo/x4').glob('*/HR/*.png'):
        original = SAMPLE / 'Images' / path.stem.rstrip('0123456789') / path.name
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(original)))


def names_of(tmp_path, files):
    return find_any(open_source(pack(tmp_path / 'folder', dict.fromkeys(files, b'x'))))[0]


def test_fitting_names_are_kept(tmp_path):
    assert names_of(tmp_path, ['Sea/sea_7.png', 'Sea/SEA12.jpg', 'x/y/Field/field1.tif']) == {
        'sea12': 'Sea/SEA12.jpg', 'sea_7': 'Sea/sea_7.png', 'field1': 'x/y/Field/field1.tif'}


def test_other_names_are_numbered_within_their_class(tmp_path):
    assert names_of(tmp_path, ['Bare Land/P0012 crop.png', 'Bare Land/bare_land1.png', 'sea/sea1.png']) == {
        'bare_land_0000': 'Bare Land/P0012 crop.png', 'bare_land_0001': 'Bare Land/bare_land1.png',
        'sea1': 'sea/sea1.png'}


def test_the_class_is_in_the_file_name_when_there_is_one_folder(tmp_path):
    assert list(names_of(tmp_path, ['HR/sea1.png', 'HR/field_2.png', 'HR/0801.png'])) == [
        'field_2', 'image_0000', 'sea1']


def test_class_folders_that_differ_in_digits_only(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {f'{folder}/a1.png': encode(photo(8, 8, 0), 'PNG') for folder in ('z1', 'z2')})
    _, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out')
    assert 'class folders z1 and z2 would both be the class "z"' in err


def test_folders_without_letters_are_one_class(tmp_path):
    assert names_of(tmp_path, ['2019/sea1.png', '2020/sea1.png', '2020/a.png']) == {
        'image_0000': '2019/sea1.png', 'image_0001': '2020/a.png', 'image_0002': '2020/sea1.png'}


def test_no_image(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {'a.txt': b'x'})
    assert 'has no image' in prepare('folder', '--source', source, '--out', tmp_path / 'out')[2]


def tiles_of(folder):
    _, records = read_manifest(folder / 'x4/manifest.jsonl')
    return records


def test_tiles_do_not_overlap_and_hold_the_scene(prepare, tmp_path):
    scene = photo(150, 230, seed=3)
    source = pack(tmp_path / 'folder', {'city/north.png': encode(scene, 'PNG'), 'farm/south.png': encode(scene, 'PNG'),
                                        'farm/tiny.png': encode(scene[:60], 'PNG')})
    code, out, _ = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--tile', '64',
                           '--min-train-size', '0')
    assert code == 0
    assert 'farm/tiny.png: no whole tile of 64 pixels with data, left out' in out
    records = tiles_of(tmp_path / 'out')
    assert len(records) == 2 * 2 * 3
    covered = {'city/north.png': np.zeros((150, 230), int), 'farm/south.png': np.zeros((150, 230), int)}
    for record in records:
        top, left, height, width = record['window']
        covered[record['source']][top:top + height, left:left + width] += 1
        hr = np.asarray(Image.open(tmp_path / f'out/x4/{record["part"]}/HR/{record["name"]}.png'))
        assert np.array_equal(hr, scene[top:top + 64, left:left + 64])
    for cover in covered.values():
        assert cover.max() == 1
        assert cover.sum() == 6 * 64 * 64


def test_tiles_are_extended_only_if_that_is_asked_for(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(64, 64, i), 'PNG') for i in range(4)})
    for name, arguments, size in (('plain', (), 32), ('more', ('--min-train-size', '48'), 48)):
        _, out, _ = prepare('folder', '--source', source, '--out', tmp_path / name, '--tile', '32', *arguments)
        assert ('12 training images below 48 pixels' in out) == (size == 48)
        sizes = {(record['part'], *record['hr_size']) for record in tiles_of(tmp_path / name)}
        assert sizes == {('train', size, size), ('test', 32, 32)}


def test_all_tiles_of_an_image_on_one_side(prepare, tmp_path):
    scenes = {f'city/scene{i}.png': encode(photo(128, 128, seed=i), 'PNG') for i in range(4)}
    prepare('folder', '--source', pack(tmp_path / 'folder', scenes), '--out', tmp_path / 'out', '--tile', '64',
            '--split-by', 'image', '--min-train-size', '0')
    parts = {}
    for record in tiles_of(tmp_path / 'out'):
        parts.setdefault(record['source'], []).append(record['part'])
    assert sorted(parts.values()) == [['test'] * 4, ['train'] * 4, ['train'] * 4, ['train'] * 4]


def test_no_whole_tile_at_all(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {'a/a1.png': encode(photo(50, 90, 0), 'PNG')})
    _, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--tile', '64')
    assert '--tile 64: no image holds a whole tile of that size with data; the largest smaller side is 50' in err


@pytest.fixture
def scene_16_bit(tmp_path):
    """A georeferenced four-band uint16 scene of 100 x 140, whose upper left pixel holds no data."""
    values = np.random.default_rng(0).integers(1, 4001, (4, 100, 140), dtype=np.uint16)
    values[:, 0, 0] = 0
    path = tmp_path / 'scenes' / 'city' / 'scene.tif'
    path.parent.mkdir(parents=True)
    with rasterio.open(path, 'w', driver='GTiff', height=100, width=140, count=4, dtype='uint16', nodata=0,
                       crs='EPSG:32633', transform=from_origin(0, 0, 10, 10)) as dataset:
        dataset.write(values)
    return path, values


def test_geotiff_tiles(prepare, scene_16_bit, tmp_path):
    path, values = scene_16_bit
    code, out, _ = prepare('folder', '--source', path.parents[1], '--out', tmp_path / 'out', '--tile', '32', '--bands',
                           '4', '3', '1', '--value-range', '0', '4000', '--min-train-size', '0')
    assert code == 0, out
    records = tiles_of(tmp_path / 'out')
    assert len(records) == 3 * 4 - 1
    for record in records:
        top, left, _, _ = record['window']
        expected = values[[3, 2, 0], top:top + 32, left:left + 32].transpose(1, 2, 0) / 4000 * 255
        hr = np.asarray(Image.open(tmp_path / f'out/x4/{record["part"]}/HR/{record["name"]}.png'))
        assert np.array_equal(hr, np.floor(expected + 0.5))
    settings = json.loads((tmp_path / 'out/x4/manifest.jsonl').read_text().splitlines()[0])
    assert (settings['bands'], settings['value_range'], settings['tile']) == ([4, 3, 1], [0, 4000], 32)


def test_geotiff_in_an_archive(prepare, scene_16_bit, tmp_path):
    path, _ = scene_16_bit
    arguments = ('--tile', '32', '--value-range', '0', '4000', '--min-train-size', '0')
    prepare('folder', '--source', path.parents[1], '--out', tmp_path / 'a', *arguments)
    archive = pack(tmp_path / 'scenes.zip', {'city/scene.tif': path.read_bytes()})
    prepare('folder', '--source', archive, '--out', tmp_path / 'b', *arguments)
    assert tiles_of(tmp_path / 'a') == tiles_of(tmp_path / 'b')


def test_more_than_8_bits_need_a_value_range(prepare, scene_16_bit, tmp_path):
    _, _, err = prepare('folder', '--source', scene_16_bit[0].parents[1], '--out', tmp_path / 'out')
    assert 'city/scene.tif: its samples are uint16: give the values that become black and white with --value-' in err


def test_bands_that_are_not_there(prepare, scene_16_bit, tmp_path):
    _, _, err = prepare('folder', '--source', scene_16_bit[0].parents[1], '--out', tmp_path / 'out',
                        '--bands', '1', '2', '5', '--value-range', '0', '1')
    assert 'city/scene.tif: it has 4 bands, not 5' in err


def test_value_range_upside_down(prepare, tmp_path):
    _, _, err = prepare('folder', '--source', SAMPLE, '--out', tmp_path / 'out', '--value-range', '9', '9')
    assert '--value-range 9 9: the first must be lower' in err


def with_hole(height, width, *corners, kind='PNG'):
    """An image whose pixels at the corners are transparent."""
    alpha = np.full((height, width), 255, np.uint8)
    for row, column in corners:
        alpha[row, column] = 0
    return encode(np.dstack([photo(height, width, seed=0), alpha]), kind)


def test_tiles_without_data_are_counted(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {
        'a/a1.png': with_hole(64, 96, (0, 0), (1, 1), (40, 70)), 'a/a2.png': encode(photo(64, 64, 1), 'PNG'),
        'b/b1.png': with_hole(32, 40, (5, 5))})
    code, out, err = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--tile', '32', '--ratio', '1:0')
    assert code == 0, err
    assert 'tiles left out because pixels hold no data: 3 (2 of a/a1.png, 1 of b/b1.png)\n' in out
    assert 'b/b1.png: no whole tile of 32 pixels with data, left out' in out
    windows = [(record['source'], *record['window'][:2]) for record in tiles_of(tmp_path / 'out')]
    assert windows == [('a/a1.png', 0, 32), ('a/a1.png', 0, 64), ('a/a1.png', 32, 0), ('a/a1.png', 32, 32),
                       ('a/a2.png', 0, 0), ('a/a2.png', 0, 32), ('a/a2.png', 32, 0), ('a/a2.png', 32, 32)]
    code, _, err = prepare('folder', '--source', pack(tmp_path / 'b', {'b/b1.png': with_hole(32, 40, (5, 5))}), '--out',
                           tmp_path / 'none', '--tile', '32')
    assert code == 2 and 'largest smaller side is 32; tiles left out because pixels hold no data: 1 (1 of b/b1' in err


@pytest.mark.parametrize('tile', [(), ('--tile', '16')])
def test_all_images_that_cannot_be_used_are_named_before_anything_is_written(prepare, tmp_path, tile):
    whole = {f'a/a{i}.png': encode(photo(32, 32, i), 'PNG') for i in range(3)}
    source = pack(tmp_path / 'folder', {**whole, 'a/a3.png': b'broken', 'a/a4.jpg': b'broken', 'a/a5.tif': b'II*',
                                        'a/a6.png': whole['a/a1.png'][:20]})
    code, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out', *tile)
    assert code == 2 and '4 unusable images, nothing was written' in err and err.count('\n') == 1
    assert all(f'a/{name}: ' in err for name in ('a3.png', 'a4.jpg', 'a5.tif', 'a6.png'))


def test_whole_images_with_pixels_without_data_are_refused(prepare, small_aid, tmp_path):
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': with_hole(64, 64, *[(5, 5)] * (i % 2)) for i in range(4)})
    code, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out')
    assert code == 2 and '2 unusable images, nothing was written: a/a1.png: it has pixels that hold no data' in err
    assert 'a/a3.png: it has' in err
    small_aid['AID/Pond/pond_3.jpg'] = with_hole(64, 64, (5, 5))
    code, _, err = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    assert code == 2 and 'AID/Pond/pond_3.jpg: it has pixels that hold no data' in err
    assert not (tmp_path / 'out').exists()


def test_what_lies_beside_an_image_is_used_in_a_folder_and_refused_in_an_archive(prepare, tmp_path):
    """As it cannot be read there, and no word would be said of the pixels without data."""
    pam = b'<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    image = photo(32, 64, seed=0) | 8
    image[0, 0] = 7
    files = {'a/a1.png': encode(image, 'PNG'), 'a/a1.png.aux.xml': pam, 'a/a2.png': encode(image | 8, 'PNG')}
    arguments = ('--out', tmp_path / 'out', '--tile', '32', '--ratio', '1:0')
    code, out, _ = prepare('folder', '--source', pack(tmp_path / 'folder', files), *arguments)
    assert code == 0 and 'tiles left out because pixels hold no data: 1 (1 of a/a1.png)\n' in out
    assert 'ignored' not in out
    code, _, err = prepare('folder', '--source', pack(tmp_path / 'a.zip', files), *arguments)
    assert code == 2 and 'a/a1.png: a/a1.png.aux.xml says which pixels hold data, and cannot be read in an arc' in err


def test_sixteen_bits_are_prepared_from_png_and_tiff_alike(prepare, scene_16_bit, tmp_path):
    path, values = scene_16_bit
    image = values[:3, 4:36, 8:40].transpose(1, 2, 0)
    cv2.imwrite(str(path.with_name('scene_2.png')), image[..., ::-1])
    with rasterio.open(path, 'w', driver='GTiff', height=32, width=32, count=3, dtype='uint16',
                       interleave='band') as file:
        file.write(image.transpose(2, 0, 1))
    code, _, err = prepare('folder', '--source', path.parents[1], '--out', tmp_path / 'out', '--ratio', '1:0',
                           '--scale', '2', '--value-range', '0', '4000', '--bands', '2', '3', '1',
                           '--min-train-size', '0')
    assert code == 0, err
    expected = np.floor(image[..., [1, 2, 0]] / 4000 * 255 + 0.5)
    files = list((tmp_path / 'out/x2/train/HR').iterdir())
    assert len(files) == 2
    for file in files:
        assert np.array_equal(np.asarray(Image.open(file)), expected)


@pytest.mark.parametrize('option', ['--bands', '--value-range'])
def test_published_sets_take_no_bands_and_no_range(prepare, small_aid, tmp_path, option, capsys):
    with pytest.raises(SystemExit, match='2'):
        prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out', option, 1, 2, 3)
    assert f'unrecognized arguments: {option} 1 2 3' in capsys.readouterr().err

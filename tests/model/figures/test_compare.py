"""segsr compare: the right crops, the right PSNR, and results that do not belong together are refused."""

import json

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr
from basicsr.utils import img2tensor, tensor2img

from segsr_arch.layers.resize import imresize
from segsr_model.cli import main
from segsr_model.errors import CommandError
from segsr_model.figures.compare import draw, read_scene
from segsr_model.figures.compare_results import Results
from segsr_model.figures.drawing import read_image

NAMES = ('meadow00', 'woodland00')


def worsened(hr, noise, seed=0):
    return np.clip(hr + np.random.default_rng(seed).normal(0, noise, hr.shape), 0, 255).round().astype(np.uint8)


@pytest.fixture
def results(pairs, tmp_path):
    """Folder with tests A (worse) and B (better) of BasicSR, and a plain folder of images C, of two scenes."""
    for test, noise in (('A', 20), ('B', 5), ('C', 30)):
        folder = tmp_path / 'C' if test == 'C' else tmp_path / test / 'visualization' / 'pairs'
        folder.mkdir(parents=True)
        scores = {}
        for name in NAMES:
            hr = read_image(pairs / 'HR' / f'{name}.png')
            sr = worsened(hr, noise)
            cv2.imwrite(str(folder / (f'{name}.png' if test == 'C' else f'{name}_{test}.png')), sr)
            scores[name] = {'psnr': calculate_psnr(sr, hr, crop_border=4, test_y_channel=True), 'ssim': 0.5}
        if test == 'B':
            protocol = {'dataset': 'pairs', 'scale': 4, 'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True}}}
            (tmp_path / 'B' / 'scores_pairs.json').write_text(json.dumps({'protocol': protocol, 'images': scores}))
    return tmp_path


def test_crops_labels_and_scores(results, pairs):
    hr = read_image(pairs / 'HR' / 'meadow00.png')
    methods = [('one', Results(results / 'A')), ('two', Results(results / 'B')), ('three', Results(results / 'C'))]
    scene = read_scene(str(pairs / 'HR' / 'meadow00.png'), (10, 20, 24, 16), str(pairs / 'LR' / 'meadow00.png'),
                       methods, None)
    page = draw([scene])
    bicubic = tensor2img(imresize(img2tensor(read_image(pairs / 'LR' / 'meadow00.png') / 255.0)[None], 4))
    images = [hr, bicubic, worsened(hr, 20), worsened(hr, 5), worsened(hr, 30)]
    scene_axes, *crops = page.figure.axes
    assert np.array_equal(scene_axes.images[0].get_array(), hr[..., ::-1])
    rectangle, = scene_axes.patches
    assert rectangle.get_bbox().bounds == (9.5, 19.5, 24, 16)
    assert len(crops) == len(images)
    for axes, image in zip(crops, images):
        assert np.array_equal(axes.images[0].get_array(), image[20:36, 10:34, ::-1])
    psnr = [f'{calculate_psnr(image, hr, crop_border=4, test_y_channel=True):.2f}' for image in images[1:]]
    texts = [text.get_text() for text in page.figure.texts]
    assert texts[:-1] == ['meadow00', 'HR', 'PSNR (dB)', 'Bicubic', psnr[0], 'one', psnr[1], 'two', psnr[2], 'three',
                          psnr[3]]
    assert 'Y channel' in texts[-1] and '4 pixels' in texts[-1] and 'whole image' in texts[-1]
    assert [text.get_text() for text in page.figure.texts if text.get_fontweight() == 'bold'] == [psnr[2]]


def test_nothing_overlaps_and_the_page_is_filled(results, pairs):
    methods = [(str(i), Results(results / 'A')) for i in range(6)]
    page = draw([read_scene(str(pairs / 'HR' / f'{name}.png'), crop, None, methods, 4)
                 for name, crop in zip(NAMES, [(0, 0, 20, 20), (5, 5, 30, 12)])])
    boxes = [axes.get_position() for axes in page.figure.axes]
    assert all(not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.x1 for box in boxes) == pytest.approx(1) and min(box.x0 for box in boxes) == 0
    for start in (0, 8):  # the HR image is as tall as its lines of crops; pixels are square
        assert boxes[start].y0 == pytest.approx(min(box.y0 for box in boxes[start + 1:start + 8]))
        box = boxes[start]
        assert box.width * page.width == pytest.approx(box.height * page.height)


def test_the_command_writes_png_and_pdf(results, pairs, tmp_path):
    arguments = ['compare']
    for name in NAMES:
        arguments += ['--hr', str(pairs / 'HR' / f'{name}.png'), '--crop', '10', '20', '16', '16',
                      '--lr', str(pairs / 'LR' / f'{name}.png')]
    arguments += ['--results', str(results / 'A'), str(results / 'B'), '--labels', 'EDSR', 'SeG-SR']
    assert main([*arguments, '--out', str(tmp_path / 'fig.png'), str(tmp_path / 'fig.pdf')]) == 0
    assert read_image(tmp_path / 'fig.png').shape[1] == 2148
    assert (tmp_path / 'fig.pdf').read_bytes().startswith(b'%PDF')


def test_hr_is_cropped_to_whole_lr_pixels_as_in_basicsr(results, pairs, tmp_path):
    hr = read_image(pairs / 'HR' / 'meadow00.png')[:63, :62]
    cv2.imwrite(str(tmp_path / 'meadow00.png'), hr)
    cv2.imwrite(str(results / 'C' / 'meadow00.png'), worsened(hr[:60, :60], 9))
    scene = read_scene(str(tmp_path / 'meadow00.png'), (0, 0, 8, 8), None, [('C', Results(results / 'C'))], 4)
    assert np.array_equal(scene.hr, hr[:60, :60])


def test_the_right_image_is_found_among_similar_names(results):
    folder = results / 'A' / 'visualization' / 'pairs'
    (folder / 'meadow0_A.png').write_bytes((folder / 'meadow00_A.png').read_bytes())
    (folder / 'meadow0_1_A.png').write_bytes((folder / 'meadow00_A.png').read_bytes())
    assert Results(results / 'A').find('meadow0').name == 'meadow0_A.png'
    assert Results(results / 'A').find('meadow00').name == 'meadow00_A.png'
    (results / 'A' / 'visualization' / 'other').mkdir()
    (results / 'A' / 'visualization' / 'other' / 'meadow00_A.png').write_bytes(b'')
    assert Results(results / 'A', 'pairs').find('meadow00').parent.name == 'pairs'


@pytest.mark.parametrize('change, message', [
    (['--hr', 'HR/none.png'], 'there are 2 --hr and 1 --crop'),
    (['--crop', '50', '0', '20', '20'], 'there are 1 --hr and 2 --crop'),
    (['--labels', 'a'], 'there are 2 results folders and 1 labels'),
    (['--labels', 'a', 'a'], 'two of the labels are the same: a, a'),
    (['--results', 'D'], "there is no results folder 'D'"),
    (['--results', 'empty'], "no SR image of 'meadow00' among the 0 images of empty"),
    (['--results', 'foreign'], 'such as airport_1_foreign.png: results of another dataset?'),
    (['--results', 'smaller'], 'is 32 x 32 and the HR image 64 x 64: another dataset or scale?'),
    (['--results', 'lying'], 'in its test: results of another dataset?'),
    (['--results', 'A', '--dataset', 'AID'], "has no images of 'AID', but of pairs"),
    (['--results', 'A'], "nothing tells the scale factor of 'HR/meadow00.png': give --scale"),
    (['--scale', '2'], "different scale factors: 4 by 'B', 2 by --scale"),
    (['--lr', 'HR/meadow00.png'], "different scale factors: 4 by 'B', 1 by 'HR/meadow00.png'"),
    (['--lr', 'LR/none.png'], "there is no image 'LR/none.png'"),
    (['--out', 'HR/meadow00.png'], "'HR/meadow00.png' is to be read, so it is not written"),
    (['--out', 'A/visualization/pairs/meadow00_A.png'], "meadow00_A.png' is to be read, so it is not written"),
    (['--out', 'A'], "'A' must end in .png or .pdf"),
])
def test_bad_input_is_one_line(change, message, results, pairs, monkeypatch, capsys):
    monkeypatch.chdir(results)
    for kind in ('LR', 'HR'):
        (results / kind).symlink_to(pairs / kind)
    (results / 'empty').mkdir()
    image = read_image(pairs / 'HR' / 'meadow00.png')
    for test, name, pixels in (('foreign', 'airport_1', image), ('smaller', 'meadow00', image[:32, :32]),
                               ('lying', 'meadow00', read_image(pairs / 'HR' / 'woodland00.png'))):
        (results / test / 'visualization' / 'pairs').mkdir(parents=True)
        cv2.imwrite(str(results / test / 'visualization' / 'pairs' / f'{name}_{test}.png'), pixels)
        (results / test / 'scores_pairs.json').write_bytes((results / 'B' / 'scores_pairs.json').read_bytes())
    arguments = ['--hr', 'HR/meadow00.png', '--crop', '0', '0', '16', '16', '--results', 'A', 'B', '--out', 'fig.png']
    assert main(['compare', *arguments, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith('segsr compare: error: ') and message in error and error.count('\n') == 1
    assert not (results / 'fig.png').exists()


@pytest.mark.parametrize('crop', [(50, 0, 20, 20), (0, 60, 4, 8), (-1, 0, 8, 8), (0, 0, 0, 8)])
def test_a_crop_outside_the_image_is_refused(crop, results, pairs, capsys):
    arguments = ['--hr', str(pairs / 'HR' / 'meadow00.png'), '--crop', *map(str, crop), '--results', str(results / 'B')]
    assert main(['compare', *arguments, '--out', str(results / 'fig.png')]) == 2
    assert f'--crop {" ".join(map(str, crop))} is not inside' in capsys.readouterr().err
    assert not (results / 'fig.png').exists()


def test_folders_of_one_name_are_called_by_their_paths(results, pairs, monkeypatch):
    monkeypatch.chdir(results)
    (results / 'old').mkdir()
    (results / 'A').rename(results / 'old' / 'C')
    drawn = []
    monkeypatch.setattr('segsr_model.figures.compare.write_pictures', lambda page, paths: drawn.append(page))
    assert main(['compare', '--hr', str(pairs / 'HR' / 'meadow00.png'), '--crop', '0', '0', '16', '16', '--scale', '4',
                 '--results', 'old/C', 'C', '--out', 'x.png']) == 0
    texts = [text.get_text() for text in drawn[0].figure.texts]
    assert 'old/C' in texts and 'C' in texts


def test_values_that_a_test_has_not_are_not_compared(results, pairs):
    file = results / 'B' / 'scores_pairs.json'
    content = json.loads(file.read_text())
    content['images']['meadow00'] = {'psnr': None, 'ssim': None}
    file.write_text(json.dumps(content))
    hr = read_image(pairs / 'HR' / 'meadow00.png')
    assert Results(results / 'B').read('meadow00', hr).shape == (64, 64, 3)


def test_an_image_that_is_hr_itself_has_no_psnr(results, pairs):
    hr = read_image(pairs / 'HR' / 'meadow00.png')
    cv2.imwrite(str(results / 'C' / 'meadow00.png'), hr)
    methods = [('same', Results(results / 'C')), ('A', Results(results / 'A'))]
    scene = read_scene(str(pairs / 'HR' / 'meadow00.png'), (0, 0, 8, 8), None, methods, 4)
    texts = [text.get_text() for text in draw([scene]).figure.texts]
    assert texts[texts.index('same') + 1] == '-'
    assert [text.get_text() for text in draw([scene]).figure.texts if text.get_fontweight() == 'bold'] == [
        f'{scene.scores()[1]:.2f}']


@pytest.mark.parametrize(('height', 'width', 'crop'), [
    (600, 12, (0, 0, 2, 400)), (12, 600, (0, 0, 500, 2)), (12, 600, (0, 0, 2, 12)), (600, 12, (0, 0, 12, 4))])
def test_extreme_shapes_stay_on_a_page(results, height, width, crop):
    hr = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for name in ('strip.png', 'C/strip.png'):
        cv2.imwrite(str(results / name), hr)
    for count in (1, 4):
        methods = [(str(i), Results(results / 'C')) for i in range(count)]
        page = draw([read_scene(str(results / 'strip.png'), crop, None, methods, 4)])
        boxes = [axes.get_position() for axes in page.figure.axes]
        assert 0.2 < page.height < 20
        assert all(0 <= box.x0 < box.x1 <= 1 + 1e-9 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
        assert all(not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_more_results_than_fit_beside_an_image_are_one_line(results, pairs):
    methods = [(str(i), Results(results / 'C')) for i in range(200)]
    scene = read_scene(str(pairs / 'HR' / 'meadow00.png'), (0, 0, 8, 8), None, methods[:1], 4)
    scene.panels *= 200
    with pytest.raises(CommandError, match="the 201 crops of 'meadow00' do not fit beside it; compare fewer results"):
        draw([scene])


def test_an_image_too_large_for_the_memory_is_named(results, pairs, monkeypatch, capsys):
    def lack(*arguments):
        raise MemoryError

    monkeypatch.setattr('segsr_model.figures.compare.read_scene', lack)
    path = str(pairs / 'HR' / 'meadow00.png')
    assert main(['compare', '--hr', path, '--crop', '0', '0', '8', '8', '--results', str(results / 'B'),
                 '--out', str(results / 'x.png')]) == 2
    assert f"'{path}', with its results, does not fit into memory; compare a part" in capsys.readouterr().err

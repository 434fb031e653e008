"""Reading images, laying out a page and writing it."""

import re

import cv2
import matplotlib
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from segsr_model.errors import CommandError
from segsr_model.figures.drawing import Page, compare_y, fonts_for, read_image, tallness, write_pictures
from segsr_model.files import check_output, write_output


def test_images_are_read_as_8_bit_bgr(tmp_path, pairs):
    image = cv2.imread(str(pairs / 'HR' / 'meadow00.png'))
    assert np.array_equal(read_image(pairs / 'HR' / 'meadow00.png'), image)
    cv2.imwrite(str(tmp_path / 'grey.png'), image[..., 0])
    assert np.array_equal(read_image(tmp_path / 'grey.png'), np.repeat(image[..., :1], 3, axis=2))


def test_what_is_no_8_bit_image_is_said(tmp_path):
    (tmp_path / 'text.png').write_text('no picture')
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((4, 4, 3), np.uint16))
    for name, message in (('none.png', "no image '.*none.png'"), ('text.png', "cannot read '.*text.png' as an image"),
                          ('deep.png', 'uint16; 8-bit images only')):
        with pytest.raises(CommandError, match=message):
            read_image(tmp_path / name)


def test_psnr_and_ssim_are_basicsrs(pairs):
    hr = read_image(pairs / 'HR' / 'woodland00.png')
    noisy = np.clip(hr.astype(int) + np.random.default_rng(0).integers(-20, 20, hr.shape), 0, 255).astype(np.uint8)
    for kind, function in (('psnr', calculate_psnr), ('ssim', calculate_ssim)):
        assert compare_y(kind, noisy, hr, 4) == function(noisy, hr, crop_border=4, test_y_channel=True)
        assert compare_y(kind, noisy, hr, 4) != compare_y(kind, noisy, hr, 2)
    assert compare_y('psnr', hr, hr, 4) is None is compare_y('ssim', noisy[:18], hr[:18], 4)


@pytest.mark.parametrize('name, message', [
    ('picture.jpg', r'must end in \.png or \.pdf'), ('input.png', 'is to be read'), ('folder.png', 'is a folder'),
    ('notes.pdf', 'exists and holds something else'), ('archive.png', 'exists and holds something else')])
def test_foreign_files_are_not_written_over(name, message, tmp_path):
    for file in ('input.png', 'notes.pdf', 'archive.png'):
        (tmp_path / file).write_bytes(b'PK\3\4 my work')
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(CommandError, match=message):
        check_output(str(tmp_path / name), ['.png', '.pdf'], [str(tmp_path / 'input.png')])


def test_an_older_picture_is_replaced(tmp_path):
    path = str(tmp_path / 'new' / 'picture.png')
    for _ in range(2):
        check_output(path, ['.png'])
        write_output(path, Page(1, 1).save)
    (tmp_path / 'file').write_text('')
    with pytest.raises(CommandError, match='cannot write'):
        write_output(str(tmp_path / 'file' / 'picture.png'), Page(1, 1).save)


def test_a_page_is_laid_out_in_inches(tmp_path):
    page = Page(2, 1.5)
    image = np.zeros((30, 40, 3), np.uint8)
    image[..., 2] = 255  # red
    page.picture(image, 0.5, 0.25, 1)
    page.save(str(tmp_path / 'page.png'))
    drawn = cv2.imread(str(tmp_path / 'page.png'))
    assert drawn.shape == (450, 600, 3)
    red = np.argwhere((drawn == (0, 0, 255)).all(-1))
    assert np.abs(red.min(0) - (75, 150)).max() <= 1 and np.abs(red.max(0) - (75 + 225, 150 + 300)).max() <= 1


def test_long_labels_are_made_to_fit():
    page = Page(3, 1)
    page.text('HAT', 1.5, 0.2, 1)
    page.text('a_results_folder_with_a_very_long_name', 1.5, 0.5, 1)
    short, long = page.figure.texts
    assert short.get_fontsize() == 7 > long.get_fontsize()
    assert long.get_window_extent(page.renderer).width <= 300


def test_pdfs_embed_their_fonts_and_are_reproducible(tmp_path):
    for name in 'ab':
        page = Page(2, 1)
        page.text('$M_1$ label', 1, 0.3, 2, math=True)
        page.save(str(tmp_path / f'{name}.pdf'))
    content = (tmp_path / 'a.pdf').read_bytes()
    assert content.startswith(b'%PDF') and content == (tmp_path / 'b.pdf').read_bytes()
    assert re.search(rb'/FontFile2', content) and not re.search(rb'/Subtype /Type3', content)


@pytest.mark.parametrize(('height', 'width'), [(600, 4), (4, 600), (1, 20000), (20000, 1), (64, 64), (40, 10)])
def test_an_image_of_any_shape_has_a_place_of_moderate_shape(height, width):
    page = Page(2, 9)
    image = np.full((height, width, 3), 200, np.uint8)
    box = page.picture(image, 0.5, 0.25, 1).get_position()
    left, right, top, bottom = (2 * box.x0, 2 * box.x1, 9 * (1 - box.y1), 9 * (1 - box.y0))
    tall = min(max(height / width, 0.25), 4)
    assert tallness(image) == tall
    assert 0.499 <= left < right <= 1.501 and 0.249 <= top < bottom <= 0.251 + tall
    assert (left + right) / 2 == pytest.approx(1) and (top + bottom) / 2 == pytest.approx(0.25 + tall / 2)
    if min(height, width) > 1:  # nor is it distorted, unless it would be thinner than can be seen
        assert (bottom - top) / (right - left) == pytest.approx(height / width)


def test_a_page_that_is_too_tall_is_one_line():
    with pytest.raises(CommandError, match='^the picture would be 61 inches tall, at most 60 are possible; draw fewer'):
        Page(7, 61)


def ink(page, path):
    """Where a page is not white."""
    page.save(str(path))
    with Image.open(path) as image:
        return np.array(image.convert('L')) < 255


def test_a_text_of_the_user_is_no_formula(tmp_path):
    drawn = {}
    for name, text, math in (('user', 'cost $x_1$ and $\\foo$', False), ('ours', '$x_1$', True)):
        page = Page(3, 0.5)
        page.text(text, 1.5, 0.1, 3, math=math)
        drawn[name] = page.figure.texts[0], ink(page, tmp_path / f'{name}.png')
    assert drawn['user'][0].get_text() == 'cost $x_1$ and $\\foo$' and not drawn['user'][0].get_parse_math()
    wide = [np.ptp(np.argwhere(drawn[name][1])[:, 1]) for name in ('user', 'ours')]
    assert wide[0] > 5 * wide[1]  # each of its characters is there, and x_1 alone in ours


@pytest.fixture
def font(tmp_path):
    """A font of the system that has one Chinese character, a square."""
    builder, pen = FontBuilder(1000, isTTF=True), TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder.setupGlyphOrder(['.notdef', 'square'])
    builder.setupCharacterMap({ord('名'): 'square'})
    builder.setupGlyf({'.notdef': TTGlyphPen(None).glyph(), 'square': pen.glyph()})
    builder.setupHorizontalMetrics({'.notdef': (500, 0), 'square': (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({'familyName': 'Square', 'styleName': 'Regular'})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
    builder.setupPost()
    builder.save(tmp_path / 'square.ttf')
    before = font_manager.fontManager.ttflist[:]
    fonts_for.cache_clear()
    font_manager.fontManager.addfont(tmp_path / 'square.ttf')
    yield 'Square'
    font_manager.fontManager.ttflist[:] = before
    fonts_for.cache_clear()


def test_fonts_are_looked_for_where_the_usual_one_lacks_a_character(font, tmp_path, recwarn):
    assert fonts_for('HAT') == (list(matplotlib.rcParams['font.family']), set())
    families, unshown = fonts_for('名HAT')
    assert families[-1] == font and unshown == set()
    page = Page(1, 0.5)
    page.text('名', 0.5, 0.3, 1, fontsize=20)
    shape = np.argwhere(ink(page, tmp_path / 'page.png'))
    height, width = np.ptp(shape, axis=0) + 1
    assert height == pytest.approx(20 / 72 * 300 * 0.9, abs=3) and width == pytest.approx(height, abs=2)
    write_output(str(tmp_path / 'page.pdf'), page.save)
    assert page.unshown == set() and not [warning for warning in recwarn if 'Glyph' in str(warning.message)]


def test_characters_that_no_font_has_are_one_warning(font, tmp_path, recwarn, capsys):
    fonts = font_manager.fontManager.ttflist
    fonts[:] = [each for each in fonts if each.name in (font, 'DejaVu Sans', 'Last Resort High-Efficiency')]
    page = Page(2, 1)
    for text in ('前名 lake', '湖前', 'plain'):
        page.text(text, 1, 0.2, 2)
    write_pictures(page, [str(tmp_path / 'page.png'), str(tmp_path / 'page.pdf')])
    said = capsys.readouterr().err
    assert said.startswith('warning: no font here has 前湖, boxes stand for them; ') and said.count('\n') == 1
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]

"""Reading images, laying out a page and writing it."""

import re

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim

from segsr_model.errors import CommandError
from segsr_model.figures.drawing import Page, compare_y, read_image
from segsr_model.files import check_output, write_output


def test_images_are_read_as_8_bit_bgr(tmp_path, pairs):
    image = cv2.imread(str(pairs / 'HR' / 'meadow00.png'))
    assert np.array_equal(read_image(pairs / 'HR' / 'meadow00.png'), image)
    cv2.imwrite(str(tmp_path / 'grey.png'), image[..., 0])
    assert np.array_equal(read_image(tmp_path / 'grey.png'), np.repeat(image[..., :1], 3, axis=2))


def test_what_is_no_8_bit_image_is_said(tmp_path):
    (tmp_path / 'text.png').write_text('no picture')
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((4, 4, 3), np.uint16))
    for name, message in (('none.png', "no image '.*none.png'"), ('deep.png', 'uint16; 8-bit images only'),
                          ('text.png', "cannot read '.*text.png': it cannot be decoded")):
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

"""Draw where each SR unit looks (Fig. 7): LR, SR and the guidance maps M_1 .. M_k of one or several images.

With --hr, also bicubic enlargement and HR, with PSNR and SSIM (Y channel, border crop = scale). The suffix of each
--out says what is written: a picture (.png, .pdf), arrays (.npz: maps, lr, bicubic, sr, hr; .npy: the maps, k x h x w)
or a GeoTIFF with one band per unit, on the LR image's pixels and with its georeference (.tif).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from basicsr.utils import img2tensor, tensor2img

from segsr_arch.layers.resize import imresize
from segsr_arch.segsr_arch import SeGSR
from segsr_model.errors import CommandError, in_memory
from segsr_model.figures.drawing import (
    FONT_SIZE,
    GAP,
    LINE,
    PICTURES,
    WIDTH,
    Page,
    check_height,
    compare_y,
    read_image,
    size_of,
    tallness,
    write_pictures,
)
from segsr_model.figures.maps_files import LAYERS, write_arrays, write_layers
from segsr_model.files import check_output
from segsr_model.testing.scores import shown
from segsr_model.weights.loading import add_network_arguments, network_from_options

EXAMPLES = """examples:
  segsr maps -opt options/test_SeGSR_HAT_x4.yml --lr datasets/UCMerced/x4/test/LR/beach12.png --out beach12.png
  segsr maps -opt options/test_SeGSR_HAT_x4.yml --lr LR/beach12.png LR/runway51.png --out fig7.pdf    one row each
  segsr maps -opt options/test_SeGSR_HAT_x4.yml --lr LR/beach12.png --hr HR/beach12.png --out beach12.pdf beach12.npz
  segsr maps -opt options/test_SeGSR_HAT_x4.yml --lr scene.tif --out scene_maps.tif"""
ARRAYS = ('.npz', '.npy')
COLOURS = {False: 'RdBu_r', True: 'viridis'}  # on one scale around 0, or each map on its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr maps``."""
    parser.epilog = EXAMPLES
    add_network_arguments(parser)
    parser.add_argument('--lr', required=True, nargs='+', help='the LR image, or several')
    parser.add_argument('--hr', nargs='+', help='their HR images, for a comparison')
    parser.add_argument('--own-scale', action='store_true',
                        help='colour each map from its own lowest to its own highest value, written below it')
    parser.add_argument('--out', required=True, nargs='+', help='files to write: .png, .pdf, .npz, .npy, .tif')


@dataclass
class Scene:
    """An image and what a network makes of it.

    Attributes:
        pictures: 8-bit BGR images by title: LR, Bicubic, SR, and HR if there is one.
        maps: (k, h, w) in [-1, 1].
        scale: s.
    """

    pictures: dict[str, np.ndarray]
    maps: np.ndarray
    scale: int


def run(args: argparse.Namespace) -> int:
    """Write the files."""
    hr_paths = args.hr or [None] * len(args.lr)
    if len(hr_paths) != len(args.lr):
        raise CommandError(f'--lr names {len(args.lr)} images and --hr {len(hr_paths)}')
    for path in args.out:
        check_output(path, (*PICTURES, *ARRAYS, *LAYERS), [*args.lr, *(args.hr or ())])
        if len(args.lr) > 1 and not path.lower().endswith(PICTURES):
            raise CommandError(f"--out '{path}' takes the maps of one image; --lr names {len(args.lr)}")
    images = [(read_image(lr), read_image(hr) if hr else None) for lr, hr in zip(args.lr, hr_paths)]
    net = load(args)
    for path, other, (lr, hr) in zip(args.lr, hr_paths, images):
        expected = [side * net.upscale for side in lr.shape[:2]]
        if hr is not None and list(hr.shape[:2]) != expected:
            raise CommandError(f"'{other}' is {size_of(hr)}; for '{path}' at x{net.upscale} it must be "
                               f'{expected[1]} x {expected[0]}')
    pictures = [path for path in args.out if path.lower().endswith(PICTURES)]
    if pictures:  # before the network has worked for hours
        alike = [Scene(dict.fromkeys(('LR', 'Bicubic', 'SR', 'HR')[:3 if hr is None else 4], lr),
                       np.zeros((net.backbone.num_units, *lr.shape[:2])), net.upscale) for lr, hr in images]
        check_height(height_of(arrange_all(alike, own_scale=args.own_scale)))
    scenes = []
    for path, (lr, hr) in zip(args.lr, images):
        with in_memory(f"'{path}' ({size_of(lr)})", 'cut it into smaller images'):
            scenes.append(look(net, lr, hr))
    if pictures:
        write_pictures(draw(scenes, own_scale=args.own_scale), pictures)
    for path in args.out:
        if path.lower().endswith(LAYERS):
            write_layers(path, scenes[0].maps, args.lr[0])
        elif path not in pictures:
            write_arrays(path, scenes[0].maps, scenes[0].pictures)
    return 0


def load(args: argparse.Namespace) -> SeGSR:
    """The trained network. CommandError: it cannot be built or loaded, has no weights, or no maps."""
    try:
        net = network_from_options(args.opt, args.checkpoint, args.param_key)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if not isinstance(net, SeGSR):
        raise CommandError(f"'{args.opt}' describes a {type(net).__name__}, which has no guidance maps")
    return net


@torch.no_grad()
def look(net: SeGSR, lr: np.ndarray, hr: np.ndarray | None) -> Scene:
    """Run the network on 8-bit BGR images (h, w, 3) and (s h, s w, 3)."""
    x = img2tensor(lr / 255.0)[None]
    try:
        maps = net.guidance_maps(x)[0].numpy()
    except TypeError as error:
        raise CommandError(str(error)) from None
    pictures = {'LR': lr, 'Bicubic': tensor2img(imresize(x, net.upscale)), 'SR': tensor2img(net(x))}
    if hr is not None:
        pictures['HR'] = hr
    return Scene(pictures, maps, net.upscale)


def draw(scenes: list[Scene], *, own_scale: bool = False) -> Page:
    """Lay the scenes out below each other, all maps on one colour scale around 0 unless ``own_scale``."""
    limit = limit_of(scenes)
    lines = arrange_all(scenes, own_scale=own_scale)
    page = Page(WIDTH, height_of(lines))
    y = 0.0
    for cells, width, height in lines:
        for column, (values, label, colours) in enumerate(cells):
            x = column * (width + GAP)
            page.picture(values, x, y, width, **colours)
            page.text(label, x + width / 2, y + width * tallness(values) + 0.02, width, math=True)
        y += height
    bar = page.axes(WIDTH * 0.3, y + 0.08, WIDTH * 0.4, 0.08)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS[own_scale], aspect='auto', extent=(-limit, limit, 0, 1))
    if own_scale:
        bar.set_xticks([-limit, limit], ['lowest of the map', 'highest of the map'])
    bar.set_yticks([])
    bar.tick_params(labelsize=6, width=0.5, length=2, pad=1.5)
    bar.set_xlabel('guidance map: cosine similarity', fontsize=FONT_SIZE, labelpad=1)
    bar.spines[:].set_linewidth(0.5)
    return page


def limit_of(scenes: list[Scene]) -> float:
    """The highest absolute value of all maps."""
    return max(float(np.abs(scene.maps).max()) for scene in scenes) or 1.0


def height_of(lines: list[tuple[list, float, float]]) -> float:
    """Inches that the lines and the colour bar below them take."""
    return sum(height for *_, height in lines) + 0.5


def arrange_all(scenes: list[Scene], *, own_scale: bool) -> list[tuple[list, float, float]]:
    """The lines of all scenes, see `arrange`."""
    limit = limit_of(scenes)
    return [line for scene in scenes for line in arrange(scene, limit, own_scale)]


def arrange(scene: Scene, limit: float, own_scale: bool) -> list[tuple[list, float, float]]:
    """Lines of a scene: cells (image, label, imshow's options), the width of a cell and the height of the line."""
    pictures, maps = [], []
    hr = scene.pictures.get('HR')
    for title, picture in scene.pictures.items():
        label = title
        if hr is not None and title in ('Bicubic', 'SR'):
            psnr, ssim = (compare_y(kind, picture, hr, scene.scale) for kind in ('psnr', 'ssim'))
            label += f'\n{shown(psnr, 2)} dB / {shown(ssim, 4)}'
        if hr is not None or title != 'Bicubic':
            pictures.append((picture, label, {'interpolation': 'nearest'} if title == 'LR' else {}))
    for i, values in enumerate(scene.maps):
        label = f'$M_{{{i + 1}}}$'
        if own_scale:
            label += f'\n{values.min():.3f} to {values.max():.3f}'.replace('-', '\N{MINUS SIGN}')
        low, high = (values.min(), values.max()) if own_scale else (-limit, limit)
        maps.append((values, label, {'cmap': COLOURS[own_scale], 'vmin': low, 'vmax': high}))
    lines = []
    for cells, most in ([(pictures, 4), (maps, 6)] if hr is not None else [(pictures + maps, 8)]):
        columns = -(-len(cells) // -(-len(cells) // most))  # as many in each line, up to the last
        width = (WIDTH - (columns - 1) * GAP) / columns
        for start in range(0, len(cells), columns):
            line = cells[start:start + columns]
            tallest = max(tallness(values) for values, *_ in line) * width
            text = LINE * max(label.count('\n') + 1 for _, label, _ in line)
            lines.append((line, width, tallest + text + 0.06))
    return lines

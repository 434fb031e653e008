"""Draw crops of the same scenes from several results folders side by side, with their PSNR (Figs. 5 and 6).

Each scene is an HR image, shown with the crop's rectangle, beside the crops of HR, of bicubic enlargement (with
--lr) and of each results folder. The PSNR below a crop is that of the whole image: dB, Y channel, border crop = scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from basicsr.utils import img2tensor, tensor2img
from matplotlib.patches import Rectangle

from segsr_arch.layers.resize import imresize
from segsr_model.errors import CommandError, in_memory
from segsr_model.figures.compare_results import Results
from segsr_model.figures.drawing import (
    GAP,
    LINE,
    PICTURES,
    WIDTH,
    Page,
    compare_y,
    read_image,
    size_of,
    tallness,
    write_pictures,
)
from segsr_model.files import check_output, labels_of, printable
from segsr_model.testing.scores import shown

EXAMPLES = """examples:
  segsr compare --hr datasets/UCMerced/x4/test/HR/agricultural85.png --crop 100 60 64 64 \\
      --lr datasets/UCMerced/x4/test/LR/agricultural85.png \\
      --results results/test_HAT_x4 results/test_SeGSR_HAT_x4 --labels HAT SeG-SR --out fig5.pdf
  segsr compare --hr HR/railwaystation127.png --crop 200 80 96 96 --hr HR/stadium192.png --crop 40 300 96 96 \\
      --results results/EDSR results/HAT results/SeGSR --scale 4 --out fig6.png fig6.pdf"""
NARROWEST = 0.1  # inches of a crop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr compare``."""
    parser.epilog = EXAMPLES
    parser.add_argument('--hr', required=True, action='append', help='HR image of a scene; repeat for more scenes')
    parser.add_argument('--crop', required=True, action='append', nargs=4, type=int, metavar=('X', 'Y', 'W', 'H'),
                        help="the scene's crop: left, top, width and height in HR pixels; one per --hr")
    parser.add_argument('--lr', action='append', help="the scene's LR image, for a bicubic crop; one per --hr")
    parser.add_argument('--results', required=True, nargs='+',
                        help='results folders of basicsr/test.py, or folders of SR images named as the HR images')
    parser.add_argument('--labels', nargs='+', help="the methods' names, one per results folder; or the folders' names")
    parser.add_argument('--dataset', help='the dataset under visualization/, where a results folder has several')
    parser.add_argument('--scale', type=int, help='scale factor; found from --lr or the results where they tell it')
    parser.add_argument('--out', required=True, nargs='+', help='pictures to write, .png or .pdf')


@dataclass
class Scene:
    """One scene of the figure.

    Attributes:
        name: shown below the HR image.
        hr: 8-bit BGR (h, w, 3).
        crop: x, y, width, height in HR pixels.
        scale: s.
        panels: label and 8-bit BGR (h, w, 3) of each enlarged image.
    """

    name: str
    hr: np.ndarray
    crop: tuple[int, int, int, int]
    scale: int
    panels: list[tuple[str, np.ndarray]]

    def scores(self) -> list[float | None]:
        """PSNR of each panel, to the two digits that are shown; None for one that is the same as HR, or too small."""
        scores = [compare_y('psnr', sr, self.hr, self.scale) for _, sr in self.panels]
        return [None if score is None else round(score, 2) for score in scores]


def run(args: argparse.Namespace) -> int:
    """Write the figure."""
    for name, values in (('--crop', args.crop), ('--lr', args.lr)):
        if values and len(values) != len(args.hr):
            raise CommandError(f'there are {len(args.hr)} --hr and {len(values)} {name}; each scene needs its own')
    labels = args.labels or labels_of(args.results)
    if len(labels) != len(args.results):
        raise CommandError(f'there are {len(args.results)} results folders and {len(labels)} labels')
    if len(set(labels)) < len(labels):
        raise CommandError(f'two of the labels are the same: {", ".join(labels)}')
    results = [(label, Results(folder, args.dataset)) for label, folder in zip(labels, args.results)]
    found = [str(folder.find(Path(hr).stem)) for hr in args.hr for _, folder in results]
    for path in args.out:
        check_output(path, PICTURES, [*args.hr, *(args.lr or ()), *found])
    scenes = []
    for paths in zip(args.hr, args.crop, args.lr or [None] * len(args.hr)):
        with in_memory(f"'{paths[0]}', with its results,", 'compare a part that you cut out of all of them'):
            scenes.append(read_scene(*paths, results, args.scale))
    write_pictures(draw(scenes), args.out)
    return 0


def read_scene(hr_path: str, crop: Sequence[int], lr_path: str | None, results: Sequence[tuple[str, Results]],
               scale: int | None) -> Scene:
    """Read the images of a scene and check that they belong together."""
    name, hr = Path(hr_path).stem, read_image(hr_path)
    lr = read_image(lr_path) if lr_path else None
    told = {f"'{folder.folder}'": folder.scale(name) for _, folder in results}
    if lr is not None:
        told[f"'{lr_path}'"] = hr.shape[0] // lr.shape[0]
    told['--scale'] = scale
    told = {who: value for who, value in told.items() if value is not None}
    if not told:
        raise CommandError(f"nothing tells the scale factor of '{hr_path}': give --scale")
    if len(set(told.values())) > 1:
        raise CommandError('different scale factors: ' + ', '.join(f'{value} by {who}' for who, value in told.items()))
    scale = next(iter(told.values()))
    if scale < 1:
        raise CommandError(f"'{hr_path}' ({size_of(hr)}) cannot be at scale {scale}")
    height, width = (side - side % scale for side in hr.shape[:2])  # as BasicSR's datasets crop it
    hr = hr[:height, :width]
    if lr is not None and (lr.shape[0] * scale, lr.shape[1] * scale) != (height, width):
        raise CommandError(f"'{lr_path}' is {size_of(lr)}; for '{hr_path}' ({size_of(hr)}) at x{scale} it must be "
                           f'{width // scale} x {height // scale}')
    x, y, w, h = crop
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise CommandError(f"--crop {x} {y} {w} {h} is not inside '{hr_path}', which is {size_of(hr)}")
    panels = [(label, folder.read(name, hr)) for label, folder in results]
    if lr is not None:
        panels.insert(0, ('Bicubic', tensor2img(imresize(img2tensor(lr / 255.0)[None], scale))))
    return Scene(name, hr, (x, y, w, h), scale, panels)


def draw(scenes: Sequence[Scene]) -> Page:
    """Lay out each scene as in Figs. 5 and 6: the HR image at the left, the crops in up to three lines beside it."""
    text = 2 * LINE + 0.06
    layouts = []
    for scene in scenes:
        crops = 1 + len(scene.panels)
        lines = 1 + (crops > 3) + (crops > 14)
        columns = -(-crops // lines)
        x, y, w, h = scene.crop
        tall, crop_tall = tallness(scene.hr), tallness(scene.hr[y:y + h, x:x + w])
        # the HR image is as tall as the lines of crops, and all together are as wide as the page
        gaps = columns * GAP + (lines - 1) * text / tall
        width = (WIDTH - gaps) / (columns + lines * crop_tall / tall)
        if width < NARROWEST:
            raise CommandError(f"the {crops} crops of '{scene.name}' do not fit beside it; compare fewer results")
        layouts.append((scene, columns, width, width * crop_tall + text, lines))
    page = Page(WIDTH, sum(lines * height for *_, height, lines in layouts) + LINE)
    top = 0.0
    for scene, columns, width, height, lines in layouts:
        left = WIDTH - columns * (width + GAP)
        axes = page.picture(scene.hr, 0, top, left)
        x, y, w, h = scene.crop
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor='red', linewidth=1.2))
        page.text(printable(scene.name), left / 2, top + lines * height - text + 0.02, left)
        scores = scene.scores()
        best = max((score for score in scores if score is not None), default=None)
        cells = [('HR', scene.hr, 'PSNR (dB)', 'normal')]
        cells += [(printable(label), sr, shown(score, 2), 'bold' if score == best else 'normal')
                  for (label, sr), score in zip(scene.panels, scores)]
        for i, (label, image, score, weight) in enumerate(cells):
            crop_left, crop_top = left + GAP + i % columns * (width + GAP), top + i // columns * height
            page.picture(image[y:y + h, x:x + w], crop_left, crop_top, width, interpolation='nearest')
            below = crop_top + height - text + 0.02
            page.text(label, crop_left + width / 2, below, width)
            page.text(score, crop_left + width / 2, below + LINE, width, fontweight=weight)
        top += lines * height
    borders = ' or '.join(str(x) for x in sorted({scene.scale for scene in scenes}))
    page.text(f'PSNR of the whole image: Y channel, {borders} pixels left out at each border', WIDTH / 2, top, WIDTH,
              fontsize=6)
    return page

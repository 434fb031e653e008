"""What the figures share: images in, scores, and a page laid out in inches."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from segsr_model.errors import CommandError
from segsr_model.files import write_output
from segsr_model.images.plain import ImageError, decode
from segsr_model.testing.metrics import NoValueError, value_of

WIDTH = 7.16  # inches, two columns of the IEEE's page
GAP = 0.06  # inches between pictures
LINE = 0.125  # inches per line of text
FONT_SIZE = 7  # points
DPI = 300
LONGEST = 4  # times its shorter side is what a picture takes of a page at most; what is longer is made narrower
TALLEST = 60  # inches of a page

PICTURES = ('.png', '.pdf')


def read_image(path: str | Path) -> np.ndarray:
    """8-bit BGR (h, w, 3), as BasicSR's loader reads it.

    Raises:
        CommandError: no such file, no image, or more than 8 bits.
    """
    if not Path(path).is_file():
        raise CommandError(f"there is no image '{path}'")
    try:
        image = decode(Path(path).read_bytes())
    except (ImageError, OSError) as error:
        raise CommandError(f"cannot read '{path}': {error}") from None
    if image.dtype != np.uint8:
        raise CommandError(f"'{path}' is {image.dtype}; 8-bit images only")
    return image


def size_of(image: np.ndarray) -> str:
    """'width x height'."""
    return f'{image.shape[1]} x {image.shape[0]}'


def compare_y(kind: str, image: np.ndarray, hr: np.ndarray, scale: int) -> float | None:
    """``psnr`` in dB, or ``ssim``, on Y, ``scale`` pixels left out at each border: BasicSR's, as in the paper's tables.

    None: there is none, of images that are the same or too small.
    """
    opt = {'type': f'calculate_{kind}', 'crop_border': scale, 'test_y_channel': True}
    try:
        return value_of(opt, {'img': image, 'img2': hr})
    except NoValueError:
        return None


def tallness(image: np.ndarray) -> float:
    """Height by width of the place that an image takes, 1/4 to 4."""
    return min(max(image.shape[0] / image.shape[1], 1 / LONGEST), LONGEST)


class Page:
    """A figure laid out in inches from its top left corner.

    Args:
        width, height: inches.

    Attributes:
        unshown: characters of texts that no font here has.

    Raises:
        CommandError: it would be too tall.
    """

    def __init__(self, width: float, height: float):
        check_height(height)
        self.unshown: set[str] = set()
        self.figure = Figure(figsize=(width, height), dpi=DPI)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()  # needs no display
        self.width, self.height = width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is at (x, y)."""
        return self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width,
                                     height / self.height))

    def picture(self, values: np.ndarray, x: float, y: float, width: float, **options: Any) -> Axes:
        """Draw 8-bit BGR (h, w, 3), or values (h, w) with imshow's colour options, ``width`` inches wide.

        An image that is longer than `tallness` allows is drawn in the middle of its place.
        """
        height, tall = width * tallness(values), values.shape[0] / values.shape[1]
        drawn_width, drawn_height = max(min(width, height / tall), 1 / DPI), max(min(height, width * tall), 1 / DPI)
        axes = self.axes(x + (width - drawn_width) / 2, y + (height - drawn_height) / 2, drawn_width, drawn_height)
        axes.imshow(values[..., ::-1] if values.ndim == 3 else values, aspect='auto', **options)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, lines: str, x: float, y: float, width: float, *, math: bool = False, **options: Any) -> None:
        """Write lines centred on x, the first below y; a line wider than ``width`` inches is made smaller.

        Only with ``math`` are dollar signs matplotlib's marks of formulas.
        """
        families, unshown = fonts_for(lines)
        self.unshown |= unshown
        for i, line in enumerate(lines.splitlines()):
            baseline = y + (i + 0.85) * LINE
            text = self.figure.text(x / self.width, 1 - baseline / self.height, line, ha='center', va='baseline',
                                    parse_math=math, fontfamily=families, **{'fontsize': FONT_SIZE, **options})
            with _unshown_in_silence():
                taken = text.get_window_extent(self.renderer).width / self.figure.dpi
            if taken > 0.97 * width:
                text.set_fontsize(text.get_fontsize() * 0.97 * width / taken)

    def save(self, path: str) -> None:
        """Write .png or .pdf; fonts are embedded, and the same picture gives the same file."""
        metadata = {'CreationDate': None} if path.endswith('.pdf') else None
        with matplotlib.rc_context({'pdf.fonttype': 42}), _unshown_in_silence():
            self.figure.savefig(path, metadata=metadata)


def check_height(inches: float) -> None:
    """Raise a `CommandError` for a page that no picture of this resolution can hold."""
    if inches > TALLEST:
        raise CommandError(f'the picture would be {inches:.0f} inches tall, at most {TALLEST} are possible; draw fewer '
                           'images at a time')


def write_pictures(page: Page, paths: Iterable[str]) -> None:
    """Write a page to .png and .pdf files, and warn once of what it cannot show."""
    for path in paths:
        write_output(path, page.save)
    if page.unshown:
        sys.stderr.write(f'warning: no font here has {"".join(sorted(page.unshown))}, boxes stand for them; install '
                         'one that has them, such as Noto Sans CJK\n')


@contextlib.contextmanager
def _unshown_in_silence() -> Iterator[None]:
    """matplotlib warns of each character that it cannot show, at each look at it."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')
        yield


@functools.cache
def fonts_for(text: str) -> tuple[list[str], set[str]]:
    """The font families that a text takes: matplotlib's own, and others of the system for characters that it lacks.

    Returns:
        The families, and the characters that none of the fonts has.
    """
    families = list(matplotlib.rcParams['font.family'])
    own = font_manager.findfont(font_manager.FontProperties(family=families))
    lacking = {character for character in text if character.isprintable()} - _characters(own)
    for font in font_manager.fontManager.ttflist if lacking else ():
        found = lacking & _characters(font.fname)
        if found:
            families.append(font.name)
            lacking -= found
    return families, lacking


@functools.cache
def _characters(font_file: str) -> set[str]:
    """What a font can show; nothing if it cannot be used at any size, or has signs of absence only (LastResort)."""
    try:
        font = FT2Font(font_file)
        usable = font.scalable and 'last' not in font.family_name.lower()
        return set(map(chr, font.get_charmap())) if usable else set()
    except Exception:  # a font of the system that is damaged, or of an unknown kind
        return set()

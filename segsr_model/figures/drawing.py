"""What the figures share: images in, scores, and a page laid out in inches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from basicsr.metrics import calculate_psnr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segsr_model.errors import CommandError
from segsr_model.images.plain import ImageError, decode

WIDTH = 7.16  # inches, two columns of the IEEE's page
GAP = 0.06  # inches between pictures
LINE = 0.125  # inches per line of text
FONT_SIZE = 7  # points

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


def psnr_y(image: np.ndarray, hr: np.ndarray, scale: int) -> float:
    """PSNR in dB on Y, ``scale`` pixels left out at each border: BasicSR's, as in the paper's tables."""
    return float(calculate_psnr(image, hr, crop_border=scale, test_y_channel=True))


class Page:
    """A figure laid out in inches from its top left corner.

    Args:
        width, height: inches.
    """

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width, height), dpi=300)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()  # needs no display
        self.width, self.height = width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is at (x, y)."""
        return self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width,
                                     height / self.height))

    def picture(self, values: np.ndarray, x: float, y: float, width: float, **options: Any) -> Axes:
        """Draw 8-bit BGR (h, w, 3), or values (h, w) with imshow's colour options, ``width`` inches wide."""
        height = width * values.shape[0] / values.shape[1]
        axes = self.axes(x, y, width, height)
        axes.imshow(values[..., ::-1] if values.ndim == 3 else values, aspect='auto', **options)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, lines: str, x: float, y: float, width: float, **options: Any) -> None:
        """Write lines centred on x, the first below y; a line wider than ``width`` inches is made smaller."""
        for i, line in enumerate(lines.splitlines()):
            baseline = y + (i + 0.85) * LINE
            text = self.figure.text(x / self.width, 1 - baseline / self.height, line, ha='center', va='baseline',
                                    **{'fontsize': FONT_SIZE, **options})
            taken = text.get_window_extent(self.renderer).width / self.figure.dpi
            if taken > 0.97 * width:
                text.set_fontsize(text.get_fontsize() * 0.97 * width / taken)

    def save(self, path: str) -> None:
        """Write .png or .pdf; fonts are embedded, and the same picture gives the same file."""
        metadata = {'CreationDate': None} if path.endswith('.pdf') else None
        with matplotlib.rc_context({'pdf.fonttype': 42}):
            self.figure.savefig(path, metadata=metadata)

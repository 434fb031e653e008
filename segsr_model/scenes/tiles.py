"""How a scene is cut into tiles, and how their results become one image again.

A scene is divided into cores, which do not overlap. Around the border of two cores the results of both are blended
over a few pixels, by weights that sum to 1 everywhere and are 1 at the scene's own border. What a network sees of a
tile is its core, half of the blended pixels on each side, and the halo: the pixels that its result depends on.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

CORE, BLEND = 256, 8  # LR pixels


class Span(NamedTuple):
    """Pixels ``start`` to ``stop`` - 1 along an axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def within(self, other: Span) -> slice:
        """Where the span lies in another one."""
        return slice(self.start - other.start, self.stop - other.start)

    def times(self, scale: int) -> Span:
        """The same span in pixels ``scale`` times as small."""
        return Span(self.start * scale, self.stop * scale)


class Piece(NamedTuple):
    """A tile along one axis, in LR pixels.

    Attributes:
        seen: what the network is given.
        kept: what of its result is used.
        first, last: how many pixels at the two ends of ``kept`` the neighbouring pieces keep, too; 0 at the scene's
            border.
    """

    seen: Span
    kept: Span
    first: int
    last: int


def cut(length: int, *, core: int = CORE, halo: int = 0, blend: int = BLEND, multiple: int = 1) -> list[Piece]:
    """The pieces of one axis of a scene.

    Args:
        length: of the axis.
        core: of a piece; the last one takes what remains, and up to ``multiple`` or ``blend`` pixels more.
        halo: pixels on each side that a result depends on. There is none beyond the scene's border, where a network
            does what it does with a whole image.
        blend: an even number of pixels around the border of two cores.
        multiple: what the first pixel that a network sees divides by: HAT's window.

    Raises:
        ValueError: ``core`` does not divide by ``multiple``, or is less than ``blend``.
    """
    if core < 1 or core % multiple or core < blend:
        raise ValueError(f'tiles of {core} pixels: must be a multiple of {multiple}, and at least {blend}')
    count = max(1, math.ceil((length - max(multiple, blend) + 1) / core))
    pieces = []
    for i in range(count):
        first, last = blend * (i > 0), blend * (i < count - 1)
        kept = Span(i * core - first // 2, length if i == count - 1 else (i + 1) * core + last // 2)
        seen = Span(max(0, (kept.start - halo) // multiple * multiple),
                    min(length, -(-(kept.stop + halo) // multiple) * multiple))
        pieces.append(Piece(seen, kept, first, last))
    return pieces


def partition(length: int, first: int, last: int) -> torch.Tensor:
    """(length,) float32 weights that rise over the ``first`` values and fall over the ``last`` ones.

    Those of neighbours, where the one's ``last`` values are the other's ``first`` ones, sum to 1.
    """
    weights = torch.ones(length)
    if first:
        weights[:first] *= _rising(first)
    if last:
        weights[-last:] *= _rising(last).flip(0)
    return weights


def weighted(result: torch.Tensor, row: Piece, column: Piece, scale: int) -> torch.Tensor:
    """What a tile adds to the scene: result (..., s h, s w) of what was seen -> (..., s h, s w) of what is kept."""
    here, weights = [], []
    for piece in (row, column):
        here.append(piece.kept.times(scale).within(piece.seen.times(scale)))
        weights.append(partition(scale * piece.kept.length, scale * piece.first, scale * piece.last).to(result.device))
    return result[(..., *here)] * weights[0][:, None] * weights[1]


@functools.cache
def _rising(count: int) -> torch.Tensor:
    return torch.sin(math.pi / 2 * (torch.arange(count, dtype=torch.float64) + 0.5) / count).square().float()

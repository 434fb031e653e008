"""What CLIP sees of a whole scene: guidance maps that do not depend on how the scene is cut into tiles.

CLIP's attention is global and its position embedding is resized to the image, so that two tiles have different maps
where they meet. Here it looks through windows of the size that it was trained on, on a grid fixed by the scene. Their
maps are blended once, on the grid of CLIP's patches; tiles read their part of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from segsr_arch.guidance import MapGuidance
from segsr_model.scenes.tiles import Piece, Span, cut, partition

CONTEXTS = ('tile', 'window', 'scene')
BATCH = 16  # windows that CLIP sees in one pass
Read = Callable[[Span, Span], torch.Tensor]  # rows, columns -> (1, 3, h, w) RGB in [0, 1]
Rows = Callable[[int], torch.Tensor]  # number of a row of windows -> (k, patches, patches), weighted


class Semantics:
    """The windows of a scene, and the guidance maps (k, h, w) that they add up to.

    Args:
        net: a network with ``guidance: map``.
        height, width: of the scene in LR pixels.
        window: LR pixels that CLIP sees at once: the training patch.
        scene: I_g (1, d) of the whole scene, which then stands for that of each window.
    """

    def __init__(self, net: nn.Module, height: int, width: int, *, window: int = 64,
                 scene: torch.Tensor | None = None) -> None:
        self.guidance: MapGuidance = net.guidance
        self.patch, self.scale = self.guidance.sfem.patch_size, self.guidance.sfem.upscale
        self.unit = self.patch // math.gcd(self.patch, self.scale)  # LR pixels whose borders are borders of patches
        core = max(1, window // (4 * self.unit)) * 2 * self.unit
        self.window, self.scene, self.size = 2 * core, scene, (height, width)
        self.rows, self.columns = (
            cut(length, core=core if length > self.window else self.window, blend=core, multiple=self.unit)
            for length in self.size)

    def patches(self, span: Span) -> Span:
        """The patches that begin in a span of LR pixels, which begins on a patch."""
        return Span(span.start * self.scale // self.patch, -(-span.stop * self.scale // self.patch))

    @torch.no_grad()
    def look(self, read: Read, row: int, *, device: torch.device | str = 'cpu') -> torch.Tensor:
        """The maps of one row of windows, to be added to those of the rows above and below.

        Args:
            read: gives the scene's pixels.
            row: its number in ``rows``.
            device: where the network is.

        Returns:
            (k, h, w) float32, one value for each patch that the row keeps, times its weights.
        """
        piece = self.rows[row]
        kept = self.patches(piece.kept)
        total = None
        rows = self._seen(piece.kept, self.size[0])
        for columns in self._batches():
            seen = [self._seen(each.kept, self.size[1]) for each in columns]
            own, local = self.guidance.sfem(torch.cat([read(rows, each) for each in seen]).to(device))
            own = own if self.scene is None else self.scene.to(device).expand_as(own)
            batch = self.guidance.slm(own, local).float().cpu()
            if total is None:
                total = batch.new_zeros(batch.shape[1], kept.length, self.patches(Span(0, self.size[1])).length)
            for maps, column, window in zip(batch, columns, seen):
                target = self.patches(column.kept)
                part = maps[:, kept.within(self.patches(rows)), target.within(self.patches(window))]
                total[:, :, target.start:target.stop] += part * self._weights(column)
        return total * self._weights(piece)[:, None]

    def maps(self, rows_of: Rows, rows: Span, columns: Span) -> torch.Tensor:
        """The guidance maps of a part of the scene, the same whatever part is asked for.

        Args:
            rows_of: what `look` gave for a row of windows.
            rows, columns: in LR pixels.

        Returns:
            (1, k, h, w) in [-1, 1].
        """
        around = [Span(max(0, span.start - self.patch) // self.patch * self.patch,
                       min(length, -(-(span.stop + self.patch) // self.patch) * self.patch))
                  for span, length in zip((rows, columns), self.size)]
        wanted = [self.patches(span) for span in around]
        grid = None
        for number, piece in enumerate(self.rows):
            kept = self.patches(piece.kept)
            start, stop = max(kept.start, wanted[0].start), min(kept.stop, wanted[0].stop)
            if start < stop:
                part = rows_of(number)[:, start - kept.start:stop - kept.start, wanted[1].start:wanted[1].stop]
                if grid is None:
                    grid = part.new_zeros(len(part), wanted[0].length, wanted[1].length)
                grid[:, start - wanted[0].start:stop - wanted[0].start] += part
        pixels = self.guidance.sfem.to_pixels(grid[None], *(span.length for span in around))
        return pixels[..., rows.within(around[0]), columns.within(around[1])]

    def _batches(self) -> Iterator[list[Piece]]:
        """The columns of windows, those of equal width in batches."""
        for _, alike in itertools.groupby(self.columns, lambda each: self._seen(each.kept, self.size[1]).length):
            while batch := list(itertools.islice(alike, BATCH)):
                yield batch

    def _seen(self, kept: Span, length: int) -> Span:
        """What a window sees: as much as in training, wherever the scene is large enough."""
        start = max(0, min(kept.start, (length - self.window) // self.unit * self.unit))
        return Span(start, min(length, max(kept.stop, start + self.window)))

    def _weights(self, piece: Piece) -> torch.Tensor:
        counts = (length * self.scale // self.patch for length in (piece.first, piece.last))
        return partition(self.patches(piece.kept).length, *counts)


@torch.no_grad()
def scene_descriptor(net: nn.Module, read: Read, height: int, width: int, *, window: int = 64,
                     device: torch.device | str = 'cpu') -> torch.Tensor:
    """I_g (1, d) of a whole scene, reduced by averaging until its longer side is that of a window."""
    factor = max(1, math.ceil(max(height, width) / window))
    strips = [F.avg_pool2d(read(Span(start, min(start + factor, height)), Span(0, width)),
                           (min(factor, height - start), min(factor, width)), ceil_mode=True)
              for start in range(0, height, factor)]
    return net.guidance.sfem(torch.cat(strips, -2).to(device))[0]

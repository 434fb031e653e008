"""A scene from file to file: strips of tiles are finished parts on the disk, from which the result is put together.

What is in memory at a time is a few tiles and a few blocks of the result, however large the scene. A strip is a row of
tiles. Rows that two strips share are kept apart, as weighted results that are still to be added to the other one's.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from segsr_model.scenes.finish import Finish
from segsr_model.scenes.parts import Parts
from segsr_model.scenes.resolver import SuperResolver, batches
from segsr_model.scenes.runner import Result, Runner, Tile
from segsr_model.scenes.semantics import Semantics
from segsr_model.scenes.source import Source
from segsr_model.scenes.tiles import Piece, Span, weighted
from segsr_model.scenes.writing import BLOCK, CACHE

ABOVE, BODY, BELOW, SPREAD, MAPS = 'above.tif', 'body.tif', 'below.tif', 'spread.tif', 'maps.npy'  # of a part
LOOKS = 16  # rows of windows whose maps are kept in memory


class SceneJob:
    """Super-resolves an area of a scene.

    Args:
        resolver: the network, and how it is run.
        source: the scene.
        finish: makes the samples of the result.
        area: rows and columns of the scene, in LR pixels.
        folder: for the finished parts; several processes that are given the same one share the work.
        settings: what the result depends on; a folder that was begun with others is begun anew.
        spread: also the spread over the 8 flips and rotations.
        progress: told how many tiles are done, those that were done before included.

    Attributes:
        parts: the finished ones.
        tiles: how many there are.
    """

    def __init__(self, resolver: SuperResolver, source: Source, finish: Finish, *, area: tuple[Span, Span],
                 folder: Path, settings: Mapping[str, Any], spread: bool = False,
                 progress: Callable[[int], None] = lambda tiles: None) -> None:
        self.resolver, self.source, self.finish, self.area, self.spread = resolver, source, finish, area, spread
        self.progress, self.scale = progress, resolver.scale
        self.size = tuple(span.length for span in area)
        self.rows, self.columns = resolver.plan(*self.size)
        self.tiles = len(self.rows) * len(self.columns)
        self.parts = Parts(folder, settings)
        self.semantics: Semantics | None = resolver.semantics(self._read, *self.size)
        self._look = functools.lru_cache(LOOKS)(self._load_look)

    def run(self) -> None:
        """Finish all parts: those that are there already stay, those that others make are waited for."""
        strips = [f'strip_{i:05d}' for i in range(len(self.rows))]
        looks = [f'look_{i:05d}' for i in range(len(self.semantics.rows) if self.semantics else 0)]
        self.parts.verify([*looks, *strips])
        self.progress(len(self.columns) * sum(name in self.parts for name in strips))
        for name in self.parts.missing(looks):
            with self.parts.making(name) as folder:
                row = int(name.split('_')[1])
                np.save(folder / MAPS, self.semantics.look(self._read, row, device=self.resolver.device).numpy())
        runner = self.resolver.runner(spread=self.spread)
        for name in self.parts.missing(strips):
            with self.parts.making(name) as folder:
                for done in self._strip(folder, self.rows[int(name.split('_')[1])], runner):
                    self.parts.touch(name)
                    self.progress(done)

    def maps(self, rows: Span, columns: Span) -> torch.Tensor:
        """The guidance maps (1, k, h, w) of a part of the area, in LR pixels."""
        return self.semantics.maps(self._look, rows, columns)

    def samples(self, rows: Span, columns: Span) -> np.ndarray:
        """Samples (bands, s h, s w) of a part of the finished result, which is named in LR pixels of the area."""
        return np.concatenate([self._seam(i, some, columns) if shared else self._from(i, BODY, some, columns)
                               for i, some, shared in self._strips_of(rows)], -2)

    def uncertainty(self, rows: Span, columns: Span) -> np.ndarray:
        """The spread (s h, s w) float32 of a part of the result, in the scene's units; as `samples`."""
        parts = [sum(self._from(j, SPREAD, some, columns) for j in (i, i - 1)[:1 + shared])
                 for i, some, shared in self._strips_of(rows)]
        return np.concatenate(parts, -2)[0] * np.float32(self.source.high - self.source.low)

    def _strips_of(self, rows: Span) -> Iterator[tuple[int, Span, bool]]:
        """The strips that rows lie in, which of the rows, and whether the strip shares them with the one above."""
        for i, piece in enumerate(self.rows):
            body = _body(piece)
            for span, shared in ((Span(piece.kept.start, body.start), True), (body, False)):
                some = Span(max(span.start, rows.start), min(span.stop, rows.stop))
                if some.start < some.stop:
                    yield i, some, shared

    def in_scene(self, rows: Span, columns: Span) -> tuple[Span, Span]:
        """A part of the area as a part of the scene."""
        return tuple(Span(outer.start + span.start, outer.start + span.stop)
                     for outer, span in zip(self.area, (rows, columns)))

    def _read(self, rows: Span, columns: Span) -> torch.Tensor:
        return self.source.rgb(*self.in_scene(rows, columns), reach=self.resolver.halo)

    def _load_look(self, row: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.parts.path(f'look_{row:05d}', MAPS)))

    def _strip(self, folder: Path, row: Piece, runner: Runner) -> Iterator[int]:
        """Make a strip; yields how many tiles more are done."""
        s, carried = self.scale, None
        with contextlib.ExitStack() as stack:
            stack.enter_context(rasterio.Env(**CACHE))
            files = self._open(stack, folder, row)
            for columns in batches(self.columns, runner.batch):
                for column, result in zip(columns, self._results(row, columns, runner)):
                    part = weighted(result, row, column, s)
                    if column.first:
                        part[..., :s * column.first] += carried
                    whole = part.shape[-1] - s * column.last
                    carried = part[..., whole:]
                    self._write(files, row, Span(column.kept.start, column.kept.stop - column.last), part[..., :whole])
                yield len(columns)

    def _results(self, row: Piece, columns: list[Piece], runner: Runner) -> list[torch.Tensor]:
        """(3, s h, s w) of each tile, or (4, s h, s w) with the spread. A tile without data is not run."""
        full = [self.source.valid(*self.in_scene(row.kept, column.kept)).any() for column in columns]
        tiles = [Tile(self._read(row.seen, column.seen),
                      self.semantics and self.maps(row.seen, column.seen))
                 for column, has_data in zip(columns, full) if has_data]
        results = iter(runner.run(tiles))
        empty = torch.zeros(3 + self.spread, *(self.scale * each.seen.length for each in (row, columns[0])))
        return [_joined(next(results)) if has_data else empty for has_data in full]

    def _open(self, stack: contextlib.ExitStack, folder: Path, row: Piece) -> dict[str, DatasetWriter]:
        """The files of a strip, as far as it has such rows."""
        s, width = self.scale, self.scale * self.size[1]
        kinds = {ABOVE: (3, s * row.first, 'float32'), BELOW: (3, s * row.last, 'float32'),
                 BODY: (len(self.finish.bands), s * _body(row).length, self.finish.dtype.name),
                 SPREAD: (1, s * row.kept.length * self.spread, 'float32')}
        return {name: stack.enter_context(rasterio.open(
                    folder / name, 'w', driver='GTiff', count=count, height=height, width=width, dtype=dtype,
                    tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress='DEFLATE', zlevel=1, bigtiff='IF_SAFER'))
                for name, (count, height, dtype) in kinds.items() if height}

    def _write(self, files: Mapping[str, DatasetWriter], row: Piece, columns: Span, part: torch.Tensor) -> None:
        """Columns of a strip that no further tile adds to."""
        if columns.start == columns.stop:
            return
        body = _body(row)
        spans = {ABOVE: Span(row.kept.start, body.start), BODY: body, BELOW: Span(body.stop, row.kept.stop)}
        for name, span in spans.items():
            if name not in files:
                continue
            samples = part[:3, span.times(self.scale).within(row.kept.times(self.scale))]
            if name == BODY:
                samples = self.finish(samples, *self.in_scene(span, columns))
            files[name].write(samples if name == BODY else samples.numpy(), window=self._window(
                Span(0, span.length), columns))
        if SPREAD in files:
            files[SPREAD].write(part[3:].numpy(), window=self._window(Span(0, row.kept.length), columns))

    def _window(self, rows: Span, columns: Span) -> Window:
        rows, columns = rows.times(self.scale), columns.times(self.scale)
        return Window(columns.start, rows.start, columns.length, rows.length)

    def _from(self, strip: int, name: str, rows: Span, columns: Span) -> np.ndarray:
        """Rows of the area from a file of a strip."""
        piece = self.rows[strip]
        first = {BODY: _body(piece).start, BELOW: piece.kept.stop - piece.last}.get(name, piece.kept.start)
        with rasterio.Env(**CACHE), rasterio.open(self.parts.path(f'strip_{strip:05d}', name)) as file:
            return file.read(window=self._window(Span(rows.start - first, rows.stop - first), columns))

    def _seam(self, strip: int, rows: Span, columns: Span) -> np.ndarray:
        """Samples of rows that a strip shares with the one above it."""
        total = self._from(strip - 1, BELOW, rows, columns) + self._from(strip, ABOVE, rows, columns)
        return self.finish(torch.from_numpy(total), *self.in_scene(rows, columns))


def _body(piece: Piece) -> Span:
    """The rows that a strip shares with no other one."""
    return Span(piece.kept.start + piece.first, piece.kept.stop - piece.last)


def _joined(result: Result) -> torch.Tensor:
    return torch.cat([part[0] for part in result if part is not None])

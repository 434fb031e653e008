"""Rasters of any format that is let in, opened by rasterio: what is wrong with one is said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import rasterio

from segsr_model.errors import CommandError
from segsr_model.images.plain import ImageError
from segsr_model.images.scene import _driver, _reading


@contextlib.contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn what a library raises on reading or writing a file into a `CommandError` that names it."""
    try:
        with _reading():
            yield
    except ImageError as error:
        raise CommandError(f"'{path}': {error}") from error


def open_raster(path: str | Path, *, vrt: bool = False) -> rasterio.DatasetReader:
    """Open a raster for reading, by the driver that its first bytes call for.

    Args:
        path: of a file.
        vrt: whether a VRT file may be opened. It can name any other file or address, which are then read.

    Raises:
        CommandError: there is no such file, or it is of no format that is let in.
    """
    path = Path(path)
    if not path.is_file():
        raise CommandError(f"there is no file '{path}'")
    with explained(path):
        with path.open('rb') as file:
            head = file.read(64)
        if b'<VRTDataset' in head:
            if not vrt:
                raise CommandError(f"'{path}' is a VRT, which may name any file or address; --allow-vrt takes it")
            return rasterio.open(path.absolute(), driver='VRT')
        return rasterio.open(path.absolute(), driver=_driver(head[:12]))

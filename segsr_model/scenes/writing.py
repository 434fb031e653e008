"""The result as a raster: on the map, with the tags of the scene, in whole blocks, and read again at the end."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter
from rasterio.rpc import RPC
from rasterio.windows import Window

from segsr_model.errors import CommandError
from segsr_model.images.raster import explained
from segsr_model.scenes.source import Source
from segsr_model.scenes.tiles import Span

BLOCK = 512
CHUNK = 8 * BLOCK  # columns that are written at once
CACHE = {'GDAL_CACHEMAX': 64}  # megabytes
NOT_KEPT = ('STATISTICS_', 'TIFFTAG_SOFTWARE')  # tags that are of other pixels
Pixels = Callable[[Span, Span], tuple[np.ndarray, 'np.ndarray | None']]  # rows, columns -> samples, mask


def profile_of(source: Source, scale: int, origin: tuple[int, int], size: tuple[int, int], *, count: int,
               dtype: np.dtype, nodata: float | None) -> dict[str, Any]:
    """What rasterio is to make: the scene's part from ``origin`` (row, column), ``size`` LR pixels, enlarged."""
    dataset = source.dataset
    gcps, gcps_crs = dataset.gcps
    transform = dataset.transform * Affine.translation(origin[1], origin[0]) * Affine.scale(1 / scale)
    return {
        'driver': 'GTiff', 'height': scale * size[0], 'width': scale * size[1], 'count': count, 'dtype': dtype.name,
        'nodata': nodata, 'crs': None if gcps else dataset.crs,
        'transform': None if gcps or dataset.transform.is_identity else transform,
        'gcps': [GroundControlPoint(scale * (each.row - origin[0]), scale * (each.col - origin[1]), each.x, each.y,
                                    each.z, each.id, each.info) for each in gcps] or None,
        'gcps_crs': gcps_crs, 'rpcs': dataset.rpcs and _rpc(dataset.rpcs, scale, origin)}


def _rpc(rpc: RPC, scale: int, origin: tuple[int, int]) -> RPC:
    """Polynomials for the enlarged pixels. They name pixels by their centres, from 0."""
    values = rpc.to_dict()
    for name, start in (('line', origin[0]), ('samp', origin[1])):
        values[f'{name}_off'] = scale * (values[f'{name}_off'] - start + 0.5) - 0.5
        values[f'{name}_scale'] *= scale
    return RPC(**values)


def write_raster(path: Path, profile: Mapping[str, Any], pixels: Pixels, *, describe: Callable[[DatasetWriter], None],
                 step: int = 1, cog: bool = False, options: Mapping[str, str] | None = None,
                 has_mask: bool = False) -> None:
    """Write a raster: it appears under its name when it is whole and was read again.

    Args:
        path: ends in .tif.
        profile: of `profile_of`.
        pixels: gives samples (count, h, w), and which hold data, (h, w) uint8, where there is a mask.
        describe: writes names, units and tags.
        step: pixels that what is asked of ``pixels`` begins and ends on.
        cog: make it a cloud-optimised GeoTIFF.
        options: GDAL's creation options.
        has_mask: write which pixels hold data as the file's mask.

    Raises:
        CommandError: it cannot be written, or not be read again.
    """
    profile = {key: value for key, value in profile.items() if value is not None}
    gcps_crs, gcps, rpcs = profile.pop('gcps_crs', None), profile.pop('gcps', None), profile.pop('rpcs', None)
    options = dict(options or {})
    layout = {'tiled': True, 'blockxsize': BLOCK, 'blockysize': BLOCK, 'bigtiff': 'IF_SAFER', 'compress': 'DEFLATE',
              'zlevel': 1 if cog else 6, 'predictor': 3 if np.dtype(profile['dtype']).kind == 'f' else 2,
              'interleave': 'pixel' if profile['count'] <= 4 else 'band'}
    temporary = path.with_name(f'.{path.stem}.{uuid.uuid4().hex[:8]}.part.tif')
    copied = temporary.with_suffix('.cog.tif')
    try:
        with explained(path), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, **CACHE):
            with rasterio.open(temporary, 'w', **profile, **{**layout, **({} if cog else options)}) as file:
                describe(file)
                if gcps:
                    file.gcps = gcps, gcps_crs
                if rpcs:
                    file.rpcs = rpcs
                for rows, columns in _blocks(file.height, file.width, step):
                    samples, valid = pixels(rows, columns)
                    window = Window(columns.start, rows.start, columns.length, rows.length)
                    file.write(samples, window=window)
                    if has_mask:
                        file.write_mask(valid, window=window)
            if cog:
                rasterio.shutil.copy(temporary, copied, driver='COG', **{
                    'compress': 'DEFLATE', 'predictor': 'YES', 'blocksize': BLOCK, 'bigtiff': 'IF_SAFER',
                    'overview_resampling': 'AVERAGE', **options})
                os.replace(copied, temporary)
            _read_again(temporary, profile)
            os.replace(temporary, path)
    finally:
        for each in (temporary, copied):
            each.unlink(missing_ok=True)


def _blocks(height: int, width: int, step: int) -> Iterator[tuple[Span, Span]]:
    """Whole blocks of a raster, row by row, some at once; they begin on multiples of ``step``."""
    down = math.lcm(BLOCK, step)
    across = max(1, CHUNK // down) * down
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield Span(top, min(top + down, height)), Span(left, min(left + across, width))


def describe_result(file: DatasetWriter, source: Source, bands: list[int], tags: Mapping[str, str]) -> None:
    """Names, units, colours and tags of the source's bands, and further tags."""
    dataset = source.dataset
    file.descriptions = [dataset.descriptions[band - 1] for band in bands]
    file.units = [dataset.units[band - 1] or '' for band in bands]
    file.scales = [dataset.scales[band - 1] for band in bands]
    file.offsets = [dataset.offsets[band - 1] for band in bands]
    file.colorinterp = [ColorInterp.undefined if dataset.colorinterp[band - 1] == ColorInterp.palette
                        else dataset.colorinterp[band - 1] for band in bands]
    kept = {key: value for key, value in dataset.tags().items() if not key.startswith(NOT_KEPT)}
    file.update_tags(**{**kept, **tags})
    for number, band in enumerate(bands, 1):
        own = {key: value for key, value in dataset.tags(band).items() if not key.startswith(NOT_KEPT)}
        if own:
            file.update_tags(number, **own)


def describe_layer(file: DatasetWriter, names: list[str], unit: str, tags: Mapping[str, str]) -> None:
    """Names of bands, one unit, and tags."""
    file.descriptions, file.units = names, [unit] * len(names)
    file.update_tags(**tags)


def _read_again(path: Path, profile: Mapping[str, Any]) -> None:
    with rasterio.open(path) as file:
        found = (file.height, file.width, file.count, file.dtypes[0])
        wanted = tuple(profile[key] for key in ('height', 'width', 'count', 'dtype'))
        if found != wanted:
            raise CommandError(f"'{path}' was to be {wanted} and is {found}")
        for _, window in file.block_windows(1):
            file.read(window=window)

"""Guidance maps as arrays and as GeoTIFF layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio

from segsr_model.errors import CommandError
from segsr_model.files import write_output

LAYERS = ('.tif', '.tiff')


def write_arrays(path: str, maps: np.ndarray, pictures: Mapping[str, np.ndarray]) -> None:
    """Write the maps (k, h, w) as .npy, or as .npz with the 8-bit images, as RGB (h, w, 3), beside them."""
    if path.lower().endswith('.npy'):
        write_output(path, lambda temporary: np.save(temporary, maps))
        return
    images = {title.lower(): picture[..., ::-1] for title, picture in pictures.items()}
    write_output(path, lambda temporary: np.savez_compressed(temporary, maps=maps, **images))


def write_layers(path: str, maps: np.ndarray, lr_path: str) -> None:
    """Write maps (k, h, w) as float32 bands M_1 .. M_k with the georeference of the LR image, if it has one."""
    k, height, width = maps.shape
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(Path(lr_path).absolute()) as lr:  # as text, s3:old/a.tif would be an address
                crs, transform, (gcps, gcps_crs), rpcs = lr.crs, lr.transform, lr.gcps, lr.rpcs
        except (rasterio.errors.RasterioError, ValueError) as error:
            raise CommandError(f"cannot read the georeference of '{lr_path}': {error}") from None

        def write(temporary: str) -> None:
            with rasterio.open(Path(temporary).absolute(), 'w', driver='GTiff', dtype='float32', count=k, height=height,
                               width=width, crs=crs, transform=transform, compress='deflate', predictor=3) as file:
                file.write(maps.astype(np.float32))
                file.descriptions = [f'M_{i + 1}' for i in range(k)]
                file.units = ['cosine similarity'] * k
                if gcps:
                    file.gcps = gcps, gcps_crs
                if rpcs:
                    file.rpcs = rpcs

        write_output(path, write)

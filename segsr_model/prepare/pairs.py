"""From one HR image to the HR and LR files of each scale."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segsr_model.files import write_atomically, write_file
from segsr_model.images.plain import ImageError, encode_png, pixel_sum
from segsr_model.images.scene import Scene
from segsr_model.prepare.lowres import downscale
from segsr_model.prepare.plan import Item


def fit_hr(image: np.ndarray, *, scale: int, least: int = 0) -> np.ndarray:
    """Make an HR image that divides by the scale. It is never stretched.

    Args:
        image: (h, w, 3) uint8.
        scale: What height and width shall be multiples of, by cutting off rows below and columns to the right.
        least: Height and width below it are first extended to it, by reflection at the lower and right edges. For
            training images, which must hold a training patch; 0 leaves ground truth as it is.

    Raises:
        ImageError: Less than ``scale`` pixels are there.
    """
    height, width = image.shape[:2]
    missing = [(0, max(0, least - height)), (0, max(0, least - width)), (0, 0)]
    if np.any(missing):
        image = np.pad(image, missing, mode='reflect')
    height, width = image.shape[0] // scale * scale, image.shape[1] // scale * scale
    if not height or not width:
        raise ImageError(f'it has {image.shape[0]} x {image.shape[1]} pixels, too few for scale {scale}')
    return image[:height, :width]


def make_pairs(
    scene: Scene,
    item: Item,
    *,
    part: str,
    least: int,
    folders: dict[int, Path],
    twin_folders: Sequence[Path],
) -> dict[int, dict]:
    """Write an item's HR and LR file for each scale.

    Args:
        scene: The opened source file.
        item: What to take from it.
        part: ``'train'``, ``'val'`` or ``'test'``.
        least: The least height and width of a training image.
        folders: Scale to the folder that receives ``<part>/HR/<name>.png`` and ``<part>/LR/<name>.png``.
        twin_folders: Folders of any scale whose HR file is hard-linked to if it is the same.

    Returns:
        Scale to the pair's line in the manifest.
    """
    source = scene.read(item.window)
    file_name = f'{item.name}.png'
    encoded: dict[tuple[int, ...], tuple[bytes, str]] = {}
    records = {}
    for scale, folder in folders.items():
        hr = fit_hr(source, scale=scale, least=least if part == 'train' else 0)
        lr = downscale(hr, scale)
        if hr.shape not in encoded:
            encoded[hr.shape] = encode_png(hr), pixel_sum(hr)
        content, hr_sum = encoded[hr.shape]
        twins = [twin / part / 'HR' / file_name for twin in twin_folders if twin != folder]
        _link_or_write(folder / part / 'HR' / file_name, content, twins=twins)
        write_file(folder / part / 'LR' / file_name, encode_png(lr))
        records[scale] = {
            'name': item.name,
            'part': part,
            'source': item.place,
            'window': item.window and list(item.window),
            'source_size': list(source.shape[:2]),
            'hr_size': list(hr.shape[:2]),
            'hr': hr_sum,
            'lr': pixel_sum(lr),
        }
    return records


def _link_or_write(path: Path, content: bytes, *, twins: list[Path]) -> None:
    """Write a file, or hard-link it to one of ``twins`` that has the same content, where the file system can."""
    for twin in twins:
        with contextlib.suppress(OSError):
            if twin.stat().st_size == len(content) and twin.read_bytes() == content:
                write_atomically(path, functools.partial(os.link, twin), durable=False)
                return
    write_file(path, content)

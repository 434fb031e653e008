"""Whether the disk has room for a data set, before work begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from segsr_model.errors import CommandError
from segsr_model.prepare.build import PARTIAL, Job


def require_room(job: Job, *, out: Path, scales: Sequence[int], lmdb_scales: Sequence[int]) -> None:
    """Refuse to begin what may not fit.

    The need is that of uncompressed images, which real ones stay below: HR once, as scales share it by hard links, LR
    for each of ``scales``, and both again for each LMDB of ``lmdb_scales``.

    Raises:
        CommandError: The disk of ``out`` has less room, an interrupted run's files counted as room.
    """
    sides = [
        [max(side, job.least if job.split[item.name] == 'train' else 0) for side in (item.height, item.width)]
        for item in job.items
    ]
    hr = 3 * sum(height * width for height, width in sides)
    need = hr * bool(scales) + sum(hr // scale**2 for scale in scales)
    need += sum(hr + hr // scale**2 for scale in lmdb_scales)
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free + sum(map(_size_of, (out / PARTIAL, *out.glob(f'x*/*/.*{PARTIAL}'))))
    if need > free:
        raise CommandError(f'--out {out}: up to {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free')


def _size_of(folder: Path) -> int:
    files = (Path(root, name).stat() for root, _, names in os.walk(folder) for name in names)
    return sum({status.st_ino: status.st_size for status in files}.values())

"""LMDB in BasicSR's format, made from a prepared data set's folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import lmdb

_PAGE = 4096  # bytes
_BATCH = 256  # images held in memory before they are committed


def add_lmdb(part_folder: Path, records: Iterable[dict], *, scale: int) -> int:
    """Write ``HR.lmdb`` and ``LR.lmdb`` beside the folders ``HR`` and ``LR``, unless they are there.

    The values are the PNG files as they are; the keys are the image names; ``meta_info.txt`` lists name, size and PNG
    compression level, as ``PairedImageDataset`` with ``io_backend: {type: lmdb}`` expects.

    Returns:
        The number of databases written.
    """
    written = 0
    images = sorted((record['name'], *record['hr_size']) for record in records)
    for kind, shrink in (('HR', 1), ('LR', scale)):
        target = part_folder / f'{kind}.lmdb'
        if target.exists():
            continue
        temporary = part_folder / f'.{kind}.lmdb.partial'
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = [part_folder / kind / f'{name}.png' for name, _, _ in images]
        room = sum(file.stat().st_size + 3 * _PAGE for file in files)
        with lmdb.open(str(temporary), map_size=room + (1 << 20), lock=False) as env:
            for first in range(0, len(files), _BATCH):
                with env.begin(write=True) as txn:
                    for file in files[first:first + _BATCH]:
                        txn.put(file.stem.encode('ascii'), file.read_bytes())
        meta = [f'{name}.png ({height // shrink},{width // shrink},3) 1\n' for name, height, width in images]
        (temporary / 'meta_info.txt').write_text(''.join(meta), encoding='ascii')
        os.replace(temporary, target)
        written += 1
    return written

"""LMDB in BasicSR's format, made from a prepared data set's folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import lmdb
from tqdm import tqdm

from segsr_model.errors import CommandError

_OVERHEAD = 40_000  # bytes for each image, at most: PNG and keys, and a last page of 16 kB that is not full
_BATCH = 256  # images held in memory before they are committed
_STORED = (cv2.IMWRITE_PNG_COMPRESSION, 0)
if hasattr(cv2, 'IMWRITE_PNG_FILTER'):  # OpenCV from 4.11; without it decoding is less fast
    _STORED += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)


def add_lmdb(part_folder: Path, records: Iterable[dict], *, scale: int, workers: int) -> None:
    """Write ``HR.lmdb`` and ``LR.lmdb`` beside the folders ``HR`` and ``LR``, unless they are there.

    Keys, values and ``meta_info.txt`` are as ``PairedImageDataset`` expects them with ``io_backend: {type: lmdb}``. The
    values are PNG files without compression: a third larger, and decoded several times faster, which is what limits
    the loader. An LMDB is there when it is complete; of one that cannot be written nothing stays.

    Raises:
        CommandError: An image is damaged, or LMDB could not write.
    """
    images = sorted((record['name'], *record['hr_size']) for record in records)
    for kind, shrink in (('HR', 1), ('LR', scale)):
        target = part_folder / f'{kind}.lmdb'
        if target.exists():
            continue
        temporary = part_folder / f'.{kind}.lmdb.partial'
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        sizes = [(name, height // shrink, width // shrink) for name, height, width in images]
        meta = [f'{name}.png ({height},{width},3) 0\n' for name, height, width in sizes]
        try:
            _write(temporary, [part_folder / kind / f'{name}.png' for name, _, _ in images],
                   room=sum(3 * height * width + _OVERHEAD for _, height, width in sizes), workers=workers)
            (temporary / 'meta_info.txt').write_text(''.join(meta), encoding='ascii')
            os.replace(temporary, target)
        except lmdb.Error as error:
            raise CommandError(f'{target}: LMDB cannot write it ({error}): is the disk full?') from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, files: list[Path], *, room: int, workers: int) -> None:
    with tqdm(total=len(files), unit='image', desc=f'{folder.parent.name} {folder.stem[1:]}', disable=None) as bar, \
            lmdb.open(str(folder), map_size=room + (1 << 20), lock=False, sync=False) as env, \
            ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(files), _BATCH):
            batch = files[first:first + _BATCH]
            with env.begin(write=True) as txn:
                for file, content in zip(batch, pool.map(_stored_png, batch)):
                    txn.put(file.stem.encode('ascii'), content)
            bar.update(len(batch))
        env.sync(True)


def _stored_png(file: Path) -> bytes:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise CommandError(f'{file}: damaged; delete it and give the command again')
    ok, content = cv2.imencode('.png', image, _STORED)
    if not ok:
        raise CommandError(f'{file}: OpenCV could not encode it as PNG')
    return content.tobytes()

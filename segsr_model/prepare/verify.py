"""Checking a prepared data set against its manifest, or against the manifest of another machine."""

from __future__ import annotations

import faulthandler
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import lmdb
from tqdm import tqdm

from segsr_model.images.plain import ImageError, decode, pixel_sum

_KINDS = {'HR': 'hr', 'LR': 'lr'}  # folder -> key in the manifest


def find_faults(folder: Path, records: list[dict], *, workers: int) -> list[str]:
    """Compare the pixels of a data set's files, and of its LMDBs if there are any, with a manifest's pairs.

    Args:
        folder: An ``x<scale>`` folder.
        records: The pairs as the manifest lists them.
        workers: Threads.

    Returns:
        A line for each image that is missing, unreadable, different, or too many; none if all is well.
    """
    faults = []
    for part in sorted({record['part'] for record in records}):
        members = [record for record in records if record['part'] == part]
        for kind, key in _KINDS.items():
            place = folder / part / kind
            expected = {f'{record["name"]}.png': record[key] for record in members}
            found = {file.name for file in place.iterdir()} if place.is_dir() else set()
            faults += [f'{place / name}: not in the manifest' for name in sorted(found - expected.keys())]
            files = [(str(place / name), partial(_content, place / name), wanted) for name, wanted in expected.items()]
            faults += _compare(files, workers)
            if place.with_suffix('.lmdb').is_dir():
                faults += _in_own_process(_compare_lmdb, place.with_suffix('.lmdb'), members, key, workers)
    return faults


def _in_own_process(compare: Callable[..., list[str]], path: Path, *arguments: object) -> list[str]:
    """Faults of an LMDB, whose library reads beyond a damaged file and is ended by the system for it."""
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    with ProcessPoolExecutor(1, context, faulthandler.disable) as pool:
        try:
            return pool.submit(compare, path, *arguments).result()
        except (BrokenProcessPool, lmdb.Error) as error:
            reason = str(error).splitlines()[0] if isinstance(error, lmdb.Error) else 'reading it ended the process'
            return [f'{path}: damaged: {reason}']


def _compare_lmdb(path: Path, members: list[dict], key: str, workers: int) -> list[str]:
    keys = {record['name'].encode('ascii'): record[key] for record in members}
    with lmdb.open(str(path), readonly=True, lock=False) as env:
        with env.begin() as txn:
            extra = [bytes(name) for name in txn.cursor().iternext(values=False) if bytes(name) not in keys]
        faults = [f'{path}: {name.decode("ascii", "replace")} is not in the manifest' for name in extra]
        entries = [(f'{path}, {name.decode()}', partial(_value, env, name), wanted) for name, wanted in keys.items()]
        return faults + _compare(entries, workers)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError('missing') from None
    except OSError as error:
        raise ImageError(f'cannot be read: {error.strerror}') from None


def _value(env: lmdb.Environment, name: bytes) -> bytes:
    with env.begin() as txn:
        content = txn.get(name)
    if content is None:
        raise ImageError('missing')
    return content


def _compare(entries: list[tuple[str, Callable[[], bytes], str]], workers: int) -> list[str]:
    """A fault for each (title, way to get the file's content, pixel checksum) that does not fit."""
    def fault(entry: tuple[str, Callable[[], bytes], str]) -> str | None:
        title, get_content, wanted = entry
        try:
            found = pixel_sum(decode(get_content())[..., ::-1])
        except ImageError as error:
            return f'{title}: {error}'
        return None if found == wanted else f'{title}: its pixels are not those of the manifest'

    with ThreadPoolExecutor(workers) as pool:
        faults = tqdm(pool.map(fault, entries), total=len(entries), unit='image', disable=None, leave=False)
        return [fault for fault in faults if fault]

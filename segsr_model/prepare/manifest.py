"""The manifest of a prepared data set: how it was made, and the pixel checksums of each pair.

One JSON object a line: the settings first, then a pair a line in order of part and name. It holds nothing of the
machine or the time, so that two machines give the same file. While a data set is being made, the same format, in order
of completion, is the journal from which an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from segsr_model.errors import CommandError
from segsr_model.files import is_file_name, write_file
from segsr_model.prepare.sources.splits import PARTS

MANIFEST = 'manifest.jsonl'
JOURNAL = 'journal.jsonl'  # until the data set is complete


def read_manifest(path: Path) -> tuple[dict, list[dict]]:
    """The settings and the pairs of a manifest. Raises CommandError if there is none, or it is damaged."""
    try:
        return _parse(path.read_text(encoding='utf-8').splitlines())
    except FileNotFoundError as error:
        raise CommandError(f'{path}: no such file; "segsr prepare" writes it when a data set is complete') from error
    except (OSError, ValueError) as error:
        raise CommandError(f'{path}: not a manifest of "segsr prepare": {error}') from error


def _parse(lines: list[str]) -> tuple[dict, list[dict]]:
    """Settings and pairs. ValueError: a line is not what we write, such as a name that leads to another folder."""
    try:
        settings, *records = map(json.loads, lines)
    except RecursionError:
        raise ValueError('too deep') from None
    if not isinstance(settings, dict) or not isinstance(settings.get('dataset'), str):
        raise ValueError('its first line has no settings')
    for number, record in enumerate(records, 2):
        sound = (isinstance(record, dict) and record.get('part') in PARTS and is_file_name(record.get('name'))
                 and record['name'].isascii() and all(isinstance(record.get(key), str) for key in ('hr', 'lr'))
                 and all(_is_size(record.get(key)) for key in ('hr_size', 'source_size')))
        if not sound:
            raise ValueError(f'line {number} is no pair of images')
    return settings, records


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def write_manifest(path: Path, settings: dict, records: Iterable[dict]) -> None:
    """Write a manifest, whole or not at all."""
    ordered = sorted(records, key=lambda record: (PARTS.index(record['part']), record['name']))
    write_file(path, ''.join(json.dumps(line) + '\n' for line in (settings, *ordered)).encode())


def fingerprint(records: Iterable[dict]) -> str:
    """One checksum over the names, parts and pixels of all pairs: the same on two machines if the data sets are."""
    rows = sorted(f'{record["part"]} {record["name"]} {record["hr"]} {record["lr"]}\n' for record in records)
    return hashlib.sha256(''.join(rows).encode()).hexdigest()


class Journal:
    """The finished pairs of a data set that is being made.

    Args:
        folder: Where the pairs are written; the journal lies in it.
        settings: How they are made. If the folder's journal has other settings, or none, the folder is emptied.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        path = folder / JOURNAL
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines(keepends=True) if path.exists() else []
        try:
            found, records = _parse([line for line in lines if line.endswith('}\n')])  # the last may have been cut off
        except ValueError:  # no journal, or a damaged one
            found, records = None, []
        resumed = found == settings
        self.records = {record['name']: record for record in records} if resumed else {}
        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(path, settings, self.records.values())
        self._path = path
        self._file = path.open('a', encoding='utf-8')

    def add(self, record: dict) -> None:
        """Note a pair whose two files are written."""
        self.records[record['name']] = record
        self._file.write(json.dumps(record) + '\n')
        self._file.flush()

    def close(self, *, remove: bool = False) -> None:
        """Close the file, and remove it when the manifest takes its place."""
        self._file.close()
        if remove:
            self._path.unlink()

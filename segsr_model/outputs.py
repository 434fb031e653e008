"""The files that commands write where the user says: nothing else is overwritten, and an error is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from segsr_model.cli import CommandError
from segsr_model.files import write_atomically

MARKS = {  # what files of a kind start with
    '.png': (b'\x89PNG',), '.pdf': (b'%PDF',), '.npy': (b'\x93NUMPY',), '.npz': (b'PK',),
    '.tif': (b'II', b'MM'), '.tiff': (b'II', b'MM'), '.csv': (b'option file,',)}


def check_output(path: str, suffixes: Iterable[str], inputs: Iterable[str] = ()) -> None:
    """Raise a `CommandError` if ``path`` must not be written: an unknown kind, an input, or a foreign file there."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise CommandError(f"'{path}' must end in {' or '.join(suffixes)}")
    if Path(path).resolve() in [Path(x).resolve() for x in inputs]:
        raise CommandError(f"'{path}' is to be read, so it is not written")
    if Path(path).is_dir():
        raise CommandError(f"'{path}' is a folder")
    if Path(path).is_file():
        with open(path, 'rb') as file:
            start = file.read(16)
        if start and not start.startswith(MARKS[suffix]):
            raise CommandError(f"'{path}' exists and holds something else; it is left as it is")


def write_output(path: str | Path, write: Callable[[str], Any]) -> None:
    """`write_atomically`, where a file that cannot be written is a `CommandError`."""
    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise CommandError(f"cannot write '{path}': {reason}") from None

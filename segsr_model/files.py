"""Files that are written whole or not at all, and names that lead nowhere else."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from os import path as osp
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from segsr_model.errors import CommandError

MARKS = {  # what files of a kind start with
    '.png': (b'\x89PNG',), '.pdf': (b'%PDF',), '.npy': (b'\x93NUMPY',), '.npz': (b'PK',),
    '.tif': (b'II', b'MM'), '.tiff': (b'II', b'MM'), '.csv': (b'option file,',)}


def write_atomically(path: str | Path, write: Callable[[str], Any], *, durable: bool = True) -> None:
    """Let ``write(temporary_path)`` write a file, then move it into place: ``path`` is either old or complete.

    Args:
        path: the file; its folder is made if it is not there.
        write: called once.
        durable: whether the file and its folder are on the disk when this returns, so that a power cut does not undo
            it. That takes too long for thousands of files that the next run can make again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part{path.suffix}')
    try:
        write(str(temporary))
        if durable:
            to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | Path, content: bytes) -> None:
    """Write one of thousands of files: whole or not at all, but not safe from a power cut."""
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(content), durable=False)


def to_disk(path: Path) -> None:
    """Return when a file's content, or a folder's names, are on the disk."""
    if path.is_dir() and os.name != 'posix':  # cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what `write_atomically` left in a folder where the process was killed."""
    for path in Path(folder).glob('.*.part*'):
        if re.fullmatch(r'\..+\.\d+\.part(\.\w+)?', path.name):
            path.unlink(missing_ok=True)


def check_output(path: str, suffixes: Iterable[str], inputs: Iterable[str] = ()) -> None:
    """Raise a `CommandError` if ``path`` must not be written: an unknown kind, an input, or a foreign file there."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise CommandError(f"'{path}' must end in {' or '.join(suffixes)}")
    if Path(path).resolve() in [Path(x).resolve() for x in inputs]:
        raise CommandError(f"'{path}' is to be read, so it is not written")
    if Path(path).is_dir():
        raise CommandError(f"'{path}' is a folder")
    if obstacle(Path(path).parent):
        raise CommandError(f"cannot write '{path}': {obstacle(Path(path).parent)}")
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
        reason = obstacle(Path(path).parent) or getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise CommandError(f"cannot write '{path}': {reason}") from None


def place_of(folder: Path) -> Path:
    """The part of a folder's path that is there, be it as a name only: a link to nowhere."""
    return next(path for path in (folder, *folder.absolute().parents) if osp.lexists(path))


def obstacle(folder: Path) -> str | None:
    """Why a folder cannot be made, or not be written to; None if it can."""
    place = place_of(folder)
    if osp.islink(place) and not osp.exists(place):
        return f"'{place}' is a link to '{os.readlink(place)}', which is not there"
    return None if osp.isdir(place) and os.access(place, os.W_OK | os.X_OK) else (
        f"'{place}' is no folder that can be written to")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def is_file_name(name: Any) -> bool:
    """Whether a name can be that of a file or folder inside another, on any system."""
    return (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and name not in ('.', '..')
            and name == name.strip() and not re.search(r'[/\\:*?"<>|]', name))


def is_inside(path: str) -> bool:
    """Whether a relative path stays below the folder it starts from."""
    parts = PurePosixPath(path.replace('\\', '/')).parts
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or PureWindowsPath(path).root
    return bool(parts) and not absolute and '..' not in parts and '\0' not in path


def printable(text: str) -> str:
    """A text on one line, without the control characters that a file's name may hold."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode() for c in text)


def escape_what_cannot_be_printed() -> None:
    """Let the standard output show characters that its encoding lacks as escapes, as the standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')

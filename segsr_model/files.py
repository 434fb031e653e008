"""Files that are written whole or not at all, and names that lead nowhere else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from os import path as osp
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from segsr_model.errors import CommandError

MARKS = {  # what files of a kind start with
    '.png': (b'\x89PNG',), '.pdf': (b'%PDF',), '.npy': (b'\x93NUMPY',), '.npz': (b'PK',),
    '.tif': (b'II', b'MM'), '.tiff': (b'II', b'MM'), '.csv': (b'option file,',)}
LONGEST = 200  # bytes of a name; most disks take 255, and BasicSR adds a time and an ending


class UnwrittenError(OSError):
    """A file that cannot be written, and why, on one line; ``filename`` is the file that was asked for."""

    def __str__(self) -> str:
        return printable(f"cannot write '{self.filename}': {self.strerror}")


def write_atomically(path: str | Path, write: Callable[[str], Any], *, durable: bool = True) -> None:
    """Let ``write(temporary_path)`` write a file, then move it into place: ``path`` is either old or complete.

    Args:
        path: the file; its folder is made if it is not there.
        write: called once.
        durable: whether the file and its folder are on the disk when this returns, so that a power cut does not undo
            it. That takes too long for thousands of files that the next run can make again.

    Raises:
        UnwrittenError: that is not possible.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part{path.suffix}')
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(str(temporary))
            if durable:
                to_disk(temporary)
            os.replace(temporary, path)
            if durable:
                to_disk(path.parent)
        finally:
            with contextlib.suppress(OSError):  # its name is too long, say: then it is not there
                temporary.unlink()


def write_file(path: str | Path, content: bytes) -> None:
    """Write one of thousands of files: whole or not at all, but not safe from a power cut."""
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(content), durable=False)


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Add lines to a file. UnwrittenError: that is not possible."""
    with _named(path), open(path, 'a', encoding='utf-8', errors='backslashreplace') as file:
        file.writelines(f'{line}\n' for line in lines)


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Errors of a full disk name no file, those of a temporary file another one."""
    try:
        yield
    except OSError as error:
        reason = obstacle(Path(path).parent) or error.strerror or str(error)
        raise UnwrittenError(error.errno, reason, str(path)) from error


def name_limit(folder: str | Path) -> int:
    """The bytes that a file's name may have in a folder, there or not, to be written by `write_atomically`."""
    there = next((place for place in (Path(folder), *Path(folder).absolute().parents) if place.is_dir()), Path())
    try:
        longest = os.pathconf(there, 'PC_NAME_MAX')
    except (AttributeError, OSError, ValueError):  # not on this system
        longest = 255
    return longest - len('.' '.9999999.part' '.jsonl')


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
    except OSError as error:
        raise CommandError(str(error)) from None
    except RuntimeError as error:  # torch's writer
        raise CommandError(f"cannot write '{path}': {(str(error) or repr(error)).splitlines()[0]}") from None


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
    return (isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= LONGEST
            and name not in ('.', '..') and name == name.strip() and not re.search(r'[/\\:*?"<>|]', name))


def doubles(names: Iterable[str]) -> tuple[int, int] | None:
    """The places of the first two names that are one file's on some system, for which case does not matter."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        first = seen.setdefault(unicodedata.normalize('NFC', name).casefold(), place)
        if first != place:
            return first, place
    return None


def labels_of(paths: Iterable[str]) -> list[str]:
    """What files, or folders, are called side by side: their names without ending, or their paths if two are alike."""
    paths = [str(path) for path in paths]
    names = [path.name if path.is_dir() else path.stem for path in (Path(path).absolute() for path in paths)]
    return [printable(label) for label in (paths if doubles(names) else names)]


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

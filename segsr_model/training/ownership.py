"""A run's folder has one owner at a time: the process that holds the lock file beside it, as long as it lives.

The system takes the lock from a process that ends, however it ends. Machines that share a disk may not see each other's
locks. So the owner also touches its file every few seconds, and another machine takes the folder over only when it has
waited for a minute in which nobody did.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from segsr_model.files import printable

try:
    import fcntl
except ImportError:  # on Windows touching the file must do
    fcntl = None

BEAT, SILENCE = 10.0, 60.0  # seconds between two touches, and without one until the owner is taken for dead
TRIES = 100  # at a file that others make and remove at the same moment
_owned: dict[tuple[int, Path], BinaryIO] = {}  # lock files by process (a forked one owns nothing) and path


def own(folder: str | Path) -> None:
    """Make this process the owner of a run's folder until it ends. The folder itself need not be there.

    Raises:
        ValueError: another process is the owner, or there can be no lock file; one line.
    """
    folder = Path(folder)
    key = os.getpid(), folder.parent.resolve() / f'.{folder.name}.lock'
    if key in _owned:
        return
    owner = f'{platform.node()}\n{os.getpid()}\n{time.strftime("%Y-%m-%d %H:%M:%S")}\n'.encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _owned[key] = _take(key[1], folder, owner)
    except OSError as error:
        raise ValueError(f"'{folder}' cannot be locked: '{key[1]}': {error.strerror}") from None
    threading.Thread(target=_touch, args=(key[1],), daemon=True).start()
    atexit.register(_leave, key, owner)


def _take(path: Path, folder: Path, owner: bytes) -> BinaryIO:
    """The lock file: locked, and with ``owner`` in it. It is not opened a second time: that would undo the lock."""
    dead = None
    for _ in range(TRIES):
        try:
            there = path.read_bytes() if path.exists() else None
            file = path.open('x+b' if there is None else 'r+b', buffering=0)
            locked = _lock(file)
            if locked is False:
                raise _in_use(folder, there)
            same = os.path.samestat(os.fstat(file.fileno()), path.stat()) and file.read() == (there or b'')
        except (FileExistsError, FileNotFoundError):
            same = False
        if not same:
            continue  # made, removed or written meanwhile
        if there in (None, dead) or locked and _names(there)[0] == platform.node():
            file.truncate(0)
            file.seek(0)
            file.write(owner)
            return file
        file.close()
        if _is_touched(path, folder, there):
            raise _in_use(folder, there)
        dead = there
    raise _in_use(folder, None)


def _lock(file: BinaryIO) -> bool | None:
    """Lock a file. False: another process holds it. None: there are no locks here."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES
        return False
    except (OSError, AttributeError):  # a file system, or a system, without locks
        return None
    return True


def _is_touched(path: Path, folder: Path, owner: bytes) -> bool:
    """Whether somebody touches the file, which is seen after `BEAT` seconds, or not, after `SILENCE`."""
    sys.stderr.write(f'{printable(str(folder))}: waiting up to {SILENCE:.0f} s: does {_described(owner)} still run?\n')
    before, end = _touched(path), time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        if _touched(path) != before:
            return path.exists()
    return False


def _touched(path: Path) -> int | None:
    """When a file was touched; it is opened, as NFS may answer from memory otherwise."""
    try:
        with path.open('rb') as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _touch(path: Path) -> None:
    while True:
        time.sleep(BEAT)
        try:
            os.utime(path)
        except FileNotFoundError:
            return
        except OSError:  # the disk may come back
            continue


def _leave(key: tuple[int, Path], owner: bytes) -> None:
    """At the end of the process: remove the file, unless another machine has taken it over."""
    if key[0] != os.getpid() or key not in _owned:
        return
    with _owned.pop(key) as file:
        file.seek(0)
        if file.read() == owner:
            with contextlib.suppress(OSError):  # on Windows an open file cannot be removed
                key[1].unlink()


def _names(owner: bytes | None) -> list[str]:
    """Host, process and time, as far as a lock file names them."""
    return [*(owner or b'').decode(errors='replace').split('\n'), '', '', ''][:3]


def _described(owner: bytes | None) -> str:
    host, process, since = _names(owner)
    return f'process {process} on {host}, since {since},' if since else 'another process'


def _in_use(folder: Path, owner: bytes | None) -> ValueError:
    return ValueError(f"'{folder}' is in use by {_described(owner).rstrip(',')}; wait for its end, or give this run "
                      'another name')

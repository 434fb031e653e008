"""The parts of a scene that are finished: what a killed run leaves, and how several processes share one scene.

A part is a folder that appears under its name when it is whole. Who makes it says so in a claim, which he touches while
he works; it only keeps others from doing the same work: a part that is made twice is the same, and the first counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segsr_model.files import sha256, to_disk, write_file

SETTINGS, SUMS = 'settings.json', 'sums.json'
SILENCE = 120.0  # seconds without a touch until a claim on another machine counts for nothing


class Parts:
    """The folder that holds the parts.

    Args:
        folder: made if it is not there. If it was begun with other settings it is emptied.
        settings: what the parts depend on, in JSON's types.

    Attributes:
        changed: settings that were others when the folder was begun; its parts are gone.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        settings = json.loads(json.dumps(settings))
        known, self.changed = None, []
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
        if known != settings:
            if isinstance(known, dict):
                keys = known.keys() | settings.keys()
                self.changed = sorted(key for key in keys if known.get(key) != settings.get(key))
            shutil.rmtree(folder, ignore_errors=True)
            write_file(folder / SETTINGS, json.dumps(settings).encode())

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).is_dir()

    def path(self, name: str, file: str) -> Path:
        """A file of a part."""
        return self.folder / name / file

    def missing(self, names: Sequence[str]) -> Iterator[str]:
        """Parts to be made by this process, until all are there; waits for those that others make."""
        while waiting := [name for name in names if name not in self]:
            for name in waiting:
                if name not in self and self._claim(name):
                    try:
                        yield name
                    finally:
                        self._claim_of(name).unlink(missing_ok=True)
            if any(name not in self for name in names):
                time.sleep(0.2)

    def touch(self, name: str) -> None:
        """Say that a part is still being made."""
        with contextlib.suppress(OSError):
            os.utime(self._claim_of(name))

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A folder to write a part's files to; it gets its name at the end, on the disk and with checksums."""
        temporary = self.folder / f'.{name}.{uuid.uuid4().hex}.part'
        temporary.mkdir(parents=True)
        try:
            yield temporary
            files = sorted(temporary.iterdir())
            write_file(temporary / SUMS, json.dumps({file.name: sha256(file) for file in files}).encode())
            for file in (*files, temporary / SUMS, temporary):
                to_disk(file)
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(temporary, self.folder / name)
            to_disk(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def verify(self, names: Sequence[str]) -> list[str]:
        """Remove parts that are not as they were written. Returns their names."""
        damaged = []
        for name in names:
            if name in self and not self._is_whole(name):
                damaged.append(name)
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return damaged

    def remove(self) -> None:
        """All of it: the scene is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_whole(self, name: str) -> bool:
        try:
            sums = json.loads(self.path(name, SUMS).read_text(encoding='utf-8'))
            return all(sha256(self.path(name, file)) == value for file, value in sums.items())
        except (OSError, ValueError, AttributeError):
            return False

    def _claim_of(self, name: str) -> Path:
        return self.folder / f'{name}.claim'

    def _claim(self, name: str) -> bool:
        """Whether a part is now this process' to make."""
        path, owner = self._claim_of(name), f'{platform.node()} {os.getpid()}'
        for _ in range(2):
            with contextlib.suppress(FileExistsError), path.open('x', encoding='utf-8') as file:
                file.write(owner)
                return True
            with contextlib.suppress(FileNotFoundError):
                if self._is_held(path):
                    return False
                path.unlink()
        return False

    def _is_held(self, path: Path) -> bool:
        host, _, process = path.read_text(encoding='utf-8').partition(' ')
        if host == platform.node() and process.isdecimal() and os.name == 'posix':
            try:
                os.kill(int(process), 0)
            except OSError as error:
                return isinstance(error, PermissionError)  # somebody else's, and alive
            return True
        now = self.folder / f'.{uuid.uuid4().hex}.now'  # the disk's clock, which may not be ours
        now.touch()
        age = now.stat().st_mtime - path.stat().st_mtime
        now.unlink()
        return age < SILENCE

"""Images and archives, made up."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """(h, w, 3) uint8: smooth colours with some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return (smooth + random.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def encode(image: np.ndarray, kind: str, **options) -> bytes:
    """An image as the bytes of a file; ``kind`` is Pillow's format name."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def rar5(files: dict[str, bytes]) -> bytes:
    """A RAR 5 archive with the files stored, not compressed."""
    def number(value: int) -> bytes:
        low, rest = value & 0x7f, value >> 7
        return bytes([low | 0x80]) + number(rest) if rest else bytes([low])

    def block(content: bytes) -> bytes:
        sized = number(len(content)) + content
        return zlib.crc32(sized).to_bytes(4, 'little') + sized

    archive = b'Rar!\x1a\x07\x01\x00' + block(bytes([1, 0, 0]))
    for name, data in files.items():
        head = bytes([2, 2]) + number(len(data)) + bytes([4]) + number(len(data)) + bytes([0])
        head += zlib.crc32(data).to_bytes(4, 'little') + bytes([0, 1]) + number(len(name)) + name.encode()
        archive += block(head) + data
    return archive + block(bytes([5, 0, 0]))


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write files into an archive of the kind that the path's suffix tells, or as a folder if it has none."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in ('.tar', '.tgz'):
        with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    elif path.suffix == '.rar':
        path.write_bytes(rar5(files))
    else:
        for name, content in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their path in it."""
    files = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

"""Where images come from: a folder, or a zip, tar or rar archive that is read without being unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from segsr_model.errors import CommandError
from segsr_model.images.plain import BESIDE, ImageFile

IMAGE_SUFFIXES = ('.bmp', '.jp2', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
MOST_BYTES = 2 << 30  # of an image in an archive, which is read into memory; larger ones must be unpacked


class Source(Protocol):
    """Files by their path inside the source, with forward slashes."""

    sizes: Mapping[str, int]  # path -> bytes

    def open(self, path: str) -> ImageFile:
        """A path or a stream with the file's content. Raises OSError if it is damaged, or too large for memory."""


class Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
        self.sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in files if file.is_file()}

    def open(self, path: str) -> ImageFile:
        return self.root / path


class ZipArchive:
    """The files in a zip archive. Reading checks each file's CRC."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        self.sizes = {info.filename: info.file_size for info in self.archive.infolist() if not info.is_dir()}

    def open(self, path: str) -> ImageFile:
        with _reading(self.sizes[path]):
            return io.BytesIO(self.archive.read(path))


class TarArchive:
    """The regular files in a tar archive, plain or compressed. Links and devices are ignored."""

    def __init__(self, path: Path) -> None:
        self.archive = tarfile.open(path)  # noqa: SIM115, it stays open as long as the source
        self.files = {info.name: info for info in self.archive.getmembers() if info.isreg()}
        self.sizes = {name: info.size for name, info in self.files.items()}

    def open(self, path: str) -> ImageFile:
        with _reading(self.sizes[path]):
            content = self.archive.extractfile(self.files[path]).read()
            if len(content) != self.sizes[path]:
                raise tarfile.ReadError('unexpected end of data')
            return io.BytesIO(content)


class RarArchive:
    """The files in a rar archive, through the rarfile package, which calls unrar, unar, 7z or bsdtar."""

    def __init__(self, path: Path) -> None:
        try:
            import rarfile
        except ImportError as error:
            raise CommandError(
                f'--source {path}: rar archives need the rarfile package (pip install rarfile) and the unrar tool; or '
                'unpack it yourself and give the folder') from error
        self.rarfile = rarfile
        self.archive = rarfile.RarFile(path)
        if self.archive.is_solid():
            raise CommandError(f'--source {path}: solid rar archives cannot be read file by file; unpack it and give '
                               'the folder')
        self.sizes = {info.filename: info.file_size for info in self.archive.infolist() if info.is_file()}

    def open(self, path: str) -> ImageFile:
        with _reading(self.sizes[path]):
            try:
                return io.BytesIO(self.archive.read(path))
            except self.rarfile.RarCannotExec as error:
                raise CommandError('rar archives need the tool unrar, unar, 7z or bsdtar; none was found') from error


@contextlib.contextmanager
def _reading(size: int) -> Iterator[None]:
    """Turns what reading a file of ``size`` bytes from an archive raises, whatever the archive's kind, into OSError."""
    if size > MOST_BYTES:
        raise OSError(f'{size:,} bytes are too many to be read from an archive: unpack it and give the folder')
    try:
        yield
    except CommandError:
        raise
    except Exception as error:  # each archive and compression library has its own family of errors
        raise OSError((str(error) or type(error).__name__).splitlines()[0]) from error


def open_source(path: Path) -> Source:
    """Open a folder or an archive; the kind of archive is told by its first bytes, not by its name.

    Raises:
        CommandError: It is missing, truncated, or of no kind that is known.
    """
    if path.is_dir():
        return Folder(path)
    try:
        with path.open('rb') as file:
            head = file.read(8)
        if head.startswith(b'PK'):
            return ZipArchive(path)
        if head.startswith(b'Rar!'):
            return RarArchive(path)
        return TarArchive(path)
    except FileNotFoundError as error:
        raise CommandError(f'--source {path}: no such file or folder') from error
    except CommandError:
        raise
    except Exception as error:  # each archive library has its own family of errors
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(':')
        raise CommandError(f'--source {path}: not a complete zip, tar or rar archive ({reason}; '
                           f'{path.stat().st_size:,} bytes on disk): download it again') from error


def list_images(source: Source) -> tuple[list[str], list[str]]:
    """The image files of a source in order of their paths, and the other files that are no macOS or hidden clutter.

    Files that belong to an image, with its mask or nodata value, are neither.
    """
    images, others = [], []
    for path in sorted(source.sizes):
        pure = PurePosixPath(path)
        if any(part.startswith(('.', '__MACOSX')) and part != '..' for part in pure.parts) or path.endswith(BESIDE):
            continue
        (images if pure.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return images, others


def describe_archive(path: Path, *, published_bytes: int | None, published_md5: str | None) -> str:
    """One line on whether an archive is the published one: its size and MD5 sum, and what they should have been."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    size, md5 = path.stat().st_size, digest.hexdigest()
    found = f'{path.name}: {size:,} bytes, md5 {md5}'
    if published_md5 is None:
        return f'{found} (no published sum is known to compare with)'
    if (size, md5) == (published_bytes, published_md5):
        return f'{found}: the published archive'
    return f'{found}: NOT the published archive ({published_bytes:,} bytes, md5 {published_md5}); its images are used'

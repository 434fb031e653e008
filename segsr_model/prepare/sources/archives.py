"""Where images come from: a folder, or a zip, tar or rar archive that is read without being unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Protocol

from segsr_model.errors import CommandError
from segsr_model.images.plain import BESIDE, ImageFile

IMAGE_SUFFIXES = ('.bmp', '.jp2', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
MOST_BYTES = 2 << 30  # of an image in an archive, which is read into memory; larger ones must be unpacked
_CLUTTER = ('.', '__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information')
_BLOCK = 1 << 20  # bytes read at a time


class Source(Protocol):
    """Files by their path inside the source, with forward slashes.

    Attributes:
        sizes: Path to bytes, in the order in which the files lie. Opened in this order they are read in one pass; in
            another, a compressed tar archive would be unpacked from its start for each file.
    """

    sizes: Mapping[str, int]

    def open(self, path: str) -> ImageFile:
        """A path or a stream with the file's content. Raises OSError if it is damaged, or too large for memory."""


class Folder:
    """The files below a folder. Links are followed, but no folder is entered twice, nor one that holds the source.

    Raises:
        CommandError: Something in it cannot be read, such as a link that leads nowhere; all of that is named.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        problems: list[OSError] = []
        self.sizes = dict(sorted(_walk(root, problems)))
        if problems:
            dead = {FileNotFoundError: 'a link that leads nowhere'}
            reasons = [f'{os.path.relpath(error.filename, root)} ({dead.get(type(error), error.strerror)})'
                       for error in problems]
            raise CommandError(f'--source {root}: cannot be read: {shorten(reasons, most=10)}')

    def open(self, path: str) -> ImageFile:
        return self.root / path


def _walk(root: Path, problems: list[OSError]) -> Iterator[tuple[str, int]]:
    """Path and bytes of each file below a folder; folders of its own before those that links lead to."""
    entered = set(map(str, root.resolve().parents))
    tops = [str(root)]
    while tops:
        links = []
        for folder, subfolders, names in chain.from_iterable(os.walk(top, onerror=problems.append) for top in tops):
            if os.path.realpath(folder) in entered:
                subfolders.clear()
                continue
            entered.add(os.path.realpath(folder))
            subfolders[:] = [name for name in subfolders if not name.startswith(_CLUTTER)]
            links += [place for name in subfolders if os.path.islink(place := os.path.join(folder, name))]
            for name in names:
                if not name.startswith(_CLUTTER):
                    try:
                        status = os.stat(os.path.join(folder, name))
                    except OSError as error:
                        problems.append(error)
                    else:
                        if stat.S_ISREG(status.st_mode):
                            yield Path(folder, name).relative_to(root).as_posix(), status.st_size
        tops = sorted(links)


class ZipArchive:
    """The files in a zip archive. Reading checks each file's CRC."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        members = [info for info in self.archive.infolist() if not info.is_dir()]
        _refuse_links(path, [info.filename for info in members if stat.S_ISLNK(info.external_attr >> 16)])
        self.sizes = {info.filename: info.file_size for info in members}

    def open(self, path: str) -> ImageFile:
        with _reading(self.sizes[path]):
            return io.BytesIO(self.archive.read(path))


class TarArchive:
    """The files in a tar archive, plain or compressed, and its links to them. Devices are ignored."""

    def __init__(self, path: Path) -> None:
        self.archive = tarfile.open(path)  # noqa: SIM115, it stays open as long as the source
        members = self.archive.getmembers()
        self.archive.fileobj.seek(self.archive.offset)
        if self.archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where reading stopped
            raise tarfile.ReadError(f'damaged or cut off after {len(members):,} files')
        self.files = {info.name: info for info in members if info.isreg()}
        self.files.update(_resolve(path, [info for info in members if info.issym() or info.islnk()], self.files))
        ordered = sorted(self.files.items(), key=lambda item: item[1].offset_data)
        self.sizes = {name: info.size for name, info in ordered}
        self._last: tuple[tarfile.TarInfo | None, bytes] = (None, b'')  # for a file with several names

    def open(self, path: str) -> ImageFile:
        info = self.files[path]
        with _reading(info.size):
            if info is not self._last[0]:
                self._last = info, self.archive.extractfile(info).read()
            if len(self._last[1]) != info.size:
                raise tarfile.ReadError('unexpected end of data')
            return io.BytesIO(self._last[1])


def _resolve(
    path: Path, links: Collection[tarfile.TarInfo], files: Mapping[str, tarfile.TarInfo],
) -> dict[str, tarfile.TarInfo]:
    """The files of a tar archive that links in it lead to; a folder that one leads to has its files already."""
    known = {posixpath.normpath(name): info for name, info in files.items()}
    folders = {str(folder) for name in known for folder in PurePosixPath(name).parents}
    targets = {info.name: posixpath.normpath(posixpath.join(posixpath.dirname(info.name) * info.issym(), info.linkname))
               for info in links}
    _refuse_links(path, [name for name, target in targets.items() if target not in known and target not in folders])
    return {name: known[target] for name, target in targets.items() if target in known}


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
        self.archive = rarfile.RarFile(path, errors='strict')  # else one that is cut off would end before the cut
        if self.archive.is_solid():
            raise CommandError(f'--source {path}: solid rar archives cannot be read file by file; unpack it and give '
                               'the folder')
        _refuse_links(path, [info.filename for info in self.archive.infolist() if info.is_symlink()])
        self.sizes = {info.filename: info.file_size for info in self.archive.infolist() if info.is_file()}

    def open(self, path: str) -> ImageFile:
        with _reading(self.sizes[path]):
            try:
                return io.BytesIO(self.archive.read(path))
            except self.rarfile.RarCannotExec as error:
                raise CommandError('rar archives need the tool unrar, unar, 7z or bsdtar; none was found') from error


def _refuse_links(path: Path, links: Collection[str]) -> None:
    """Raise a CommandError for links that are not followed, which would be class folders or images left out."""
    links = [link for link in links if not _is_clutter(link)]
    if links:
        raise CommandError(f'--source {path}: has links that are not followed: {shorten(links)}; unpack it and give '
                           'the folder')


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
    except FileNotFoundError as error:
        raise CommandError(f'--source {path}: no such file or folder') from error
    kind = ZipArchive if head.startswith(b'PK') else RarArchive if head.startswith(b'Rar!') else TarArchive
    try:
        return kind(path)
    except CommandError:
        raise
    except Exception as error:  # each archive library has its own family of errors
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(':')
        raise CommandError(f'--source {path}: not a complete zip, tar or rar archive ({reason}; '
                           f'{path.stat().st_size:,} bytes on disk): download it again') from error


def list_images(source: Source) -> tuple[list[str], list[str]]:
    """The image files of a source in order of their paths, and the other files that are no hidden or system clutter.

    Files that belong to an image, with its mask or nodata value, are neither.
    """
    images, others = [], []
    for path in sorted(source.sizes):
        if not _is_clutter(path) and not path.endswith(BESIDE):
            (images if path.lower().endswith(IMAGE_SUFFIXES) else others).append(path)
    return images, others


def _is_clutter(path: str) -> bool:
    return any(part.startswith(_CLUTTER) and part != '..' for part in PurePosixPath(path).parts)


def content_sum(file: ImageFile) -> int:
    """CRC-32 of a file's content: the same in a folder and in any archive, and whenever it was fetched."""
    if isinstance(file, io.BytesIO):
        return zlib.crc32(file.getbuffer())
    checksum = 0
    with file.open('rb') as stream:
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def shorten(names: Collection[str], *, most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    return ', '.join([*names][:most]) + f' and {len(names) - most:,} more' * (len(names) > most)


def describe_archive(path: Path, *, published_bytes: int | None, published_md5: str | None) -> str:
    """One line on whether an archive is the published one: its size and MD5 sum, and what they should have been."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    size, md5 = path.stat().st_size, digest.hexdigest()
    found = f'{path.name}: {size:,} bytes, md5 {md5}'
    if published_md5 is None:
        return f'{found} (no published sum is known to compare with)'
    if (size, md5) == (published_bytes, published_md5):
        return f'{found}: the published archive'
    return f'{found}: NOT the published archive ({published_bytes:,} bytes, md5 {published_md5}); its images are used'

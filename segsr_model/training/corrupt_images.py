"""Images of a dataset that cannot be read: named, and passed over up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os import path as osp
from typing import Any

from basicsr.utils import FileClient, get_root_logger
from torch.utils.data import DataLoader, Dataset

from segsr_model.errors import out_of_memory
from segsr_model.files import printable
from segsr_model.images.plain import decode
from segsr_model.training.records import note

CORRUPT_IMAGES = 'corrupt_images.txt'
TRIED = 100  # neighbours of a corrupt image that are tried in its place


class CorruptImageError(Exception):
    """One line that names an image, and why it cannot be used."""


def read_sample(dataset: Dataset, index: int) -> dict[str, Any]:
    """A sample of ``dataset`` by its index.

    Raises:
        CorruptImageError: it cannot be read.
    """
    try:
        return dataset[index]
    except MemoryError:
        raise
    except Exception as error:  # BasicSR's datasets check nothing: what a damaged image raises is by chance
        raise CorruptImageError(_describe(dataset, index, error)) from error


def _describe(dataset: Dataset, index: int, error: Exception) -> str:
    """Which image of a pair is damaged: 'path: reason', on one line. It is sought as the dataset reads it."""
    paths = getattr(dataset, 'paths', [])
    named = paths[index] if index < len(paths) else f'image {index}'
    images = [(key.removesuffix('_path'), path) for key, path in
              (named.items() if isinstance(named, dict) else [('lq', named)]) if isinstance(path, str)]
    faults = [(_place(dataset, kind, path), _fault(dataset, kind, path)) for kind, path in images]
    known = '; '.join(dict.fromkeys(f'{place}: {fault}' for place, fault in faults if fault))
    places = ' and '.join(dict.fromkeys(place for place, _ in faults))
    return printable(known or f'{places}: {type(error).__name__}: {error}')


def _place(dataset: Dataset, kind: str, path: str) -> str:
    """A path, or a name in an LMDB and which one that is."""
    folder = str(getattr(dataset, f'{kind}_folder', ''))
    return f'{folder}, {path}' if folder.endswith('.lmdb') else path


def _fault(dataset: Dataset, kind: str, path: str) -> str | None:
    """What is wrong with an image; None: nothing, or it is a dataset that reads in its own way."""
    if not hasattr(dataset, 'file_client'):
        return None
    try:
        content = _client(dataset).get(path, kind)
        if content is None:
            return 'it is not in the LMDB'
        decode(bytes(content))
    except FileNotFoundError:
        return 'there is no such file'
    except Exception as error:  # the backend's, or ImageError
        return getattr(error, 'strerror', None) or str(error)
    return None


def _client(dataset: Dataset) -> FileClient:
    """What a dataset reads with; in a process whose workers do that, one like it."""
    if dataset.file_client is None:
        options = dict(dataset.io_backend_opt)
        return FileClient(options.pop('type'), **options)
    return dataset.file_client


def replaced(dataset: Dataset, index: int) -> dict[str, Any]:
    """A sample of a training set, or the next one that can be read.

    The sample has ``corrupt``: a line for each image that was passed over, to be given to `CorruptImages`.

    Raises:
        CorruptImageError: none of the next hundred can be read either.
    """
    lines: list[str] = []
    for step in range(min(TRIED, len(dataset))):
        try:
            sample = read_sample(dataset, (index + step) % len(dataset))
        except CorruptImageError as error:
            lines.append(str(error))
        else:
            return {**sample, 'corrupt': '\n'.join(lines)}
    raise CorruptImageError(f'{len(lines)} images in a row cannot be used, the first is {lines[0]}')


def readable(loader: DataLoader, passed_over: CorruptImages,
             no_room: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """The samples of a validation or test set, batch size 1, without those that cannot be read.

    ``no_room`` is called with the index of one that does not fit into memory.
    """
    samples = iter(loader)
    for index in loader.sampler:
        try:
            sample = next(samples)
        except Exception as error:  # as in `read_sample`
            if out_of_memory(error):
                no_room(index)
            else:
                passed_over.add([_describe(loader.dataset, index, error)])
        else:
            yield sample


class CorruptImages:
    """The images that were passed over so far, and how many may be.

    Args:
        option: the limit's name in the option file.
        limit: how many images may be passed over.
        folder: of the run's log; the images are listed in corrupt_images.txt there.
    """

    def __init__(self, option: str, limit: int, folder: str | None) -> None:
        self.option, self.limit, self.folder = option, limit, folder
        self.lines: set[str] = set()

    def add(self, lines: Iterable[str]) -> None:
        """Name images that were not named yet, in the log and in the list.

        Raises:
            CorruptImageError: there are more of them than the limit.
        """
        new = sorted({line for text in lines for line in text.splitlines()} - self.lines)
        if not new:
            return
        self.lines.update(new)
        if self.folder and osp.isdir(self.folder):
            note(osp.join(self.folder, CORRUPT_IMAGES), new)
        for line in new:
            get_root_logger().warning(f'Corrupt image, passed over: {line}')
        if len(self.lines) > self.limit:
            raise CorruptImageError(
                f'{self.option}: {len(self.lines)} image(s) cannot be used, at most {self.limit} may be passed over. '
                f'The last is {new[-1]}. Replace it, or set a higher limit')

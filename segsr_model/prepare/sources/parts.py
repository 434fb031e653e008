"""What the folders of a source say beside the class: which images train and which test, which are the small ones."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import PurePosixPath

from segsr_model.errors import CommandError

_PART_OF = {
    'train': 'train', 'training': 'train', 'trainset': 'train', 'trainval': 'train',
    'val': 'val', 'valid': 'val', 'validation': 'val', 'valset': 'val',
    'test': 'test', 'testing': 'test', 'testset': 'test',
}
_PART_WORD = re.compile(rf'(?<![a-z])({"|".join(_PART_OF)})(?![a-z.])', re.IGNORECASE)  # but not a file's whole name
_LARGE, _SMALL = {'hr', 'hq', 'gt', 'gtmod'}, {'lr', 'lq', 'lrbicx'}  # as data sets of super-resolution are laid out


def shared_folder(paths: Collection[str]) -> str:
    """The innermost folder that holds all of some files, with a slash at its end; empty if there is none."""
    shared = os.path.commonprefix([path.split('/')[:-1] for path in paths])
    return ''.join(f'{folder}/' for folder in shared)


def find_parts(paths: Collection[str]) -> dict[str, str]:
    """The part of each image, told by folders called train, val or test or, if none is, by such words in file names.

    Returns:
        Path to ``'train'``, ``'val'`` or ``'test'``, without images in no such folder or in several; nothing if all are
        in one part, or if not all file names have such a word.
    """
    start = len(shared_folder(paths))
    told = {path: _parts_in(path[start:].rpartition('/')[0]) for path in paths}
    by_folder = any(told.values())
    if not by_folder:
        told = {path: _parts_in(path[start:]) for path in paths}
    parts = {path: next(iter(found)) for path, found in told.items() if len(found) == 1}
    if len(parts) == len(told):
        return parts if len(set(parts.values())) > 1 else {}
    return parts if by_folder else {}


def without_part(path: str) -> PurePosixPath:
    """A path without the words that tell the part: set/train/forest/1.png and set/test/forest/1.png become one."""
    return PurePosixPath(*(_PART_WORD.sub('', name).strip('_- ') for name in path.split('/')))


def refuse_low_resolution(paths: Collection[str]) -> None:
    """Raise a CommandError for a source that holds LR images beside the HR ones, told by the names of folders."""
    start = len(shared_folder(paths))
    folders = {path[start:].rpartition('/')[0] for path in paths}
    large, small = ([folder for folder in sorted(folders) if _words(folder) & words] for words in (_LARGE, _SMALL))
    if large and small:
        raise CommandError(f'the source has images of low resolution beside those of high resolution: {small[0]} and '
                           f'{large[0]}; give only the latter, from which LR images are made')


def _parts_in(text: str) -> set[str]:
    return {_PART_OF[word] for word in _words(text) if word in _PART_OF}


def _words(text: str) -> set[str]:
    return set(re.findall('[a-z]+', text.lower()))

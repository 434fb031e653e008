"""Which image is for training, for validation, for testing: from a seed, or from a list."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.archives import IMAGE_SUFFIXES, shorten

PARTS = ('train', 'val', 'test')


def draw_split(
    names: Mapping[str, Iterable[str]],
    *,
    ratio: tuple[int, int],
    seed: int = 0,
    val_fraction: float = 0.0,
    known_test: Collection[str] = (),
) -> dict[str, str]:
    """Split each class at random, the same way on every machine and with every Python.

    A class is ordered by the SHA-256 of ``<seed>/<name>``. The first ones train, the last ones test, and those between
    validate: validation images are taken from the training part, so asking for them leaves the test part as it is.
    Classes so small that all their images would be on one side are split together, as if they were one.

    Args:
        names: Class to image names.
        ratio: Training to test images; the training part is rounded to the nearest whole image.
        seed: Another seed gives another split.
        val_fraction: Share of the training part that becomes the validation part, from 0 to below 1.
        known_test: Names that come last in their class's order, so that they are tested.

    Returns:
        Name to ``'train'``, ``'val'`` or ``'test'``.
    """
    train_share, val_share = Fraction(ratio[0], sum(ratio)), Fraction(val_fraction).limit_denominator(10_000)

    def order(name: str) -> tuple[bool, str]:
        return name in known_test, hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()

    classes = [list(members) for members in names.values()]
    test = _take_last(classes, lambda count: count - _round(count * train_share), order)
    classes = [[name for name in members if name not in test] for members in classes]
    val = _take_last(classes, lambda count: _round(count * val_share), order)
    return {**dict.fromkeys(test, 'test'), **dict.fromkeys(val, 'val'),
            **{name: 'train' for members in classes for name in members if name not in val}}


def _take_last(
    classes: Iterable[list[str]], share: Callable[[int], int], order: Callable[[str], tuple[bool, str]],
) -> set[str]:
    """The last ``share`` of each class; classes of which that is nothing or everything are taken for one."""
    groups: list[list[str]] = [[]]
    for members in classes:
        if 0 < share(len(members)) < len(members):
            groups.append(members)
        else:
            groups[0] += members
    return {name for group in groups for name in sorted(group, key=order)[len(group) - share(len(group)):]}


def read_split(path: Path) -> dict[str, str]:
    """Read a list with a ``<part> <name>`` on each line; ``#`` lines are ignored.

    Returns:
        Name to part. Names are as they are written, with folders and suffixes, if there are any.

    Raises:
        CommandError: The file cannot be read, or a line is not as it should be.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f'--split-list {path}: cannot be read: {error}') from error
    split: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith('#'):
            continue
        part, name, *_ = [*line.split(None, 1), '']
        name = str(PurePosixPath(name.strip().replace('\\', '/')))
        if part not in PARTS or name == '.':
            raise CommandError(
                f'--split-list {path}, line {number}: "{line.strip()}" should be a part ({", ".join(PARTS)}) and an '
                'image name, such as "train harbor07" or "train harbor/IMG_07.tif"')
        if name in split:
            raise CommandError(f'--split-list {path}, line {number}: {name} is listed twice')
        split[name] = part
    if not split:
        raise CommandError(f'--split-list {path}: lists no image')
    return split


def apply_list(paths: Mapping[str, str], list_path: Path) -> tuple[dict[str, str], list[str]]:
    """The parts that a user's list gives to images.

    A name with folder or suffix is that of a file in the source, with as many folders as tell it from others; a name
    without them is that of an image in the data set, as in ``split.txt``. If there is none such, it is the other way
    round, and folder and suffix do not count. Upper and lower case are the same, if that tells one image.

    Args:
        paths: Image name to path in the source. Images of one path, which are tiles, can be listed by it together.
        list_path: The list, see :func:`read_split`.

    Returns:
        Image name to part, without images that are not listed; and what is remarkable, in lines for the user.

    Raises:
        CommandError: The list is not as it should be, or a name is that of no image, of several, or of a listed one.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name, path in paths.items():
        names[path].append(name)
    whole, called = defaultdict(list), defaultdict(list)  # the same files by their path, and by each end of it
    for path in names:
        ends = _ends(path)
        whole[ends[0]].append(path)
        for end in ends:
            called[end].append(path)
    split: dict[str, str] = {}
    absent, unclear, taken = [], [], []
    for entry, part in read_split(list_path).items():
        ends = _ends(entry)
        stem = ends[-1]
        files = called.get(ends[0]) or next((whole[end] for end in ends if end in whole), [])
        files = _most_alike(files, entry)
        if stem in paths and (stem == entry.lower() or not files):
            members = [stem]
            if files and paths[stem] not in files:
                taken.append(f'{entry} for {paths[stem]}, not for {files[0]}')
        elif len(files) == 1:
            members = names[files[0]]
        else:
            (unclear if files else absent).append(entry if not files else f'{entry} ({shorten(files)})')
            continue
        if not split.keys().isdisjoint(members):
            raise CommandError(f'--split-list {list_path}: {entry} is listed already by another name')
        split.update(dict.fromkeys(members, part))
    if unclear:
        raise CommandError(f'--split-list {list_path}: {len(unclear)} names are those of several images: '
                           f'{"; ".join(unclear[:3])}; give folder/name')
    if absent:
        raise CommandError(f'--split-list {list_path}: {len(absent)} listed images are not in the source, such as '
                           f'{", ".join(absent[:3])}')
    return split, [f'names of the list are taken as in split.txt: {shorten(taken)}'] * bool(taken)


def _ends(path: str) -> list[str]:
    """A path without image suffix and upper case; then without one folder more each time, down to the file's name."""
    path = path.lower()
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if path.endswith(suffix)), '')
    parts = path[:len(path) - len(suffix)].split('/')
    return ['/'.join(parts[i:]) for i in range(len(parts))]


def _most_alike(paths: list[str], entry: str) -> list[str]:
    """Those of some files that an entry of a list names best: with suffix, with upper and lower case, with folders."""
    def likeness(path: str) -> int:
        name, listed = path.rpartition('/')[2], entry.rpartition('/')[2]
        return (name.lower() == listed.lower()) + (name == listed) + path.endswith(entry)

    best = max(map(likeness, paths), default=0)
    return [path for path in paths if likeness(path) == best]


def format_split(split: Mapping[str, str], *, title: str) -> str:
    """The text of a list file that :func:`read_split` reads, one image a line, training part first."""
    lines = [f'# {title}', f'# {describe_parts(split)}']
    lines += [f'{split[name]} {name}' for name in sorted(split, key=lambda name: (PARTS.index(split[name]), name))]
    return '\n'.join(lines) + '\n'


def count_parts(split: Mapping[str, str]) -> dict[str, int]:
    """Images in each part that has any, in the order of :data:`PARTS`."""
    parts = list(split.values())
    return {part: parts.count(part) for part in PARTS if part in parts}


def describe_parts(split: Mapping[str, str]) -> str:
    """Such as ``train 30, test 10``."""
    return ', '.join(f'{part} {total}' for part, total in count_parts(split).items())


def _round(value: Fraction) -> int:
    return int(value + Fraction(1, 2))

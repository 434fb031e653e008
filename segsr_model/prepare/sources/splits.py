"""Which image is for training, for validation, for testing: from a seed, or from a list."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath

from segsr_model.errors import CommandError

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

    Args:
        names: Class to image names.
        ratio: Training to test images; the training part is rounded to the nearest whole image.
        seed: Another seed gives another split.
        val_fraction: Share of the training part that becomes the validation part, from 0 to below 1.
        known_test: Names that come last in their class's order, so that they are tested.

    Returns:
        Name to ``'train'``, ``'val'`` or ``'test'``.
    """
    split = {}
    for members in names.values():
        ordered = sorted(members, key=lambda name: (name in known_test, _rank(seed, name)))
        train = _round(Fraction(len(ordered) * ratio[0], sum(ratio)))
        val = _round(train * Fraction(val_fraction).limit_denominator(10_000))
        for i, name in enumerate(ordered):
            split[name] = 'test' if i >= train else 'val' if i >= train - val else 'train'
    return split


def read_split(path: Path) -> dict[str, str]:
    """Read a list with a ``<part> <name>`` on each line; folders and suffixes in names, and ``#`` lines, are ignored.

    Raises:
        CommandError: The file cannot be read, or a line is not as it should be.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f'--split-list {path}: cannot be read: {error}') from error
    split: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith('#'):
            continue
        part, _, name = line.strip().partition(' ')
        name = PurePosixPath(name.strip()).stem.lower()
        if part not in PARTS or not name:
            raise CommandError(
                f'--split-list {path}, line {number}: "{line.strip()}" should be a part ({", ".join(PARTS)}) and an '
                'image name, such as "train harbor07"')
        if name in split:
            raise CommandError(f'--split-list {path}, line {number}: {name} is listed twice')
        split[name] = part
    if not split:
        raise CommandError(f'--split-list {path}: lists no image')
    return split


def format_split(split: Mapping[str, str], *, title: str) -> str:
    """The text of a list file that :func:`read_split` reads, one image a line, training part first."""
    counts = ', '.join(f'{part} {total}' for part, total in count_parts(split).items())
    lines = [f'# {title}', f'# {counts}']
    lines += [f'{split[name]} {name}' for name in sorted(split, key=lambda name: (PARTS.index(split[name]), name))]
    return '\n'.join(lines) + '\n'


def count_parts(split: Mapping[str, str]) -> dict[str, int]:
    """Images in each part that has any, in the order of :data:`PARTS`."""
    parts = list(split.values())
    return {part: parts.count(part) for part in PARTS if part in parts}


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()


def _round(value: Fraction) -> int:
    return int(value + Fraction(1, 2))

"""Which images of a source belong to the data set, and what they are called in it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import NamedTuple

from segsr_model.errors import CommandError
from segsr_model.files import is_file_name
from segsr_model.prepare.sources.archives import Source, list_images, shorten
from segsr_model.prepare.sources.catalogue import Catalogue
from segsr_model.prepare.sources.parts import find_parts, refuse_low_resolution, without_part
from segsr_model.prepare.sources.splits import describe_parts

_MOST_LETTERS = 100  # of a class; with a number it stays a file's name, see is_file_name


class Found(NamedTuple):
    """The images of a data set.

    Attributes:
        named: Image name to path in the source.
        others: The paths of all other files.
        parts: Path to the part that the source has the image in; empty if it is not split.
        notes: What is remarkable about them, in lines for the user.
    """

    named: dict[str, str]
    others: list[str]
    parts: dict[str, str]
    notes: list[str]


def find_published(source: Source, catalogue: Catalogue, *, allow_incomplete: bool) -> Found:
    """The images of a published data set, wherever in the source they lie, told by their file names.

    The source's own split, if it has one, is not that of the papers, and only noted.

    Raises:
        CommandError: An image is there twice; none is there; or classes or images are missing and
            ``allow_incomplete`` is not set.
    """
    images, others = list_images(source)
    expected = {name: None for names in catalogue.names().values() for name in names}
    found: dict[str, str] = {}
    surplus = []
    for path in images:
        match = re.fullmatch(r'([a-z]+)[_-]?(\d+)', PurePosixPath(path).stem.lower())
        name = match and catalogue.name_format.format(label=match[1], number=int(match[2]))
        if name not in expected:
            (surplus if match and match[1] in catalogue.counts else others).append(path)
        elif name in found:
            raise CommandError(f'{name} is in the source twice: {found[name]} and {path}; keep one of them')
        else:
            found[name] = path
    if not found:
        raise CommandError(f'the source has no {catalogue.title} image: they should lie as {catalogue.layout}')
    if not allow_incomplete:
        _require_complete(found, catalogue)
    foreign = [path for path in found.values() if not path.lower().endswith(catalogue.suffixes)]
    parts = find_parts(found.values())
    notes = []
    if surplus:
        notes.append(f'warning: {len(surplus):,} images more than {catalogue.title} has, left out: {shorten(surplus)}')
    if foreign:
        notes.append(f'warning: {len(foreign):,} images are not {catalogue.suffixes[0]}, as {catalogue.title} was '
                     f'published: {shorten(foreign)}')
    if parts:
        notes.append(f'the split of its folders, {describe_parts(parts)}, is not used; --split-list takes a split')
    return Found(found, sorted([*others, *surplus]), {}, notes)


def find_any(source: Source, *, split_anew: bool = False) -> Found:
    """All images of a source, named ``<class><number>`` or ``<class>_<number>``.

    The class is the name of the folder an image lies in or, when all images lie in one folder, the file name without
    its number. Folders whose names have no letters, such as years, are one class, ``image``. Folders of a split, such
    as train and test, are no classes, unless it is to be ``split_anew``. A file name that fits already is kept; if one
    in a class does not fit, the class is numbered afresh in order of its paths.

    Raises:
        CommandError: There is no image; two class folders have the same name but for digits and signs; the folders
            tell the part of some images only; or there are folders of LR images beside those of HR images.
    """
    images, others = list_images(source)
    if not images:
        raise CommandError('the source has no image (bmp, jp2, jpg, png, tif, webp)')
    refuse_low_resolution(images)
    parts = {} if split_anew else find_parts(images)
    unclear = [path for path in images if path not in parts]
    if parts and unclear:
        raise CommandError(
            f'{len(parts):,} images lie in folders called train, val or test, and {len(unclear):,} in none or in '
            f'several: {shorten(unclear)}; move them, or split all images anew by --split-anew')
    places = {path: without_part(path) if parts else PurePosixPath(path) for path in images}
    one_folder = len({place.parent for place in places.values()}) == 1
    classes: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}
    for path, place in places.items():
        title = place.stem if one_folder else place.parent.name
        label = _spell_label(title)
        names_class = not one_folder and any(map(str.isalpha, title))
        if names_class and folders.setdefault(label, title) != title:
            raise CommandError(
                f'the class folders {folders[label]} and {title} would both be the class "{label}": class names have '
                f'the letters a to z only, {_MOST_LETTERS} at most, so rename one')
        classes[label].append(path)
    named: dict[str, str] = {}
    notes = []
    for label, paths in sorted(classes.items()):
        names = [places[path].stem.lower() for path in paths]
        fits = len(set(names)) == len(names) and all(
            re.fullmatch(rf'{label}_?[0-9]+', name) and is_file_name(name) for name in names)
        named.update(zip(names if fits else number_names(label, len(paths)), paths))
        origins = sorted({str(places[path].parent) for path in paths})
        notes += [f'the class {label} is made of {len(origins)} folders: {shorten(origins)}'] * (len(origins) > 1)
    return Found(named, others, parts, notes)


def number_names(label: str, count: int) -> list[str]:
    """``count`` image names of a class, which sort in the order of their numbers."""
    digits = max(4, len(str(count - 1)))
    return [f'{label}_{i:0{digits}d}' for i in range(count)]


def _spell_label(title: str) -> str:
    return re.sub(r'[^a-z]+', '_', title.lower()).strip('_')[:_MOST_LETTERS].rstrip('_') or 'image'


def _require_complete(found: dict[str, str], catalogue: Catalogue) -> None:
    empty, gaps = [], []
    for label, names in catalogue.names().items():
        missing = [name for name in names if name not in found]
        if len(missing) == len(names):
            empty.append(label)
        elif missing:
            shown = ', '.join(missing[:3]) + ', ...' * (len(missing) > 3)
            gaps.append(f'{label} ({len(missing)} of {len(names)}: {shown})')
    problems = [f'no image of the class {", ".join(empty)}'] * bool(empty)
    problems += [f'images missing from {"; ".join(gaps)}'] * bool(gaps)
    if problems:
        raise CommandError(f'{catalogue.title} is not complete: {"; ".join(problems)}. Get the whole archive, or go on '
                           'without them by --allow-incomplete')

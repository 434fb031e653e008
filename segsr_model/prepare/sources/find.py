"""Which images of a source belong to the data set, and what they are called in it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.archives import Source, list_images
from segsr_model.prepare.sources.catalogue import Catalogue


def find_published(source: Source, catalogue: Catalogue, *, allow_incomplete: bool) -> tuple[dict[str, str], list[str]]:
    """The images of a published data set, wherever in the source they lie, told by their file names.

    Returns:
        Image name to path in the source, in the catalogue's order, and the paths of all other files.

    Raises:
        CommandError: An image is there twice; none is there; or classes or images are missing and
            ``allow_incomplete`` is not set.
    """
    images, others = list_images(source)
    expected = {name: None for names in catalogue.names().values() for name in names}
    found: dict[str, str] = {}
    for path in images:
        match = re.fullmatch(r'([a-z]+)[_-]?(\d+)', PurePosixPath(path).stem.lower())
        name = match and catalogue.name_format.format(label=match[1], number=int(match[2]))
        if name not in expected:
            others.append(path)
        elif name in found:
            raise CommandError(f'{name} is in the source twice: {found[name]} and {path}; keep one of them')
        else:
            found[name] = path
    if not found:
        raise CommandError(f'the source has no {catalogue.title} image: they should lie as {catalogue.layout}')
    if not allow_incomplete:
        _require_complete(found, catalogue)
    return {name: found[name] for name in expected if name in found}, sorted(others)


def find_any(source: Source) -> tuple[dict[str, str], list[str]]:
    """All images of a source, named ``<class><number>`` or ``<class>_<number>``.

    The class is the name of the folder an image lies in, or, when all images lie in one folder, the file name without
    its number. Folders whose names have no letters, such as years, are one class, ``image``. A file name that fits
    already is kept; if one in a class does not fit, the class is numbered afresh in order of its paths.

    Returns:
        Image name to path in the source, and the paths of all other files.

    Raises:
        CommandError: There is no image, or two class folders have the same name but for digits and signs.
    """
    images, others = list_images(source)
    if not images:
        raise CommandError('the source has no image (bmp, jp2, jpg, png, tif, webp)')
    one_folder = len({PurePosixPath(path).parent for path in images}) == 1
    classes: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, str] = {}
    for path in images:
        pure = PurePosixPath(path)
        title = pure.stem if one_folder else pure.parent.name
        label = _spell_label(title)
        names_class = not one_folder and any(map(str.isalpha, title))
        if names_class and folders.setdefault(label, title) != title:
            raise CommandError(
                f'the class folders {folders[label]} and {title} would both be the class "{label}": class names have '
                'letters only, so rename one')
        classes[label].append(path)
    named: dict[str, str] = {}
    for label, paths in sorted(classes.items()):
        names = [PurePosixPath(path).stem.lower() for path in paths]
        fits = all(re.fullmatch(rf'{label}_?[0-9]+', name) for name in names) and len(set(names)) == len(names)
        named.update(zip(names if fits else number_names(label, len(paths)), paths))
    return named, others


def number_names(label: str, count: int) -> list[str]:
    """``count`` image names of a class, which sort in the order of their numbers."""
    digits = max(4, len(str(count - 1)))
    return [f'{label}_{i:0{digits}d}' for i in range(count)]


def _spell_label(title: str) -> str:
    return re.sub(r'[^a-z]+', '_', title.lower()).strip('_') or 'image'


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

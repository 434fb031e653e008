"""What is to be made: each HR image or tile, where it comes from, and the part it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from segsr_model.errors import CommandError
from segsr_model.images.plain import MOST_PIXELS, ImageError, ImageFile, Scene, Window
from segsr_model.prepare.sources.archives import Source
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.prepare.sources.find import number_names
from segsr_model.prepare.sources.splits import read_split

MOST_TILES = 1_000_000  # of an image
OpenScene = Callable[[ImageFile], Scene]


class Item(NamedTuple):
    """One HR image to be made.

    Attributes:
        name: Its name in the data set, without a suffix.
        path: The source file's path inside the source.
        window: The part of the source file that it is; none: all of it.
        height: Height in pixels, as far as it is known before the image is read.
        width: Width in pixels, likewise.
    """

    name: str
    path: str
    window: Window | None
    height: int
    width: int


def plan_published(named: Mapping[str, str], *, side: int) -> list[Item]:
    """Whole images of a published data set, whose usual height and width is known."""
    return [Item(name, path, None, side, side) for name, path in named.items()]


def plan_whole(named: Mapping[str, str], source: Source, open_scene: OpenScene) -> list[Item]:
    """Whole images of any size. Raises CommandError with all those that cannot be opened."""
    items, problems = [], []
    for name, path in named.items():
        try:
            with _opened(source, path, open_scene) as scene:
                height, width = scene.size
                if height * width > MOST_PIXELS:
                    raise ImageError(f'its {height} x {width} pixels are too many for one image: cut it with --tile')
                items.append(Item(name, path, None, height, width))
        except CommandError as error:
            problems.append(str(error))
    if problems:
        raise CommandError(f'{len(problems)} unusable images, nothing was written: {"; ".join(problems[:10])}')
    return items


def plan_tiles(
    named: Mapping[str, str], source: Source, open_scene: OpenScene, *, tile: int,
) -> tuple[list[Item], dict[str, int]]:
    """Cut each image into square tiles, side by side, that do not overlap.

    What remains at the right and lower edges is left out, and so is a tile with pixels that hold no data.

    Returns:
        The tiles, numbered within their class in order of image, row and column; and for each image that yields none,
        its path and smaller side in pixels.

    Raises:
        CommandError: An image cannot be opened, or there is no tile at all.
    """
    tiles: dict[str, list[tuple[str, Window]]] = defaultdict(list)
    barren = {}
    for name, path in named.items():
        with _opened(source, path, open_scene) as scene:
            height, width = scene.size
            if (height // tile) * (width // tile) > MOST_TILES:
                raise ImageError(f'its {height} x {width} pixels would be more than {MOST_TILES:,} tiles')
            corners = itertools.product(range(0, height - tile + 1, tile), range(0, width - tile + 1, tile))
            windows = [Window(top, left, tile, tile) for top, left in corners]
            valid = [window for window in windows if scene.is_valid(window)]
        tiles[class_of(name)] += [(path, window) for window in valid]
        if not valid:
            barren[path] = min(height, width)
    items = [
        Item(name, path, window, tile, tile)
        for label, members in tiles.items()
        for name, (path, window) in zip(number_names(label, len(members)), members)
    ]
    if not items:
        raise CommandError(f'--tile {tile}: no image holds a whole tile of that size; the largest smaller side is '
                           f'{max(barren.values())}')
    return items, barren


def apply_list(items: Iterable[Item], list_path: Path) -> dict[str, str]:
    """The parts that a user's list gives to the items; items that are not listed get none.

    Raises:
        CommandError: The list is not as it should be, or names an image that is not there.
    """
    split = read_split(list_path)
    absent = sorted(split.keys() - {item.name for item in items})
    if absent:
        raise CommandError(f'--split-list {list_path}: {len(absent)} listed images are not in the source, such as '
                           f'{", ".join(absent[:3])}')
    return split


def plan_sum(items: Iterable[Item], split: Mapping[str, str], source: Source) -> str:
    """SHA-256 of what is planned: names, parts, source files, their sizes in bytes, windows.

    Leading folders do not count, so that an archive and its unpacked files give one sum.
    """
    digest = hashlib.sha256()
    for item in sorted(items):
        place = '/'.join(item.path.split('/')[-2:])
        row = (item.name, split[item.name], place, source.sizes[item.path], item.window and tuple(item.window))
        digest.update(f'{row}\n'.encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(source: Source, path: str, open_scene: OpenScene) -> Iterator[Scene]:
    try:
        with contextlib.closing(open_scene(source.open(path))) as scene:
            yield scene
    except (ImageError, OSError) as error:
        raise CommandError(f'{path}: {error}') from error

"""What is to be made: each HR image or tile, where it comes from, and the part it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from tqdm import tqdm

from segsr_model.errors import CommandError
from segsr_model.images.plain import MOST_PIXELS, ImageError, ImageFile, Scene, Window
from segsr_model.prepare.sources.archives import Source, content_sum
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.prepare.sources.find import number_names
from segsr_model.prepare.sources.parts import shared_folder

MOST_TILES = 1_000_000  # of an image
OpenScene = Callable[[ImageFile], Scene]


class Item(NamedTuple):
    """One HR image to be made.

    Attributes:
        name: Its name in the data set, without a suffix.
        path: The source file's path inside the source.
        window: The part of the source file that it is; none: all of it.
        height: Height in pixels.
        width: Width in pixels.
        place: The path from the innermost folder that holds all images: the same in an archive and unpacked.
        content: CRC-32 of the source file.
    """

    name: str
    path: str
    window: Window | None
    height: int
    width: int
    place: str
    content: int


def plan_whole(named: Mapping[str, str], source: Source, open_scene: OpenScene) -> list[Item]:
    """Whole images of any size. Raises CommandError with all those that cannot be opened."""
    items, problems = [], []
    start = len(shared_folder(named.values()))
    for name, path in _shown(named):
        try:
            with _opened(source, path, open_scene) as (scene, content):
                height, width = scene.size
                if height * width > MOST_PIXELS:
                    raise ImageError(f'its {height} x {width} pixels are too many for one image: cut it with --tile')
                items.append(Item(name, path, None, height, width, path[start:], content))
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
    tiles: dict[str, list[tuple[str, Window, int]]] = defaultdict(list)
    barren = {}
    start = len(shared_folder(named.values()))
    for name, path in _shown(named):
        with _opened(source, path, open_scene) as (scene, content):
            height, width = scene.size
            if (height // tile) * (width // tile) > MOST_TILES:
                raise ImageError(f'its {height} x {width} pixels would be more than {MOST_TILES:,} tiles')
            corners = itertools.product(range(0, height - tile + 1, tile), range(0, width - tile + 1, tile))
            windows = [Window(top, left, tile, tile) for top, left in corners]
            valid = [window for window in windows if scene.is_valid(window)]
        tiles[class_of(name)] += [(path, window, content) for window in valid]
        if not valid:
            barren[path] = min(height, width)
    items = [
        Item(name, path, window, tile, tile, path[start:], content)
        for label, members in tiles.items()
        for name, (path, window, content) in zip(number_names(label, len(members)), sorted(members))
    ]
    if not items:
        raise CommandError(f'--tile {tile}: no image holds a whole tile of that size; the largest smaller side is '
                           f'{max(barren.values())}')
    return items, barren


def identify(items: Iterable[Item], split: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of what is planned (names, parts, source files, windows) and of the source files' contents.

    Neither depends on time, or on folders that hold all images: an archive, its unpacked files and another download of
    it are the same.
    """
    rows = {
        'plan': {(item.name, split[item.name], item.place, item.window and tuple(item.window)) for item in items},
        'sources': {(item.place, item.content) for item in items},
    }
    return {key: hashlib.sha256(''.join(f'{row}\n' for row in sorted(value)).encode()).hexdigest()
            for key, value in rows.items()}


def _shown(named: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """The images, with a bar: each is read in full for its checksum."""
    return tqdm(named.items(), unit='image', desc='look', disable=None, leave=False)


@contextlib.contextmanager
def _opened(source: Source, path: str, open_scene: OpenScene) -> Iterator[tuple[Scene, int]]:
    try:
        file = source.open(path)
        content = content_sum(file)
        with contextlib.closing(open_scene(file)) as scene:
            yield scene, content
    except (ImageError, OSError) as error:
        raise CommandError(f'{path}: {error}') from error

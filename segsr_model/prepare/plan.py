"""What is to be made: each HR image or tile, where it comes from, and the part it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from segsr_model.errors import CommandError
from segsr_model.images.plain import BESIDE, MOST_PIXELS, ImageError, ImageFile
from segsr_model.images.scene import Scene, Window
from segsr_model.prepare.sources.archives import Source, content_sum
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.prepare.sources.find import number_names
from segsr_model.prepare.sources.parts import shared_folder

MOST_TILES = 1_000_000  # of an image
OpenScene = Callable[[ImageFile], Scene]
Seen = TypeVar('Seen')


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
    """Whole images of any size. Raises CommandError with all those that cannot be used."""
    def look(scene: Scene) -> tuple[int, int]:
        height, width = scene.size
        if height * width > MOST_PIXELS:
            raise ImageError(f'its {height} x {width} pixels are too many for one image: cut it with --tile')
        scene.require_data()
        return scene.size

    start = len(shared_folder(named.values()))
    looks = _look_into(named, source, open_scene, look)
    return [Item(name, path, None, *looks[name][1], path[start:], looks[name][0]) for name, path in named.items()]


def plan_tiles(
    named: Mapping[str, str], source: Source, open_scene: OpenScene, *, tile: int,
) -> tuple[list[Item], list[str]]:
    """Cut each image into square tiles, side by side, that do not overlap.

    What remains at the right and lower edges is left out, and so is a tile with pixels that hold no data.

    Returns:
        The tiles, numbered within their class in order of image, row and column; and what was left out, in lines for
        the user.

    Raises:
        CommandError: Images cannot be used, all of which are named, or there is no tile at all.
    """
    def look(scene: Scene) -> tuple[list[Window], int, int]:
        """The tiles that hold data, how many do not, and the smaller side in pixels."""
        height, width = scene.size
        if (height // tile) * (width // tile) > MOST_TILES:
            raise ImageError(f'its {height} x {width} pixels would be more than {MOST_TILES:,} tiles')
        corners = itertools.product(range(0, height - tile + 1, tile), range(0, width - tile + 1, tile))
        windows = [Window(top, left, tile, tile) for top, left in corners]
        valid = [window for window in windows if scene.is_valid(window)]
        return valid, len(windows) - len(valid), min(height, width)

    contents, looks = {}, {}
    for name, (content, seen) in _look_into(named, source, open_scene, look).items():
        contents[name], looks[name] = content, seen
    start = len(shared_folder(named.values()))
    tiles: dict[str, list[tuple[str, Window, int]]] = defaultdict(list)
    for name, (windows, _, _) in looks.items():
        tiles[class_of(name)] += [(named[name], window, contents[name]) for window in windows]
    items = [
        Item(name, path, window, tile, tile, path[start:], content)
        for label, members in tiles.items()
        for name, (path, window, content) in zip(number_names(label, len(members)), sorted(members))
    ]
    barren = [f'{named[name]}: no whole tile of {tile} pixels with data, left out'
              for name, (windows, _, _) in looks.items() if not windows]
    left_out = _count_empty({named[name]: count for name, (_, count, _) in looks.items() if count})
    if not items:
        largest = max(side for _, _, side in looks.values())
        raise CommandError('; '.join([f'--tile {tile}: no image holds a whole tile of that size with data; the largest '
                                      f'smaller side is {largest}', *left_out]))
    return items, barren + left_out


def _count_empty(counts: Mapping[str, int]) -> list[str]:
    """What to say of the tiles without data, of which each path has some."""
    if not counts:
        return []
    shown = [f'{count:,} of {path}' for path, count in itertools.islice(counts.items(), 3)]
    more = f', and those of {len(counts) - 3:,} more images' * (len(counts) > 3)
    return [f'tiles left out because pixels hold no data: {sum(counts.values()):,} ({", ".join(shown)}{more})']


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


def _look_into(
    named: Mapping[str, str], source: Source, open_scene: OpenScene, look: Callable[[Scene], Seen],
) -> dict[str, tuple[int, Seen]]:
    """The sum of each image's content and what ``look`` returns for the opened image, by name.

    Raises:
        CommandError: Images cannot be used; all of them are named.
    """
    seen, problems = {}, []
    for name, path in _shown(named):
        try:
            file = source.open(path)
            beside = [path + suffix for suffix in BESIDE if path + suffix in source.sizes]
            if beside and not isinstance(file, Path):
                raise ImageError(f'{beside[0]} says which pixels hold data, and cannot be read in an archive: unpack '
                                 'it and give the folder')
            content = content_sum(file)
            with contextlib.closing(open_scene(file)) as scene:
                seen[name] = content, look(scene)
        except (ImageError, OSError) as error:
            problems.append(f'{path}: {error}')
    if problems:
        shown = '; '.join(problems[:10]) + f'; and {len(problems) - 10} more' * (len(problems) > 10)
        raise CommandError(f'{len(problems)} unusable images, nothing was written: {shown}')
    return seen

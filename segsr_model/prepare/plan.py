"""What is to be made: each HR image or tile, where it comes from, and the part it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from segsr_model.errors import CommandError
from segsr_model.images.plain import BESIDE, MOST_PIXELS, ImageError, ImageFile
from segsr_model.images.scene import Scene, Window
from segsr_model.prepare.sources.archives import Source
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.prepare.sources.find import number_names
from segsr_model.prepare.sources.splits import read_split

MOST_TILES = 1_000_000  # of an image
OpenScene = Callable[[ImageFile], Scene]
Seen = TypeVar('Seen')


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
    """Whole images of any size. Raises CommandError with all those that cannot be used."""
    def look(scene: Scene) -> tuple[int, int]:
        height, width = scene.size
        if height * width > MOST_PIXELS:
            raise ImageError(f'its {height} x {width} pixels are too many for one image: cut it with --tile')
        scene.require_data()
        return scene.size

    sizes = _look_into(named, source, open_scene, look)
    return [Item(name, path, None, *sizes[name]) for name, path in named.items()]


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

    looks = _look_into(named, source, open_scene, look)
    tiles: dict[str, list[tuple[str, Window]]] = defaultdict(list)
    for name, (windows, _, _) in looks.items():
        tiles[class_of(name)] += [(named[name], window) for window in windows]
    items = [
        Item(name, path, window, tile, tile)
        for label, members in tiles.items()
        for name, (path, window) in zip(number_names(label, len(members)), members)
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


def _look_into(
    named: Mapping[str, str], source: Source, open_scene: OpenScene, look: Callable[[Scene], Seen],
) -> dict[str, Seen]:
    """What ``look`` returns for each opened image, by name. Raises CommandError with all that cannot be used."""
    seen, problems = {}, []
    for name, path in named.items():
        try:
            file = source.open(path)
            beside = [path + suffix for suffix in BESIDE if path + suffix in source.sizes]
            if beside and not isinstance(file, Path):
                raise ImageError(f'{beside[0]} says which pixels hold data, and cannot be read in an archive: unpack '
                                 'it and give the folder')
            with contextlib.closing(open_scene(file)) as scene:
                seen[name] = look(scene)
        except (ImageError, OSError) as error:
            problems.append(f'{path}: {error}')
    if problems:
        shown = '; '.join(problems[:10]) + f'; and {len(problems) - 10} more' * (len(problems) > 10)
        raise CommandError(f'{len(problems)} unusable images, nothing was written: {shown}')
    return seen

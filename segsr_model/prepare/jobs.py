"""From the arguments of ``segsr prepare`` to the job they ask for."""

from __future__ import annotations

import argparse
import functools

from segsr_model.errors import CommandError
from segsr_model.images.scene import Scene
from segsr_model.prepare.build import Job
from segsr_model.prepare.plan import Item, apply_list, plan_published, plan_sum, plan_tiles, plan_whole
from segsr_model.prepare.sources.archives import describe_archive, open_source
from segsr_model.prepare.sources.catalogue import CATALOGUES, class_of
from segsr_model.prepare.sources.find import find_any, find_published
from segsr_model.prepare.sources.splits import draw_split

MIN_TRAIN_SIZE = 256  # pixels of HR: the paper's 64 of LR, times 4


def make_job(args: argparse.Namespace) -> tuple[Job, list[str]]:
    """Look into the source, plan and split.

    Returns:
        The job, and what was found, in lines for the user.

    Raises:
        CommandError: The source, or an option, is not as it should be.
    """
    source = open_source(args.source)
    catalogue = CATALOGUES.get(args.action)
    notes = []
    if catalogue:
        if args.source.is_file():
            notes.append(describe_archive(args.source, published_bytes=catalogue.archive_bytes,
                                          published_md5=catalogue.archive_md5))
        named, others = find_published(source, catalogue, allow_incomplete=args.allow_incomplete)
        open_scene, reading = Scene, {}
        items = plan_published(named, side=catalogue.side)
    else:
        if args.value_range and args.value_range[0] >= args.value_range[1]:
            low, high = args.value_range
            raise CommandError(f'--value-range {low:g} {high:g}: the first must be lower')
        named, others = find_any(source)
        reading = {'bands': args.bands, 'value_range': args.value_range, 'tile': args.tile}
        open_scene = functools.partial(Scene, bands=args.bands, value_range=args.value_range)
        if args.tile:
            items, left_out = plan_tiles(named, source, open_scene, tile=args.tile)
            notes += left_out
        else:
            items = plan_whole(named, source, open_scene)
    labels = {class_of(item.name) for item in items}
    notes.append(f'{len(items):,} images of {len(labels)} classes found'
                 f'{f"; other files, ignored: {_shorten(others)}" * bool(others)}')

    if args.split_list:
        split = apply_list(items, args.split_list)
        unlisted = len(items) - len(split)
        notes += [f'{unlisted:,} images that the list does not name are left out'] * bool(unlisted)
        items = [item for item in items if item.name in split]
    else:
        split = _draw(items, args)
    if not any(part == 'train' for part in split.values()):
        raise CommandError('the split has no training image: change --ratio, or give more images')
    least = args.min_train_size
    if least is None:
        least = 0 if reading.get('tile') else MIN_TRAIN_SIZE
    extended = sum(split[item.name] == 'train' and min(item.height, item.width) < least for item in items)
    notes += [f'{extended:,} training images below {least} pixels in height or width are extended to it by reflection '
              '(--min-train-size)'] * bool(extended)
    settings = {
        'dataset': args.action,
        'min_train_size': least,
        **reading,
        'plan': plan_sum(items, split, source),
    }
    return Job(items, split, source, open_scene, least, settings), notes


def _draw(items: list[Item], args: argparse.Namespace) -> dict[str, str]:
    """Split items at random, or the images they are tiles of."""
    catalogue = CATALOGUES.get(args.action)
    by_image = not catalogue and args.tile and args.split_by == 'image'
    units: dict[str, list[str]] = {}
    for item in items:
        members = units.setdefault(class_of(item.name), [])
        unit = item.path if by_image else item.name
        if unit not in members[-1:]:  # the tiles of an image follow each other
            members.append(unit)
    parts = draw_split(
        units, ratio=args.ratio or (catalogue.ratio if catalogue else (3, 1)), seed=args.seed,
        val_fraction=args.val_fraction, known_test=catalogue.known_test if catalogue else ())
    return {item.name: parts[item.path if by_image else item.name] for item in items}


def _shorten(paths: list[str]) -> str:
    return ', '.join(paths[:3]) + f' and {len(paths) - 3} more' * (len(paths) > 3)

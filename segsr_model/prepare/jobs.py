"""From the arguments of ``segsr prepare`` to the job they ask for."""

from __future__ import annotations

import argparse
import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from segsr_model.errors import CommandError
from segsr_model.images.scene import Scene
from segsr_model.prepare.build import Job
from segsr_model.prepare.plan import Item, identify, plan_tiles, plan_whole
from segsr_model.prepare.sources.archives import describe_archive, open_source, shorten
from segsr_model.prepare.sources.catalogue import CATALOGUES, Catalogue, class_of
from segsr_model.prepare.sources.find import find_any, find_published
from segsr_model.prepare.sources.splits import apply_list, describe_parts, draw_split

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
        found = find_published(source, catalogue, allow_incomplete=args.allow_incomplete)
        open_scene, reading = Scene, {}
    else:
        low, high = args.value_range or (0, 1)
        if not -math.inf < low < high < math.inf:
            raise CommandError(f'--value-range {low:g} {high:g}: the first must be lower, and both finite')
        found = find_any(source, split_anew=args.split_anew)
        reading = {'bands': args.bands, 'value_range': args.value_range, 'tile': args.tile}
        open_scene = functools.partial(Scene, bands=args.bands, value_range=args.value_range)
    notes += found.notes
    place = {path: i for i, path in enumerate(source.sizes)}
    named = dict(sorted(found.named.items(), key=lambda pair: place[pair[1]]))
    if reading.get('tile'):
        items, left_out = plan_tiles(named, source, open_scene, tile=args.tile)
        notes += left_out
    else:
        items = plan_whole(named, source, open_scene)
    labels = {class_of(item.name) for item in items}
    notes.append(f'{len(items):,} images of {len(labels)} classes found'
                 f'{f"; other files, ignored: {shorten(found.others)}" * bool(found.others)}')
    notes += _compare_sizes(items, catalogue) if catalogue else []
    notes += _find_copies(items, source.sizes)

    if args.split_list:
        split, remarks = apply_list({item.name: item.path for item in items}, args.split_list)
        unlisted = len(items) - len(split)
        notes += [*remarks, *[f'{unlisted:,} images that the list does not name are left out'] * bool(unlisted)]
        items = [item for item in items if item.name in split]
        if 'train' not in split.values():
            raise CommandError(f'--split-list {args.split_list}: lists no training image')
    else:
        split = _draw(items, args, found.parts)
        notes += [f'the folders of the source are kept as the split: {describe_parts(split)}; --split-anew draws '
                  'another'] * bool(found.parts)
    least = args.min_train_size
    if least is None:
        least = 0 if reading.get('tile') else MIN_TRAIN_SIZE
    extended = sum(split[item.name] == 'train' and min(item.height, item.width) < least for item in items)
    notes += [f'{extended:,} training images below {least} pixels in height or width are extended to it by reflection '
              '(--min-train-size)'] * bool(extended)
    settings = {'dataset': args.action, 'min_train_size': least, **reading, **identify(items, split)}
    return Job(items, split, source, open_scene, least, catalogue and catalogue.side, settings), notes


def _draw(items: list[Item], args: argparse.Namespace, told: Mapping[str, str]) -> dict[str, str]:
    """Split items at random, or the images they are tiles of; what the source's folders told is kept."""
    catalogue = CATALOGUES.get(args.action)
    for option, asked in (('--ratio', args.ratio), ('--val-fraction', args.val_fraction and 'val' in told.values())):
        if told and asked:
            raise CommandError(f'{option}: the folders of the source are its split already; --split-anew draws another')
    ratio = (1, 0) if told else args.ratio or (catalogue.ratio if catalogue else (3, 1))
    by_image = not catalogue and args.tile and args.split_by == 'image'
    units: dict[str, list[str]] = defaultdict(list)
    unit_of = {item.name: item.path if by_image else item.name for item in items}
    for item in items:
        members, unit = units[class_of(item.name)], unit_of[item.name]
        if told.get(item.path, 'train') == 'train' and unit not in members[-1:]:  # tiles of an image follow each other
            members.append(unit)
    drawn = draw_split(units, ratio=ratio, seed=args.seed, val_fraction=args.val_fraction,
                       known_test=catalogue.known_test if catalogue else ())
    split = {item.name: drawn.get(unit_of[item.name]) or told[item.path] for item in items}
    wanted = {'train': 'training', 'val': args.val_fraction and 'validation', 'test': ratio[1] and 'test'}
    lacking = [title for part, title in wanted.items() if title and part not in split.values()]
    if lacking:
        count = sum(map(len, units.values()))
        raise CommandError(f'the split has no {" and no ".join(lacking)} image: ' + (
            f'its part of {count:,} images is less than one; give more, or change --ratio ({ratio[0]}:{ratio[1]}) or '
            '--val-fraction' if count else 'the folders of the source have none; --split-anew draws another'))
    return split


def _compare_sizes(items: Collection[Item], catalogue: Catalogue) -> list[str]:
    """A warning, if the images of a published data set are not as large as published."""
    odd = sum((item.height, item.width) != (catalogue.side, catalogue.side) for item in items)
    missing = sum(catalogue.counts.values()) - len(items)
    as_published = catalogue.odd - missing <= odd <= catalogue.odd
    return [] if as_published else [
        f'warning: {odd:,} of {len(items):,} images are not {catalogue.side} x {catalogue.side}; of {catalogue.title}, '
        f'as published, {catalogue.odd} are not']


def _find_copies(items: Iterable[Item], sizes: Mapping[str, int]) -> list[str]:
    """A warning, if there are images of the same content."""
    alike: dict[tuple[int, int], set[str]] = defaultdict(set)
    for item in items:
        alike[item.content, sizes[item.path]].add(item.path)
    copies = [sorted(paths) for paths in alike.values() if len(paths) > 1]
    return [f'warning: {sum(map(len, copies)) - len(copies):,} images are copies of others, such as '
            f'{min(copies)[1]} of {min(copies)[0]}'] if copies else []

"""Turn an image archive or folder into HR and LR training pairs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from segsr_model.errors import CommandError
from segsr_model.files import printable, write_file
from segsr_model.prepare.build import build, is_complete, refuse_mixture
from segsr_model.prepare.disk import require_room
from segsr_model.prepare.jobs import make_job
from segsr_model.prepare.lmdb_store import add_lmdb
from segsr_model.prepare.manifest import MANIFEST, fingerprint, read_manifest
from segsr_model.prepare.sources.catalogue import CATALOGUES
from segsr_model.prepare.sources.splits import count_parts, format_split
from segsr_model.prepare.verify import find_faults

EPILOG = """examples:
  segsr prepare ucmerced --source UCMerced_LandUse.zip --out datasets/UCMerced --scale 2 4 --lmdb
  segsr prepare aid --source AID.zip --out datasets/AID --scale 4 --val-fraction 0.1
  segsr prepare folder --source scenes --out datasets/mine --scale 4 --tile 512
  segsr prepare verify datasets/UCMerced
  segsr prepare bench

The result is <out>/x<scale>/{train,val,test}/{HR,LR}/<class><number>.png, with LMDB beside the folders if asked for.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments of ``segsr prepare``."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest='action', required=True, metavar='WHAT')
    for name, title in [*((key, value.title) for key, value in CATALOGUES.items()), ('folder', 'any HR images')]:
        dataset = actions.add_parser(name, help=f'{title}: make the pairs')
        dataset.set_defaults(handler=_prepare)
        _add_dataset_arguments(dataset, published=name in CATALOGUES)

    verify = actions.add_parser('verify', help='compare prepared data with its manifest')
    verify.set_defaults(handler=_verify)
    verify.add_argument('folder', type=Path, nargs='+', help='an x<scale> folder, or the folder that holds them')
    verify.add_argument('--manifest', type=Path, help="another machine's manifest to compare with, for one x<scale>")
    _add_workers(verify)

    bench = actions.add_parser('bench', help="measure BasicSR's data loader on generated pairs")
    bench.set_defaults(handler=_bench)
    bench.add_argument('--images', type=_whole(4), default=400, help='pairs to generate (default: %(default)s)')
    bench.add_argument('--side', type=_whole(64), default=256, help='of the HR images, pixels (default: %(default)s)')
    bench.add_argument('--scale', type=_whole(2), default=4, help='scale of the pairs (default: %(default)s)')
    bench.add_argument('--batch', type=_whole(1), default=4, help='batch size (default: %(default)s)')
    bench.add_argument('--seconds', type=float, default=5, help='time for each measurement (default: %(default)s)')
    bench.add_argument('--loader-workers', type=_whole(0), default=_cpus(), help='num_worker_per_gpu (default: CPUs)')


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for. 0 on success, 1 if ``verify`` found faults."""
    try:
        return args.handler(args)
    except OSError as error:
        place = error.filename or getattr(args, 'out', None)  # a full disk names no file
        raise CommandError(f'{place}: {error.strerror or error}' if place else str(error)) from error


def _prepare(args: argparse.Namespace) -> int:
    start = time.monotonic()
    if args.out.resolve() == args.source.resolve() or args.source.resolve() in args.out.resolve().parents:
        raise CommandError(f'--out {args.out}: lies in --source, whose images it would join; choose another folder')
    if os.path.lexists(args.out) and not args.out.is_dir():
        raise CommandError(f'--out {args.out}: a file, or a link that leads to no folder')
    job, notes = make_job(args)
    sys.stdout.write(''.join(f'{printable(note)}\n' for note in notes))
    folders = {scale: args.out / f'x{scale}' for scale in sorted(set(args.scale))}
    missing = [scale for scale, folder in folders.items() if not is_complete(job, folder, scale=scale)]
    refuse_mixture(job, args.out)
    mended = [scale for scale in missing if folders[scale].exists()]
    parts = count_parts(job.split)
    lmdb_scales = [
        scale for scale, folder in folders.items()
        if args.lmdb and not all((folder / part / f'{kind}.lmdb').exists() for part in parts for kind in ('HR', 'LR'))
    ]
    split_file = args.out / 'split.txt'
    if not missing and not lmdb_scales and split_file.exists():
        sys.stdout.write(f'{", ".join(map(str, folders.values()))}: complete already, nothing to do\n')
        return 0
    require_room(job, out=args.out, scales=missing, lmdb_scales=lmdb_scales)
    if missing:
        build(job, out=args.out, scales=missing, workers=args.workers)
    write_file(split_file, format_split(job.split, title=args.action).encode())
    for scale in lmdb_scales:
        _, records = read_manifest(folders[scale] / MANIFEST)
        for part in parts:
            members = [record for record in records if record['part'] == part]
            add_lmdb(folders[scale] / part, members, scale=scale, workers=args.workers)
    sys.stdout.write(f'{", ".join(f"{part} {total:,}" for part, total in parts.items())} images\n')
    for scale, folder in folders.items():
        _, records = read_manifest(folder / MANIFEST)
        odd = len((folder / 'odd_sizes.txt').read_text(encoding='utf-8').splitlines())
        state = 'mended' if scale in mended else 'made' if scale in missing else 'there already'
        sys.stdout.write(f'{folder}: {state}'
                         f'{", LMDB added" * (scale in lmdb_scales)}; pixels {fingerprint(records)[:16]}'
                         f'{f"; {odd} of an odd size, see odd_sizes.txt" * bool(odd)}\n')
    sys.stdout.write(f'{time.monotonic() - start:.0f} s\n')
    return 0


def _verify(args: argparse.Namespace) -> int:
    folders = [
        folder for given in args.folder
        for folder in ([given] if (given / MANIFEST).exists() else sorted(given.glob('x*')) or [given])
    ]
    if args.manifest and len(folders) != 1:
        raise CommandError(f'--manifest compares one x<scale> folder, not {len(folders)}')
    total = 0
    for folder in folders:
        _, records = read_manifest(args.manifest or folder / MANIFEST)
        faults = find_faults(folder, records, workers=args.workers)
        sys.stdout.write(''.join(f'{printable(fault)}\n' for fault in faults))
        verdict = f'{len(faults)} faults' if faults else f'pixels as in the manifest, {fingerprint(records)[:16]}'
        sys.stdout.write(f'{folder}: {len(records):,} pairs, {verdict}\n')
        total += len(faults)
    return int(total > 0)


def _bench(args: argparse.Namespace) -> int:
    from segsr_model.prepare.bench import measure_loader

    for line in measure_loader(images=args.images, side=args.side, scale=args.scale, batch=args.batch,
                               seconds=args.seconds, workers=args.loader_workers):
        sys.stdout.write(f'{line}\n')
    return 0


def _add_dataset_arguments(parser: argparse.ArgumentParser, *, published: bool) -> None:
    parser.add_argument('--source', type=Path, required=True, help='zip, tar or rar archive, or folder')
    parser.add_argument('--out', type=Path, required=True, help='folder for the result, such as datasets/UCMerced')
    parser.add_argument('--scale', type=_whole(2), nargs='+', default=[4], help='scales (default: 4)')
    parser.add_argument('--lmdb', action='store_true', help="also make LMDB in BasicSR's format, beside the folders")
    split = parser.add_argument_group('split')
    default = 'as in the paper' if published else '3:1'
    split.add_argument('--ratio', type=_ratio, help=f'train:test in each class (default: {default})')
    split.add_argument('--seed', type=int, default=0, help='of the split (default: %(default)s)')
    split.add_argument('--val-fraction', type=_fraction, default=0.0, metavar='F',
                       help='part of the training images to validate on, such as 0.1 (default: none)')
    split.add_argument('--split-list', type=Path, metavar='FILE',
                       help='lines of "train|val|test name", instead; as in split.txt, or folder/name of the source')
    default = '256' if published else '256; 0 with --tile'
    parser.add_argument('--min-train-size', type=_whole(0), metavar='PIXELS',
                        help=f'smaller HR training images are extended to it by reflection (default: {default})')
    _add_workers(parser)
    if published:
        parser.add_argument('--allow-incomplete', action='store_true', help='go on if images are missing')
        return
    split.add_argument('--split-anew', action='store_true',
                       help='folders called train, val or test are classes like others (default: they are the split)')
    tiles = parser.add_argument_group('large images')
    tiles.add_argument('--tile', type=_whole(16), metavar='PIXELS', help='cut into square HR tiles, side by side')
    tiles.add_argument('--split-by', choices=('tile', 'image'), default='tile',
                       help='image: all tiles of an image go to one part (default: %(default)s)')
    tiles.add_argument('--bands', type=_whole(1), nargs=3, metavar=('R', 'G', 'B'),
                       help='the bands to show, counted from 1 (default: the first three)')
    tiles.add_argument('--value-range', type=float, nargs=2, metavar=('LOW', 'HIGH'),
                       help='sample values that become 0 and 255, such as 0 10000; for more than 8 bits')


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--workers', type=_whole(1), default=_cpus(), help='threads (default: CPUs, %(default)s)')


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _whole(least: int):
    """An argument type: a whole number, ``least`` or more."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {least}')
        return int(text)
    return parse


def _ratio(text: str) -> tuple[int, int]:
    train, colon, test = text.partition(':')
    if not (colon and train.isdecimal() and test.isdecimal() and int(train) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form train:test, such as 3:1')
    return int(train), int(test)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to below 1')
    return value

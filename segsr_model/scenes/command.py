"""Sharpen images and whole scenes: photos, GeoTIFFs, COGs, JPEG 2000, of any size.

The result is the same kind of data: type, units, missing pixels, bands, georeference and tags are kept. Large scenes
are worked off in tiles with bounded memory; the same command goes on where an earlier one was ended, and several
processes that are given the same command share the work. After each file two numbers tell how well the result, averaged
back to the image's pixels, agrees with the image.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from segsr_model.errors import CommandError
from segsr_model.files import printable
from segsr_model.scenes.resolver import SuperResolver
from segsr_model.scenes.semantics import CONTEXTS
from segsr_model.scenes.tiles import CORE
from segsr_model.scenes.upscale import INPUTS, LAYERS, PHOTOS, RASTERS, Flags, Upscaling
from segsr_model.training.interrupts import EXIT_CODE

EXAMPLES = """examples:
  segsr upscale photo.jpg -o sharp --weights light-x4                      sharp/photo_x4.png
  segsr upscale scene.tif -o sharp --weights SeGSR_HAT_x4.safetensors      sharp/scene_x4.tif, a COG on the map
  segsr upscale *.tif -o sharp --weights net_g.pth -opt options/test_SeGSR_HAT_x4.yml --maps --trust
  segsr upscale s2.tif -o s2_x4.tif --weights HAT_SRx4.pth --bands B04 B03 B02 --value-range 0 3000
  segsr upscale scene.tif -o base --weights bicubic --scale 4              the base line
  segsr upscale scene.tif -o sharp --weights light-x4 --dry-run            sizes, disk and time, nothing else"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr upscale``."""
    parser.epilog = EXAMPLES
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='files, folders or patterns')
    parser.add_argument('-o', '--out', required=True, help='a folder; or, for one input, a file with an ending')
    network = parser.add_argument_group('network')
    network.add_argument('--weights', required=True,
                         help='a release file, a checkpoint (with -opt, or of HAT, EDSR, RCAN, SwinIR), the name of a '
                              'model of this package, an id of the Hugging Face Hub, or bicubic')
    network.add_argument('-opt', help='the option file of a training checkpoint')
    network.add_argument('--scale', type=int, help='of bicubic')
    network.add_argument('--device', help='cuda or cpu; a GPU if there is one')
    network.add_argument('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32')
    network.add_argument('--self-ensemble', action='store_true', help='the mean over 8 flips and rotations')
    network.add_argument('--context', choices=CONTEXTS, default='window',
                         help='what CLIP sees: windows of the size it was trained on, these with one descriptor of the '
                              'whole scene, or each tile (default: window)')
    network.add_argument('--pooling', choices=('tile', 'local'), default='tile',
                         help='what RCAN and HAT average their features over: the tile, or a window of the training '
                              "patch's size")
    tiles = parser.add_argument_group('tiles')
    tiles.add_argument('--tile', type=int, default=CORE, help=f'side in LR pixels (default: {CORE})')
    tiles.add_argument('--halo', type=int, help="LR pixels around a tile (default: the network's own)")
    tiles.add_argument('--batch', type=int, default=4, help='tiles that are run at once (default: 4)')
    data = parser.add_argument_group('data')
    data.add_argument('--bands', nargs='+', help='three for red, green and blue, or one, by number or name')
    data.add_argument('--extra-bands', choices=('none', 'bicubic'), default='bicubic',
                      help='whether the other bands are in the result, enlarged (default: bicubic)')
    data.add_argument('--value-range', nargs='+', metavar='VALUE',
                      help="LOW HIGH, in the file's units, or auto: 2nd and 98th percentile of the scene; needed for "
                           'more than 8 bits. Values beyond it are kept')
    data.add_argument('--nodata', type=float, help='value of pixels without data')
    data.add_argument('--dtype', help="type of the result's samples (default: the file's)")
    data.add_argument('--window', nargs=4, type=int, metavar=('COL', 'ROW', 'W', 'H'), help='an area, in pixels')
    data.add_argument('--bounds', nargs=4, type=float, metavar=('L', 'B', 'R', 'T'),
                      help="an area, in the file's coordinates")
    data.add_argument('--allow-vrt', action='store_true', help='take VRT files, which may name any other file')
    result = parser.add_argument_group('result')
    result.add_argument('--suffix', help='of the names in a folder (default: _x4 for scale 4)')
    result.add_argument('--ext', choices=('auto', *PHOTOS, *RASTERS), default='auto',
                        help='ending of the files in a folder (default: .png for JPEG, .tif for what lies on the map)')
    result.add_argument('--cog', action=argparse.BooleanOptionalAction, default=None,
                        help='a cloud-optimised GeoTIFF (default: for what lies on the map)')
    result.add_argument('--co', action='append', default=[], metavar='NAME=VALUE', help="GDAL's creation options")
    result.add_argument('--correct', action='store_true',
                        help='shift each block of the result to the average of the pixel it was made from')
    result.add_argument('--maps', action='store_true', help='also the guidance maps, <name>_maps.tif')
    result.add_argument('--trust', action='store_true',
                        help='also where the result differs from the image, <name>_trust.tif')
    result.add_argument('--uncertainty', action='store_true',
                        help='also the spread over 8 flips and rotations, <name>_uncertainty.tif')
    run = parser.add_argument_group('run')
    run.add_argument('--overwrite', action='store_true', help='replace results that are there')
    run.add_argument('--dry-run', action='store_true', help='say what would be done: files, sizes, disk and time')
    run.add_argument('--fail-fast', action='store_true', help='stop at the first file that fails')
    run.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Super-resolve the files.

    Returns:
        0: all are done. 1: some failed; they are named at the end. 75: ended by a signal, the same command goes on.
    """
    flags = _flags(args)
    inputs = list(_inputs(args.inputs))
    resolver, weights = _resolver(args)
    targets = _targets(inputs, args, resolver.scale)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = []
    try:
        for path, out in targets.items():
            try:
                _one(resolver, weights, path, out, flags, args)
            except (CommandError, MemoryError, OSError) as error:
                reason = str(error) if isinstance(error, CommandError) else f"'{path}': {_reason(error)}"
                failed.append(printable(reason))
                if args.fail_fast:
                    break
    except KeyboardInterrupt:
        sys.stderr.write('Ended. The same command goes on from what is finished.\n')
        return EXIT_CODE
    finally:
        signal.signal(signal.SIGTERM, before)
    if len(failed) == len(targets) == 1:
        raise CommandError(failed[0])
    if failed:
        sys.stderr.write(''.join(f'{line}\n' for line in [f'{len(failed)} of {len(targets)} files failed:', *failed]))
    return int(bool(failed))


def _one(resolver: SuperResolver, weights: str, path: Path, out: Path, flags: Flags, args: argparse.Namespace) -> None:
    job = Upscaling(resolver, weights, path, out, flags)
    try:
        height, width = job.size
        s, source = resolver.scale, job.source
        line = f'{path} ({width} x {height}) -> {out} ({s * width} x {s * height})'
        if job.is_done():
            _say(f'{line}: there already')
            return
        if args.value_range == ['auto']:
            line += f', values from {source.low:g} to {source.high:g}'
        if args.dry_run:
            seconds = _seconds_of_a_tile(job) * job.tiles()
            _say(f'{line}: {job.tiles():,} tiles, about {_time(seconds)}, up to {job.disk() / 1e9:.2f} GB of disk '
                 'while it is made')
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < job.disk() / 2:  # compressed, it may be less than said
            raise CommandError(f"'{out}': takes up to {job.disk() / 1e9:.1f} GB, there are {free / 1e9:.1f} GB left")
        with tqdm(total=job.tiles(), unit='tile', desc=path.name, disable=args.quiet or None) as bar:
            outcome = job.run(bar.update)
        trust = outcome.trust
        unit = f' {outcome.unit}' if outcome.unit else ''
        _say(f'{line}: averaged back it differs from the image by {trust.rmse:.3g}{unit} (root mean square), '
             f'{trust.bias:+.2g}{unit} on average')
    finally:
        job.close()


def _flags(args: argparse.Namespace) -> Flags:
    value_range = args.value_range
    if value_range == ['auto']:
        value_range = 'auto'
    elif value_range is not None:
        try:
            value_range = tuple(map(float, value_range))
        except ValueError:
            value_range = ()
        if len(value_range) != 2:
            raise CommandError(f'--value-range {" ".join(args.value_range)}: takes two numbers, or auto')
    options = {}
    for text in args.co:
        name, equals, value = text.partition('=')
        if not equals:
            raise CommandError(f'--co {text}: must be NAME=VALUE')
        options[name.lower()] = value
    if args.window and args.bounds:
        raise CommandError('--window and --bounds both name the area; give one')
    if args.dtype and args.dtype not in ('uint8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64'):
        raise CommandError(f'--dtype {args.dtype}: there are uint8, uint16, int16, uint32, int32, float32 and float64')
    return Flags(bands=args.bands, extra_bands=args.extra_bands, value_range=value_range, nodata=args.nodata,
                 dtype=args.dtype, window=args.window, bounds=args.bounds, cog=args.cog, options=options,
                 correct=args.correct, layers=[name for name in LAYERS if getattr(args, name)],
                 overwrite=args.overwrite, allow_vrt=args.allow_vrt)


def _resolver(args: argparse.Namespace) -> tuple[SuperResolver, str]:
    options = {'device': args.device, 'precision': None if args.precision == 'fp32' else args.precision,
               'tile': args.tile, 'batch': args.batch, 'context': args.context, 'pooling': args.pooling,
               'self_ensemble': args.self_ensemble}
    try:
        resolver = SuperResolver.from_pretrained(args.weights, option_file=args.opt, scale=args.scale, **options)
    except (ValueError, RuntimeError) as error:  # RuntimeError: PyTorch, of a device
        raise CommandError(str(error).splitlines()[0]) from None
    if args.halo is not None:
        resolver.halo = args.halo
    return resolver, resolver.identity


def _inputs(given: Sequence[str]) -> Iterator[Path]:
    """The images that files, folders and patterns name. CommandError: there are none."""
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in INPUTS and file.is_file()
                            and not file.name.startswith('.'))
            if not inside:
                raise CommandError(f"the folder '{path}' has no image ({', '.join(INPUTS)})")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise CommandError(f"there is no file or folder '{text}', and nothing that it stands for")
            found.update(dict.fromkeys(map(Path, matches)))
    yield from found


def _targets(inputs: Sequence[Path], args: argparse.Namespace, scale: int) -> dict[Path, Path]:
    """The result of each image. CommandError: two are the same, or one is an image."""
    out = Path(args.out)
    endings = (*PHOTOS, *RASTERS)
    if out.suffix and not out.is_dir():
        if out.suffix.lower() not in endings:
            raise CommandError(f"-o '{out}': a result ends in {', '.join(endings)}")
        if len(inputs) > 1:
            raise CommandError(f"-o '{out}' is one file, but there are {len(inputs)} images: name a folder")
        targets = {inputs[0]: out}
    else:
        suffix = f'_x{scale}' if args.suffix is None else args.suffix
        targets = {path: out / f'{path.stem}{suffix}{_ending(path) if args.ext == "auto" else args.ext}'
                   for path in inputs}
    owner: dict[str, Path] = {}
    for path, target in targets.items():
        key = os.path.normcase(os.path.abspath(target)).lower()
        if key in owner:
            raise CommandError(f"'{owner[key]}' and '{path}' would both become '{target}'; choose --ext or "
                               '--suffix, or another folder for one of them')
        owner[key] = path
        if target.exists() and any(target.samefile(each) for each in inputs if each.exists()):
            raise CommandError(f"'{target}' is to be read, so it is not written; choose another -o or --suffix")
    return targets


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    return {'.jpg': '.png', '.jpeg': '.png', '.bmp': '.png', '.tiff': '.tif'}.get(
        ending, ending if ending in (*PHOTOS, *RASTERS) else '.tif')


def _seconds_of_a_tile(job: Upscaling) -> float:
    """Of the second of two tiles, with what CLIP sees of it."""
    rows, columns = job.resolver.plan(*job.size)
    piece = rows[len(rows) // 2].seen, columns[len(columns) // 2].seen
    lr = job.source.rgb(*piece)
    runner = job.resolver.runner(spread='uncertainty' in job.flags.layers)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        job.resolver.upscale_tile(lr, runner)
        seconds = time.perf_counter() - start
    return seconds


def _time(seconds: float) -> str:
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f'not enough memory: {error}. A smaller --tile takes less' if str(error) else 'not enough memory'
    return getattr(error, 'strerror', None) or str(error)


def _say(line: str) -> None:
    sys.stdout.write(f'{printable(line)}\n')

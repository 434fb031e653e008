"""What training with one or several option files costs, side by side: time, memory, the machine's use, time by part.

Each option file, precision, batch and size in a process of its own, with random weights and images; nothing is read but
the training images, if they are there, to time their loading.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from unittest import mock

from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from tqdm import tqdm

from segsr_model.cost.bench_runs import Cost, Work, bench
from segsr_model.cost.measuring import aligned, check_device, formatted, in_own_process, measured
from segsr_model.cost.profile_network import with_random_tower
from segsr_model.errors import CommandError
from segsr_model.files import check_output, labels_of, write_output
from segsr_model.option_files import read_options
from segsr_model.weights import loading

EXAMPLES = """examples:
  segsr bench -opt options/train_SeGSR_HAT_x4.yml --device cuda
  segsr bench -opt options/train_SeGSR_HAT_x4.yml --precision fp32 bf16 --batch 1 2 4
  segsr bench -opt options/train_SeGSR_HAT_x4.yml options/baselines/HAT_UCMerced_x4.yml --size 32 64 --csv costs.csv"""
COLUMNS = {  # by title: a cost as a number, and its format in the table
    'LR': (lambda c: c.size, 'd'),
    'batch': (lambda c: c.batch, 'd'),
    'start (s)': (lambda c: c.start, '.1f'),
    'inference (s)': (lambda c: c.forward, '.3f'),
    'images/s': (lambda c: c.batch / c.forward, '.2f'),
    'GFLOP/s': (lambda c: c.forward_flops / c.forward / 1e9, '.0f'),
    'of peak': (lambda c: c.forward_flops / c.forward / c.peak_rate, '.2f'),
    'step (s)': (lambda c: c.step, '.3f'),
    'images/s ': (lambda c: c.batch / c.step, '.2f'),
    'GFLOP/s ': (lambda c: c.step_flops / c.step / 1e9, '.0f'),
    'of peak ': (lambda c: c.step_flops / c.step / c.peak_rate, '.2f'),
    'memory (GiB)': (lambda c: None if c.memory is None else c.memory / 2**30, '.2f')}
PRECISIONS = ('fp32', 'bf16', 'fp16')
NOTES = (
    "inference and training step: seconds for the whole batch; GFLOP/s: matrix products and convolutions, without what "
    "is computed again in backward",
    'of peak: of the rate at which this machine multiplies 2048 x 2048 matrices in the same precision',
    'memory: peak of a training step; on a CPU of the resident memory above that of Python and the libraries, with '
    'freed memory given back at once',
    "time by part: of an inference, in ms; EMA, saving and data (loading a batch in one process) are a training's")
Row = tuple[str, str, Cost]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr bench``."""
    parser.epilog = EXAMPLES
    parser.add_argument('-opt', required=True, nargs='+', help='option files for training')
    parser.add_argument('--precision', nargs='+', choices=PRECISIONS, help="instead of the file's train:amp")
    parser.add_argument('--batch', nargs='+', type=int, help="images of a step, instead of the file's")
    parser.add_argument('--size', nargs='+', type=int, help="sides of the LR patches, instead of the file's")
    parser.add_argument('--repeat', type=int, default=3, help='timed runs after a first one; their median counts (3)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--csv', help='also write the tables to this .csv file')


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    if args.csv:
        check_output(args.csv, ['.csv'], args.opt)
    for name in ('batch', 'size', 'repeat'):
        value = getattr(args, name)
        if value is not None and min(value if isinstance(value, list) else [value]) < 1:
            raise CommandError(f'--{name} must be at least 1')
    check_device(args.device)
    works = [(name, work) for name, file in zip(labels_of(args.opt), args.opt) for work in works_of(file, args)]
    with tqdm(works, unit='run', leave=False) as progress:
        rows, failed = measured(lambda name=name, work=work: (name, work.precision, cost(name, work))
                                for name, work in progress)
    if rows:
        sys.stdout.write(text(rows))
    if rows and args.csv:
        write_output(args.csv, lambda path: write_csv(path, rows))
    if failed:
        raise CommandError('; '.join(failed))
    return 0


def works_of(file: str, args: argparse.Namespace) -> Iterable[Work]:
    """The runs of an option file."""
    try:
        options = read_options(file)
        loading.network_options(file, options)
    except ValueError as error:
        raise CommandError(str(error)) from None
    dataset = (options.get('datasets') or {}).get('train')
    if not isinstance(options.get('train'), dict) or not isinstance(dataset, dict):
        raise CommandError(f"'{file}' is not for training: it has no train or no datasets:train")
    options['network_g'] = with_random_tower(options['network_g'])
    for precision in args.precision or [options['train'].get('amp') or 'fp32']:
        for size in args.size or [None]:
            for batch in args.batch or [None]:
                yield Work(options, size, batch, precision, args.repeat, args.device)


def cost(name: str, work: Work, build: Callable[..., BaseModel] = build_model) -> Cost:
    """Measure in a fresh process; memory on a CPU in one more, whose allocator keeps nothing back.

    Raises:
        CommandError: it cannot be run.
    """
    result = in_own_process(name, bench, work, build)
    if work.device == 'cpu':
        with mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536'):
            result = replace(result, memory=in_own_process(name, bench, replace(work, memory_only=True), build).memory)
    return result


def text(rows: list[Row]) -> str:
    """The tables, with what was measured above them and what it means below."""
    costs = [['option file', 'precision', *COLUMNS]]
    costs += [[file, precision, *(formatted(value(c), form) for value, form in COLUMNS.values())]
              for file, precision, c in rows]
    titles = list(dict.fromkeys(part for *_, c in rows for part in c.parts))
    parts = [['time by part (ms)', 'precision', 'LR', 'batch', *titles]]
    parts += [[file, precision, str(c.size), str(c.batch),
               *(formatted(1e3 * c.parts[t] if t in c.parts else None, '.0f') for t in titles)]
              for file, precision, c in rows]
    return '\n'.join([rows[0][2].machine, '', *aligned(costs), '', *aligned(parts), '', *NOTES, ''])


def write_csv(path: str, rows: list[Row]) -> None:
    """The numbers in full."""
    titles = list(dict.fromkeys(part for *_, c in rows for part in c.parts))
    names = ['size', 'batch', 'start', 'forward', 'step', 'memory', 'forward_flops', 'step_flops', 'peak_rate']
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['option file', 'precision', *names, *titles, 'machine'])
        for name, precision, c in rows:
            writer.writerow([name, precision, *(getattr(c, n) for n in names), *(c.parts.get(t) for t in titles),
                             c.machine])

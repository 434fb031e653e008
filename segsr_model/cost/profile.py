"""Complexity of the networks of one or several option files, side by side.

Parameters (trained and frozen), multiply-adds, seconds and peak memory, each network in a process of its own. No
weights are read: CLIP's tower is built with random ones, which cost the same.
"""

from __future__ import annotations

import argparse
import csv
import sys

from segsr_model.cost.measuring import aligned, check_device, formatted, in_own_process, measured
from segsr_model.cost.profile_network import Profile, Workload, profile
from segsr_model.errors import CommandError
from segsr_model.files import check_output, labels_of, write_output
from segsr_model.option_files import read_options
from segsr_model.weights import loading

EXAMPLES = """examples:
  segsr profile -opt options/train_SeGSR_HAT_x4.yml
  segsr profile -opt options/train_SeGSR_EDSR_x4.yml options/train_SeGSR_RCAN_x4.yml --size 64 64 --csv complexity.csv
  segsr profile -opt options/train_SeGSR_HAT_x4.yml --size 128 128 --batch 4 --device cuda"""
COLUMNS = {  # by title: a network's value as a number, and its format in the table
    'trained (M)': (lambda p: p.trained / 1e6, '.2f'),
    'frozen (M)': (lambda p: p.frozen / 1e6, '.2f'),
    'multiply-adds (G)': (lambda p: p.multiply_adds / 1e9, '.2f'),
    's/image': (lambda p: p.seconds, '.4f'),
    'images/s': (lambda p: 1 / p.seconds, '.2f'),
    'peak memory (MiB)': (lambda p: None if p.memory is None else p.memory / 2 ** 20, '.0f')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr profile``."""
    parser.epilog = EXAMPLES
    parser.add_argument('-opt', required=True, nargs='+', help='option files with network_g')
    parser.add_argument('--size', nargs=2, type=int, default=(64, 64), metavar=('H', 'W'),
                        help='height and width of the LR image (64 64)')
    parser.add_argument('--batch', type=int, default=1, help='images at a time (1)')
    parser.add_argument('--repeat', type=int, default=3, help='timed runs after a first one; their median counts (3)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--csv', help='also write the table to this .csv file')


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.csv:
        check_output(args.csv, ['.csv'], args.opt)
    for name, value in (('--size', min(args.size)), ('--batch', args.batch), ('--repeat', args.repeat)):
        if value < 1:
            raise CommandError(f'{name} must be at least 1')
    check_device(args.device)
    work = Workload(args.size[0], args.size[1], args.batch, args.repeat, args.device)
    networks = {file: network_options(file) for file in args.opt}
    names = dict(zip(networks, labels_of(networks)))
    rows, failed = measured(
        (lambda file=file, network=network: (names[file], network['type'], in_own_process(file, profile, network, work))
         for file, network in networks.items()))
    if rows:
        sys.stdout.write(text(rows, work))
    if rows and args.csv:
        write_output(args.csv, lambda path: write_csv(path, rows, work))
    if failed:
        raise CommandError('; '.join(failed))
    return 0


def network_options(file: str) -> dict:
    """``network_g`` of an option file."""
    try:
        return loading.network_options(file, read_options(file))
    except ValueError as error:
        raise CommandError(str(error)) from None


def text(rows: list[tuple[str, str, Profile]], work: Workload) -> str:
    """The table, with what was measured above it and what it means below."""
    table = [['option file', 'network', *COLUMNS]]
    for file, network, result in rows:
        table.append([file, network, *(formatted(value(result), form) for value, form in COLUMNS.values())])
    machine = rows[0][2].machine
    memory = ("PyTorch's peak allocation, weights included" if work.device == 'cuda' else
              'peak of the resident memory above that of Python and the libraries, weights included')
    notes = [
        'multiply-adds per image: convolutions, matrix products and attention; one is two FLOPs',
        f'times: median of {work.repeat} runs in fp32',
        f'peak memory, for the whole batch: {memory}']
    if any(result.random_tower for *_, result in rows):
        notes.append("CLIP's tower has random weights: nothing is loaded for a profile")
    conditions = f'LR {work.height} x {work.width} (H x W), batch {work.batch}, {machine}'
    return '\n'.join([conditions, '', *aligned(table), '', *notes, ''])


def write_csv(path: str, rows: list[tuple[str, str, Profile]], work: Workload) -> None:
    """The table's numbers in full, with the conditions in each line."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['option file', 'network', *COLUMNS, 'height', 'width', 'batch', 'machine'])
        for name, network, result in rows:
            values = [value(result) for value, _ in COLUMNS.values()]
            writer.writerow([name, network, *values, work.height, work.width, work.batch, result.machine])

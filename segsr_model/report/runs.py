"""The runs that a report is made of: finished tests in ``results/``, and trainings in ``experiments/``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segsr_model.errors import CommandError
from segsr_model.option_files import read_options
from segsr_model.report.paper import check_rows, read_row
from segsr_model.testing.scores import read_scores, whole_lines

METRICS = ('SSIM', 'PSNR')
RECIPE = ('kernel', 'made_by', 'pixels_sha256')
Values = tuple['float | None', 'float | None']
NEEDED = ('name', 'dataset', 'scale', 'network', 'split_sha256', 'self_ensemble', 'iterations', 'versions')


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished test.

    Attributes:
        path: its scores file.
        protocol: see `segsr_model.testing.protocol`.
        average: (SSIM, PSNR), of the images that have one; None: none has.
        counts: how many have.
        classes: (SSIM, PSNR) by scene class.
        channel: what they were measured on, such as "Y, crop 4".
    """

    path: Path
    protocol: dict[str, Any]
    average: Values
    counts: tuple[int, int]
    classes: dict[str, Values]
    channel: str

    @property
    def name(self) -> str:
        return self.protocol['name']

    def stands_for(self, number: str) -> str | None:
        """The row of a table this run stands for; None if it has none there."""
        return next((row for table, row, _ in map(read_row, self.protocol['rows']) if table == number), None)


def find_runs(results: Path) -> list[Run]:
    """The finished tests in a folder of results, or in one results folder, oldest first.

    Raises:
        CommandError: there is no such folder, or a scores file is damaged or claims rows that do not exist.
    """
    if not results.is_dir():
        raise CommandError(f"there is no folder '{results}'; basicsr/test.py makes it")
    files = [file for pattern in ('scores_*.json', '*/scores_*.json') for file in results.glob(pattern)]
    runs = [_read_run(file) for file in sorted(files, key=lambda file: (file.stat().st_mtime, file))
            if '_archived_' not in file.parent.name]
    return [run for run in runs if run]


def _read_run(path: Path) -> Run | None:
    try:
        content = read_scores(path)
        protocol = content['protocol']
        if not protocol['rows']:  # a test of something else, whatever was measured
            return None
        check_rows(protocol['rows'])
        ssim, psnr = (_paper_metric(protocol, kind) for kind in ('calculate_ssim', 'calculate_psnr'))
        average, *classes = ((row.get(ssim), row.get(psnr))
                             for row in (content['average'], *content['classes'].values()))
        counts = (content['counts'].get(ssim, 0), content['counts'].get(psnr, 0))
        tested, expected = len(content['images']), protocol['images']
        recipe, trained = protocol['lr_recipe'], protocol['checkpoint'] is not None
        for holder, keys in ((protocol, NEEDED), (recipe or {}, () if recipe is None else RECIPE),
                             (protocol, ('checkpoint_sha256', 'param_key') if trained else ())):
            for key in keys:
                if holder[key] is None and key != 'iterations':
                    raise ValueError(f'{key} is missing')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f'{error.args[0]} is missing' if isinstance(error, KeyError) else error
        raise CommandError(f"'{path}' cannot be used, remove it or test again with basicsr/test.py: {reason}") from None
    if tested != expected:
        raise CommandError(f"'{path}' has {tested} of {expected} images; test again with basicsr/test.py")
    return Run(path, protocol, average, counts, dict(zip(content['classes'], classes)),
               _channel(protocol['metrics'][psnr], protocol['scale']))


def _paper_metric(protocol: dict[str, Any], kind: str) -> str:
    """The name of the metric of a kind that was measured as the paper does, or else of any of that kind."""
    names = [name for name, opt in protocol['metrics'].items() if opt['type'] == kind]
    if not names:
        raise ValueError(f'it has no metric of type {kind}')
    return next((name for name in names if _channel(protocol['metrics'][name], protocol['scale']) == PAPER), names[0])


def _channel(metric: dict[str, Any], scale: int) -> str:
    crop = metric['crop_border']
    return f'{"Y" if metric.get("test_y_channel") else "RGB"}, border crop {"= scale" if crop == scale else crop}'


PAPER = _channel({'crop_border': 1, 'test_y_channel': True}, 1)


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A row's training, or test, that has not ended."""

    number: str
    row: str
    scale: int
    dataset: str
    status: str


def find_unfinished(experiments: Path, results: Path) -> list[Unfinished]:
    """How far the rows are that have no finished test, from the option files and protocols they left."""
    found = []
    for file in sorted(experiments.glob('*/*.yml')):
        options = _options_of(file)
        states = [state.stem for state in (file.parent / 'training_states').glob('*.state')]
        trained = (file.parent / 'models' / 'net_g_latest.pth').is_file()
        iterations = max((int(state) for state in states if state.isdecimal()), default=0)
        status = 'not tested' if trained else f'training, {iterations:,} iterations'
        datasets = options.get('datasets')
        for dataset in datasets.values() if isinstance(datasets, dict) else ():
            if isinstance(dataset, dict):
                found += _rows(options.get('rows'), options.get('scale'), dataset.get('name'), status)
    for file in sorted(results.glob('*/scores_*.unfinished.jsonl')):
        if '_archived_' not in file.parent.name:
            lines = whole_lines(file)
            try:
                protocol = json.loads(lines[0])
                status = f'{len(lines) - 1:,} of {protocol["images"]:,} images tested'
                found += _rows(protocol['rows'], protocol['scale'], protocol['dataset'], status)
            except (IndexError, KeyError, TypeError, ValueError):
                continue  # not the journal of a test: basicsr/test.py will start it afresh
    return found


def _options_of(file: Path) -> dict[str, Any]:
    """Options of an experiment; none for one that was archived, or is not BasicSR's."""
    if '_archived_' in file.parent.name:
        return {}
    try:
        options = read_options(file)
        check_rows(options.get('rows') or [])
    except ValueError:
        return {}
    return options


def _rows(claims: list[str] | None, scale: int, dataset: str, status: str) -> Iterator[Unfinished]:
    for claim in claims or []:
        number, row, _ = read_row(claim)
        yield Unfinished(number, row, scale, dataset, status)

"""What a table says about its runs: how they were measured, and whether in the same way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from segsr_model.report.runs import METRICS, PAPER, Run

Runs = Mapping[tuple[str, int], Run]


def _lr_recipe(run: Run) -> str:
    recipe = run.protocol['lr_recipe']
    return 'not known' if recipe is None else f'{recipe["kernel"]}, by {recipe["made_by"]}'


def _pixels(run: Run) -> str:
    recipe = run.protocol['lr_recipe']
    return 'not known' if recipe is None else recipe['pixels_sha256'][:12]


def _versions(run: Run) -> str:
    return ', '.join(f'{name} {version}' for name, version in run.protocol['versions'].items())


def _iterations(run: Run) -> str:
    iterations = run.protocol['iterations']
    return 'not known' if iterations is None else f'{iterations:,}'


ASPECTS: dict[str, Callable[[Run], Any]] = {
    'channel': lambda run: run.channel,
    'self-ensemble': lambda run: 'x8' if run.protocol['self_ensemble'] else 'none',
    'split': lambda run: f'{run.protocol["images"]:,} images, sha256 {run.protocol["split_sha256"][:12]}',
    'LR images': _lr_recipe,
    'pixels': _pixels,
    'iterations': _iterations,
}
PAPERS = {'channel': PAPER, 'self-ensemble': 'none'}  # what the paper is known to have
PER_SCALE = ('pixels',)  # these differ between scales


def follows_paper(run: Run) -> bool:
    """Whether a run was measured as the paper measures."""
    return all(ASPECTS[aspect](run) == expected for aspect, expected in PAPERS.items())


def _groups(runs: Runs) -> dict[tuple[str, int | None], dict[str, list[tuple[str, int]]]]:
    """For each aspect (and scale, where it differs between scales): its values, each with the rows that have it."""
    groups: dict[tuple[str, int | None], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for (row, scale), run in runs.items():
        for aspect, value in ASPECTS.items():
            if aspect == 'iterations' and run.protocol['checkpoint'] is None:
                continue  # nothing was trained
            groups[aspect, scale if aspect in PER_SCALE else None][value(run)].append((row, scale))
    return groups


def deviating(runs: Runs) -> set[tuple[str, int]]:
    """The rows, and their scales, that were not measured as most of the table was, whatever their iterations."""
    rows = set()
    for values in (values for (aspect, _), values in _groups(runs).items() if aspect != 'iterations'):
        usual = Counter({value: len(members) for value, members in values.items()}).most_common(1)[0][0]
        rows.update(member for value, members in values.items() if value != usual for member in members)
    return rows


def warnings(runs: Runs, replaced: list[tuple[Run, Run]]) -> list[str]:
    """What must not be overlooked about the runs of a table."""
    lines = []
    for (aspect, scale), values in _groups(runs).items():
        if len(values) > 1:
            parts = '; '.join(f'{value}: {", ".join(f"{row} x{s}" for row, s in members)}'
                              for value, members in values.items())
            what = 'Iterations differ' if aspect == 'iterations' else f'Mixed protocols, {aspect}'
            lines.append(f'{what}{f" at x{scale}" if scale else ""}: {parts}')
    for aspect, expected in PAPERS.items():
        others = [f'{row} x{scale}' for (row, scale), run in runs.items() if ASPECTS[aspect](run) != expected]
        if others:
            lines.append(f"Not the paper's protocol, {aspect} should be {expected}: {', '.join(others)}")
    lines += [f'{row} x{scale}: {metric} of {count} images, not of all {run.protocol["images"]}'
              for (row, scale), run in runs.items() for metric, count in zip(METRICS, run.counts)
              if count < run.protocol['images']]
    lines += [f"Two runs for one row: '{new.path.parent}' is used, '{old.path.parent}' is not" for old, new in replaced]
    return lines


def provenance(runs: Runs, test_set: str) -> list[str]:
    """How the numbers of a table came about, a statement each."""
    if not runs:
        return [f'Test set {test_set}: no run yet']
    groups = _groups(runs)

    def values(aspect: str) -> str:
        found = {(f'x{scale}: ' if scale else '') + value: None
                 for (name, scale), members in sorted(groups.items(), key=lambda item: item[0][1] or 0)
                 if name == aspect for value in members}
        return '; '.join(found) or 'none'

    lines = [f'Test set {test_set}: {values("split")} of the sorted names',
             f'PSNR and SSIM as BasicSR computes them: {values("channel")}; self-ensemble: {values("self-ensemble")}',
             f'LR images: {values("LR images")}; pixels, sha256: {values("pixels")}',
             f'Iterations: {values("iterations")}',
             f'Versions: {"; ".join(dict.fromkeys(map(_versions, runs.values())))}']
    for (row, scale), run in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        protocol = run.protocol
        weights = 'no weights' if protocol['checkpoint'] is None else (
            f'{protocol["checkpoint"].rsplit("/", 1)[-1]} ({protocol["param_key"]}), '
            f'sha256 {protocol["checkpoint_sha256"][:12]}, {_iterations(run)} iterations')
        lines.append(f'Row {row}, x{scale}: {run.name}, {protocol["network"]}, {weights}')
    return lines

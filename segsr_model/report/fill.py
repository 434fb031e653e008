"""Filling the paper's tables with the numbers of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from segsr_model.report.notes import deviating, follows_paper, provenance, warnings
from segsr_model.report.paper import Row, Table
from segsr_model.report.runs import METRICS, Run, Unfinished, Values

NOT_RUN, NO_VALUE = 'not run', 'no value'


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        ours: of a run; None: there is none.
        paper: in the paper; None: it has none.
        status: why there is no number of ours; empty if there is one, or none can be.
        marked: the run was measured under another protocol than the table's other runs.
        run: the run's name.
    """

    ours: float | None = None
    paper: float | None = None
    status: str = ''
    marked: bool = False
    run: str = ''

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers: ``head`` (scale or method), metric, and which numbers it can have."""

    head: str
    metric: str
    ours: bool
    paper: bool


@dataclasses.dataclass(frozen=True)
class Filled:
    """A table with its numbers, ready to be written in any format.

    Attributes:
        labels: names of the first columns.
        columns: of numbers.
        rows: name, first columns, and a cell for each column of numbers.
        warnings: what must not be overlooked, such as mixed protocols.
        protocol: how the numbers of ours came about, a statement each.
        notes: what is to be known about the paper's numbers.
        runs: how many runs are in it.
    """

    number: str
    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: list[tuple[str, tuple[str, ...], list[Cell]]]
    warnings: list[str]
    protocol: list[str]
    notes: tuple[str, ...]
    runs: int


def fill(table: Table, runs: Sequence[Run], unfinished: Sequence[Unfinished], dataset: str | None = None) -> Filled:
    """Put the runs that stand for rows of a table into it.

    Args:
        table: of the paper.
        runs: oldest first; of those for the same row the newest counts, of those under the paper's protocol if any is.
        unfinished: what rows without a finished test have come to.
        dataset: the name of another test set than the paper's; its table has no numbers of the paper.
    """
    test_set = dataset or table.dataset
    used: dict[tuple[str, int], Run] = {}
    replaced = []
    for run in sorted(runs, key=follows_paper):
        row, scale = run.stands_for(table.number), run.protocol['scale']
        if row is None or run.protocol['dataset'] != test_set or scale not in table.scales:
            continue
        if (row, scale) in used:
            replaced.append((used[row, scale], run))
        used[row, scale] = run
    states = {(state.row, state.scale): state.status for state in unfinished
              if state.number == table.number and state.dataset == test_set}
    rows = {name: row for name, row in table.rows.items() if row.ours or not dataset}
    if dataset:
        rows = {name: Row(row.labels) for name, row in rows.items()}
    named = 'Method' if 'Method' in table.labels else table.labels[0]
    for name, _ in used:
        rows.setdefault(name, Row(tuple(name if label == named else '' for label in table.labels)))
    marked = deviating(used)

    def cells(name: str, scale: int, paper: Values | None, ours: Values | None) -> list[Cell]:
        run = used.get((name, scale))
        status = states.get((name, scale), NOT_RUN) if rows[name].ours and run is None else ''
        return [Cell(None if ours is None else ours[i], None if paper is None else paper[i],
                     NO_VALUE if ours and ours[i] is None else status, (name, scale) in marked,
                     '' if run is None else run.name) for i in range(len(METRICS))]

    if table.classes:
        columns, body = _by_class(table, rows, used, cells, dataset)
    else:
        columns = [Column(f'x{scale}', metric, True, not dataset) for scale in table.scales for metric in METRICS]
        body = [(name, row.labels, [cell for scale in table.scales for cell in cells(
            name, scale, row.values.get(scale), used[name, scale].average if (name, scale) in used else None)])
            for name, row in rows.items()]
    return Filled(
        number=table.number, title=f'Its rows on {dataset}' if dataset else table.title, labels=table.labels,
        columns=tuple(columns), rows=body, warnings=warnings(used, replaced), protocol=provenance(used, test_set),
        notes=() if dataset else table.notes, runs=len(used))


def _by_class(table: Table, rows: dict[str, Row], used: dict[tuple[str, int], Run], cells, dataset: str | None):
    """Columns and rows of Table III: a column for each method, a row for each class."""
    scale = table.scales[0]
    columns = [Column(name, metric, row.ours, bool(row.classes)) for name, row in rows.items() for metric in METRICS]
    ours = {name: {**run.classes, 'average': run.average} for (name, _), run in used.items()}
    if dataset:
        labels = sorted({label for run in used.values() for label in run.classes}) + ['Average']
    else:
        labels = list(table.classes)
    body = []
    for label in labels:
        body.append((label, (label,), [cell for name, row in rows.items() for cell in cells(
            name, scale, row.classes.get(label), ours.get(name, {}).get(label.replace(' ', '').lower()))]))
    return columns, body

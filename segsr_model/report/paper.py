"""The paper's Tables I to VII: their rows, their numbers (``paper.yml``), and which of them a run stands for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from segsr_model.files import doubles

NEW = 'new '


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table; of Table III, a method.

    Attributes:
        labels: its first columns.
        values: (SSIM, PSNR) by scale.
        classes: (SSIM, PSNR) by scene class, for Table III.
        ours: whether a run of ours can stand for it; the other rows are quoted from the paper.
    """

    labels: tuple[str, ...]
    values: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    classes: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    ours: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: in Roman numerals.
        title: what it shows.
        dataset: the name of its test set.
        scales: that it has columns for.
        labels: the names of its first columns.
        rows: by name.
        notes: what is to be known about its numbers.
        classes: the scene classes of Table III, in order, the average last.
    """

    number: str
    title: str
    dataset: str
    scales: tuple[int, ...]
    labels: tuple[str, ...]
    rows: dict[str, Row]
    notes: tuple[str, ...]
    classes: tuple[str, ...] = ()


@functools.cache
def paper_tables() -> dict[str, Table]:
    """The paper's tables by their number."""
    content = yaml.safe_load(Path(__file__).with_name('paper.yml').read_text(encoding='utf-8'))
    return {number: _table(number, table) for number, table in content.items()}


def _table(number: str, content: dict[str, Any]) -> Table:
    methods, classes = content.get('methods', []), content.get('classes', {})
    rows = {}
    for name, row in content['rows'].items():
        i = 2 * methods.index(name) if name in methods else None
        rows[name] = Row(
            labels=tuple(row.get('labels', [name])),
            values={scale: tuple(row[scale]) for scale in content['scales'] if scale in row},
            classes={} if i is None else {label: tuple(values[i:i + 2]) for label, values in classes.items()},
            ours=row.get('ours', False))
    return Table(number, content['title'], content['dataset'], tuple(content['scales']), tuple(content['labels']), rows,
                 tuple(content['notes']), tuple(classes))


def read_row(claim: str) -> tuple[str, str, bool]:
    """Table, row, and whether the row is a new one, of an entry of an option file's ``rows``.

    ``VII EDSR +4 unit`` is a row of the paper, ``I new MyNet`` one that is to be added to its Table I.

    Raises:
        ValueError: there is no such table or row.
    """
    number, _, name = str(claim).partition(' ')
    name = name.strip()
    table = paper_tables().get(number)
    if table is None:
        raise ValueError(f"rows: '{claim}' should be a table ({', '.join(paper_tables())}) and a row, such as 'I HAT'")
    if name.startswith(NEW):
        return number, name[len(NEW):].strip(), True
    ours = [row for row, content in table.rows.items() if content.ours]
    if name not in ours:
        raise ValueError(f"rows: Table {number} has no row '{name}' for a run; it has {', '.join(ours)}, and "
                         f"'{number} {NEW}<name>' adds one")
    return number, name, False


def check_rows(claims: Iterable[str]) -> None:
    """Raise a ValueError if an option file's ``rows`` are not a list of rows."""
    if not isinstance(claims, (list, tuple)):
        raise ValueError(f"rows: {claims!r} should be a list of tables and rows, such as [I HAT, VII HAT]")
    for claim in claims:
        read_row(claim)


def check_claims(claims: Iterable[str]) -> None:
    """`check_rows`, for a run that is still to be made: a ValueError, too, if two rows would be taken for one."""
    check_rows(claims)
    rows = [read_row(claim) for claim in claims]
    for claim, (number, name, new) in zip(claims, rows):
        if new and doubles([*paper_tables()[number].rows, name]):
            raise ValueError(f"rows: '{claim}': Table {number} has a row of this name; call yours otherwise")
        if [other for other, *_ in rows].count(number) > 1:
            raise ValueError(f'rows: {", ".join(map(str, claims))}: a run stands for one row of Table {number}')

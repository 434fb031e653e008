"""Metric values per image, per scene class and on average."""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from segsr_model.files import append_lines, write_atomically
from segsr_model.prepare.sources.catalogue import class_of

ANY = object()
Values = dict[str, 'float | None']  # of an image by metric; None: it has none
VALUES = {ANY: {ANY: (int, float, type(None))}}
PROTOCOL = {  # see `segsr_model.testing.protocol`
    'name': str, 'rows': list, 'network': str, 'scale': (int, type(None)), 'dataset': str, 'images': int,
    'split_sha256': str, 'metrics': {ANY: {'type': str}}, 'self_ensemble': bool, 'checkpoint': (str, type(None)),
    'checkpoint_sha256': (str, type(None)), 'param_key': (str, type(None)), 'iterations': (int, type(None)),
    'versions': {ANY: (str, type(None))}, 'lr_recipe': {ANY: str}}


class Scores:
    """Collects metric values image by image."""

    def __init__(self):
        self.images: dict[str, Values] = {}

    def add(self, image_name: str, values: Mapping[str, float | None]) -> None:
        """Values of one image, by metric; NaN and infinity count as none."""
        self.images[image_name] = {metric: None if value is None or not math.isfinite(value) else float(value)
                                   for metric, value in values.items()}

    def average(self) -> dict[str, float]:
        """Mean over the images that have a value, by metric; without those of which none has one."""
        return mean_values(self.images.values())

    def counts(self) -> dict[str, int]:
        """How many images have a value, by metric."""
        return count_values(self.images.values())

    def gaps(self, total: int) -> list[str]:
        """What is to be said of averages over fewer than all ``total`` images."""
        return [f'{metric} is the average over {count} of {total} images' if count else f'no image has a {metric}'
                for metric, count in self.counts().items() if count < total]

    def classes(self) -> dict[str, dict[str, float]]:
        """Mean over the images of each class, by class and metric, in alphabetical order."""
        groups = defaultdict(list)
        for name, values in self.images.items():
            groups[class_of(name)].append(values)
        return {name: mean_values(groups[name]) for name in sorted(groups)}

    def table(self) -> str:
        """One line per class and one for the average, in columns."""
        rows = {**self.classes(), 'average': self.average()}
        width = max(len(name) for name in rows)
        widths = {metric: max(10, len(metric) + 2) for metric in self.average()}
        lines = [' ' * width + ''.join(f'{metric:>{w}}' for metric, w in widths.items())]
        lines += [f'{name:<{width}}' + ''.join(f'{shown(row.get(metric), 4):>{w}}' for metric, w in widths.items())
                  for name, row in rows.items()]
        return '\n'.join(lines)


class SavedScores(Scores):
    """The scores of a test, in its results folder: ``scores_<dataset>.json`` when the test is finished.

    Until then each image is a line of ``scores_<dataset>.unfinished.jsonl``, after a line with the protocol. Whatever
    the folder holds under the same protocol is taken over.

    Args:
        folder: the results folder.
        protocol: what the numbers depend on, see `segsr_model.testing.protocol`; stored with them.
    """

    def __init__(self, folder: str | Path, protocol: dict[str, Any]):
        super().__init__()
        self.protocol = protocol
        self.path = Path(folder) / f'scores_{protocol["dataset"]}.json'
        self.journal = Path(folder) / f'scores_{protocol["dataset"]}.unfinished.jsonl'
        content = {}
        with contextlib.suppress(OSError, ValueError):  # no finished test, or a damaged one
            content = read_scores(self.path)
        if is_unfinished(folder, protocol):
            for line in whole_lines(self.journal)[1:]:
                with contextlib.suppress(ValueError):  # a damaged line: its image is tested again
                    self.images.update(_checked(_parse(line), VALUES))
            self._rewrite_journal()
        elif content.get('protocol') == protocol:
            self.images.update(content.get('images', {}))
        else:
            self._rewrite_journal()

    def add(self, image_name: str, values: dict[str, float]) -> None:
        super().add(image_name, values)
        append_lines(self.journal, [json.dumps({image_name: self.images[image_name]})])

    def finish(self) -> None:
        """Write everything as JSON, images in order of their names."""
        self.images = dict(sorted(self.images.items()))
        content = {'protocol': self.protocol, 'average': self.average(), 'counts': self.counts(),
                   'classes': self.classes(), 'images': self.images}
        write_atomically(self.path, lambda temporary: Path(temporary).write_text(
            json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8'))
        self.journal.unlink(missing_ok=True)

    def _rewrite_journal(self) -> None:
        lines = [json.dumps(self.protocol)] + [json.dumps({name: values}) for name, values in self.images.items()]
        text = ''.join(f'{line}\n' for line in lines)
        write_atomically(self.journal, lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))


def read_scores(path: str | Path) -> dict[str, Any]:
    """The content of a ``scores_<dataset>.json``, whose values are of the kinds that a test writes.

    ``average``, ``counts`` and ``classes`` are made anew of the values of the images.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged.
    """
    content = _checked(_parse(Path(path).read_text(encoding='utf-8')), {'protocol': PROTOCOL, 'images': VALUES})
    scores = Scores()
    for name, values in content.get('images', {}).items():
        scores.add(name, values)
    return {**content, 'average': scores.average(), 'counts': scores.counts(), 'classes': scores.classes()}


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None)  # NaN and infinity, which older tests wrote
    except RecursionError:
        raise ValueError('too deep') from None


def _checked(value: Any, kind: Any, where: str = 'it') -> Any:
    """``value``, if it is of a kind: a type, one of several, or a mapping that holds kinds by key (`ANY`: all keys)."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise ValueError(f'{where} should be a mapping')
        for key, part in value.items():
            if part is None and key == 'lr_recipe':  # nobody knows how the images were made
                continue
            if key in kind or ANY in kind:
                _checked(part, kind.get(key, kind.get(ANY)), key)
    elif isinstance(value, bool) and bool not in (kind if isinstance(kind, tuple) else (kind,)) or not isinstance(
            value, kind):
        raise ValueError(f'{where} is {str(value)[:40]!r}')
    return value


def is_unfinished(folder: str | Path, protocol: dict[str, Any]) -> bool:
    """Whether the folder holds the beginning of a test under this protocol."""
    lines = whole_lines(Path(folder) / f'scores_{protocol["dataset"]}.unfinished.jsonl')
    try:
        return bool(lines) and _parse(lines[0]) == protocol
    except ValueError:
        return False


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that may have been cut off while it was written; none without a file."""
    lines = path.read_text(errors='replace').splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith('}\n')]


def mean_values(rows: Iterable[Values]) -> dict[str, float]:
    """Mean of each metric over the rows that have a value; without the metrics that no row has a value of."""
    return {metric: fmean(values) for metric, values in _columns(rows).items() if values}


def count_values(rows: Iterable[Values]) -> dict[str, int]:
    """How many rows have a value of each metric."""
    return {metric: len(values) for metric, values in _columns(rows).items()}


def _columns(rows: Iterable[Values]) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for metric, value in row.items():
            columns[metric] += [] if value is None else [value]
    return columns


def shown(value: float | None, digits: int) -> str:
    """A value in a table, or a dash for none."""
    return '-' if value is None else f'{value:.{digits}f}'

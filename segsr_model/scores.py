"""Metric values per image, per scene class and on average."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from segsr_model.files import write_atomically


def class_of(image_name: str) -> str:
    """Scene class of an image: its name without its digits, as in agricultural85, airport_1. May be empty."""
    return re.sub(r'\d+', '', image_name).strip('_- .')


class Scores:
    """Collects metric values image by image.

    Args:
        protocol: what the numbers depend on (dataset, metric options, checkpoint, ...), stored with them.
    """

    def __init__(self, protocol: dict[str, Any]):
        self.protocol = protocol
        self.images: dict[str, dict[str, float]] = {}

    def add(self, image_name: str, values: dict[str, float]) -> None:
        """Values of one image, by metric."""
        self.images[image_name] = {metric: float(value) for metric, value in values.items()}

    def average(self) -> dict[str, float]:
        """Mean over the images, by metric; empty without images."""
        return _mean(list(self.images.values()))

    def classes(self) -> dict[str, dict[str, float]]:
        """Mean over the images of each class, by class and metric, in alphabetical order."""
        groups = defaultdict(list)
        for name, values in self.images.items():
            groups[class_of(name)].append(values)
        return {name: _mean(groups[name]) for name in sorted(groups)}

    def table(self) -> str:
        """One line per class and one for the average, in columns."""
        rows = {**self.classes(), 'average': self.average()}
        width = max(len(name) for name in rows)
        lines = [' ' * width + ''.join(f'{metric:>10}' for metric in self.average())]
        lines += [f'{name:<{width}}' + ''.join(f'{value:>10.4f}' for value in row.values())
                  for name, row in rows.items()]
        return '\n'.join(lines)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        content = {'protocol': self.protocol, 'average': self.average(), 'classes': self.classes(),
                   'images': self.images}
        write_atomically(path, lambda temporary: Path(temporary).write_text(json.dumps(content, indent=1) + '\n'))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {metric: fmean(row[metric] for row in rows) for metric in rows[0]} if rows else {}

"""Print the average scores of finished tests side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segsr_model.errors import CommandError
from segsr_model.files import printable
from segsr_model.testing.scores import read_scores, shown

EXAMPLES = """example:
  segsr scores results/test_Bicubic_x4 results/test_SeGSR_HAT_x4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr scores``."""
    parser.epilog = EXAMPLES
    parser.add_argument('results', nargs='+', help='results folders of basicsr/test.py')


def run(args: argparse.Namespace) -> int:
    """Print one line per test and dataset."""
    rows = []
    for folder in args.results:
        files = sorted(Path(folder).glob('scores_*.json'))
        if not files:
            raise CommandError(f"'{folder}' has no scores_*.json; test with model_type: SemanticGuidedSRModel first")
        for file in files:
            try:
                content = read_scores(file)
                named = (printable(content['protocol'][key]) for key in ('name', 'dataset'))
                rows.append((*named, _values(content)))
            except (OSError, ValueError, KeyError):
                raise CommandError(f"'{file}' is not a scores file of basicsr/test.py") from None
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, dataset, values in rows:
        sys.stdout.write(f'{name:<{widths[0]}}   {dataset:<{widths[1]}}   {values}\n')
    return 0


def _values(content: Mapping[str, Any]) -> str:
    """The averages of a test, and of how many images they are where not all have a value."""
    total = len(content['images'])
    return '   '.join(f'{printable(metric)} {shown(content["average"].get(metric), 4)}'
                      + (f' ({count} of {total} images)' if count < total else '')
                      for metric, count in content['counts'].items())

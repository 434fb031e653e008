"""Print the average scores of finished tests side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segsr_model.errors import CommandError
from segsr_model.testing.scores import read_scores

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
                rows.append((content['protocol']['name'], content['protocol']['dataset'], content['average']))
            except (OSError, ValueError, KeyError):
                raise CommandError(f"'{file}' is not a scores file of basicsr/test.py") from None
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, dataset, average in rows:
        values = '   '.join(f'{metric} {value:.4f}' for metric, value in average.items())
        sys.stdout.write(f'{name:<{widths[0]}}   {dataset:<{widths[1]}}   {values}\n')
    return 0

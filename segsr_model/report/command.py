"""Write the paper's Tables I to VII from finished tests: our number, the paper's, the difference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segsr_model.errors import CommandError
from segsr_model.files import printable, write_output
from segsr_model.report.fill import fill
from segsr_model.report.formats import to_csv, to_latex, to_markdown
from segsr_model.report.paper import paper_tables
from segsr_model.report.runs import Run, find_runs, find_unfinished

HEAD = '# Results, by segsr report'
EXAMPLES = """examples:
  segsr report
  segsr report --dataset sample_test --out report_sample     the same tables for another test set

A run stands for the rows that its option file names, such as "rows: [I HAT, VII HAT]"; "rows: [I new MyNet]" adds one.
Written are report.md with all tables, and table_<number>.csv and .tex of each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr report``."""
    parser.epilog = EXAMPLES
    parser.add_argument('--results', type=Path, default=Path('results'), help='where basicsr/test.py writes, or one '
                        'folder in it (default: %(default)s)')
    parser.add_argument('--experiments', type=Path, default=Path('experiments'),
                        help='where basicsr/train.py writes, to say how far a row is (default: %(default)s)')
    parser.add_argument('--dataset', metavar='NAME', help="make the tables for this test set instead of the paper's; "
                        'those without any run are left out')
    parser.add_argument('--out', type=Path, default=Path('report'), help='folder to write (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Write the report; 0."""
    runs = find_runs(args.results)
    if args.dataset and not any(run.protocol['dataset'] == args.dataset for run in runs):
        tested = ', '.join(sorted({run.protocol['dataset'] for run in runs})) or 'nothing'
        raise CommandError(f"--dataset {args.dataset}: '{args.results}' has no finished test on it, but on {tested}")
    unfinished = find_unfinished(args.experiments, args.results)
    tables = [fill(table, runs, unfinished, args.dataset) for table in paper_tables().values()]
    if args.dataset:
        tables = [table for table in tables if table.runs]
    left_out = [] if args.dataset else _left_out(runs)

    _check_folder(args.out)
    texts = {'report.md': f'{HEAD}\n\n' + '\n'.join(map(to_markdown, tables))}
    for table in tables:
        texts[f'table_{table.number}.csv'] = to_csv(table)
        texts[f'table_{table.number}.tex'] = to_latex(table)
    for name, text in texts.items():
        write_output(args.out / name, lambda path, text=text: Path(path).write_text(text, encoding='utf-8'))
    for table in tables:
        sys.stdout.write(f'Table {table.number}: {table.runs} runs\n')
        sys.stdout.write(''.join(f'  warning: {printable(warning)}\n' for warning in table.warnings))
    sys.stdout.write(''.join(f'{printable(str(line))}\n' for line in (*left_out, args.out / 'report.md')))
    return 0


def _check_folder(out: Path) -> None:
    report = out / 'report.md'
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out '{out}' is a file; name a folder")
    if report.exists() and HEAD not in report.read_text(encoding='utf-8', errors='replace').splitlines()[:1]:
        raise CommandError(f"'{report}' was not written by segsr report; choose another --out")


def _left_out(runs: list[Run]) -> list[str]:
    """A line for each run that claims rows of tables of another test set."""
    lines = []
    for run in runs:
        wrong = sorted({number for number, table in paper_tables().items()
                        if run.stands_for(number) and table.dataset != run.protocol['dataset']})
        if wrong:
            dataset = run.protocol['dataset']
            lines.append(f"left out: '{run.path.parent}' was tested on {dataset}, which is not the test set of Table "
                         f'{", ".join(wrong)}; "segsr report --dataset {dataset}" shows it')
    return lines

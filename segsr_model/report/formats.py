"""A filled table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io

from segsr_model.report.fill import Cell, Column, Filled

MARK = '†'


def _heads(column: Column) -> list[str]:
    """The columns that a column of numbers becomes: ours, the paper's, the difference."""
    unit = ' (dB)' if column.metric == 'PSNR' else ''
    if column.ours and column.paper:
        return [f'{column.metric}{unit}', 'paper', 'diff.']
    return [f'{column.metric}{unit}' + ('' if column.ours else ', paper')]


def _texts(cell: Cell, column: Column) -> list[str]:
    ours = cell.status if cell.ours is None else f'{cell.ours:.4f}{MARK * cell.marked}'
    paper = '' if cell.paper is None else f'{cell.paper:.4f}'
    if column.ours and column.paper:
        return [ours, paper, '' if cell.difference is None else f'{cell.difference:+.4f}']
    return [ours if column.ours else paper]


def _body(table: Filled) -> list[list[str]]:
    return [[*labels, *(text for cell, column in zip(cells, table.columns) for text in _texts(cell, column))]
            for _, labels, cells in table.rows]


def to_markdown(table: Filled) -> str:
    """A section with the table, its warnings, its protocol and its notes."""
    heads = [f'{column.head} {head}' if head.startswith(column.metric) else head
             for column in table.columns for head in _heads(column)]
    rows = [[*table.labels, *heads], ['---'] * len(table.labels) + ['---:'] * len(heads), *_body(table)]
    lines = [f'## Table {table.number}. {table.title}', '']
    lines += [f'**Warning.** {text}{" (marked " + MARK + ")" if text.startswith("Mixed") else ""}\n'
              for text in table.warnings]
    lines += ['| ' + ' | '.join(text.replace('|', '\\|') for text in row) + ' |' for row in rows]
    lines += ['', 'How these numbers came about:', '', *(f'* {text}' for text in table.protocol)]
    if table.notes:
        lines += ['', "About the paper's numbers:", '', *(f'* {text}' for text in table.notes)]
    return '\n'.join(lines) + '\n'


def to_csv(table: Filled) -> str:
    """One line per number: table, row, column, metric, ours, the paper's, the difference, status, run, protocol."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['table', 'row', 'column', 'metric', 'ours', 'paper', 'difference', 'status', 'run',
                     'other protocol'])
    for name, _, cells in table.rows:
        for cell, column in zip(cells, table.columns):
            numbers = ['' if value is None else f'{value:.4f}' for value in (cell.ours, cell.paper, cell.difference)]
            writer.writerow([table.number, name, column.head, column.metric, *numbers, cell.status, cell.run,
                             'yes' * cell.marked])
    return text.getvalue()


def to_latex(table: Filled) -> str:
    """A ``table*`` (packages graphicx and amssymb), with warnings and protocol as comments."""
    heads = [head for column in table.columns for head in _heads(column)]
    widths: dict[str, int] = {}
    for column in table.columns:
        widths[column.head] = widths.get(column.head, 0) + len(_heads(column))
    above = ' & '.join([''] * len(table.labels) + [f'\\multicolumn{{{width}}}{{c}}{{{_tex(head)}}}'
                                                   for head, width in widths.items()])
    rows = [' & '.join(map(_tex, row)) + r' \\' for row in ([*table.labels, *heads], *_body(table))]
    comments = [f'% {text}' for text in (*table.warnings, *table.protocol, *table.notes)]
    return '\n'.join([
        *comments, r'\begin{table*}', r'\centering', f'\\caption{{{_tex(table.title)}}}',
        r'\resizebox{\linewidth}{!}{%', f'\\begin{{tabular}}{{{"l" * len(table.labels)}{"r" * len(heads)}}}',
        r'\hline', above + r' \\', rows[0], r'\hline', *rows[1:], r'\hline', r'\end{tabular}}', r'\end{table*}']) + '\n'


def _tex(text: str) -> str:
    for character, code in (('\\', r'\textbackslash '), ('&', r'\&'), ('%', r'\%'), ('_', r'\_'), ('#', r'\#'),
                            ('✓', r'$\checkmark$'), ('†', r'$^\dagger$'), ('–', '--')):
        text = text.replace(character, code)
    return f'${text[0]}_{text[-1]}$' if text in (r'p\_i', r'p\_g', r'I\_g') else text

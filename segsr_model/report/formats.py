"""A filled table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re

from segsr_model.files import printable
from segsr_model.report.fill import Cell, Column, Filled

MARK = '†'
MARKUP = re.compile(r'[\\`*\[\]<>$|~&]|(?<![^\W_])_|_(?![^\W_])')  # of Markdown; an underscore within a word is none
COMMANDS = str.maketrans({  # of LaTeX
    '\\': r'\textbackslash{}', '{': r'\{', '}': r'\}', '$': r'\$', '&': r'\&', '%': r'\%', '_': r'\_', '#': r'\#',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '<': r'\textless{}', '>': r'\textgreater{}',
    '|': r'\textbar{}', '✓': r'$\checkmark$', '†': r'$^\dagger$', '–': '--'})
FORMULAS = {'p_i': '$p_i$', 'p_g': '$p_g$', 'I_g': '$I_g$'}  # among the names of first columns
LATIN = 0x17F  # the last character that pdflatex knows by itself


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
    first, *body = ([_markdown(text) for text in row] for row in ([*table.labels, *heads], *_body(table)))
    rows = [first, ['---'] * len(table.labels) + ['---:'] * len(heads), *body]
    lines = [f'## Table {table.number}. {_markdown(table.title)}', '']
    lines += [f'**Warning.** {_markdown(text)}{" (marked " + MARK + ")" if text.startswith("Mixed") else ""}\n'
              for text in table.warnings]
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines += ['', 'How these numbers came about:', '', *(f'* {_markdown(text)}' for text in table.protocol)]
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
    first = [FORMULAS.get(label, _tex(label)) for label in table.labels]
    rows = [' & '.join(row) + r' \\' for row in (
        [*first, *map(_tex, heads)], *([_tex(text) for text in row] for row in _body(table)))]
    comments = [f'% {printable(text)}' for text in (*table.warnings, *table.protocol, *table.notes)]
    if any(ord(character) > LATIN for text in (table.title, above, *rows) for character in text):
        comments.insert(0, '% Has characters that pdflatex lacks: take lualatex or xelatex, and a font that has them')
    return '\n'.join([
        *comments, r'\begin{table*}', r'\centering', f'\\caption{{{_tex(table.title)}}}',
        r'\resizebox{\linewidth}{!}{%', f'\\begin{{tabular}}{{{"l" * len(table.labels)}{"r" * len(heads)}}}',
        r'\hline', above + r' \\', rows[0], r'\hline', *rows[1:], r'\hline', r'\end{tabular}}', r'\end{table*}']) + '\n'


def _markdown(text: str) -> str:
    """A text on one line, none of which is markup."""
    return MARKUP.sub(r'\\\g<0>', printable(text))


def _tex(text: str) -> str:
    """A text on one line, none of which is a command."""
    return printable(text).translate(COMMANDS)

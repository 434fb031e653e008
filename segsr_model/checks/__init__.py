"""What can be wrong with the options of a run: all of it is found and reported before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from segsr_model.checks.blocks import Block
from segsr_model.checks.consistency import contradictions
from segsr_model.checks.data import data_problems
from segsr_model.checks.keys import key_problems
from segsr_model.checks.network import network_problems
from segsr_model.checks.places import place_problems
from segsr_model.checks.results import result_problems
from segsr_model.files import printable
from segsr_model.report.paper import check_claims


class ProblemsError(ValueError):
    """All ``problems`` of an option file, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = list(problems)


def check_options(opt: Mapping[str, Any]) -> None:
    """Check the options of a training or test with SemanticGuidedSRModel, as BasicSR has parsed them.

    Raises:
        ProblemsError: a line for each problem that names the option, what is wrong and what would be right.
    """
    problems = find_problems(opt)
    wanted, found = opt.get('num_gpu'), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if isinstance(wanted, int) and wanted > found and not (found and opt.get('dist')):  # there: one for each process
        gpus = f'{found} GPU{"s" * (found > 1)}' if found else 'no GPU'
        problems.append(f'num_gpu: {wanted}, but PyTorch finds {gpus}'
                        + ('' if found else '; to run on the CPU set num_gpu: 0'))
    if problems:
        raise ProblemsError(problems)


def find_problems(opt: Mapping[str, Any]) -> list[str]:
    """The problems of options as BasicSR has parsed them, but for those of the machine's GPUs."""
    options = Block(opt)
    net, of_network = network_problems(options)
    found = [*_rows(opt), *key_problems(options), *of_network, *contradictions(options, net),
             *data_problems(options), *result_problems(options), *place_problems(options, net)]
    return list(dict.fromkeys(found))


def report(file: str, problems: Sequence[str]) -> str:
    """What is said of an option file with problems: one line if there is one, else a headline and a line each."""
    lines = [printable(problem) for problem in problems]
    if len(lines) == 1:
        return f'{printable(file)}: {lines[0]}'
    return '\n  '.join([f'{printable(file)}: {len(lines)} problems', *lines])


def _rows(opt: Mapping[str, Any]) -> Iterator[str]:
    try:
        check_claims(opt.get('rows') or [])
    except ValueError as error:
        yield str(error)

"""The ``segsr`` command: one entry point, one module per subcommand."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from segsr_model.errors import CommandError, not_there, out_of_memory
from segsr_model.files import escape_what_cannot_be_printed, printable

COMMANDS = {
    'check': ('segsr_model.checks.command', 'find all that is wrong with option files, without starting anything'),
    'prepare': ('segsr_model.prepare.command', 'turn an image archive or folder into HR and LR training pairs'),
    'upscale': ('segsr_model.scenes.command', "sharpen one's own images and whole scenes"),
    'compare': ('segsr_model.figures.compare', 'draw crops of results folders side by side, with their PSNR'),
    'maps': ('segsr_model.figures.maps', 'draw the guidance maps of an image beside LR, SR and HR'),
    'profile': ('segsr_model.cost.profile', 'count parameters and multiply-adds, measure time and memory'),
    'bench': ('segsr_model.cost.bench', 'measure inference and training steps: time, memory, time by part'),
    'scores': ('segsr_model.report.score_table', 'print the scores of finished tests side by side'),
    'report': ('segsr_model.report.command', "write the paper's tables from finished tests"),
    'export': ('segsr_model.weights.export', 'write a self-contained weights file for release'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``segsr COMMAND ...``.

    A subcommand's module offers ``add_arguments(parser)``, which also sets the description and the examples
    (``parser.epilog``), and ``run(args) -> int``, which returns the exit code. It is imported only when it is called.

    Returns:
        0 when the command did its work, 1 when it found what it was asked to look for (a failed check), 2 for bad
        input, 130 when interrupted.
    """
    escape_what_cannot_be_printed()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog='segsr',
        description='Tools around SeG-SR for BasicSR. Training and testing are basicsr/train.py and basicsr/test.py.',
        epilog='commands:\n' + '\n'.join(f'  {name:<10}{text}' for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help='one of the commands below')
    command = parser.parse_args(argv[:1]).command

    try:
        module = importlib.import_module(COMMANDS[command][0])
    except (ImportError, OSError, RuntimeError) as error:  # what packages raise that are half there
        if {'-h', '--help'} & set(argv):
            sys.stdout.write(f'segsr {command}: {_docstring(COMMANDS[command][0])}\n\n')
        return _failed(command, not_there(error))
    parser = argparse.ArgumentParser(
        prog=f'segsr {command}', description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    args = parser.parse_args(argv[1:])
    try:
        code = module.run(args)
        sys.stdout.flush()
        return code
    except CommandError as error:
        return _failed(command, str(error))
    except ImportError as error:
        return _failed(command, not_there(error))
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(command, f"'{error.filename}': {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f'segsr {command}: interrupted\n')
        return 130
    except Exception as error:
        if out_of_memory(error):
            return _failed(command, 'not enough memory')
        raise


def _failed(command: str, reason: str) -> int:
    sys.stderr.write(f'segsr {command}: error: {printable(reason)}\n')
    return 2


def _docstring(module: str) -> str:
    """What a command's module says of it, read from its file."""
    file = Path(__file__).parent.joinpath(*module.split('.')[1:]).with_suffix('.py')
    return ast.get_docstring(ast.parse(file.read_text(encoding='utf-8')))

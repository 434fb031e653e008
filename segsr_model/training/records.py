"""What a run notes beside its results and checkpoints: its log, TensorBoard's files, lists of images.

A run goes on without them: what cannot be written is said once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from basicsr.utils import logger as basicsr_logger

from segsr_model.files import UnwrittenError, append_lines, printable


def get_root_logger(logger_name: str = 'basicsr', log_level: int = logging.INFO,
                    log_file: str | None = None) -> logging.Logger:
    """BasicSR's ``get_root_logger``, for train.py and test.py; the log is in UTF-8.

    Raises:
        SystemExit: the log file cannot be made.
    """
    try:
        logger = basicsr_logger.get_root_logger(logger_name, log_level, log_file)
    except OSError as error:
        raise SystemExit(printable(f"cannot write '{log_file}': {error.strerror}")) from None
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.reconfigure(encoding='utf-8', errors='backslashreplace')
            handler.handleError = _Unlogged(handler.baseFilename)
    return logger


class _Unlogged:
    """A log file's handler calls it for each line that it cannot write."""

    def __init__(self, file: str) -> None:
        self.file, self.said = file, False

    def __call__(self, record: logging.LogRecord) -> None:
        if not self.said:
            sys.stderr.write(printable(f"cannot write '{self.file}', the run goes on: {sys.exc_info()[1]}") + '\n')
        self.said = True


def note(path: str, lines: Iterable[str]) -> None:
    """Add lines to a list; a warning if that is not possible."""
    try:
        append_lines(path, lines)
    except UnwrittenError as error:
        basicsr_logger.get_root_logger().warning(f'{error}.')


class Curves:
    """TensorBoard's writer, as far as BasicSR uses it, which is given up when it cannot write."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def add_scalar(self, *arguments: Any) -> None:
        self._call('add_scalar', *arguments)

    def close(self) -> None:
        self._call('close')

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            if self.writer is not None:
                getattr(self.writer, name)(*arguments)
        except Exception as error:  # its thread's, of the system or of a library
            self.writer = None
            basicsr_logger.get_root_logger().warning(printable(f'No more is written for TensorBoard: {error}'))

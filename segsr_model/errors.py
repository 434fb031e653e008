"""What a command says of bad input, and of what does not fit into memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_NO_MEMORY = re.compile('out of memory|(enough|insufficient|allocate) memory|failed to allocate|alloc_failed|bad.alloc'
                        '|could not create a (primitive|memory)', re.IGNORECASE)


class CommandError(Exception):
    """Raised for bad input, with one line that says what is wrong; shown as that, exit code 2."""


def not_there(error: Exception) -> str:
    """What is said, on one line, of a package that is missing or cannot be loaded."""
    reason = (str(error) or repr(error)).splitlines()[0]
    return f'a package is missing, or cannot be loaded: {reason}; README.md, under Installing, tells what is needed'


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the want of memory: Python's, the system's, OpenCV's, or PyTorch's on any device."""
    return isinstance(error, MemoryError) or isinstance(error, Exception) and bool(_NO_MEMORY.search(str(error)))


@contextlib.contextmanager
def in_memory(what: str, advice: str) -> Iterator[None]:
    """Raise a `CommandError` that names what was worked on where the memory does not suffice for it."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise CommandError(f'{what} does not fit into memory; {advice}') from None

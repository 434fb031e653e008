"""Reading options that may be anything: blocks, and the kinds that values have to be of."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from basicsr.utils.registry import Registry


class Kind(NamedTuple):
    """What a value must be: in words, and as a test."""

    text: str
    fits: Callable[[Any], bool]


def whole(least: int) -> Kind:
    """Whole numbers."""
    return Kind(f'a whole number >= {least}', lambda value: type(value) is int and value >= least)


def steps(least: int) -> Kind:
    """Numbers of iterations, which BasicSR's option files write as ``!!float 5e3`` as well."""
    return Kind(f'a whole number >= {least}', lambda value: is_whole(value) and value >= least)


def number(text: str = 'a number', fits: Callable[[float], bool] = lambda value: True) -> Kind:
    """Numbers that pass a test."""
    return Kind(text, lambda value: is_number(value) and fits(value))


def choice(*values: Any) -> Kind:
    """One of some values."""
    return Kind(f'one of {", ".join(map(str, values))}', lambda value: value in values)


def optional(kind: Kind) -> Kind:
    """A kind, or nothing."""
    return Kind(f'{kind.text}, or ~', lambda value: value is None or kind.fits(value))


def several(kind: Kind) -> Kind:
    """A list."""
    return Kind(f'a list, each {kind.text}',
                lambda value: isinstance(value, (list, tuple)) and all(map(kind.fits, value)))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float('inf')


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, however it is written."""
    return is_number(value) and value == int(value)


ANY = Kind('anything', lambda value: True)
BOOL = Kind('true or false', lambda value: isinstance(value, bool))
TEXT = Kind('a text', lambda value: isinstance(value, str))
NUMBER = number()
LIST = Kind('a list', lambda value: isinstance(value, (list, tuple)))
BLOCK = Kind('a block of options', lambda value: isinstance(value, Mapping))


class Block:
    """A block of options and its path, such as ``datasets:train``. What is no block counts as an empty one."""

    def __init__(self, content: Any, where: str = '') -> None:
        self.content: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        self.where = where

    def __getitem__(self, key: str) -> Block:
        return Block(self.content.get(key), self.path(key))

    def __bool__(self) -> bool:
        return bool(self.content)

    def path(self, key: str) -> str:
        """The path of an option of the block."""
        return f'{self.where}:{key}' if self.where else key

    def get(self, key: str, kind: Kind = ANY, default: Any = None) -> Any:
        """A value if it is there and of a kind, else ``default``."""
        value = self.content.get(key, default)
        return value if kind.fits(value) else default

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """The blocks inside, with their keys."""
        return ((str(key), self[key]) for key, value in self.content.items() if isinstance(value, Mapping))

    def check(self, kinds: Mapping[str, Kind], required: Iterable[str] = ()) -> Iterator[str]:
        """Problems: unknown keys, missing ones, and values that are not of their kind."""
        start = f'{self.where}: ' if self.where else ''
        for key, value in self.content.items():
            if key not in kinds:
                yield f"{start}unknown option '{key}'; {nearest(key, kinds)}"
            elif not kinds[key].fits(value):
                yield f'{self.path(key)}: is {value!r}, must be {kinds[key].text}{_as_number(value, kinds[key])}'
        for key in required:
            if self.content.get(key) in (None, '', {}):
                yield f"{start}option '{key}' is missing"

    def check_type(self, known: Iterable[str], what: str) -> Iterator[str]:
        """Problems of the block's ``type``."""
        known, kind = sorted(known), self.content.get('type')
        if kind is None:
            yield f"{self.where}: option 'type' is missing"
        elif not isinstance(kind, str) or kind not in known:
            yield f'{self.path("type")}: there is no {what} {kind!r}; {nearest(kind, known)}'


def nearest(name: Any, known: Iterable[str]) -> str:
    """What may have been meant."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f'there are {", ".join(known)}'


def registered(registry: Registry) -> set[str]:
    """Names that a registry of BasicSR knows; it looks for ``<name>_basicsr`` too."""
    names = {name for name, _ in registry}
    return names | {name.removesuffix('_basicsr') for name in names}


def parameters_of(function: Callable, leave_out: Iterable[str] = ()) -> tuple[dict[str, Kind], list[str], bool]:
    """What a function takes: kinds by name (from the defaults), what must be given, and whether it takes any other."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in leave_out]
    return ({p.name: _kind_of(p.default) for p in named}, [p.name for p in named if p.default is p.empty],
            any(p.kind is p.VAR_KEYWORD for p in parameters))


def call_problems(block: Block, function: Any, leave_out: tuple[str, ...], kinds: Mapping[str, Kind] | None = None, *,
            closed: bool = False) -> Iterator[str]:
    """Problems of a block whose options are a function's arguments.

    Args:
        leave_out: arguments that the caller gives.
        kinds: of arguments whose defaults do not tell.
        closed: what the function takes beside its named arguments has no effect.
    """
    known, required, open_ = parameters_of(function, leave_out)
    known = {**known, **{key: kind for key, kind in (kinds or {}).items() if key in known or key == 'better'},
             'type': TEXT}
    if open_ and not closed:
        known.update({key: ANY for key in block.content if key not in known})
    yield from block.check(known, required)


def tried(block: Block, make: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What ``make()`` makes of a block's options, and the problems that it finds with them."""
    try:
        return make(), []
    except Exception as error:  # whatever a class says of its arguments
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, [f'{block.where}: {reason}']


def without_type(block: Block) -> dict[str, Any]:
    """The options that a block gives to the class of its ``type``."""
    return {key: value for key, value in block.content.items() if key != 'type'}


def _kind_of(default: Any) -> Kind:
    if isinstance(default, bool):
        return BOOL
    if is_number(default):
        return NUMBER
    return {tuple: several(NUMBER), str: TEXT}.get(type(default), ANY)


def _as_number(text: Any, kind: Kind) -> str:
    """Advice for a number that YAML reads as a text, as 1e-4 or '4'."""
    for make, advice in ((int, f'write it without quotes: {text}'), (float, f'write !!float {text}')):
        try:
            if isinstance(text, str) and kind.fits(make(text)):
                return f'; YAML reads it as a text: {advice}'
        except ValueError:
            pass
    return ''

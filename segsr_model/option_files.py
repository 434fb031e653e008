"""Option files made of others: ``include: other.yml``, or a list of files, at any place of a BasicSR option file.

Paths are relative to the file. What is included is merged in order, mapping by mapping; the file's own keys come last
and win. Lists and single values are replaced. A file that is reached twice counts where it is reached first. A dataset
or an option of the scheduler that is set to ``~`` is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from os import path as osp
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES, MOST_VALUES, DEEPEST = 1 << 18, 20_000, 40  # of one option file; ours have 4 kB, 150 values and 6 levels


class OptionLoader(yaml.SafeLoader):
    """Reads YAML into plain values: no Python objects are made (``!!python/...``), and aliases cannot blow it up."""

    def __init__(self, stream: Any) -> None:
        with _explained():
            super().__init__(stream)

    def get_single_data(self) -> Any:
        """The document. ValueError: it is no YAML, has more than plain values or a key twice, is too large or deep."""
        with _explained():
            node = self.get_single_node()
            _check_extent(node)
            return None if node is None else self.construct_document(node)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # PyYAML's own, and whatever its values raise: an impossible date, a foreign number
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(f'not a YAML option file: {reason}') from None


def _check_extent(node: yaml.Node | None) -> None:
    """ValueError if a document is too large or too deep, an alias counting as what it stands for, or a key is twice."""
    waiting, count = [(node, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise ValueError(f'more than {MOST_VALUES:,} values or {DEEPEST} levels')
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if (key.tag, str(key.value)) in keys:  # YAML's readers forget the first
                    raise ValueError(f"'{key.value}' is there twice, in line {key.start_mark.line + 1} again")
                keys.add((key.tag, str(key.value)))
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(part, depth + 1) for part in node.value]


def compose(path: str | Path) -> tuple[dict[str, Any], list[Path]]:
    """Read an option file and those it includes.

    Returns:
        The options without ``include``, and the files in the order in which they were merged, ``path`` last.

    Raises:
        ValueError: a file cannot be read, is not an option file, or includes itself.
    """
    options, files = {}, []
    _merge_file(Path(path), options, files, ())
    for block, key in ((options, 'datasets'), (options.get('train'), 'scheduler')):
        if isinstance(block, dict) and isinstance(block.get(key), dict):
            block[key] = {k: v for k, v in block[key].items() if v is not None}
    return options, files


def read_options(path: str | Path) -> dict[str, Any]:
    """The options of `compose`.
    """
    return compose(path)[0]


def _merge_file(path: Path, options: dict[str, Any], files: list[Path], parents: tuple[Path, ...]) -> None:
    if any(osp.realpath(path) == osp.realpath(parent) for parent in parents):
        raise ValueError(f"'{path}' includes itself: {' -> '.join(map(str, (*parents, path)))}")
    if any(osp.realpath(path) == osp.realpath(file) for file in files):
        return
    content = _read(path, parents)
    included = content.pop('include', [])
    included = [included] if isinstance(included, str) else included
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise ValueError(f"'{path}': include must be an option file or a list of them, not {included!r}")
    for name in included:
        _merge_file(Path(osp.normpath(path.parent / name)), options, files, (*parents, path))
    files.append(path)
    _merge(options, content)


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    by = f", included by '{parents[-1]}'" if parents else ''
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"not a YAML option file: it is larger than {MOST_BYTES // 1024} kB")
        options = yaml.load(path.read_text(encoding='utf-8'), OptionLoader)
    except OSError as error:
        raise ValueError(f"cannot read the option file '{path}'{by}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}'{by} is not a YAML option file: {error}") from None
    except ValueError as error:
        raise ValueError(f"'{path}'{by} is {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"'{path}'{by} is not an option file: it has no options")
    return options


def _merge(options: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict):
            _merge(options[key], value)
        else:
            options[key] = value


def as_test(options: dict[str, Any], root_path: str | Path) -> dict[str, Any]:
    """The test of what an option file for training has trained: its validation sets, its last weights, images saved.

    Args:
        options: of training.
        root_path: where BasicSR keeps ``experiments``.
    """
    decay = (options.get('train') or {}).get('ema_decay', 0)
    averaged = isinstance(decay, (int, float)) and decay > 0
    weights = osp.relpath(osp.join(root_path, 'experiments', options['name'], 'models', 'net_g_latest.pth'))
    return {
        **{key: value for key, value in options.items() if key not in ('train', 'logger')},
        'datasets': {phase: dataset for phase, dataset in options['datasets'].items() if phase != 'train'},
        'path': {'pretrain_network_g': weights, 'param_key_g': 'params_ema' if averaged else 'params'},
        'val': {'suffix': None, **(options.get('val') or {}), 'save_img': True},
    }

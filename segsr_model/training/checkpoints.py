"""Checkpoints as pairs of a network's file and a training state: written at once or not at all, verified, pruned.

The names are BasicSR's: ``models/net_g_5000.pth`` and ``training_states/5000.state``. The network is written first; the
state names its size and SHA-256. So a pair is complete when there is a state, and it belongs to what it was saved with.
The state itself is verified by the CRC-32 that PyTorch's archives hold for each record (PyTorch does not look at them).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger

from segsr_arch.clip.tensor_files import load_tensors
from segsr_model.files import sha256, write_atomically

STATE_KEYS = ('epoch', 'iter', 'optimizers', 'schedulers')  # what BasicSR itself resumes from


def snapshot(content: Any) -> Any:
    """A copy on the CPU that later training does not change; tensors that share their memory are copied once."""
    copies = {}

    def copy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            if key not in copies or not value.numel():  # empty ones have no address
                copies[key] = value.detach().to('cpu', copy=True)
            return copies[key]
        if isinstance(value, MutableMapping):
            same_kind = value.copy()
            for name, item in value.items():
                same_kind[name] = copy(item)
            return same_kind
        return type(value)(copy(item) for item in value) if isinstance(value, (list, tuple)) else value

    return copy(content)


class _Hashing:
    """A file that is open for writing, and the SHA-256 of what was written."""

    def __init__(self, file: Any) -> None:
        self.file, self.size, self.digest, self.flush = file, 0, hashlib.sha256(), file.flush

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def save_file(content: Any, path: str | Path) -> dict[str, Any]:
    """Save with PyTorch, atomically. Returns the file's ``size`` in bytes and ``sha256``.

    Raises:
        OSError: the disk is full, the folder is read-only, ...; what was there before is untouched.
    """
    record = {}

    def write(temporary: str) -> None:
        with open(temporary, 'wb') as file:
            hashing = _Hashing(file)
            try:
                torch.save(content, hashing)
            except RuntimeError as error:  # PyTorch's own, after the file's
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        record.update(size=hashing.size, sha256=hashing.digest.hexdigest())

    write_atomically(path, write)
    return record


class CheckpointWriter:
    """Writes checkpoints one after the other, in a thread of its own if ``background``.

    A file that cannot be written is logged as an error at once, and training goes on with the last good checkpoint;
    `finish` raises the error. When the process ends by itself, it first waits for the thread.

    Attributes:
        saved: iteration of the newest complete pair of this run.
    """

    def __init__(self, *, background: bool = False) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='checkpoint') if background else None
        self._jobs: list[Future] = []
        self._networks: dict[str, dict[str, Any]] = {}  # size and checksum by file name, since the last state
        self._error: OSError | None = None
        self.saved: int | None = None

    def save_network(self, path: str | Path, content: Any) -> None:
        """Save weights; waits for what is being written before. ``content`` must not change any more."""
        self.wait()
        self._error = None
        self._networks.pop(Path(path).name, None)
        self._start(path, lambda: self._networks.update({Path(path).name: save_file(content, path)}))

    def save_state(self, path: str | Path, state: dict[str, Any], networks: Iterable[str],
                   then: Callable[[], None]) -> None:
        """Save a training state, if the files ``networks`` that belong to it could be saved; then call ``then``."""
        def write() -> None:
            if all(name in self._networks for name in networks):
                save_file({**state, 'files': {name: self._networks[name] for name in networks}}, path)
                self._networks.clear()
                self.saved = state['iter']
                then()

        self._start(path, write)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        while self._jobs:
            self._jobs.pop().result()

    def finish(self) -> None:
        """Wait. OSError: what was saved last could not be written."""
        self.wait()
        if self._error:
            raise self._error

    def _start(self, path: str | Path, write: Callable[[], None]) -> None:
        if self._pool:
            self._jobs.append(self._pool.submit(self._run, path, write))
        else:
            self._run(path, write)

    def _run(self, path: str | Path, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # whatever it is must reach the user, from the thread as well
            reason = getattr(error, 'strerror', None) or str(error).split('\n', 1)[0] or repr(error)
            self._error = OSError(f"could not save '{path}': {reason}")
            get_root_logger().error(f'{self._error}. Earlier checkpoints are as they were.')


def states_in(folder: str | Path) -> list[Path]:
    """The training states with an iteration for a name, newest first."""
    states = [path for path in Path(folder).glob('*.state') if path.stem.isdecimal()]
    return sorted(states, key=lambda path: int(path.stem), reverse=True)


def prune(states: str | Path, models: str | Path, *, newest: int, keep: int) -> None:
    """Remove the pairs up to iteration ``newest`` but the ``keep`` newest of them, each state before its network."""
    for state in [path for path in states_in(states) if int(path.stem) <= newest][keep:]:
        for path in (state, *Path(models).glob(f'net_*_{state.stem}.pth')):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                get_root_logger().warning(f"logger:keep_last: cannot remove '{path}': {error.strerror}")


def read_pair(path: str | Path, models: str | Path, networks: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Read a training state, and verify it and the networks saved with it.

    Args:
        path: the state.
        models: folder of the networks.
        networks: labels of those to be loaded (``net_g``).

    Returns:
        The state on the CPU, and what there is to say: networks that no state names, as those of BasicSR itself.

    Raises:
        ValueError: the pair is not complete; says which file and why.
    """
    _verify_archive(path)
    state = load_tensors(path, 'training state')
    missing = [key for key in STATE_KEYS if not isinstance(state, Mapping) or key not in state]
    if missing:
        raise ValueError(f"'{path}' is no training state of BasicSR: it has no {missing[0]}")
    notes = []
    for label in networks:
        network = Path(models) / f'{label}_{state["iter"]}.pth'
        record = (state.get('files') or {}).get(network.name)
        if record is None:
            _verify_archive(network)
            notes.append(f"'{network}' was saved without a checksum: it is whole, but may not be the one that "
                         f"belongs to '{path}'.")
        elif not network.is_file():
            raise ValueError(f"'{network}' is missing")
        elif network.stat().st_size != record['size'] or sha256(network) != record['sha256']:
            raise ValueError(f"'{network}' is damaged, or is not the one saved with '{path}'")
    return state, notes


def newest_pair(states: str | Path, models: str | Path, networks: Iterable[str]) -> tuple[str | None, list[str]]:
    """The newest complete pair.

    Args:
        states: folder of the training states.
        models, networks: as in `read_pair`.

    Returns:
        The path of its state, None if there is no state at all, and what there is to say: among others each pair that
        was passed over, with the reason.

    Raises:
        ValueError: there are states, but no complete pair.
    """
    networks, skipped = list(networks), []
    for path in states_in(states):
        try:
            return str(path), skipped + read_pair(path, models, networks)[1]
        except (ValueError, OSError) as error:
            skipped.append(f'The checkpoint of iteration {path.stem} is passed over: {error}.')
    if skipped:
        raise ValueError(f"none of the {len(skipped)} checkpoints in '{states}' is complete. {skipped[0]} "
                         'To start afresh, leave out --auto_resume')
    return None, []


def best_metric(opt: Mapping[str, Any]) -> tuple[str, str] | None:
    """Dataset and metric of ``logger: save_best``: a metric, of the first validation set, or ``{dataset: metric}``.

    Raises:
        ValueError: there is no such dataset or metric; says which there are.
    """
    wanted = (opt.get('logger') or {}).get('save_best')
    if not wanted:
        return None
    datasets = [dataset['name'] for phase, dataset in opt['datasets'].items() if phase.split('_')[0] == 'val']
    metrics = list((opt.get('val') or {}).get('metrics') or {})
    if isinstance(wanted, str) and datasets:
        wanted = {datasets[0]: wanted}
    if not isinstance(wanted, Mapping) or len(wanted) != 1:
        raise ValueError(f'logger:save_best: must be a metric of val:metrics, or one "dataset: metric", not {wanted!r}')
    (dataset, metric), = wanted.items()
    if dataset not in datasets:
        raise ValueError(f"logger:save_best: there is no validation set '{dataset}'; there are {', '.join(datasets)}")
    if metric not in metrics:
        there = ', '.join(map(str, metrics))
        raise ValueError(f"logger:save_best: '{metric}' is not in val:metrics; there are {there}")
    return dataset, metric


def _verify_archive(path: str | Path) -> None:
    if not Path(path).is_file():
        raise ValueError(f"'{path}' is missing")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        else:
            damaged = 'its end'
    except Exception as error:  # damage can make zipfile raise nearly anything
        raise ValueError(f"'{path}' is damaged: {error}") from None
    if damaged:
        raise ValueError(f"'{path}' is damaged at {damaged}")

"""Reading tensors out of files without running anything that is in them.

PyTorch's files are pickles, which can name any function and call it. Only tensors and plain values are taken from them,
whatever PyTorch's version, and a TorchScript archive is read for its weights alone: its program is never loaded.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

_DTYPES = {f'torch {name}Storage': dtype for name, dtype in (
    ('Half', torch.half), ('Float', torch.float), ('Double', torch.double), ('BFloat16', torch.bfloat16),
    ('Char', torch.int8), ('Short', torch.short), ('Int', torch.int), ('Long', torch.long), ('Byte', torch.uint8),
    ('Bool', torch.bool), ('ComplexFloat', torch.cfloat), ('ComplexDouble', torch.cdouble), ('QInt8', torch.qint8),
    ('QUInt8', torch.quint8), ('QInt32', torch.qint32))}
_DTYPES['torch.storage UntypedStorage'] = torch.uint8
_MOST_PARTS = 100_000  # modules and tensors of an archive; ViT-L-14's has some 1,500


def load_tensors(path: str | Path, what: str = 'weights', *, mmap: bool = False) -> Any:
    """Tensors and plain values from a file of `torch.save`, on the CPU.

    Args:
        path: of the file.
        what: it should hold, for messages.
        mmap: let tensors be read when they are used, which needs a zip file.

    Raises:
        ValueError: no such file; it is damaged; or it holds more than tensors and plain values, which could run code.
    """
    try:
        return _load(Path(path), mmap)
    except FileNotFoundError:
        raise ValueError(f"there is no {what} file '{path}'") from None
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        raise ValueError(f"cannot read {what} from '{path}': {_reason(error)}") from None


def _load(path: Path, mmap: bool) -> Any:
    """`torch.load`, but for what is not left to it: its two old ways of reading archives, tar and TorchScript, and a
    tensor that says that it has more values than are in the file, which not every PyTorch notices."""
    with path.open('rb') as file:
        zipped = file.read(4) == b'PK\3\4'
    if tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive, PyTorch's format up to 0.1.11")
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.split('/')[-1] == 'constants.pkl' for entry in entries):
                raise ValueError('it is a TorchScript archive, which is a program')
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError('it is compressed, which PyTorch never does')
            parts = _Parts(archive)
            _parse(parts.read('data.pkl'), parts.require)
    return torch.load(str(path), map_location='cpu', weights_only=True, mmap=mmap and zipped)


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r'(?:GLOBAL|class|function|type) `?([\w.]+\.[\w.]+)', text)
        return (f'it is damaged, or holds more than tensors and plain values{f" ({named[1]})" if named else ""}, which '
                'could run code; it is not loaded')
    if isinstance(error, EOFError):
        return 'it is cut off'
    return text.splitlines()[0] if text else type(error).__name__


def holds_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor from a file has its own real values in memory: it is not sparse, quantised, complex or empty."""
    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of `torch.jit.save`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def read_torchscript(path: str | Path) -> dict[str, torch.Tensor]:
    """The ``state_dict`` of an archive of `torch.jit.save`, read as data.

    Raises:
        ValueError: it is damaged, or its parts do not fit together.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        parts = _Parts(archive)
        module = _parse(parts.read('data.pkl'), parts.require, parts.tensor)
    state, waiting, count = {}, [('', module)], 0
    while waiting:
        prefix, part = waiting.pop()
        count += 1
        if count > _MOST_PARTS:
            raise ValueError('its modules hold one another')
        if isinstance(part, torch.Tensor):
            state[prefix] = part
        elif isinstance(part, _Object):
            waiting += [(f'{prefix}.{key}' if prefix else key, value) for key, value in reversed(part.values.items())]
    return state


class _Object:
    """A module in a TorchScript archive, or a value of another class that is of no interest here."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def update(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """As of a mapping, such as an OrderedDict."""
        self.values.update(pairs)

    def extend(self, values: Iterable[Any]) -> None:
        """As of a list."""


class _Global(str):
    """The name of a class or function in a pickle, 'module name'. It is never imported."""


class _Storage(tuple):
    """Type and key of a tensor's data."""


class _Parts:
    """The parts of a zip archive of PyTorch's: a pickle, and the data of each tensor."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.entries = {entry.filename.partition('/')[2]: entry for entry in archive.infolist()}
        self.storages: dict[str, torch.Tensor] = {}
        if 'byteorder' in self.entries and self.read('byteorder') != b'little':
            raise ValueError('it was written on a big-endian machine')

    def read(self, name: str) -> bytes:
        entry = self.entries.get(name)
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"its part '{name}' is missing, or compressed")
        return self.archive.read(entry)

    def require(self, dtype: torch.dtype, key: str, count: int) -> None:
        """ValueError: the data are not there, or not as long as the pickle says."""
        entry = self.entries.get(f'data/{key}')
        if entry is None or type(count) is not int or entry.file_size != count * dtype.itemsize:
            raise ValueError(f"its part 'data/{key}' is missing, or of another size")

    def tensor(self, place: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
               ) -> torch.Tensor:
        """A tensor of the values that lie in a storage, each once."""
        if not isinstance(place, _Storage):
            raise TypeError('a tensor without a storage')
        dtype, key = place
        if key not in self.storages:
            data = bytearray(self.read(f'data/{key}'))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        values = self.storages[key]
        if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
            raise ValueError('a tensor of impossible size')
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
            raise ValueError(f'a tensor of size {size} in a storage of {len(values)}')
        return torch.as_strided(values, size, stride, offset)


def _parse(content: bytes, require: Callable[[torch.dtype, str, int], None],
           tensor: Callable[..., Any] = lambda *_: None) -> Any:
    """What a pickle of PyTorch's describes, by its own few instructions; nothing that it names is imported or called.

    Args:
        content: the pickle.
        require: called with type, key and number of values of each tensor's data.
        tensor: called with the place of a tensor's data, and its offset, size and stride there.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    try:
        for op, arg, _ in pickletools.genops(content):
            name = op.name
            if name == 'GLOBAL':
                stack.append(_Global(arg))
            elif name in ('BINUNICODE', 'SHORT_BINSTRING', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT'):
                stack.append(arg)
            elif name in ('NONE', 'NEWTRUE', 'NEWFALSE'):
                stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[name])
            elif name in ('EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT'):
                stack.append({'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list, 'EMPTY_DICT': dict}[name]())
            elif name == 'MARK':
                marks.append(len(stack))
            elif name == 'TUPLE':
                stack.append(tuple(above_mark()))
            elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name in ('BINPUT', 'LONG_BINPUT'):
                memo[arg] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET'):
                stack.append(memo[arg])
            elif name in ('APPEND', 'APPENDS'):
                values = [stack.pop()] if name == 'APPEND' else above_mark()
                stack[-1].extend(values)
            elif name in ('SETITEM', 'SETITEMS'):
                values = [stack.pop(-2), stack.pop()] if name == 'SETITEM' else above_mark()
                stack[-1].update(pair for pair in zip(values[::2], values[1::2]) if isinstance(pair[0], str))
            elif name == 'BINPERSID':
                _, dtype, key, _, values = stack.pop()
                if not (isinstance(dtype, _Global) and isinstance(key, str)):
                    raise TypeError('a storage without a type or a key')
                require(_DTYPES[dtype], key, values)
                stack.append(_Storage((_DTYPES[dtype], key)))
            elif name == 'NEWOBJ':
                stack[-2:] = [_Object()]
            elif name == 'BUILD':
                values = stack.pop()
                if isinstance(stack[-1], _Object) and isinstance(values, dict):
                    stack[-1].values = values
            elif name == 'REDUCE':
                function, values = stack[-2:]
                known = isinstance(function, _Global) and function == 'torch._utils _rebuild_tensor_v2'
                stack[-2:] = [tensor(*values) if known else _Object()]
            elif name == 'STOP':
                return stack.pop()
            elif name != 'PROTO':
                raise ValueError(f'an archive has no {name}')
    except (LookupError, TypeError, AttributeError, ValueError) as error:  # instructions that make no sense
        raise ValueError(f'its data.pkl is damaged: {error}') from None
    raise ValueError('its data.pkl has no end')


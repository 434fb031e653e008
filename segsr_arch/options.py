"""The ``semantic:`` block of ``network_g``, and the check that no option is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

LORA_TARGETS = ('qkv', 'ffn')


class OptionError(ValueError):
    """An option that is unknown, missing or has a value that cannot be used."""


def check_keys(where: str, given: Iterable[str], known: Iterable[str], required: Iterable[str] = ()) -> None:
    """Raise an `OptionError` that names the first unknown (with its nearest known) or missing key of ``where``."""
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f'there are {", ".join(known)}'
            raise OptionError(f"{where}: unknown option '{key}'; {hint}")
    for key in required:
        if key not in given:
            raise OptionError(f"{where}: option '{key}' is missing")


def parse(cls: type, options: Mapping[str, Any] | None, where: str) -> Any:
    """Build the option class ``cls`` from a mapping; nested option classes are built from nested mappings."""
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise OptionError(f'{where}: expected options as "key: value" lines, got {options!r}')
    known = {f.name: f for f in fields(cls)}
    check_keys(where, options, known, [n for n, f in known.items()
                                       if f.default is MISSING and f.default_factory is MISSING])
    values = dict(options)
    for name, f in known.items():
        nested = f.metadata.get('nested')
        if nested and name in values:
            values[name] = parse(nested, values[name], f'{where}:{name}')
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f'{where}:{error}') from None


def _nested(cls: type) -> Any:
    return field(default_factory=cls, metadata={'nested': cls})


def _require(condition: bool, option: str, value: Any, expected: str) -> None:
    if not condition:
        raise OptionError(f'{option}: is {value!r}, must be {expected}')


@dataclass(frozen=True)
class EncoderOptions:
    """CLIP's image tower and its LoRA (Table V). ``model`` may be a model config itself, as in a release file."""

    model: str | Mapping[str, Any] = 'ViT-B-16'
    pretrained: str | None = 'openai'
    lora_rank: int = 32
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = LORA_TARGETS

    def __post_init__(self):
        _require(isinstance(self.model, (str, Mapping)), 'model', self.model,
                 "an open_clip model name, a model config's path or a model config")
        _require(self.pretrained is None or isinstance(self.pretrained, str), 'pretrained', self.pretrained,
                 'an open_clip tag, a weights file, or ~ for random weights')
        _require(type(self.lora_rank) is int and self.lora_rank >= 0, 'lora_rank', self.lora_rank, 'an integer >= 0')
        _require(self.lora_alpha is None or (type(self.lora_alpha) in (int, float) and self.lora_alpha > 0),
                 'lora_alpha', self.lora_alpha, 'a number > 0, or ~ for the rank')
        _require(type(self.lora_dropout) in (int, float) and 0 <= self.lora_dropout < 1, 'lora_dropout',
                 self.lora_dropout, 'a number in [0, 1)')
        _require(isinstance(self.lora_targets, (list, tuple)) and len(self.lora_targets) > 0
                 and all(target in LORA_TARGETS for target in self.lora_targets),
                 'lora_targets', self.lora_targets, 'a list of qkv and ffn')

    @property
    def model_name(self) -> str:
        """The model, for messages."""
        return self.model if isinstance(self.model, str) else 'a model config in the options'


@dataclass(frozen=True)
class LocalizationOptions:
    """Which descriptors the SLM works with (Table VI)."""

    unit_descriptors: bool = True
    global_descriptor: bool = True
    scene_context: bool = True

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            _require(isinstance(value, bool), f.name, value, 'true or false')
        if not (self.unit_descriptors or self.global_descriptor or self.scene_context):
            raise OptionError('unit_descriptors, global_descriptor and scene_context are all false; '
                              'at least one must be true')


@dataclass(frozen=True)
class SemanticOptions:
    """How semantics guide the network: ``none``, ``add``, ``feature`` or ``map`` (Table IV, ID 1 to 4)."""

    guidance: str = 'map'
    encoder: EncoderOptions = _nested(EncoderOptions)
    localization: LocalizationOptions = _nested(LocalizationOptions)

    def __post_init__(self):
        kinds = ('none', 'add', 'feature', 'map')
        _require(self.guidance in kinds, 'guidance', self.guidance, f'one of {", ".join(kinds)}')

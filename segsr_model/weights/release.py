"""Release files: a network in one ``.safetensors`` file that is enough by itself.

Beside the weights, those of a frozen CLIP tower among them, the file's metadata hold one JSON object under
``segsr_release``: the version of this ``format``, and the fields of `Release`. Nothing else is read when it is loaded,
and nothing in it is run.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from segsr_arch.clip.clip_tower import model_config
from segsr_arch.options import EncoderOptions, parse
from segsr_arch.segsr_arch import SeGSR
from segsr_model.files import sha256, write_output
from segsr_model.weights.building import build, channels_of, network_class, scale_of
from segsr_model.weights.loading import Trained
from segsr_model.weights.reading import read_iterations, read_safetensors

KEY = 'segsr_release'  # of the metadata
FORMAT = 1
MOST_METADATA = 1 << 16  # characters; those of a HAT with CLIP's tower have 3,000
RGB = ('red', 'green', 'blue')


@dataclass(frozen=True)
class Release:
    """What is known of a network beside its weights. ValueError: a value that cannot be.

    Attributes:
        network_g: as in an option file, but enough by itself: no file and no name that would have to be fetched. None
            for a network of spandrel's, which no option file describes.
        scale: s, of the image's sides.
        halo: LR pixels around a tile that its result depends on, or has to for a small enough difference; None: not
            measured.
        training_patch: side of the LR images that it was trained with, in pixels; None: not known.
        value_range: what the lowest and the highest value of its input stand for in training: RGB in [0, 1].
        bands: of its input and output, in this order.
        tower: what identifies the CLIP tower its weights came from, see `segsr_arch.sfem.SFEM`; None: it has none.
        licence: of the weights; None: not stated.
        provenance: where it comes from: ``segsr`` (the version), ``option_file``, ``iterations``, ``sha256`` of the
            checkpoint and more.
    """

    network_g: dict[str, Any] | None
    scale: int
    halo: float | None = None
    training_patch: int | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    bands: tuple[str, ...] = RGB
    tower: dict[str, Any] | None = None
    licence: str | None = None
    provenance: dict[str, str | int | float | None] | None = None

    def __post_init__(self) -> None:
        for name, kind in (('value_range', tuple), ('bands', tuple)):
            if isinstance(getattr(self, name), list):  # JSON's
                object.__setattr__(self, name, kind(getattr(self, name)))
        for name, (holds, expected) in _CHECKS.items():
            value = getattr(self, name)
            if not holds(value):
                shown = repr(value)
                raise ValueError(f'{name}: is {shown[:60]}{"..." if len(shown) > 60 else ""}, must be {expected}')


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _is_flat(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) <= 20 and all(
        _is_text(key) and (item is None or _is_text(item) or _is_number(item)) for key, item in value.items())


_CHECKS = {
    'network_g': (lambda x: x is None or isinstance(x, Mapping), "a network's options"),
    'scale': (lambda x: type(x) is int and 1 <= x <= 64, 'a whole number such as 4'),
    'halo': (lambda x: x is None or _is_number(x) and 0 <= x <= 4096, 'a number of LR pixels, or null'),
    'training_patch': (lambda x: x is None or type(x) is int and 1 <= x <= 4096,
                       'a whole number of LR pixels, or null'),
    'value_range': (lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(_is_number, x)) and x[0] < x[1],
                    'two numbers, the lower first'),
    'bands': (lambda x: isinstance(x, tuple) and 1 <= len(x) <= 16 and all(map(_is_text, x)), 'the names of bands'),
    'tower': (lambda x: x is None or isinstance(x, Mapping), "a CLIP tower's source, or null"),
    'licence': (lambda x: x is None or _is_text(x), 'a line of at most 200 characters, or null'),
    'provenance': (lambda x: x is None or _is_flat(x), 'names with texts or numbers'),
}


def package_version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # used from a checkout
        return 'unknown'


def band_names(channels: int) -> tuple[str, ...]:
    """The bands of a network of so many channels."""
    return RGB if channels == 3 else tuple(f'band {i + 1}' for i in range(channels))


def describe(trained: Trained, *, halo: float | None = None, training_patch: int | None = None,
             licence: str | None = None) -> Release:
    """The release of a network that was trained here.

    Args:
        trained: the network.
        halo, licence: see `Release`.
        training_patch: None: what the option file says of it, if anything.

    Raises:
        ValueError: a value that cannot be.
    """
    network_g, path = trained.network_g, trained.checkpoint
    scale = scale_of(trained.net, network_g)
    if training_patch is None:
        train = (trained.options.get('datasets') or {}).get('train') or {}
        training_patch = train['gt_size'] // scale if train.get('gt_size') else network_g.get('img_size')
    return Release(
        network_g=network_g, scale=scale, halo=halo, training_patch=training_patch,
        bands=band_names(channels_of(network_g)), tower=_tower(trained.net), licence=licence,
        provenance={
            'segsr': package_version('segsr'), 'option_file': Path(trained.option_file).name,
            'iterations': read_iterations(path) if path else None, 'sha256': sha256(path) if path else None,
            'param_key': trained.param_key})


def _tower(net: nn.Module) -> dict[str, Any] | None:
    """What identifies the CLIP tower of a network."""
    sfem = net.guidance.sfem if isinstance(net, SeGSR) else None
    return sfem.source if sfem else None


def make_self_contained(trained: Trained, *, merge_lora: bool = False) -> Trained:
    """Let a network's ``state_dict`` hold all its weights, and its ``network_g`` all that it is built from.

    Args:
        trained: its network is changed in place: it keeps its frozen CLIP tower, named without the folders that its
            files came from.
        merge_lora: add LoRA's increments to the frozen weights.

    Raises:
        ValueError: there is no LoRA to merge, or it is a network that no release file can hold.
    """
    net, network_g = trained.net, copy.deepcopy(trained.network_g)
    if type(net) is not network_class(network_g):
        raise ValueError(f"network_g:type: the {network_g['type']} of {type(net).__module__} is another package's")
    sfem = net.guidance.sfem if isinstance(net, SeGSR) else None
    options = parse(EncoderOptions, (network_g.get('semantic') or {}).get('encoder'), 'network_g:semantic:encoder')
    if merge_lora and (sfem is None or not options.lora_rank):
        raise ValueError('--merge-lora: the network has no LoRA')
    if sfem is None:
        if 'semantic' in network_g:
            network_g['semantic'].pop('encoder', None)  # which is of no use to it
        return replace(trained, network_g=network_g)
    for key in ('model', 'pretrained'):
        if sfem.source[key] and Path(sfem.source[key]).is_absolute():
            sfem.source[key] = Path(sfem.source[key]).name
    sfem.stores_tower = True
    encoder = {**asdict(options), 'model': model_config(options, sfem.source), 'pretrained': None}
    if merge_lora:
        sfem.merge_lora()
        encoder.update(lora_rank=0, lora_alpha=None)
    network_g['semantic'] = {**(network_g.get('semantic') or {}), 'encoder': encoder}
    return replace(trained, network_g=network_g)


def write_release(path: str | Path, net: nn.Module, release: Release, *, half: bool = False) -> None:
    """Write a release file, which appears when it is whole and could be loaded.

    Args:
        path: of the file, ending in .safetensors.
        net: whose ``state_dict`` holds all weights, see `make_self_contained`.
        release: of the network.
        half: store the weights in fp16, half the size; they are fp32 again when they are loaded.

    Raises:
        ValueError: the network is not what ``release`` says, or has weights that fp16 cannot hold.
        CommandError: it cannot be written.
    """
    weights = {}
    for key, value in net.state_dict().items():
        value = value.detach().cpu().contiguous()
        if half and value.is_floating_point() and value.numel():
            if value.abs().max() > torch.finfo(torch.half).max:
                raise ValueError(f'{key} has values beyond those of fp16: write it without --half')
            value = value.half()
        weights[key] = value
    metadata = {KEY: as_json(release)}

    def write(temporary: str) -> None:
        save_file(weights, temporary, metadata)
        load_release(temporary)

    write_output(path, write)


def as_json(release: Release) -> str:
    """The text of a release's metadata. ValueError: a value that JSON does not have."""
    try:
        return json.dumps({'format': FORMAT, **asdict(release)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f'network_g: has a value that JSON does not have: {error}') from None


def load_release(path: str | Path) -> tuple[nn.Module, Release]:
    """Load a release file.

    Returns:
        The network in eval mode, fp32, on the CPU, and what is known of it.

    Raises:
        ValueError: it cannot be read, is no release file, is damaged, or is of another format.
    """
    return parse_release(path, *read_safetensors(path))


def parse_release(path: str | Path, weights: Mapping[str, torch.Tensor],
                  metadata: Mapping[str, str]) -> tuple[nn.Module, Release]:
    """`load_release` of a file that has been read."""
    try:
        release = _parse(metadata.get(KEY))
        net = build(release.network_g or {}, weights)
        _check_fit(release, net)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None
    return net, release


def _parse(text: str | None) -> Release:
    """The release of a file's metadata. ValueError: it is none, or is of another format."""
    if text is None:
        raise ValueError(f'it is no release file: its metadata have no {KEY}. Write one with segsr export')
    try:
        content = json.loads(text) if len(text) <= MOST_METADATA else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f'its {KEY} is damaged')
    version = content.pop('format', None)
    if version != FORMAT:
        raise ValueError(f'it is a release file of format {version!r:.20}; this version of segsr reads format {FORMAT}')
    names = {field.name for field in fields(Release)}
    wrong = sorted(names ^ set(content))
    if wrong:
        raise ValueError(f'its {KEY} is damaged: {wrong[0]:.40} is {"missing" if wrong[0] in names else "unknown"}')
    return Release(**content)


def _check_fit(release: Release, net: nn.Module) -> None:
    for name, stated, value in (('scale', release.scale, scale_of(net, release.network_g)),
                                ('bands', len(release.bands), channels_of(release.network_g)),
                                ('tower', release.tower, _tower(net))):
        if stated != value:
            raise ValueError(f'{name}: is not that of the network')

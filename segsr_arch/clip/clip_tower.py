"""CLIP's image tower from open_clip: which model, which weights, where they are, and what identifies them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segsr_arch.clip.tensor_files import holds_numbers, is_torchscript, load_tensors, read_torchscript
from segsr_arch.options import EncoderOptions, OptionError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
OPENAI_MARKS = {'input_resolution', 'context_length', 'vocab_size'}  # entries of OpenAI's own archives only
NO_VIT = ('is no vision transformer with square patches, a class token and a projection, as ViT-B-16, ViT-B-32 and '
          'ViT-L-14 are')
MOST_SIZE = 1_000_000_000  # layers x width^2 of a tower; ViT-bigG-14's are 133 million
OPTION = 'network_g:semantic:encoder'


@dataclass(frozen=True)
class Tower:
    """A frozen image tower.

    Attributes:
        visual: open_clip's VisionTransformer.
        source: what identifies it: ``model``, ``pretrained`` (tag or file), ``sha256`` of the weights, and what no
            weight tells, ``quick_gelu``, ``heads``, ``mean`` and ``std``. ``sha256`` is None for random weights, which
            nothing but a checkpoint can bring back.
    """

    visual: nn.Module
    source: dict[str, Any]


def _read_config(model: str | Mapping[str, Any]) -> dict[str, Any]:
    import open_clip
    if isinstance(model, Mapping):
        return _check_config(model, 'it')
    if model.endswith('.json'):
        path = Path(model).expanduser()
        try:
            config = json.loads(path.read_text(encoding='utf-8'))
        except OSError as error:
            raise OptionError(f"{OPTION}:model: cannot read the model config '{model}' (sought as {path.absolute()}): "
                              f'{error.strerror}') from None
        except ValueError as error:
            raise OptionError(f"{OPTION}:model: '{model}' is not a JSON file: {error}") from None
        if isinstance(config, dict) and 'model_cfg' in config:  # open_clip_config.json, with its normalisation
            config = {**config['model_cfg'], 'preprocess_cfg': config.get('preprocess_cfg', {})}
        return _check_config(config, f"'{model}'")
    try:
        config = open_clip.get_model_config(model)
    except Exception as error:  # a model of another place (hf-hub:, local-dir:) that is not there
        raise OptionError(f"{OPTION}:model: open_clip cannot find '{model}': "
                          f'{type(error).__name__}: {error}') from error
    if config is None:
        near = ', '.join(difflib.get_close_matches(model, open_clip.list_models(), n=3))
        raise OptionError(f"{OPTION}:model: open_clip has no model '{model}'"
                          + (f'; near are {near}' if near else '') + "; a model config's path ends in .json")
    return config


def _check_config(config: Any, what: str) -> dict[str, Any]:
    if not isinstance(config, Mapping) or not {'embed_dim', 'vision_cfg'} <= set(config):
        raise OptionError(f'{OPTION}:model: {what} is not an open_clip model config: it needs embed_dim and vision_cfg')
    return dict(config)


def _fetch(model: str, tag: str, tag_config: Mapping[str, Any]) -> Path:
    """Path of a tag's weights: from the caches of the Hugging Face hub or OpenAI's clip package, else downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from open_clip.pretrained import download_pretrained
    hub, url = tag_config.get('hf_hub'), tag_config.get('url')
    clip_cache = Path('~/.cache/clip').expanduser()
    sources = [('hf_hub', hub), ('url', url)]
    if url and (clip_cache / Path(url).name).is_file():
        sources.reverse()
    failures = []
    for kind, place in sources:
        if place:
            try:
                return Path(download_pretrained({kind: place}))
            except Exception as error:  # whatever the hub client raises: no network, no such file, wrong checksum
                failures.append(f'{place} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""})')
    gelu = f' and model to {model}-quickgelu' if tag_config.get('quick_gelu') and 'quickgelu' not in model else ''
    raise OptionError(
        f"{OPTION}:pretrained: the weights of {model}, tag '{tag}', are neither in a cache ({HF_HUB_CACHE}, "
        f'{clip_cache}) nor could they be fetched from {" or ".join(failures)}. Without a network, fetch the file on '
        f'another machine and set pretrained to its path{gelu}')


def _find_weights(model: str, pretrained: str) -> tuple[Path, dict[str, Any]]:
    """The weights file and what open_clip knows about it (``quick_gelu``, ``mean``, ``std``)."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path, {}
    tags = list_pretrained_tags_by_model(model)
    tag_config = get_pretrained_cfg(model, pretrained)
    if not tag_config:
        raise OptionError(
            f"{OPTION}:pretrained: '{pretrained}' is neither a file (sought as {path.absolute()}) nor an open_clip "
            f'tag of {model}' + (f', which has {", ".join(tags)}' if tags else ', which has none'))
    return _fetch(model, pretrained, tag_config), tag_config


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Weights of the image tower, and whether the file is OpenAI's own (then its activation is QuickGELU)."""
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file
            state, openai = load_file(str(path)), False
        elif is_torchscript(path):
            state, openai = read_torchscript(path), True
        else:
            state = load_tensors(path)
            if isinstance(state, Mapping) and isinstance(state.get('state_dict'), Mapping):
                state = state['state_dict']
            if not isinstance(state, Mapping):
                raise ValueError('it holds no state_dict')
            openai = set(state) >= OPENAI_MARKS
    except Exception as error:  # any reader, any damage
        reason = str(error).partition(f"from '{path}': ")[2] or str(error)
        reason = reason.splitlines()[0] if reason else ''
        raise OptionError(f"{OPTION}:pretrained: cannot read weights from '{path}', which is truncated or no weights "
                          f'file: {type(error).__name__}: {reason}') from error
    state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    state = {key[7:] if key.startswith('module.') else key: value for key, value in state.items()}
    return {key[7:]: value for key, value in state.items() if key.startswith('visual.')} or state, openai


def _build(config: Mapping[str, Any], quick_gelu: bool, model: str) -> nn.Module:
    from open_clip.model import _build_vision_tower
    from open_clip.transformer import VisionTransformer
    vision = config['vision_cfg']
    layers, width = (vision.get(key, 12) if isinstance(vision, Mapping) else None for key in ('layers', 'width'))
    unknown = type(layers) is not int or type(width) is not int or vision.get('timm_model_name')
    if unknown:  # a ResNet, or a model of timm's, which may fetch and load files of its own
        raise OptionError(f"{OPTION}:model: '{model}' {NO_VIT}")
    sides = [vision.get(key, 1) for key in ('image_size', 'patch_size')]
    if layers * width ** 2 > MOST_SIZE or min(layers, width) < 1 or any(
            isinstance(side, (int, float)) and not 1 <= side <= 1 << 14 for side in sides):
        raise OptionError(f"{OPTION}:model: '{model}': its tower has an impossible size: {layers} layers of width "
                          f'{width} for images of {sides[0]} and patches of {sides[1]} pixels')
    try:
        visual = _build_vision_tower(config['embed_dim'], config['vision_cfg'], quick_gelu)
    except Exception as error:  # open_clip checks little itself: any error may come of a wrong config
        reason = str(error).splitlines()[0] if str(error) else ''
        raise OptionError(f"{OPTION}:model: open_clip cannot build '{model}': "
                          f'{type(error).__name__}: {reason}') from error
    usable = (isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == 'tok'
              and visual.proj is not None and visual.patch_size[0] == visual.patch_size[1])
    if not usable:
        raise OptionError(f"{OPTION}:model: '{model}' {NO_VIT}")
    return visual.requires_grad_(False)


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names and fp32 values, the same whatever file format they came from."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()


def set_quick_gelu(visual: nn.Module, quick_gelu: bool) -> None:
    """Give the tower's MLPs CLIP's QuickGELU or open_clip's GELU."""
    from open_clip.transformer import QuickGELU
    for block in visual.transformer.resblocks:
        block.mlp.gelu = QuickGELU() if quick_gelu else nn.GELU()


def load_tower(options: EncoderOptions) -> Tower:
    """Build open_clip's image tower and load its weights; the text tower is never built.

    ``pretrained`` may be an open_clip tag or a local file: OpenAI's TorchScript archive, open_clip's ``.pt`` or
    ``.safetensors``, or a file with the image tower alone. The activation is QuickGELU if the model config, the tag
    or the file's origin (OpenAI's archive) says so; for OpenAI's weights saved in another format name the model
    ``ViT-B-16-quickgelu``.

    Raises:
        OptionError: unknown model or tag, weights that cannot be found, fetched or read, or that belong to another
            architecture.
    """
    config = _read_config(options.model)
    if options.pretrained is None:
        quick_gelu = bool(config.get('quick_gelu', False))
        visual = _build(config, quick_gelu, options.model_name)
        return Tower(visual, _source(options, visual, quick_gelu, None, config.get('preprocess_cfg', {})))
    visual, weights, tag_config, quick_gelu = _read_tower(options, config)
    weights = {key: value.float() for key, value in weights.items()}  # now that their shapes are known to be right
    visual.load_state_dict(weights, assign=True)
    visual.requires_grad_(False)
    preprocess = {**config.get('preprocess_cfg', {}), **tag_config}
    return Tower(visual, _source(options, visual, quick_gelu, fingerprint(weights), preprocess))


def model_config(options: EncoderOptions, source: Mapping[str, Any]) -> dict[str, Any]:
    """The model config of a tower, for `EncoderOptions.model`: with the tower's weights all that is needed to build it.

    Args:
        options: that it was built from.
        source: of the `Tower`.
    """
    config = _read_config(options.model)
    return {'embed_dim': config['embed_dim'], 'vision_cfg': dict(config['vision_cfg']),
            'quick_gelu': source['quick_gelu'], 'preprocess_cfg': {key: source[key] for key in ('mean', 'std')}}


def check_tower(options: EncoderOptions) -> None:
    """See whether `load_tower` can do its work, without building the tower; fetches weights that are missing.

    Raises:
        OptionError: as `load_tower`.
    """
    config = _read_config(options.model)
    if options.pretrained is None:
        with torch.device('meta'):
            _build(config, False, options.model_name)
    else:
        _read_tower(options, config)


def _read_tower(options: EncoderOptions, config: Mapping[str, Any]) -> tuple[
        nn.Module, dict[str, torch.Tensor], dict[str, Any], bool]:
    """The tower without values, its weights, what open_clip knows about them, and whether it takes QuickGELU."""
    path, tag_config = _find_weights(options.model_name, options.pretrained)
    weights, openai = _read_weights(path)
    quick_gelu = openai or bool(config.get('quick_gelu', False)) or bool(tag_config.get('quick_gelu', False))
    with torch.device('meta'):  # no time is spent on an initialisation that is about to be overwritten
        visual = _build(config, quick_gelu, options.model_name)
    expected = visual.state_dict()
    wrong = [f'{k} is missing' for k in expected if k not in weights]
    wrong += [f'{k} is not part of the model' for k in weights if k not in expected]
    wrong += [f'{k} is {tuple(weights[k].shape)}, not {tuple(v.shape)}' for k, v in expected.items()
              if k in weights and weights[k].shape != v.shape]
    wrong += [f'{k} holds no plain numbers' for k in expected if k in weights and not holds_numbers(weights[k])]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise OptionError(f"{OPTION}:pretrained: '{path}' does not hold the image tower of {options.model_name}: "
                          f'{"; ".join(wrong[:3])}{more}')
    return visual, weights, tag_config, quick_gelu


def _source(options: EncoderOptions, visual: nn.Module, quick_gelu: bool, sha256: str | None,
            preprocess: Mapping[str, Any]) -> dict[str, Any]:
    return {'model': options.model_name, 'pretrained': options.pretrained, 'sha256': sha256, 'quick_gelu': quick_gelu,
            'heads': visual.transformer.resblocks[0].attn.num_heads, 'mean': list(preprocess.get('mean', OPENAI_MEAN)),
            'std': list(preprocess.get('std', OPENAI_STD))}

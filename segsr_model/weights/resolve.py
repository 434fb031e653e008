"""What a text stands for that names weights: a file of any kind, the Hugging Face Hub, a shipped model, or bicubic."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path

from torch import nn

from segsr_arch.baselines.bicubic_arch import Bicubic
from segsr_model.files import sha256
from segsr_model.option_files import read_options
from segsr_model.weights.building import channels_of, scale_of
from segsr_model.weights.loading import read_trained
from segsr_model.weights.official import find_network
from segsr_model.weights.reading import read_safetensors, read_weights
from segsr_model.weights.release import (
    KEY,
    Release,
    band_names,
    describe,
    load_release,
    package_version,
    parse_release,
)

SHIPPED: dict[str, str] = {}  # the models of this project: names, and what of the Hugging Face Hub they stand for
HUB_FILE = 'model.safetensors'  # of a model on the Hub, a release file
HUB_ID = re.compile(r'(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?', re.ASCII)
ENDINGS = ('.safetensors', '.pth', '.pt', '.ckpt', '.bin', '.onnx')
BICUBIC_HALO = 2.0  # LR pixels that the cubic kernel reaches


def load_any(weights: str | Path, option_file: str | Path | None = None, *, scale: int | None = None,
             local_files_only: bool = False) -> tuple[nn.Module, Release]:
    """The network that a text stands for, by the first of these that holds:

    1. It is a file that exists: a release file (``.safetensors``, see `segsr_model.weights.release`); with an option
       file, a training checkpoint of its network; else a checkpoint whose network is found from its keys.
    2. It ends as a weights file does or begins as a path does: a file that is missing.
    3. It is ``bicubic``: enlargement without weights, by ``scale``.
    4. It has one slash: ``owner/name`` or ``owner/name@revision`` on the Hugging Face Hub, whose ``model.safetensors``
       is a release file.
    5. It is the name of a shipped model.

    Args:
        weights: the text.
        option_file: of a training checkpoint.
        scale: of bicubic; another network must enlarge by it.
        local_files_only: do not ask the Hub for what is not in its cache.

    Returns:
        The network in eval mode, fp32, on the CPU, and what is known of it.

    Raises:
        ValueError: there is nothing of that name, or it cannot be used; in one line.
    """
    text, path = str(weights), Path(weights).expanduser()
    if path.is_file():
        found = _load_file(path, option_file)
    elif text.endswith(ENDINGS) or text.startswith(('/', './', '../', '~')) or '\\' in text:
        raise ValueError(f"there is no weights file '{text}'")
    elif option_file is not None:
        raise ValueError(f"-opt '{option_file}' goes with a training checkpoint, and '{text}' is no file")
    elif text == 'bicubic':
        found = _bicubic(scale)
    elif HUB_ID.fullmatch(text):
        found = _load_from_hub(text, local_files_only)
    elif text in SHIPPED:
        found = _load_from_hub(SHIPPED[text], local_files_only)
    else:
        names = ['bicubic', *SHIPPED]
        near = difflib.get_close_matches(text, names, n=1)
        raise ValueError(f"there is no file or model '{text}'; "
                         + (f"the nearest model is '{near[0]}'" if near else f'the models are {", ".join(names)}')
                         + '. A model on the Hugging Face Hub is owner/name')
    if scale is not None and found[1].scale != scale:
        raise ValueError(f"--scale is {scale}, and '{text}' enlarges by {found[1].scale}")
    return found


def _bicubic(scale: int | None) -> tuple[nn.Module, Release]:
    if type(scale) is not int or scale < 1:
        raise ValueError('bicubic needs a --scale, such as 4')
    return Bicubic(upscale=scale).eval(), Release(
        network_g={'type': 'Bicubic', 'upscale': scale}, scale=scale, halo=BICUBIC_HALO,
        provenance={'segsr': package_version('segsr')})


def _load_file(path: Path, option_file: str | Path | None) -> tuple[nn.Module, Release]:
    if path.suffix == '.safetensors':
        weights, metadata = read_safetensors(path)
        if KEY in metadata:
            if option_file is not None:
                raise ValueError(f"'{path}' is a release file, which needs no -opt")
            return parse_release(path, weights, metadata)
    if option_file is not None:
        key = (read_options(option_file).get('path') or {}).get('param_key_g', 'params_ema')
        trained = read_trained(str(option_file), str(path), key)
        return trained.net, describe(trained)
    weights, _ = read_weights(path, 'params_ema')
    try:
        if any(key.startswith('guidance.') for key in weights):
            raise ValueError('it is a training checkpoint of SeG-SR: give its option file with -opt')
        if sum(math.prod(value.shape) * value.element_size() for value in weights.values()) > 4 * path.stat().st_size:
            raise ValueError('its weights have more values than the file')
        net, network_g, assumed = find_network(weights)
        return net, Release(
            network_g=network_g, scale=scale_of(net, network_g or {}),
            bands=band_names(channels_of(network_g) if network_g else net.num_in_ch),
            provenance={'segsr': package_version('segsr'), 'file': path.name, 'sha256': sha256(path),
                        'assumed': assumed or None})
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None


def _load_from_hub(text: str, local_files_only: bool) -> tuple[nn.Module, Release]:
    from huggingface_hub import hf_hub_download
    parts = HUB_ID.fullmatch(text)
    try:
        path = hf_hub_download(parts['id'], HUB_FILE, revision=parts['revision'], local_files_only=local_files_only)
    except Exception as error:  # whatever the hub's client raises: no network, no such model or file, no permission
        reason = (str(error).strip().splitlines() or [''])[0]
        raise ValueError(
            f"'{text}' is no file here, and {HUB_FILE} of the model of that name could not be fetched from the Hugging "
            f'Face Hub ({type(error).__name__}: {reason[:200]}). Without a network, fetch it on another machine and '
            'give its path') from None
    return load_release(path)

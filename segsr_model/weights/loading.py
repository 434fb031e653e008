"""Loading weights into a network: its own checkpoints, and stock checkpoints as a warm start of a guided network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from segsr_arch.segsr_arch import SeGSR
from segsr_arch.sfem import SFEM
from segsr_model.option_files import read_options
from segsr_model.weights.reading import read_weights

EXTRA_STATE = '_extra_state'  # PyTorch's name of what modules save beside weights


@dataclass
class LoadReport:
    """What became of the weights; each a list of names.

    Attributes:
        loaded: in the file and in the network.
        new: in the network only; they keep their initial values.
        unused: in the file only.
        reshaped: in both, with different shapes; not loaded.
        warm_start: the file is a stock checkpoint of the network's backbone.
    """

    loaded: list[str]
    new: list[str]
    unused: list[str]
    reshaped: list[str]
    warm_start: bool

    def __str__(self) -> str:
        parts = [('loaded', self.loaded), ('new', self.new), ('not used', self.unused),
                 ('not loaded for their shape', self.reshaped)]
        return '; '.join(f'{len(names)} {what}{_groups(names)}' for what, names in parts if names)


def _groups(names: Sequence[str]) -> str:
    """Where the names belong, to the second level: ' (backbone.layers, guidance.lmm)'."""
    groups = dict.fromkeys('.'.join(name.split('.')[:2]) for name in names)
    return f' ({", ".join(list(groups)[:6])}{", ..." if len(groups) > 6 else ""})'


def match_weights(net: nn.Module, weights: dict[str, torch.Tensor], *,
                  strict: bool = True) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """What `load_weights` would load, by names and shapes alone; the network may be without values.

    Returns:
        The weights under the network's names, all of them, and what would become of them.

    Raises:
        ValueError: ``strict`` and no match, or nothing matches.
    """
    warm_start = isinstance(net, SeGSR) and not any(k.startswith(('backbone.', 'guidance.')) for k in weights)
    if warm_start:
        weights = {f'backbone.{k}': v for k, v in weights.items()}
    own, saved = {**dict(net.named_parameters()), **dict(net.named_buffers())}, net.state_dict()
    computed = {k for k in saved if k not in own and not k.endswith(EXTRA_STATE)}  # any value, or none, will do
    report = LoadReport(
        loaded=[k for k, v in weights.items() if k in computed or (k in own and own[k].shape == v.shape)],
        new=[k for k in saved if k not in weights and k not in computed and not k.endswith(EXTRA_STATE)],
        unused=[k for k in weights if k not in own and k not in computed and not k.endswith(EXTRA_STATE)],
        reshaped=[k for k, v in weights.items() if k in own and own[k].shape != v.shape],
        warm_start=warm_start)
    expected = net.backbone.state_dict(prefix='backbone.') if warm_start else saved
    missing = [k for k in expected if k not in weights and k not in computed]  # the record of the CLIP tower included
    if not report.loaded or (strict and (missing or report.unused or report.reshaped)):
        wrong = [f'{k} is {tuple(weights[k].shape)} in the file and {tuple(own[k].shape)} in the network'
                 for k in report.reshaped]
        wrong += [f'{k} is not in the file' for k in missing] + [f'{k} is not in the network' for k in report.unused]
        hint = '. To load what matches, set path:strict_load_g: false' if report.loaded else ''
        raise ValueError(f'the weights do not fit {type(net).__name__}: {"; ".join(wrong[:4])}'
                         f'{f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""}{hint}')
    return weights, report


def load_weights(net: nn.Module, weights: dict[str, torch.Tensor], *, strict: bool = True) -> LoadReport:
    """Load ``weights`` into ``net``.

    Weights without a ``backbone.`` prefix, of a stock HAT, EDSR, ..., warm-start the backbone of a guided network.

    Args:
        net: the network.
        weights: a state_dict.
        strict: raise if the file and the network (for a warm start: its backbone) do not match in names and shapes,
            or the file was trained with another CLIP tower. Otherwise load what matches.

    Raises:
        ValueError: ``strict`` and no match, or nothing matches.
    """
    towers = [problem for name, module in net.named_modules() if isinstance(module, SFEM)
              for problem in [module.foreign_tower(weights, f'{name}.')] if problem]
    if strict and towers:
        raise ValueError(towers[0])
    weights, report = match_weights(net, weights, strict=strict)
    for problem in towers:
        get_root_logger().warning(f'{problem}. Loading what fits, since strict_load_g is false.')
    extra = [] if towers else [k for k in weights if k.endswith(EXTRA_STATE)]
    net.load_state_dict({k: weights[k] for k in (*report.loaded, *extra)}, strict=False)
    return report


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that loads a network: what `network_from_options` takes."""
    parser.add_argument('-opt', required=True, help='option file with network_g and path:pretrain_network_g')
    parser.add_argument('--checkpoint', help="weights to use instead of the option file's")
    parser.add_argument('--param-key', choices=('params', 'params_ema'),
                        help="which weights of the file, instead of the option file's path:param_key_g")


def network_options(option_file: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``network_g`` of the options of a file. ValueError: there is none, or it has no type."""
    network = options.get('network_g')
    if not isinstance(network, dict) or 'type' not in network:
        raise ValueError(f"'{option_file}' has no network_g with a type")
    return network


@dataclass(frozen=True)
class Trained:
    """A network with the weights it was trained to, in eval mode, and where both come from.

    Attributes:
        net, network_g: the network and its options.
        option_file, options: the file and all that is in it.
        checkpoint, param_key: the file of the weights, and the key they were under; None: a network without weights.
    """

    net: nn.Module
    network_g: dict[str, Any]
    option_file: str
    options: dict[str, Any]
    checkpoint: str | None
    param_key: str | None


def network_from_options(option_file: str, checkpoint: str | None = None, param_key: str | None = None) -> nn.Module:
    """The network of `read_trained`, for use outside of training and testing."""
    return read_trained(option_file, checkpoint, param_key).net


def read_trained(option_file: str, checkpoint: str | None = None, param_key: str | None = None) -> Trained:
    """Build the network of an option file and load its weights.

    Args:
        option_file: a BasicSR option file with ``network_g``.
        checkpoint: weights; the option file's ``path:pretrain_network_g`` if None.
        param_key: ``params`` or ``params_ema``; the option file's ``path:param_key_g`` if None.

    Raises:
        ValueError: the option file or the checkpoint cannot be used, or neither names the weights the network has.
    """
    options = read_options(option_file)
    network = network_options(option_file, options)
    path = options.get('path') or {}
    checkpoint = checkpoint or path.get('pretrain_network_g')
    name = network['type']
    if name not in ARCH_REGISTRY and f'{name}_basicsr' not in ARCH_REGISTRY:
        raise ValueError(f"'{option_file}': network_g:type: BasicSR has no network '{name}'")
    try:
        net = build_network(network).eval()
    except Exception as error:  # BasicSR's own networks check nothing: any error may come of a wrong option
        raise ValueError(f"'{option_file}': {error}") from error
    if not checkpoint:
        if any(True for _ in net.parameters()):
            raise ValueError(f"'{option_file}' names no weights: give --checkpoint, or set path:pretrain_network_g")
        return Trained(net, network, option_file, options, None, None)
    weights, param_key = read_weights(checkpoint, param_key or path.get('param_key_g', 'params'))
    try:
        load_weights(net, weights)
    except ValueError as error:
        raise ValueError(f"'{checkpoint}': {error}") from None
    return Trained(net, network, option_file, options, checkpoint, param_key)

"""Write a self-contained file for release: the weights of a checkpoint together with the frozen CLIP tower.

Training checkpoints name the frozen tower instead of holding it. The released file needs no CLIP weights: use it with
`semantic: {encoder: {pretrained: ~}}` in the option file.
"""

from __future__ import annotations

import argparse
import os

import torch

from segsr_arch.sfem import SFEM
from segsr_model.errors import CommandError
from segsr_model.files import write_output
from segsr_model.weights.loading import add_network_arguments, network_from_options

EXAMPLES = """example:
  segsr export -opt options/test_SeGSR_HAT_x4.yml --out SeGSR_HAT_x4.pth"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr export``."""
    parser.epilog = EXAMPLES
    add_network_arguments(parser)
    parser.add_argument('--out', required=True, help='the .pth file to write; its weights are under params')


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    if os.path.exists(args.out):
        raise CommandError(f"--out '{args.out}' exists already; choose another name, or remove it first")
    if not args.out.endswith('.pth'):
        raise CommandError(f"--out '{args.out}': the name must end in .pth")
    try:
        net = network_from_options(args.opt, args.checkpoint, args.param_key)
    except ValueError as error:
        raise CommandError(str(error)) from None
    for module in net.modules():
        if isinstance(module, SFEM):
            module.stores_tower = True
    write_output(args.out, lambda path: torch.save({'params': net.state_dict()}, path))
    return 0

"""Write a self-contained file for release: the weights of a checkpoint together with the frozen CLIP tower.

Training checkpoints name the frozen tower instead of holding it. The ending of --out says what is written:

.safetensors  a release file: all that is needed to use the network, its options included
.onnx         the network for other programs, for images of any height and width. The guidance maps of a guided network
              are its second input; CLIP stays outside. It appears when onnxruntime gives what PyTorch gives.
.pth          weights alone, for option files with `semantic: {encoder: {pretrained: ~}}`
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import nn

from segsr_arch.sfem import SFEM
from segsr_model.errors import CommandError
from segsr_model.files import write_output
from segsr_model.weights.loading import add_network_arguments, read_trained
from segsr_model.weights.onnx_file import write_onnx
from segsr_model.weights.release import describe, make_self_contained, write_release

EXAMPLES = """examples:
  segsr export -opt options/test_SeGSR_HAT_x4.yml --out SeGSR_HAT_x4.safetensors --licence CC-BY-4.0
  segsr export -opt options/test_SeGSR_HAT_x4.yml --out SeGSR_HAT_x4.safetensors --merge-lora --half
  segsr export -opt options/test_SeGSR_HAT_x4.yml --out SeGSR_HAT_x4.onnx"""

KNOWN = ('halo', 'training_patch', 'licence')
TAKES = {'.safetensors': ('merge_lora', 'half', *KNOWN), '.onnx': KNOWN, '.pth': ()}  # which options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr export``."""
    parser.epilog = EXAMPLES
    add_network_arguments(parser)
    parser.add_argument('--out', required=True, help='the file to write: .safetensors, .onnx or .pth')
    parser.add_argument('--merge-lora', action='store_true',
                        help="add LoRA's increments to the CLIP tower's weights (.safetensors)")
    parser.add_argument('--half', action='store_true', help='store the weights in fp16 (.safetensors)')
    known = parser.add_argument_group('what a .safetensors or .onnx file says of the network beside its options')
    known.add_argument('--halo', type=float, metavar='N',
                       help='LR pixels around a tile that its result depends on, as measured')
    known.add_argument('--training-patch', type=int, metavar='N',
                       help="side of the LR images it was trained with, in pixels; default: the option file's")
    known.add_argument('--licence', help='of the weights, such as CC-BY-4.0')


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    if os.path.exists(args.out):
        raise CommandError(f"--out '{args.out}' exists already; choose another name, or remove it first")
    ending = Path(args.out).suffix
    if ending not in TAKES:
        raise CommandError(f"--out '{args.out}': the name must end in " + ', '.join(TAKES))
    for option in TAKES['.safetensors']:
        if getattr(args, option) not in (None, False) and option not in TAKES[ending]:
            raise CommandError(f'--{option.replace("_", "-")} is of no use to a {ending} file')
    try:
        trained = read_trained(args.opt, args.checkpoint, args.param_key)
        if ending == '.pth':
            write_weights(args.out, trained.net)
            return 0
        trained = make_self_contained(trained, merge_lora=args.merge_lora)
        release = describe(trained, halo=args.halo, training_patch=args.training_patch, licence=args.licence)
        if ending == '.onnx':
            write_onnx(args.out, trained.net, release)
        else:
            write_release(args.out, trained.net, release, half=args.half)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return 0


def write_weights(path: str, net: nn.Module) -> None:
    """Write all weights of a network, the frozen tower's included. CommandError: it cannot be written."""
    for module in net.modules():
        if isinstance(module, SFEM):
            module.stores_tower = True
    write_output(path, lambda temporary: torch.save({'params': net.state_dict()}, temporary))

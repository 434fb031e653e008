"""Draw the guidance maps of an image (Fig. 7): LR, bicubic, SR, HR if given, and where each SR unit looks."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import img2tensor, tensor2img

from segsr_arch.resize import imresize
from segsr_arch.segsr_arch import SeGSR
from segsr_model.cli import CommandError
from segsr_model.files import write_atomically
from segsr_model.loading import network_from_options

EXAMPLES = """example:
  segsr maps -opt options/test_SeGSR_HAT_x4.yml --lr datasets/UCMerced/x4/test/LR/agricultural85.png \\
      --hr datasets/UCMerced/x4/test/HR/agricultural85.png --out agricultural85_maps.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``segsr maps``."""
    parser.epilog = EXAMPLES
    parser.add_argument('-opt', required=True, help='option file with network_g and path:pretrain_network_g')
    parser.add_argument('--checkpoint', help="weights to use instead of the option file's")
    parser.add_argument('--param-key', help="params or params_ema, instead of the option file's path:param_key_g")
    parser.add_argument('--lr', required=True, help='the LR image')
    parser.add_argument('--hr', help='its HR image, for a comparison')
    parser.add_argument('--out', required=True, help='the picture to write, .png or .pdf')


def read_image(path: str) -> np.ndarray:
    """8-bit BGR (h, w, 3)."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise CommandError(f"cannot read the image '{path}'" + ('' if Path(path).is_file() else ': there is none'))
    return image


def run(args: argparse.Namespace) -> int:
    """Draw the picture."""
    try:
        net = network_from_options(args.opt, args.checkpoint, args.param_key)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if not isinstance(net, SeGSR):
        raise CommandError(f"'{args.opt}' describes a {type(net).__name__}, which has no guidance maps")
    lr = read_image(args.lr)
    hr = read_image(args.hr) if args.hr else None
    expected = (lr.shape[0] * net.upscale, lr.shape[1] * net.upscale)
    if hr is not None and hr.shape[:2] != expected:
        raise CommandError(f"'{args.hr}' is {hr.shape[1]} x {hr.shape[0]}; for '{args.lr}' at x{net.upscale} it must be "
                           f'{expected[1]} x {expected[0]}')
    x = img2tensor(lr / 255.0)[None]
    with torch.no_grad():
        try:
            maps = net.guidance_maps(x)[0].numpy()
        except TypeError as error:
            raise CommandError(str(error)) from None
        pictures = {'LR': lr, 'Bicubic': tensor2img(imresize(x, net.upscale)), 'SR': tensor2img(net(x))}
    if hr is not None:
        pictures['HR'] = hr
    write_atomically(args.out, lambda path: draw(pictures, maps, net.upscale, path))
    return 0


def draw(pictures: dict[str, np.ndarray], maps: np.ndarray, scale: int, path: str) -> None:
    """Write the picture.

    Args:
        pictures: 8-bit BGR images by title; those of the size of ``HR`` get their PSNR and SSIM (Y, crop = scale).
        maps: (k, h, w) in [-1, 1], drawn on one colour scale.
        scale: s.
        path: file to write; its suffix sets the format.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401  (no display is needed)
    from matplotlib.figure import Figure

    columns = max(len(pictures), min(len(maps), 6))
    rows = 1 + -(-len(maps) // columns)
    height, width = maps.shape[1:]
    cell = 2.2
    figure = Figure(figsize=(columns * cell + 0.7, rows * (cell * height / width + 0.45)), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    hr = pictures.get('HR')
    for axis, (title, picture) in zip(axes[0], pictures.items()):
        if hr is not None and title != 'HR' and picture.shape == hr.shape:
            psnr = calculate_psnr(picture, hr, crop_border=scale, test_y_channel=True)
            ssim = calculate_ssim(picture, hr, crop_border=scale, test_y_channel=True)
            title += f'\n{psnr:.2f} dB / {ssim:.4f}'
        axis.set_title(title, fontsize=9)
        axis.imshow(picture[..., ::-1], interpolation='nearest')
    limit = max(float(np.abs(maps).max()), 1e-6)
    for i, (axis, values) in enumerate(zip(axes[1:].flat, maps)):
        axis.set_title(f'$M_{{{i + 1}}}$', fontsize=9)
        drawn = axis.imshow(values, cmap='RdBu_r', vmin=-limit, vmax=limit, interpolation='nearest')
    figure.colorbar(drawn, ax=axes[1:], shrink=0.8, label='cosine similarity')
    with matplotlib.rc_context({'pdf.fonttype': 42}):
        figure.savefig(path, dpi=200)

"""Runs BasicSR's training from here, as in a checkout of it: python basicsr/train.py -opt options/..."""

import sys
from os import path as osp

ROOT = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
sys.path[0] = ROOT  # not this folder: it holds no modules, only launchers

from basicsr.train import train_pipeline  # noqa: E402

import segsr_arch  # noqa: E402, F401  (brings in BasicSR, mended, with SeG-SR's networks and model)

if __name__ == '__main__':
    train_pipeline(ROOT)

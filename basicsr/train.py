"""Runs BasicSR's training from here, as in a checkout of it: python basicsr/train.py -opt options/..."""

import sys
from os import path as osp

ROOT = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
sys.path[0] = ROOT  # not this folder: it holds no modules, only launchers

import segsr_arch  # noqa: E402, F401  isort: skip  (first, so that BasicSR is mended before anything imports it)
from basicsr.train import train_pipeline  # noqa: E402

if __name__ == '__main__':
    train_pipeline(ROOT)

"""Runs BasicSR's training from here, as in a checkout of it: python basicsr/train.py -opt options/..."""

import sys
from os import path as osp

ROOT = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
sys.path[0] = ROOT  # not this folder: it holds no modules, only launchers

import segsr_model  # noqa: E402  (first, so that BasicSR is mended before anything imports it)
from segsr_model.errors import not_there  # noqa: E402

if segsr_model.missing:
    raise SystemExit(not_there(segsr_model.missing))

from basicsr.train import train_pipeline  # noqa: E402

if __name__ == '__main__':
    train_pipeline(ROOT)

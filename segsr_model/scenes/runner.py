"""Running a network on tiles: in batches, with what memory there is, in the precision that was asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from basicsr.utils import get_root_logger
from torch import nn

from segsr_model.scenes.tiles import BLEND, cut, weighted
from segsr_model.testing.inference import alignment, orientations, super_resolve
from segsr_model.training.training_step import autocast

SPLITS = 4  # times that a tile's sides may be halved where memory is short


class Tile(NamedTuple):
    """What a network is given.

    Attributes:
        lr: (1, 3, h, w) RGB in [0, 1].
        context: guidance maps (1, k, h, w); None: the network's own.
    """

    lr: torch.Tensor
    context: torch.Tensor | None = None


class Result(NamedTuple):
    """What it makes of it.

    Attributes:
        sr: (1, 3, s h, s w) float32, not clamped.
        spread: (1, 1, s h, s w), the standard deviation over the 8 flips and rotations, in the mean of the channels;
            None where it was not asked for.
    """

    sr: torch.Tensor
    spread: torch.Tensor | None = None


class Runner:
    """A network, and how it is run.

    Where memory is short, batches are halved, then tiles; that is said once and remembered. A result in mixed precision
    that is not finite is computed again in fp32.

    Args:
        net: in eval mode, on its device.
        precision: None for fp32, or ``bf16`` or ``fp16``.
        batch: tiles that are run at once.
        halo: LR pixels that a result depends on, for tiles that are halved.
        self_ensemble: the mean over the 8 flips and rotations.
        spread: also their standard deviation.
    """

    def __init__(self, net: nn.Module, *, precision: str | None = None, batch: int = 1, halo: int = 32,
                 self_ensemble: bool = False, spread: bool = False) -> None:
        self.net, self.precision, self.batch, self.halo = net, precision, batch, halo
        self.self_ensemble, self.spread = self_ensemble, spread
        self.device = next((p.device for p in net.parameters()), torch.device('cpu'))
        self.splits = 0

    @torch.inference_mode()
    def run(self, tiles: Sequence[Tile]) -> list[Result]:
        """The results of tiles of one size, on the CPU.

        Raises:
            MemoryError: not even small tiles fit.
        """
        results = []
        while len(results) < len(tiles):
            some = tiles[len(results):len(results) + self.batch]
            try:
                results += self._together(some)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._take_less(some[0].lr)
        return results

    def _take_less(self, lr: torch.Tensor) -> None:
        if self.batch > 1:
            self.batch //= 2
            get_root_logger().warning(f'Not enough memory: tiles are run {self.batch} at a time.')
        elif self.splits < SPLITS and min(lr.shape[-2:]) >> self.splits > 2 * BLEND:
            self.splits += 1
            get_root_logger().warning(f'Not enough memory: tiles are cut into {4 ** self.splits} parts.')
        else:
            raise MemoryError(f'a part of {lr.shape[-1] >> self.splits} x {lr.shape[-2] >> self.splits} pixels')
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _together(self, tiles: Sequence[Tile]) -> list[Result]:
        lr = torch.cat([tile.lr for tile in tiles]).to(self.device)
        context = None if tiles[0].context is None else torch.cat([tile.context for tile in tiles]).to(self.device)
        sr, spread = self._in_parts(lr, context) if self.splits else self._finite(lr, context)
        return [Result(sr[i:i + 1].cpu(), None if spread is None else spread[i:i + 1].cpu())
                for i in range(len(tiles))]

    def _in_parts(self, lr: torch.Tensor, context: torch.Tensor | None) -> Result:
        """A tile that is cut once more, as a scene is."""
        multiple = alignment(self.net)
        axes = [cut(side, core=max(-(-side // 2 ** self.splits) // multiple, math.ceil(BLEND / multiple)) * multiple,
                    halo=self.halo, multiple=multiple) for side in lr.shape[-2:]]
        totals = None
        for row, column in itertools.product(*axes):
            here = (..., slice(*row.seen), slice(*column.seen))
            parts = self._finite(lr[here], None if context is None else context[here])
            scale = parts.sr.shape[-1] // column.seen.length
            if totals is None:
                totals = [x if x is None else x.new_zeros(*x.shape[:2], *(scale * side for side in lr.shape[-2:]))
                          for x in parts]
            for total, part in zip(totals, parts):
                if part is not None:
                    total[..., slice(*row.kept.times(scale)), slice(*column.kept.times(scale))] += weighted(
                        part, row, column, scale)
        return Result(*totals)

    def _finite(self, lr: torch.Tensor, context: torch.Tensor | None) -> Result:
        result = self._once(lr, context, self.precision)
        if self.precision and not result.sr.isfinite().all():
            get_root_logger().warning(f'A result in {self.precision} is not finite: computed again in fp32.')
            result = self._once(lr, context, None)
        return result

    def _once(self, lr: torch.Tensor, context: torch.Tensor | None, precision: str | None) -> Result:
        with autocast(self.device, precision):
            if not (self.self_ensemble or self.spread):
                return Result(super_resolve(self.net, lr, context=context).float())
            outputs = torch.stack([sr.float() for sr in orientations(self.net, lr, context)])
        return Result(outputs.mean(0) if self.self_ensemble else outputs[0],
                      outputs.std(0, correction=0).mean(1, keepdim=True) if self.spread else None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch's, on any device, means that memory is short."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in text for words in ('out of memory', "can't allocate memory", 'not enough memory', 'alloc_cpu'))

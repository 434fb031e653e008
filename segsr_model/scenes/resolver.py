"""Super-resolving images of any size in Python: `SuperResolver`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import nn

from segsr_arch.guidance import MapGuidance
from segsr_arch.layers.local_pooling import pool_locally
from segsr_arch.layers.resize import imresize
from segsr_model.files import sha256
from segsr_model.scenes.runner import Result, Runner, Tile
from segsr_model.scenes.semantics import CONTEXTS, Read, Semantics, scene_descriptor
from segsr_model.scenes.tiles import CORE, Piece, Span, cut, weighted
from segsr_model.testing.inference import alignment

AnyImage = TypeVar('AnyImage', np.ndarray, Image.Image, torch.Tensor)
HALO, PATCH = 32, 64  # LR pixels, of a network whose own are not known


class Look:
    """What CLIP has seen of an image, to be used for it again: made by `SuperResolver.look`."""

    def __init__(self, semantics: Semantics, rows: list[torch.Tensor]) -> None:
        self.semantics, self.rows = semantics, rows

    def maps(self, rows: Span, columns: Span) -> torch.Tensor:
        """The guidance maps (1, k, h, w) in [-1, 1] of a part of the image, in LR pixels."""
        return self.semantics.maps(self.rows.__getitem__, rows, columns)


class SuperResolver:
    """A network with all it takes to sharpen images and scenes. May be used by several threads at once.

    Args:
        net: the network.
        halo: LR pixels around a tile that its result depends on.
        training_patch: side of the LR patches that it was trained on, in pixels.
        device: a GPU if there is one.
        precision: ``bf16`` or ``fp16`` mixed precision; None: fp32.
        tile: side of the tiles in LR pixels.
        batch: tiles that are run at once.
        context: what tells the units of a network with guidance maps where to look: ``window`` (CLIP sees windows of
            the training patch's size), ``scene`` (the same, with one descriptor of the whole scene) or ``tile`` (CLIP
            sees each tile).
        pooling: ``tile`` or ``local``: what RCAN and HAT average their features over, see `segsr_arch.layers.
            local_pooling`.
        self_ensemble: the mean over the 8 flips and rotations.
        identity: what tells the network's weights from others.

    Attributes:
        scale: s.
        multiple_of: what the tiles' first pixels divide by.

    Raises:
        ValueError: an option is none of those.
    """

    def __init__(self, net: nn.Module, *, scale: int, halo: float | None = None, training_patch: int = PATCH,
                 device: str | torch.device | None = None, precision: str | None = None, tile: int = CORE,
                 batch: int = 4, context: str = 'window', pooling: str = 'tile', self_ensemble: bool = False,
                 identity: str = '') -> None:
        for name, value, known in (('context', context, CONTEXTS), ('pooling', pooling, ('tile', 'local')),
                                   ('precision', precision, (None, 'bf16', 'fp16'))):
            if value not in known:
                raise ValueError(f'{name}: is {value!r}, must be one of {", ".join(map(str, known))}')
        self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        if pooling == 'local':
            pool_locally(net, training_patch)
        self.net = net.to(self.device).eval().requires_grad_(False)
        self.scale, self.halo, self.training_patch = scale, math.ceil(HALO if halo is None else halo), training_patch
        self.multiple_of = alignment(net)
        self.tile = -(-tile // self.multiple_of) * self.multiple_of
        self.precision, self.batch, self.self_ensemble = precision, batch, self_ensemble
        self.context, self.pooling, self.identity = context, pooling, identity
        self.has_maps = isinstance(getattr(net, 'guidance', None), MapGuidance)

    @classmethod
    def from_pretrained(cls, weights: str, *, option_file: str | None = None, scale: int | None = None,
                        **options) -> SuperResolver:
        """Load a network.

        Args:
            weights: what ``segsr upscale --weights`` takes: a file, the name of a model of this package, an id of the
                Hugging Face Hub, or ``bicubic``.
            option_file: of a training checkpoint.
            scale: of ``bicubic``.
            options: of `SuperResolver`.

        Raises:
            ValueError: there is no such file or name, or it cannot be used; one line.
        """
        from segsr_model.weights.resolve import load_any
        net, release = load_any(weights, option_file, scale=scale)
        identity = sha256(weights) if Path(weights).is_file() else weights
        return cls(net, scale=release.scale, halo=release.halo, training_patch=release.training_patch or PATCH,
                   identity=identity, **options)

    def __call__(self, image: AnyImage, look: Look | None = None) -> AnyImage:
        """Super-resolve an image.

        Args:
            image: a NumPy array (h, w), (h, w, 3) or (h, w, 4) of uint8, uint16, or floats in [0, 1]; a PIL image; or a
                tensor (3, h, w) or (b, 3, h, w) in [0, 1]. RGB, and alpha, which is enlarged by bicubic interpolation.
            look: what `look` has given for the image.

        Returns:
            The same kind, s times as high and wide; integers are rounded, all values are within the image's range.

        Raises:
            TypeError: an image of another kind.
        """
        if isinstance(image, Image.Image):
            array = np.asarray(image if image.mode in ('L', 'RGB', 'RGBA') else image.convert('RGB'))
            return Image.fromarray(self(array, look))
        if isinstance(image, np.ndarray):
            return self._array(image, look)
        if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4) or image.shape[-3] != 3:
            raise TypeError(f'an image is a NumPy array, a PIL image, or a tensor (3, h, w) or (b, 3, h, w), not '
                            f'{getattr(image, "shape", type(image).__name__)}')
        if image.ndim == 3:
            return self(image[None], look)[0]
        results = [self.upscale(each[None].float(), look).sr.clamp(0, 1) for each in image]
        return torch.cat(results).to(image)

    def look(self, image: AnyImage) -> Look | None:
        """What CLIP sees of an image, as `__call__` takes it; None: the network does not ask, or asks for each tile."""
        if isinstance(image, torch.Tensor):
            return self.see(image[None] if image.ndim == 3 else image)
        array = np.asarray(image.convert('RGB') if isinstance(image, Image.Image) else image)
        return self.see(_to_tensor(array)[0])

    def see(self, lr: torch.Tensor) -> Look | None:
        """`look` at (1, 3, h, w) in [0, 1]."""
        semantics = self.semantics(_reading(lr), *lr.shape[-2:])
        if semantics is None:
            return None
        return Look(semantics, [semantics.look(_reading(lr), row, device=self.device)
                                for row in range(len(semantics.rows))])

    @torch.no_grad()
    def semantics(self, read: Read, height: int, width: int) -> Semantics | None:
        """How CLIP looks at a scene of that size; None: the network does not ask, or asks for each tile."""
        if not self.has_maps or self.context == 'tile':
            return None
        descriptor = None
        if self.context == 'scene':
            descriptor = scene_descriptor(self.net, read, height, width, window=self.training_patch, device=self.device)
        return Semantics(self.net, height, width, window=self.training_patch, scene=descriptor)

    def plan(self, height: int, width: int) -> tuple[list[Piece], list[Piece]]:
        """Rows and columns of tiles."""
        rows, columns = (cut(length, core=self.tile, halo=self.halo, multiple=self.multiple_of)
                         for length in (height, width))
        return rows, columns

    def upscale_tile(self, lr: torch.Tensor, runner: Runner) -> Result:
        """The result of one tile (1, 3, h, w) in [0, 1] by itself."""
        look = self.see(lr)
        maps = look and look.maps(*(Span(0, side) for side in lr.shape[-2:]))
        return runner.run([Tile(lr, maps)])[0]

    def runner(self, *, spread: bool = False) -> Runner:
        """What runs the network on tiles, as it was asked for."""
        return Runner(self.net, precision=self.precision, batch=self.batch, halo=self.halo,
                      self_ensemble=self.self_ensemble, spread=spread)

    def upscale(self, lr: torch.Tensor, look: Look | None = None, *, spread: bool = False) -> Result:
        """Super-resolve (1, 3, h, w) in [0, 1], not clamped; see `Result` for the spread."""
        look = look or self.see(lr)
        rows, columns = self.plan(*lr.shape[-2:])
        runner, read, totals = self.runner(spread=spread), _reading(lr), None
        for row in rows:
            for some in batches(columns, runner.batch):
                tiles = [Tile(read(row.seen, column.seen), look and look.maps(row.seen, column.seen))
                         for column in some]
                for column, parts in zip(some, runner.run(tiles)):
                    if totals is None:
                        totals = [part if part is None else part.new_zeros(
                            *part.shape[:2], *(self.scale * side for side in lr.shape[-2:])) for part in parts]
                    place = (..., *(slice(*each.kept.times(self.scale)) for each in (row, column)))
                    for total, part in zip(totals, parts):
                        if part is not None:
                            total[place] += weighted(part, row, column, self.scale)
        return Result(*totals)

    def _array(self, image: np.ndarray, look: Look | None) -> np.ndarray:
        lr, alpha = _to_tensor(image)
        sr = self.upscale(lr, look).sr
        if alpha is not None:
            sr = torch.cat([sr, imresize(alpha, self.scale)], 1)
        elif image.ndim == 2:
            sr = sr.mean(1, keepdim=True)
        array = rearrange(sr[0].clamp(0, 1), 'c h w -> h w c').numpy()
        if image.dtype.kind == 'u':
            array = (array.astype(np.float64) * np.iinfo(image.dtype).max).round()
        return (array[..., 0] if image.ndim == 2 else array).astype(image.dtype)


def batches(columns: list[Piece], most: int) -> Iterator[list[Piece]]:
    """Runs of up to ``most`` pieces that see equally many pixels."""
    for _, alike in itertools.groupby(columns, lambda piece: piece.seen.length):
        while some := list(itertools.islice(alike, most)):
            yield some


def _reading(lr: torch.Tensor) -> Read:
    return lambda rows, columns: lr[..., slice(*rows), slice(*columns)]


def _to_tensor(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(1, 3, h, w) in [0, 1], and alpha (1, 1, h, w) if there is one. TypeError: it is no image of a known kind."""
    if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64) or (
            image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise TypeError(f'an image is (h, w), (h, w, 3) or (h, w, 4) of uint8, uint16 or floats in [0, 1], not '
                        f'{image.shape} of {image.dtype}')
    values = image.astype(np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1)
    values = torch.from_numpy(values if image.ndim == 3 else np.stack([values] * 3, -1))
    values = rearrange(values, 'h w c -> 1 c h w')
    return values[:, :3].contiguous(), values[:, 3:] if values.shape[1] == 4 else None

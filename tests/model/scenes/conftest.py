"""Scenes to be sharpened, and networks that are known by heart."""

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from segsr_model.scenes.resolver import SuperResolver
from segsr_model.scenes.upscale import Flags, Upscaling


class Nearest(nn.Module):
    """A network whose result is known: each pixel becomes s x s pixels. It notes how much it was given at once."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.given = scale, []

    def forward(self, x):
        self.given.append(x.numel())
        return x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


@pytest.fixture
def save(tmp_path):
    """Writes bands (c, h, w) as a GeoTIFF; returns its path."""
    def write(name, bands, *, descriptions=None, mask=None, **profile):
        path = tmp_path / name
        count, height, width = bands.shape
        scales, offsets = profile.pop('scales', None), profile.pop('offsets', None)
        profile = {'count': count, 'height': height, 'width': width, 'dtype': bands.dtype, **profile}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'w', driver='GTiff', **profile) as file:
            file.write(bands)
            if descriptions:
                file.descriptions = descriptions
            if scales:
                file.scales, file.offsets = scales, offsets
            if mask is not None:
                file.write_mask(mask)
        return path
    return write


@pytest.fixture
def upscale(tmp_path):
    """Super-resolves a file by a network; returns the path of the result and what became of it."""
    def run(path, *, net=None, scale=2, out=None, resolver=None, tile=32, halo=8, **flags):
        resolver = resolver or SuperResolver(net or Nearest(scale), scale=scale, halo=halo, tile=tile, batch=2,
                                             identity='test')
        out = out or tmp_path / 'out' / f'{path.stem}_x{scale}{".png" if path.suffix == ".jpg" else path.suffix}'
        out.parent.mkdir(exist_ok=True)
        job = Upscaling(resolver, 'test', path, out, Flags(**flags))
        try:
            return out, job.run()
        finally:
            job.close()
    return run


@pytest.fixture
def read():
    """The bands of a raster."""
    def get(path):
        with rasterio.open(path) as file:
            return file.read()
    return get


@pytest.fixture
def edsr():
    from basicsr.archs.edsr_arch import EDSR
    torch.manual_seed(0)
    return EDSR(3, 3, num_feat=8, num_block=2, upscale=2).eval()


def kron(bands, scale):
    return np.kron(bands, np.ones((1, scale, scale), bands.dtype))

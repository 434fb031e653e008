"""From an image file to the sharper file, and the layers beside it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image, ImageOps
from rasterio.windows import from_bounds

from segsr_model.errors import CommandError
from segsr_model.files import write_atomically
from segsr_model.images.plain import MOST_PIXELS
from segsr_model.images.raster import explained
from segsr_model.scenes.finish import Finish, Trust
from segsr_model.scenes.job import SceneJob
from segsr_model.scenes.resolver import SuperResolver
from segsr_model.scenes.source import Source
from segsr_model.scenes.tiles import Span
from segsr_model.scenes.writing import describe_layer, describe_result, profile_of, write_raster

PHOTOS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
RASTERS = ('.tif', '.tiff')
INPUTS = (*PHOTOS, *RASTERS, '.jp2', '.j2k', '.vrt')
SETTINGS, SOFTWARE = 'SEGSR_SETTINGS', 0x0131  # a TIFF tag, and EXIF's number of its own
LAYERS = ('maps', 'uncertainty', 'trust')  # files beside the result, <name>_<layer>.tif


@dataclass(frozen=True)
class Flags:
    """How a file is super-resolved; see ``segsr upscale --help``.

    Attributes:
        bands: three, or one, by number from 1 or by name; None: the file's colours.
        extra_bands: ``none`` or ``bicubic``: whether the other bands are in the result, too.
        value_range: low and high end of the values, or ``auto``; None: 0 to 255 of 8 bits.
        nodata: value of pixels without data; None: as the file says.
        dtype: of the result's samples; None: the file's.
        window: column, row, width and height of the area, in pixels; None: all of it.
        bounds: left, bottom, right and top of the area, in the file's coordinates.
        cog: write a cloud-optimised GeoTIFF; None: where the file lies on the map.
        options: GDAL's creation options.
        correct: shift each block of the result to the average of the pixel it was made from.
        layers: of `LAYERS`.
        overwrite: write over a result that is there.
        allow_vrt: take VRT files, which may name any other file.
    """

    bands: Sequence[str] | None = None
    extra_bands: str = 'bicubic'
    value_range: Sequence[float] | str | None = None
    nodata: float | None = None
    dtype: str | None = None
    window: Sequence[int] | None = None
    bounds: Sequence[float] | None = None
    cog: bool | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    correct: bool = False
    layers: Sequence[str] = ()
    overwrite: bool = False
    allow_vrt: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        path: of the result.
        trust: how well it agrees with the image; None: it was there already.
        unit: of the trust's numbers, as far as the file names one.
    """

    path: Path
    trust: Trust | None
    unit: str = ''


class Upscaling:
    """One file that is to be super-resolved.

    Args:
        resolver: the network, and how it is run.
        weights: what identifies the network: a checksum or a name.
        path: the image.
        out: the result.
        flags: how.

    Attributes:
        source: the image.
        size: of the area in LR pixels, height and width.

    Raises:
        CommandError: one line that names the file, or the option.
    """

    def __init__(self, resolver: SuperResolver, weights: str, path: Path, out: Path, flags: Flags) -> None:
        self.resolver, self.path, self.out, self.flags = resolver, path, out, flags
        self._stack = contextlib.ExitStack()
        self.photo = _photo(path) if path.suffix.lower() in PHOTOS else None
        raster = path if self.photo is None else self._as_raster()
        self.source = Source(raster, bands=flags.bands, value_range=flags.value_range, nodata=flags.nodata,
                             vrt=flags.allow_vrt)
        self.area = self._area()
        self.size = tuple(span.length for span in self.area)
        self.finish = Finish(self.source, resolver.scale, extra=self._extra(), dtype=flags.dtype and np.dtype(
            flags.dtype), correct=flags.correct)
        self.settings = self._settings(weights)
        pixels = resolver.scale ** 2 * self.size[0] * self.size[1]
        if out.suffix.lower() in PHOTOS and pixels > MOST_PIXELS:
            raise CommandError(f"'{out}': {pixels:,} pixels are too many for such a file; give it the ending .tif")

    def close(self) -> None:
        """Let go of the files."""
        self.source.dataset.close()
        self._stack.close()

    @property
    def folder(self) -> Path:
        """Of the finished parts."""
        return self.out.with_name(f'.{self.out.name}.parts')

    def is_done(self) -> bool:
        """Whether the result is there. CommandError: something else is."""
        if not self.out.exists() or self.flags.overwrite:
            return False
        if _settings_of(self.out) != self.fingerprint:
            raise CommandError(f"'{self.out}' is there, made otherwise or by somebody else; --overwrite replaces it")
        return all(self.layer(name).exists() for name in self.flags.layers)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def layer(self, name: str) -> Path:
        """The file of a layer beside the result."""
        return self.out.with_name(f'{self.out.stem}_{name}.tif')

    def run(self, progress: Callable[[int], None] = lambda tiles: None) -> Outcome:
        """Make the result. What is finished of it stays if this is broken off, and the next run goes on from it."""
        job = SceneJob(self.resolver, self.source, self.finish, area=self.area, folder=self.folder,
                       settings=self.settings, spread='uncertainty' in self.flags.layers, progress=progress)
        job.run()
        trust = self._write(job)
        job.parts.remove()
        return Outcome(self.out, trust, self.source.dataset.units[self.source.bands[0] - 1] or '')

    def tiles(self) -> int:
        """How many tiles there are."""
        rows, columns = self.resolver.plan(*self.size)
        return len(rows) * len(columns)

    def disk(self) -> int:
        """Bytes that the result and its parts take at most while it is made."""
        pixels = self.resolver.scale ** 2 * self.size[0] * self.size[1]
        return int(2.7 * pixels * len(self.finish.bands) * self.finish.dtype.itemsize)

    def _write(self, job: SceneJob) -> Trust:
        trust, s, tags = Trust(), self.resolver.scale, self._tags()
        raster = self.out if self.out.suffix.lower() in RASTERS else self.folder / 'result.tif'

        def pixels(rows: Span, columns: Span) -> tuple[np.ndarray, np.ndarray | None]:
            lr = _reduced(rows, columns, s)
            samples, here = job.samples(*lr), job.in_scene(*lr)
            trust.add(self.finish.differences(samples, *here))
            valid = 255 * self.source.valid(*here).astype(np.uint8) if self.finish.needs_mask else None
            return samples, valid if valid is None else valid.repeat(s, 0).repeat(s, 1)

        write_raster(raster, self._profile(s, len(self.finish.bands), self.finish.dtype, self.finish.nodata), pixels,
                     describe=lambda file: describe_result(file, self.source, self.finish.bands, tags), step=s,
                     cog=self._is_cog(), options=self.flags.options, has_mask=self.finish.needs_mask)
        self._write_layers(job, raster, tags)
        if raster != self.out:
            self._save_photo(raster)
        return trust

    def _write_layers(self, job: SceneJob, raster: Path, tags: Mapping[str, str]) -> None:
        s, unit = self.resolver.scale, self.source.dataset.units[self.source.bands[0] - 1] or ''
        with contextlib.ExitStack() as stack:
            result = stack.enter_context(rasterio.open(raster))

            def differences(rows: Span, columns: Span) -> np.ndarray:
                samples = result.read(window=tuple(map(tuple, (rows.times(s), columns.times(s)))))
                return self.finish.differences(samples, *job.in_scene(rows, columns))[None]

            layers = {
                'trust': (1, ['result minus image'], unit, differences),
                'uncertainty': (s, ['spread over flips and rotations'], unit,
                                lambda rows, columns: job.uncertainty(*_reduced(rows, columns, s))[None])}
            if job.semantics is not None:
                names = [f'M_{i + 1}' for i in range(self.resolver.net.backbone.num_units)]
                layers['maps'] = (1, names, 'cosine similarity',
                                  lambda rows, columns: job.maps(rows, columns)[0].numpy())
            for name in self.flags.layers:
                if name not in layers:
                    raise CommandError(f'--{name}: this network has no guidance maps of the scene')
                scale, names, of_unit, values = layers[name]
                write_raster(self.layer(name), self._profile(scale, len(names), np.dtype('float32'), math.nan),
                             lambda rows, columns, values=values: (values(rows, columns).astype(np.float32), None),
                             describe=functools.partial(describe_layer, names=names, unit=of_unit, tags=tags),
                             step=scale, cog=self._is_cog())

    def _profile(self, scale: int, count: int, dtype: np.dtype, nodata: float | None) -> dict[str, Any]:
        return profile_of(self.source, scale, (self.area[0].start, self.area[1].start), self.size, count=count,
                          dtype=dtype, nodata=nodata)

    def _is_cog(self) -> bool:
        return self.source.is_on_the_map if self.flags.cog is None else self.flags.cog

    def _tags(self) -> dict[str, str]:
        return {'SEGSR_VERSION': _version(), 'SEGSR_WEIGHTS': self.settings['weights'], SETTINGS: self.fingerprint,
                'TIFFTAG_SOFTWARE': f'segsr {_version()}'}

    def _settings(self, weights: str) -> dict[str, Any]:
        """What the result depends on, in JSON's types."""
        resolver, source, status = self.resolver, self.source, self.path.stat()
        return {
            'image': [self.path.name, status.st_size, status.st_mtime_ns], 'weights': weights, 'version': _version(),
            'scale': resolver.scale, 'tile': resolver.tile, 'halo': resolver.halo, 'context': resolver.context,
            'pooling': resolver.pooling, 'precision': resolver.precision, 'self-ensemble': resolver.self_ensemble,
            'bands': self.finish.bands, 'value-range': [source.low, source.high], 'nodata': str(source.nodata),
            'dtype': self.finish.dtype.name, 'area': [list(span) for span in self.area], 'cog': self._is_cog(),
            'co': dict(self.flags.options), 'correct': self.flags.correct, 'layers': sorted(self.flags.layers)}

    def _extra(self) -> list[int]:
        """Bands beside the network's; an alpha band always, last."""
        rest = [band for band in range(1, self.source.dataset.count + 1)
                if band not in self.source.bands and band != self.source.alpha]
        alpha = [self.source.alpha] if self.source.alpha else []
        return (rest if self.flags.extra_bands == 'bicubic' else []) + alpha

    def _area(self) -> tuple[Span, Span]:
        source, window = self.source, self.flags.window
        if self.flags.bounds:
            if not source.is_on_the_map:
                raise CommandError(f"--bounds: '{self.path}' lies nowhere on the map; --window takes pixels")
            here = from_bounds(*self.flags.bounds, transform=source.dataset.transform)
            left, top = math.floor(here.col_off + 1e-6), math.floor(here.row_off + 1e-6)
            window = (left, top, math.ceil(here.col_off + here.width - 1e-6) - left,
                      math.ceil(here.row_off + here.height - 1e-6) - top)
        if window is None:
            return Span(0, source.height), Span(0, source.width)
        left, top, width, height = window
        rows = Span(max(0, top), min(source.height, top + height))
        columns = Span(max(0, left), min(source.width, left + width))
        if rows.length <= 0 or columns.length <= 0:
            option = '--bounds' if self.flags.bounds else '--window'
            raise CommandError(f"{option}: no pixel of '{self.path}' ({source.width} x {source.height}) lies in it")
        return rows, columns

    def _as_raster(self) -> Path:
        """A photo as a raster, upright, for as long as this is open."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='segsr_')))
        array = np.asarray(self.photo)
        bands = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        with explained(self.path), rasterio.open(folder / 'photo.tif', 'w', driver='GTiff', count=len(bands),
                                                 height=array.shape[0], width=array.shape[1], dtype=array.dtype,
                                                 photometric='RGB' if len(bands) >= 3 else 'MINISBLACK',
                                                 alpha='YES' if len(bands) in (2, 4) else 'NO') as file:
            file.write(bands)
        return folder / 'photo.tif'

    def _save_photo(self, raster: Path) -> None:
        """As the photo was, with its EXIF data and colour profile."""
        with rasterio.open(raster) as file:
            array = file.read()
        if array.dtype != np.uint8:
            with explained(self.out):
                write_atomically(self.out, lambda temporary: rasterio.shutil.copy(raster, temporary, driver='PNG'))
            return
        image = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1)))
        exif = Image.Exif()
        options = {}
        if self.photo is not None:
            exif = self.photo.getexif()
            options = {'icc_profile': self.photo.info['icc_profile']} if self.photo.info.get('icc_profile') else {}
        exif[SOFTWARE] = f'segsr {_version()} {self.fingerprint}'
        kind = {'.jpg': {'quality': 95, 'subsampling': 0}, '.jpeg': {'quality': 95, 'subsampling': 0},
                '.webp': {'lossless': True}}.get(self.out.suffix.lower(), {})
        if self.out.suffix.lower() in ('.jpg', '.jpeg') and image.mode != 'L':
            image = image.convert('RGB')
        with explained(self.out):
            write_atomically(self.out, lambda temporary: image.save(temporary, exif=exif, **options, **kind))


def _photo(path: Path) -> Image.Image | None:
    """An 8-bit photo, upright, as grey, RGB or with alpha; None: it has more bits, or lies on the map."""
    if not path.is_file():
        raise CommandError(f"there is no file '{path}'")
    with explained(path):
        with Image.open(path) as file:
            if file.mode.startswith(('I', 'F')) or file.width * file.height > MOST_PIXELS or any(
                    path.with_suffix(suffix).exists() for suffix in ('.pgw', '.jgw', '.wld')):
                return None
            image = ImageOps.exif_transpose(file)
            info = dict(file.info)
        has_alpha = 'A' in image.mode or 'transparency' in image.info
        wanted = 'RGBA' if has_alpha else 'L' if image.mode in ('1', 'L') else 'RGB'
        image = image.convert(wanted)
        if file.mode in ('L', 'RGB', 'RGBA', 'P'):  # else the profile is of other colours
            image.info.setdefault('icc_profile', info.get('icc_profile'))
        return image


def _settings_of(path: Path) -> str | None:
    """The fingerprint of the settings that a result was made with; None: it has none."""
    with contextlib.suppress(Exception):  # whatever is there under the name
        if path.suffix.lower() in RASTERS:
            with rasterio.open(path) as file:
                return file.tags().get(SETTINGS)
        with Image.open(path) as image:
            return str(image.getexif().get(SOFTWARE, '')).split()[-1]
    return None


def _reduced(rows: Span, columns: Span, scale: int) -> tuple[Span, Span]:
    return tuple(Span(span.start // scale, span.stop // scale) for span in (rows, columns))


def _version() -> str:
    try:
        return importlib.metadata.version('segsr')
    except importlib.metadata.PackageNotFoundError:  # used from a checkout
        return 'unknown'

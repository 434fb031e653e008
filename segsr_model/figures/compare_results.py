"""Finding an image's SR among the results of a test, and checking that it belongs to the HR image at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segsr_model.errors import CommandError
from segsr_model.figures.drawing import read_image, size_of
from segsr_model.testing.metrics import NoValueError, value_of
from segsr_model.testing.scores import read_scores

IMAGES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
TOLERANCE = 0.05  # dB between a PSNR that a test has saved and that of its image


class Results:
    """A results folder of basicsr/test.py, or a plain folder of SR images.

    Args:
        folder: results/<test>, with visualization/<dataset>/<image>_<suffix>.png and, from SemanticGuidedSRModel,
            scores_<dataset>.json; or a folder with <image>.png or <image>_<suffix>.png.
        dataset: its dataset to use; any if None.

    Raises:
        CommandError: there is no such folder, it has no images, or not this dataset.
    """

    def __init__(self, folder: str, dataset: str | None = None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CommandError(f"there is no results folder '{folder}'")
        shown = self.folder / 'visualization'
        self.datasets = sorted(x for x in shown.iterdir() if x.is_dir()) if shown.is_dir() else [self.folder]
        names = [x.name for x in self.datasets]
        if dataset and shown.is_dir():
            self.datasets = [x for x in self.datasets if x.name == dataset]
        if not self.datasets:
            raise CommandError(f"'{shown}' has no images" + (f" of '{dataset}', but of {', '.join(names)}" if names else
                                                            '; test with val:save_img: true'))

    def find(self, image: str) -> Path:
        """The SR image of the HR image called ``image`` (no suffix). CommandError: there is none, or several."""
        files = [x for folder in self.datasets for x in sorted(folder.iterdir()) if x.suffix.lower() in IMAGES]
        found = [x for x in files if x.stem == image or x.stem.startswith(f'{image}_')]
        best = [x for x in found if x.stem in (image, f'{image}_{self.folder.name}')]
        if len(best or found) == 1:
            return (best or found)[0]
        where = ', '.join(str(x) for x in self.datasets)
        if found:
            raise CommandError(f"'{image}' is ambiguous in {where}: {', '.join(x.name for x in (best or found)[:4])}"
                               + ('; choose with --dataset' if len(self.datasets) > 1 else ''))
        raise CommandError(f"no SR image of '{image}' among the {len(files)} images of {where}"
                           + (f', such as {files[0].name}: results of another dataset?' if files else ''))

    def scores(self, path: Path) -> dict[str, Any]:
        """What the test has saved about the dataset of the SR image; empty if nothing."""
        file = self.folder / f'scores_{path.parent.name}.json'
        if not file.is_file():
            return {}
        try:
            return read_scores(file)
        except ValueError as error:
            raise CommandError(f"cannot read '{file}': {error}") from None

    def scale(self, image: str) -> int | None:
        """The scale factor of the test, if it has saved it."""
        return self.scores(self.find(image)).get('protocol', {}).get('scale')

    def read(self, image: str, hr: np.ndarray) -> np.ndarray:
        """The SR image, 8-bit BGR, of the size of ``hr``.

        Raises:
            CommandError: another size, or the PSNR that the test has saved is not that against ``hr``.
        """
        path = self.find(image)
        sr = read_image(path)
        if sr.shape != hr.shape:
            raise CommandError(f"'{path}' is {size_of(sr)} and the HR image {size_of(hr)}: another dataset or scale?")
        scores = self.scores(path)
        saved = scores.get('images', {}).get(image, {})
        for metric, options in scores.get('protocol', {}).get('metrics', {}).items():
            if options.get('type') == 'calculate_psnr' and saved.get(metric) is not None:
                try:
                    psnr = value_of(options, {'img': sr, 'img2': hr})
                except NoValueError as error:
                    raise CommandError(f"'{path}': its test's metric {metric} cannot be computed: {error}") from None
                if abs(psnr - saved[metric]) > TOLERANCE:
                    raise CommandError(f"'{path}' has {psnr:.2f} dB against this HR image, but had {saved[metric]:.2f} "
                                       'dB in its test: results of another dataset?')
        return sr

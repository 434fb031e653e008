"""Testing a model on a dataset: inference here, saving and metrics beside it in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from segsr_model.errors import out_of_memory
from segsr_model.files import UnwrittenError, printable, write_file
from segsr_model.testing.metrics import NoValueError, needs_ground_truth, value_of
from segsr_model.testing.names import image_name, image_names, path_of
from segsr_model.testing.scores import Scores
from segsr_model.training.corrupt_images import CorruptImages, readable
from segsr_model.training.interrupts import InterruptionError

WORKERS = min(8, os.cpu_count() or 1)
ADVICE = 'Cut it into smaller images; val:amp: bf16 takes less memory, val:self_ensemble: true takes more.'


class Scored(NamedTuple):
    """What became of an image.

    Attributes:
        values: by metric; None where it has none.
        reasons: why, by metric.
        unsaved: the SR image could not be written.
    """

    values: dict[str, float | None]
    reasons: dict[str, str]
    unsaved: UnwrittenError | None


def evaluate(model: SRModel, dataloader: DataLoader, scores: Scores, *, metrics: Mapping[str, dict[str, Any]],
             passed_over: CorruptImages, image_path: Callable[[str], str] | None = None,
             stopped: Callable[[], bool] | None = None, pbar: bool = False) -> list[str]:
    """Super-resolve the images of a dataset and add their metric values to ``scores``.

    Images that ``scores`` has already, and that are saved already if they are to be, are passed over. Metrics are
    computed in threads, on what BasicSR computes them on (8-bit images), with the same values; at most two images for
    each thread wait for theirs. A metric that has no value for an image, and in training an SR image that cannot be
    written, is a warning.

    Args:
        model: what ``feed_data`` and ``test`` are called of.
        dataloader: of batch size 1; without ground truth only metrics that need none are computed.
        scores: filled in the dataset's order.
        metrics: BasicSR's metric options by name.
        passed_over: takes the images that cannot be read; they are not in ``scores``.
        image_path: where the SR image of a name is saved; None: nowhere.
        stopped: asked before each image whether to break off.
        pbar: show a progress bar.

    Returns:
        The images that do not fit into memory, with their sizes; they are not in ``scores``.

    Raises:
        ValueError: two images have one name.
        InterruptionError: ``stopped`` said so.
        CorruptImageError: more images cannot be read than ``passed_over`` allows.
        UnwrittenError: an SR image, or the scores, of a test cannot be written.
    """
    dataset = dataloader.dataset
    image_names(dataset)
    waiting, too_large, said, unsaved = deque(), [], set(), []
    logger = get_root_logger()

    def no_room(image: str) -> None:
        too_large.append(image)
        logger.error(printable(f'{image} does not fit into memory. {ADVICE}'))
        bar.update()

    def collect() -> None:
        """Take the first result that waits."""
        name, image, result = waiting.popleft()
        try:
            scored = result.result()
        except Exception as error:
            if not out_of_memory(error):
                raise
            return no_room(image)
        for metric in sorted(scored.reasons.keys() - said):
            logger.warning(printable(f"val:metrics:{metric} has no value for '{name}': {scored.reasons[metric]}."))
            said.add(metric)
        unsaved.extend(filter(None, [scored.unsaved]))
        scores.add(name, scored.values)
        bar.update()

    with ThreadPoolExecutor(WORKERS) as pool, tqdm(
            total=len(dataloader), desc=dataset.opt['name'], unit='image', disable=not pbar) as bar:
        for data in readable(dataloader, passed_over, lambda index: no_room(_file(path_of(dataset, index)))):
            if stopped and stopped():
                raise InterruptionError
            if unsaved and not model.is_train:
                break
            name = image_name(data['lq_path'][0])
            save_to = image_path(name) if image_path else None
            if name in scores.images and (save_to is None or os.path.isfile(save_to)):
                bar.update()
                continue
            image = f"'{data['lq_path'][0]}' ({data['lq'].shape[-1]} x {data['lq'].shape[-2]})"
            sr = _super_resolve(model, data)
            if sr is None:  # perhaps beside the images that wait
                while waiting:
                    collect()
                sr = _super_resolve(model, data)
            if sr is None:
                no_room(image)
                continue
            waiting.append((name, image, pool.submit(_score, sr, data.get('gt'), metrics, save_to)))
            if len(waiting) >= 2 * WORKERS:
                collect()
        while waiting:
            collect()
    if unsaved and not model.is_train:
        raise unsaved[0]
    if unsaved:
        logger.warning(f'{len(unsaved)} SR images are left out: {unsaved[0]}.')
    return too_large


def _file(path: str) -> str:
    """An image that was not read, with its size as far as its header tells."""
    try:
        with Image.open(path) as image:
            return f"'{path}' ({image.width} x {image.height})"
    except Exception:  # Pillow's many readers raise anything; or it is the key of an LMDB
        return f"'{path}'"


def _super_resolve(model: SRModel, data: Mapping[str, Any]) -> torch.Tensor | None:
    """The SR image (1, 3, h, w) on the CPU; None: it does not fit into memory, which is free again then."""
    try:
        model.feed_data(data)
        model.test()
        sr, model.output = model.output.cpu(), None  # the GPU needs its room for the next
        return sr
    except Exception as error:
        if not out_of_memory(error):
            raise
    model.output = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _score(sr: torch.Tensor, gt: torch.Tensor | None, metrics: Mapping[str, dict[str, Any]],
           save_to: str | None) -> Scored:
    """Metric values of an image (1, 3, h, w), after saving it."""
    images = {'img': tensor2img([sr])}
    if gt is not None:
        images['img2'] = tensor2img([gt])
    scored = Scored({}, {}, _save(images['img'], save_to) if save_to else None)
    finite = bool(torch.isfinite(sr).all())
    for metric, opt in metrics.items():
        if gt is not None or not needs_ground_truth(opt):
            scored.values[metric] = None
            try:
                if not finite:  # as 8-bit pixels it looks like any other
                    raise NoValueError('the SR image is not finite')
                scored.values[metric] = value_of(opt, images)
            except NoValueError as error:
                scored.reasons[metric] = str(error)
    return scored


def _save(image: np.ndarray, path: str) -> UnwrittenError | None:
    """Write 8-bit BGR (h, w, 3) as PNG, whole or not at all. Returns why that was not possible."""
    encoded, content = cv2.imencode('.png', image)
    if not encoded:
        return UnwrittenError(None, 'OpenCV cannot make a PNG of it', path)
    try:
        write_file(path, content.tobytes())
    except UnwrittenError as error:
        return error
    return None

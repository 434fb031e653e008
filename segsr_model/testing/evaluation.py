"""Testing a model on a dataset: inference here, saving and metrics beside it in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from os import path as osp
from typing import Any

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import imwrite, tensor2img
from torch.utils.data import DataLoader
from tqdm import tqdm

from segsr_model.testing.metrics import needs_ground_truth
from segsr_model.testing.scores import Scores
from segsr_model.training.corrupt_images import CorruptImages, readable
from segsr_model.training.interrupts import InterruptionError

WORKERS = min(8, os.cpu_count() or 1)


def evaluate(model: SRModel, dataloader: DataLoader, scores: Scores, *, metrics: Mapping[str, dict[str, Any]],
             passed_over: CorruptImages, image_path: Callable[[str], str] | None = None,
             stopped: Callable[[], bool] | None = None, pbar: bool = False) -> None:
    """Super-resolve the images of a dataset and add their metric values to ``scores``.

    Images that ``scores`` has already, and that are saved already if they are to be, are passed over. Metrics are
    computed in threads, on what BasicSR computes them on (8-bit images), with the same values; at most two images for
    each thread wait for theirs.

    Args:
        model: what ``feed_data`` and ``test`` are called of.
        dataloader: of batch size 1; without ground truth only metrics that need none are computed.
        scores: filled in the dataset's order.
        metrics: BasicSR's metric options by name.
        passed_over: takes the images that cannot be read; they are not in ``scores``.
        image_path: where the SR image of a name is saved; None: nowhere.
        stopped: asked before each image whether to break off.
        pbar: show a progress bar.

    Raises:
        InterruptionError: ``stopped`` said so.
        CorruptImageError: more images cannot be read than ``passed_over`` allows.
    """
    waiting = deque()

    def collect() -> None:
        name, values = waiting.popleft()
        scores.add(name, values.result())
        bar.update()

    with ThreadPoolExecutor(WORKERS) as pool, tqdm(
            total=len(dataloader), desc=dataloader.dataset.opt['name'], unit='image', disable=not pbar) as bar:
        for data in readable(dataloader, passed_over):
            if stopped and stopped():
                raise InterruptionError
            name = osp.splitext(osp.basename(data['lq_path'][0]))[0]
            save_to = image_path(name) if image_path else None
            if name in scores.images and (save_to is None or osp.isfile(save_to)):
                bar.update()
                continue
            model.feed_data(data)
            model.test()
            waiting.append((name, pool.submit(_score, model.output.cpu(), data.get('gt'), metrics, save_to)))
            if len(waiting) >= 2 * WORKERS:
                collect()
        while waiting:
            collect()


def _score(sr: torch.Tensor, gt: torch.Tensor | None, metrics: Mapping[str, dict[str, Any]],
           save_to: str | None) -> dict[str, float]:
    """Metric values of an image (1, 3, h, w), after saving it."""
    images = {'img': tensor2img([sr])}
    if gt is not None:
        images['img2'] = tensor2img([gt])
    if save_to:
        imwrite(images['img'], save_to)
    return {metric: float(calculate_metric(images, opt)) for metric, opt in metrics.items()
            if gt is not None or not needs_ground_truth(opt)}

"""The results of a validation or test: their names, each its own and short enough, and what can be measured."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence

from basicsr.utils.registry import DATASET_REGISTRY

from segsr_model.checks.blocks import TEXT, Block, steps, whole
from segsr_model.files import doubles, name_limit
from segsr_model.testing.metrics import check_metrics, needs_ground_truth, trial
from segsr_model.testing.names import image_names

LARGEST = 192  # side, in pixels, from which on a metric can be computed if it can be at all


def result_problems(opt: Block) -> Iterator[str]:
    """Problems of the names that results are saved and counted under."""
    training = bool(opt.get('is_train'))
    sets = [dataset for phase, dataset in opt['datasets'].blocks() if phase != 'train']
    metrics = opt['val']['metrics']
    yield from _doubles([dataset.path('name') for dataset in sets], [dataset.get('name', TEXT) for dataset in sets])
    yield from _doubles([metrics.path(str(name)) for name in metrics.content], list(map(str, metrics.content)))
    pictures: dict[str, str] = {}  # the set by the image
    for dataset in sets:
        try:
            names = _image_names(dataset)
        except ValueError as error:
            yield f'{dataset.where}: {error}'
            continue
        if not names or opt['val'].get('save_img') is not True:
            continue
        yield from _lengths(opt, dataset, names, training)
        places = doubles([*pictures, *names])
        if training and places:  # BasicSR's folders there are those of images, whatever set they are of
            name = names[places[1] - len(pictures)]
            yield (f"val:save_img: {list(pictures.values())[places[0]]} and {dataset.where} both have an image called "
                   f"'{name}', whose pictures take each other's place; set it to false, or rename one")
        else:
            pictures.update(dict.fromkeys(names, dataset.where))


def _doubles(options: list[str], names: list[str | None]) -> Iterator[str]:
    """A problem if two names are one, where case does not matter."""
    named = [(option, name) for option, name in zip(options, names) if name]
    found = doubles(name for _, name in named)
    if found:
        (first, one), (second, other) = (named[place] for place in found)
        yield (f"{first} and {second}: '{one}' and '{other}' are one name for files and scores; the results of the "
               "second would take the place of the first's")


def _image_names(dataset: Block) -> list[str]:
    """The names of a set's images, as a test will see them; none if it cannot be opened, which is said elsewhere.

    Raises:
        ValueError: two are the same.
    """
    try:
        images = DATASET_REGISTRY.get(dataset.get('type'))(copy.deepcopy(dict(dataset.content)))
    except Exception:  # BasicSR's sets check nothing
        return []
    return image_names(images)


def _lengths(opt: Block, dataset: Block, names: list[str], training: bool) -> Iterator[str]:
    """A problem if the picture of an image has a longer name than the file system takes."""
    ending = str(opt['train'].get('total_iter', steps(1), 0) if training else
                 opt['val'].get('suffix', TEXT) or opt.get('name', TEXT, ''))
    folder = opt['path'].get('experiments_root' if training else 'results_root', TEXT) or '.'
    longest = max(names, key=lambda name: len(os.fsencode(name)))
    length, limit = len(os.fsencode(f'{longest}_{ending}.png')), name_limit(folder)
    if length > limit:
        advice = 'rename it' if training else 'set a shorter val:suffix'
        yield (f"{dataset.where}: the SR image '{longest}_{ending}.png' would have a name of {length} bytes, at most "
               f'{limit} are possible; {advice}')


def unmeasurable(metric: Block) -> Iterator[str]:
    """A problem if a metric with these options has no value for any image."""
    side = LARGEST + 2 * metric.get('crop_border', whole(0), 0)
    reason = trial(metric.content, side, side)
    if reason:
        yield f'{metric.where}: cannot be computed with these options: {reason}'


def metric_problems(opt: Block, dataset: Block, sizes: Mapping[str, Sequence[tuple[int, int]]]) -> Iterator[str]:
    """Problems of the metrics for the smallest image of a set.

    Args:
        opt: the options.
        dataset: the set.
        sizes: width and height of each HR image, if there are any, and of its LR image.
    """
    name = min(sizes, key=lambda name: min(sizes[name][-1]))
    width, height = (side * opt.get('scale', whole(1), 1) for side in sizes[name][-1])
    smallest = f"the smallest image of {dataset.where}, '{name}', {width} x {height} pixels"
    for metric, block in opt['val']['metrics'].blocks():
        border = block.get('crop_border', whole(0), 0)
        if 2 * border >= min(width, height):
            yield f'val:metrics:{metric}:crop_border: is {border}, which leaves nothing of {smallest}'
        elif _can_be_tried(block) and (len(sizes[name]) == 2 or not needs_ground_truth(block.content)):
            most = LARGEST + 2 * border
            reason = trial(block.content, min(height, most), min(width, most))
            if reason and not trial(block.content, most, most):
                yield f'val:metrics:{metric}: cannot be computed for {smallest}: {reason}'


def _can_be_tried(metric: Block) -> bool:
    try:
        check_metrics({'metric': metric.content})
    except ValueError:
        return False
    return True

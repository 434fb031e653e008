"""The images of the datasets: are they there, do HR and LR belong together, are they large enough for what is asked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import path as osp
from pathlib import Path

import numpy as np

from segsr_model.checks.blocks import TEXT, Block, number, whole
from segsr_model.checks.results import metric_problems
from segsr_model.images.plain import ImageError, decode

COUNT = whole(1)
HINT = '"segsr prepare --help" says how to make it'
MOST_OPENED = 1000  # images of a training set; validation sets are looked at as a whole
MOST_SHOWN = 5
FOLDERS = {'PairedImageDataset': ('dataroot_gt', 'dataroot_lq'), 'SingleImageDataset': ('dataroot_lq',)}


class TooDeepError(ValueError):
    """An image of more than 8 bits, which BasicSR's loader would cut."""


def data_problems(opt: Block) -> Iterator[str]:
    """Problems of the images of datasets whose type and backend are known."""
    for phase, dataset in opt['datasets'].blocks():
        folders = [dataset.get(key, TEXT) for key in FOLDERS.get(str(dataset.get('type')), ())]
        backend = dataset['io_backend'].get('type')
        if not folders or not all(folders) or backend not in ('disk', 'lmdb'):
            continue
        read = _lmdb if backend == 'lmdb' else _listed if dataset.get('meta_info_file', TEXT) else _images
        found, problems = [], []
        for folder in folders:
            try:
                found.append(read(folder, dataset))
            except ValueError as error:
                problems.append(str(error))
        yield from problems or _problems(opt, dataset, folders, found, training=phase == 'train')


Images = dict[str, 'tuple[int, int] | None']  # size (width, height) by name, where it is known without opening


def _problems(opt: Block, dataset: Block, folders: list[str], found: list[Images], *, training: bool) -> Iterator[str]:
    hr, lr = found[0], found[-1]
    paired_by_template = len(found) == 2 and dataset['io_backend'].get('type') == 'disk'
    template = dataset.get('filename_tmpl', TEXT, '{}')
    partner = {name: _filled(template, name) if paired_by_template else name for name in hr}
    for names, there, folder, other in (
            (list(hr), lambda name: partner[name] in lr, folders[0], folders[-1]),
            (list(lr), set(partner.values()).__contains__, folders[-1], folders[0])):
        missing = sorted(name for name in names if not there(name))
        if missing:
            more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
            yield (f"{dataset.where}: '{osp.join(folder, missing[0])}'{more} has no image of the same name in "
                   f"'{other}'")
            return
    if not hr:
        yield f"{dataset.where}: '{folders[0]}' has no images"
        return
    if training:
        yield from _batches(opt, dataset, len(hr))
    names = sorted(hr)
    if training or len(found) == 1:
        names = names[::math.ceil(len(names) / MOST_OPENED)]

    def look(name: str) -> list[tuple[int, int]] | ValueError:
        try:
            return [images[key] or _measure(osp.join(folder, key)) for key, images, folder in
                    zip((name, partner[name]), found, folders)]
        except ValueError as error:
            return error

    with ThreadPoolExecutor() as pool:
        looks = dict(zip(names, pool.map(look, names)))
    errors = [error for error in looks.values() if isinstance(error, ValueError)]
    too_deep = any(isinstance(error, TooDeepError) for error in errors)
    if too_deep or len(errors) > dataset.get('max_corrupt_images', whole(0), 0):
        more = f'; and {len(errors) - MOST_SHOWN} more' * (len(errors) > MOST_SHOWN)
        yield f'{dataset.where}: {"; ".join(map(str, errors[:MOST_SHOWN]))}{more}'
        return
    sizes = {name: size for name, size in looks.items() if not isinstance(size, ValueError)}
    if sizes and len(found) == 2:
        yield from _sizes(opt, dataset, folders[0], sizes, exact=training)
    if sizes and not training:
        yield from metric_problems(opt, dataset, sizes)


def _sizes(opt: Block, dataset: Block, folder: str, sizes: dict[str, list[tuple[int, int]]], *,
           exact: bool) -> Iterator[str]:
    scale, gt_size = opt.get('scale', COUNT), dataset.get('gt_size', COUNT)
    for name, ((hr_w, hr_h), (lr_w, lr_h)) in sizes.items():
        spare = 1 if exact else scale  # for validation, BasicSR crops what is more
        if scale and not (0 <= hr_w - lr_w * scale < spare and 0 <= hr_h - lr_h * scale < spare):
            yield (f"{dataset.where}: '{osp.join(folder, name)}' is {hr_w} x {hr_h}; for an LR image of "
                   f'{lr_w} x {lr_h} at x{scale} it must be {lr_w * scale} x {lr_h * scale}')
            return
        if exact and gt_size and min(hr_w, hr_h) < gt_size:
            yield f"{dataset.path('gt_size')}: is {gt_size}, but '{osp.join(folder, name)}' is {hr_w} x {hr_h}"
            return


def _batches(opt: Block, dataset: Block, count: int) -> Iterator[str]:
    batch = dataset.get('batch_size_per_gpu', COUNT)
    ratio = dataset.get('dataset_enlarge_ratio', number(), 1)
    if not batch:
        return
    processes = opt.get('world_size', COUNT, 1)
    if not opt.get('dist'):
        batch *= opt.get('num_gpu', COUNT, 1)
    epoch = math.ceil(count * ratio / processes)
    if batch > epoch:
        yield (f'{dataset.path("batch_size_per_gpu")}: a batch of {batch} is more than the {epoch} images of an epoch '
               f'({count} images, dataset_enlarge_ratio {ratio}): no iteration would run')


def _filled(template: str, name: str) -> str:
    base, extension = osp.splitext(osp.basename(name))
    return f'{template.replace("{}", base)}{extension}'


def _images(folder: str, dataset: Block) -> Images:
    if not osp.isdir(folder):
        raise ValueError(f"{dataset.where}: there is no folder '{folder}'; {HINT}")
    return {entry.name: None for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith('.')}


def _listed(folder: str, dataset: Block) -> Images:
    """The images of ``meta_info_file``, those of the folder that are not in it left out."""
    there, where = set(_images_below(folder, dataset)), dataset.path('meta_info_file')
    try:
        lines = Path(dataset.get('meta_info_file')).expanduser().read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: '{dataset.get('meta_info_file')}' cannot be read: {error}") from None
    names = [line.strip().split(' ')[0] for line in lines]
    if folder == dataset.get('dataroot_lq') and dataset.get('type') == 'PairedImageDataset':
        names = [_filled(dataset.get('filename_tmpl', TEXT, '{}'), name) for name in names]
    missing = [name for name in names if name not in there]
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise ValueError(f"{where}: '{missing[0]}'{more} is not in '{folder}'")
    return dict.fromkeys(names)


def _images_below(folder: str, dataset: Block) -> Iterator[str]:
    if not osp.isdir(folder):
        raise ValueError(f"{dataset.where}: there is no folder '{folder}'; {HINT}")
    for root, _, names in os.walk(folder):
        yield from (osp.relpath(osp.join(root, name), folder).replace(os.sep, '/') for name in names)


def _lmdb(folder: str, dataset: Block) -> Images:
    """The images of an LMDB by key, with the sizes that it notes."""
    if not folder.endswith('.lmdb'):
        raise ValueError(f"{dataset.where}: '{folder}': the name of an LMDB must end in .lmdb, or "
                         'io_backend:type be disk')
    if not osp.isfile(osp.join(folder, 'data.mdb')):
        raise ValueError(f"{dataset.where}: there is no LMDB '{folder}'; {HINT}")
    file = Path(folder, 'meta_info.txt')
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{dataset.where}: '{file}' cannot be read: {error}") from None
    images = {}
    for line in lines:
        size = re.search(r'\((\d+),(\d+),\d+\)', line)
        if not size:
            raise ValueError(f"{dataset.where}: '{file}': '{line}' should be a name and a size, such as a.png "
                             '(64,64,3) 1')
        images[line.split('.')[0]] = int(size[2]), int(size[1])
    if images:
        _open_sample(folder, dataset, min(images))
    return images


def _open_sample(folder: str, dataset: Block, name: str) -> None:
    try:
        import lmdb
    except ImportError:
        return  # is a problem of its own
    try:
        with lmdb.open(folder, readonly=True, lock=False, readahead=False) as base, base.begin() as transaction:
            content = transaction.get(name.encode('ascii'))
        if content is None:
            raise ValueError('it is not in the database')
        _sides(content)
    except Exception as error:  # LMDB's, for whatever is damaged, or ours
        raise ValueError(f"{dataset.where}: '{name}' of '{folder}': {error}") from None


def _measure(path: str) -> tuple[int, int]:
    try:
        return _sides(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise type(error)(f"'{path}': {error}") from None


def _sides(content: bytes) -> tuple[int, int]:
    """Width and height of an image, as BasicSR's loader decodes it."""
    try:
        image = decode(content)
    except ImageError as error:
        raise ValueError(str(error)) from None
    if image.dtype != np.uint8:
        raise TooDeepError(f'its samples are {image.dtype}, and BasicSR cuts them to 8 bits: "segsr prepare folder '
                           '--value-range LOW HIGH" makes 8-bit images')
    return image.shape[1], image.shape[0]

"""What the results of an image are called: the name of its file, without folder and ending."""

from __future__ import annotations

from collections.abc import Mapping
from os import path as osp

from torch.utils.data import Dataset

from segsr_model.files import doubles


def image_name(path: str) -> str:
    """The name of the results of an LR image: a path, or a key of an LMDB."""
    return osp.splitext(osp.basename(path))[0]


def image_names(dataset: Dataset) -> list[str]:
    """The names of a BasicSR dataset's images, in its order.

    Raises:
        ValueError: two images have one name, so that the results of the second would take the place of the first's.
    """
    images = _paths(dataset)
    names = [image_name(image['lq_path']) for image in images]
    found = doubles(names)
    if found:
        first, second = (images[place].get('gt_path') or images[place]['lq_path'] for place in found)
        raise ValueError(f"the results of '{first}' and '{second}' would both be called '{names[found[1]]}', with "
                         'folder, ending and case left out; name them differently, or leave one out')
    return names


def path_of(dataset: Dataset, index: int) -> str:
    """The path, or the key in an LMDB, of a BasicSR dataset's LR image."""
    paths = _paths(dataset)
    return paths[index]['lq_path'] if index < len(paths) else f'image {index}'


def _paths(dataset: Dataset) -> list[Mapping[str, str]]:
    """``lq_path``, and ``gt_path`` if there is one, of the images; none for a dataset of others that does not say."""
    return [path if isinstance(path, Mapping) else {'lq_path': path} for path in getattr(dataset, 'paths', ())]

"""Names that BasicSR makes files and folders of. None is followed out of the folder that it belongs to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segsr_model.files import LONGEST, is_file_name, is_inside, printable

OUTPUT_PATHS = ('experiments_root', 'models', 'training_states', 'results_root', 'log', 'visualization')


def check_names(options: Mapping[str, Any]) -> None:
    """Check what BasicSR makes names of folders and files of, before anything is written.

    Args:
        options: of an option file, as it was written.

    Raises:
        ValueError: one line that names the option.
    """
    named = {'name': options.get('name')}
    datasets, path, val = (_mapping(options, key) for key in ('datasets', 'path', 'val'))
    for phase, dataset in datasets.items():
        if isinstance(dataset, Mapping):
            named[f'datasets:{phase}:name'] = dataset.get('name', phase)
            _check_lists(f'datasets:{phase}', dataset)
    named['val:suffix'] = val.get('suffix') or 'none'
    for option, name in named.items():
        if isinstance(name, str) and len(name.encode('utf-8', 'replace')) > LONGEST:
            raise ValueError(f'{option}: {name!r} has {len(name.encode("utf-8", "replace"))} bytes; the name of a file '
                             f'has at most {LONGEST}')
        if not is_file_name(name):
            raise ValueError(f'{option}: {name!r} must be a plain name: files and folders are called after it')
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise ValueError(f'{option}: {name!r} cannot be the name of a file, as the locale has names in '
                             f'{sys.getfilesystemencoding()}; set PYTHONUTF8=1') from None
    for key in OUTPUT_PATHS:
        if path.get(key) is not None:
            raise ValueError(f'path:{key}: BasicSR sets it, to a folder below experiments or results; leave it out')


def _mapping(options: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = options.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f'{key}: {value!r} must be a block of options')
    return value


def _check_lists(where: str, dataset: Mapping[str, Any]) -> None:
    """The image names that a dataset's options bring along."""
    template, meta = dataset.get('filename_tmpl', '{}'), dataset.get('meta_info_file')
    if not isinstance(template, str) or template.count('{}') != 1 or not is_file_name(template.replace('{}', 'x')) \
            or re.search('[{}]', template.replace('{}', '')):
        raise ValueError(f"{where}:filename_tmpl: {template!r} must be a file name with one {{}}, such as '{{}}x4'")
    if meta is None:
        return
    try:
        lines = Path(meta).expanduser().read_text(encoding='utf-8').splitlines()
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{where}:meta_info_file: '{meta}' cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        name = line.split(' ')[0]
        if not is_inside(name):
            raise ValueError(f"{where}:meta_info_file: '{meta}', line {number}: '{printable(name)}' must be the name "
                             'of an image below the folder')

"""What the numbers of a test depend on. It is stored with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import basicsr
import torch
from torch.utils.data import Dataset

from segsr_model.errors import CommandError
from segsr_model.files import sha256
from segsr_model.prepare.manifest import MANIFEST, fingerprint, read_manifest
from segsr_model.testing.names import image_names
from segsr_model.weights.reading import read_iterations
from segsr_model.weights.release import package_version


def split_checksum(names: Iterable[str]) -> str:
    """SHA-256 over the sorted image names, one a line: the same wherever the same images are tested."""
    return hashlib.sha256(''.join(f'{name}\n' for name in sorted(names)).encode(
        'utf-8', 'surrogateescape')).hexdigest()


def lr_recipe(dataset: Dataset) -> dict[str, str] | None:
    """How the LR images were made, if they are from ``segsr prepare``; None if that is not known."""
    manifest = Path(dataset.opt['dataroot_lq']).resolve().parents[1] / MANIFEST
    if not manifest.is_file():
        return None
    try:
        settings, records = read_manifest(manifest)
    except CommandError:
        return None
    part = Path(dataset.opt['dataroot_lq']).resolve().parent.name
    names = set(image_names(dataset))
    records = [record for record in records if record['part'] == part and record['name'] in names]
    if len(records) != len(names):
        return None
    return {'made_by': f'segsr prepare {settings["dataset"]}', 'kernel': "MATLAB's antialiased bicubic, 8 bit",
            'pixels_sha256': fingerprint(records)}


def protocol_of(opt: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The protocol of a test, in JSON's types.

    Args:
        opt: BasicSR's options, of testing.
        dataset: the test set.

    Raises:
        ValueError: the checkpoint cannot be read, or two images have one name.
    """
    names = image_names(dataset)
    path, val = opt['path'], opt['val']
    checkpoint = path.get('pretrain_network_g')
    protocol = {
        'name': opt['name'],
        'rows': opt.get('rows') or [],
        'network': opt['network_g']['type'],
        'scale': opt.get('scale'),
        'dataset': dataset.opt['name'],
        'images': len(names),
        'split_sha256': split_checksum(names),
        'lr_recipe': lr_recipe(dataset),
        'metrics': val.get('metrics') or {},
        'self_ensemble': bool(val.get('self_ensemble')),
        'checkpoint': checkpoint,
        'iterations': read_iterations(checkpoint) if checkpoint else None,
        'checkpoint_sha256': sha256(checkpoint) if checkpoint else None,
        'param_key': path.get('param_key_g', 'params') if checkpoint else None,
        'versions': {
            'segsr': package_version('segsr'), 'basicsr': basicsr.__version__, 'torch': torch.__version__},
    }
    return json.loads(json.dumps(protocol))

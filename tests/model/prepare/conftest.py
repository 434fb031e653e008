"""Miniature archives with the published data sets' real structure, and a way to call the command."""

from __future__ import annotations

import dataclasses

import pytest

from segsr_model.cli import main
from segsr_model.prepare.sources.catalogue import CATALOGUES
from tests.model.prepare.archives import encode, photo


@pytest.fixture
def small_ucmerced(monkeypatch):
    """UCMerced with 4 images in each of 3 classes, 40 pixels wide and high, of which 3 are not."""
    counts = {'agricultural': 4, 'beach': 4, 'tenniscourt': 4}
    small = dataclasses.replace(CATALOGUES['ucmerced'], counts=counts, side=40, odd=3, known_test=('agricultural03',))
    monkeypatch.setitem(CATALOGUES, 'ucmerced', small)
    sizes = {'beach01': (37, 40), 'beach00': (41, 38), 'agricultural03': (39, 42)}
    files = {'UCMerced_LandUse/readme.txt': b'read me', 'UCMerced_LandUse/Images/Thumbs.db': b'thumbs',
             '__MACOSX/UCMerced_LandUse/Images/beach/._beach00.tif': b'fork', 'UCMerced_LandUse/.DS_Store': b'store'}
    for i, (label, name) in enumerate((label, name) for label, names in small.names().items() for name in names):
        image = photo(*sizes.get(name, (40, 40)), seed=i)
        # LZW and none, a private tag, upper-case names
        content = encode(image, 'TIFF', compression='tiff_lzw' if i % 2 else None, tiffinfo={65000: 'odd'})
        files[f'UCMerced_LandUse/Images/{label}/{name}.{"TIF" if i % 3 else "tif"}'] = content
    return files


@pytest.fixture
def small_aid(monkeypatch):
    """AID with 5 images in each of 2 classes, 64 pixels wide and high."""
    small = dataclasses.replace(CATALOGUES['aid'], counts={'railwaystation': 5, 'pond': 5}, side=64, known_test=())
    monkeypatch.setitem(CATALOGUES, 'aid', small)
    folders = {'railwaystation': 'RailwayStation', 'pond': 'Pond'}
    return {
        f'AID/{folders[label]}/{name}.jpg': encode(photo(64, 64, seed=i), 'JPEG', quality=90)
        for i, (label, name) in enumerate((label, name) for label, names in small.names().items() for name in names)
    }


@pytest.fixture
def prepare(capsys):
    """Calls ``segsr prepare`` with paths and words; returns the exit code, stdout and stderr."""
    def call(*args) -> tuple[int, str, str]:
        code = main(['prepare', *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err
    return call

"""What is prepared can be read by BasicSR, and checked."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest
from basicsr.data import build_dataset
from PIL import Image

from segsr_model.images.plain import encode_png
from segsr_model.prepare import disk, lmdb_store
from segsr_model.prepare import pairs as pairs_module
from tests.model.prepare.archives import encode, pack, photo


@pytest.fixture
def prepared(prepare, tmp_path):
    """``<out>/x4`` of 8 images, two of which are smaller than a training patch, with LMDB."""
    sizes = [(40, 44), (48, 40), (33, 40), (40, 31), (41, 41), (40, 40), (50, 50), (40, 40)]
    files = {f'sea/sea{i}.png': encode(photo(*size, seed=i), 'PNG') for i, size in enumerate(sizes)}
    code, _, err = prepare('folder', '--source', pack(tmp_path / 'folder', files), '--out', tmp_path / 'out', '--lmdb',
                           '--min-train-size', '40')
    assert code == 0, err
    return tmp_path / 'out/x4'


def dataset(folder, part, store='disk', **options):
    suffix = '.lmdb' if store == 'lmdb' else ''
    return build_dataset({
        'name': 'test', 'type': 'PairedImageDataset', 'phase': 'train' if part == 'train' else 'val', 'scale': 4,
        'dataroot_gt': str(folder / part / f'HR{suffix}'), 'dataroot_lq': str(folder / part / f'LR{suffix}'),
        'io_backend': {'type': store}, 'gt_size': 40, 'use_hflip': False, 'use_rot': False, **options})


def name_of(pair):
    return Path(pair['gt_path']).stem


@pytest.mark.parametrize('part', ['train', 'test'])
def test_every_way_of_reading_gives_the_same_pairs(prepared, part):
    ways = [
        dataset(prepared, part), dataset(prepared, part, 'lmdb'),
        dataset(prepared, part, meta_info_file=str(prepared / part / 'meta_info.txt')),
    ]
    assert [len(way) for way in ways] == [6 if part == 'train' else 2] * 3
    for way in ways:
        way.opt['phase'] = 'val'  # no random crop
    for pairs in zip(*(sorted((way[i] for i in range(len(way))), key=name_of) for way in ways)):
        for pair in pairs:
            assert pair['gt'].equal(pairs[0]['gt'])
            assert pair['lq'].equal(pairs[0]['lq'])
            assert pair['gt'].shape[1] == 4 * pair['lq'].shape[1]
            assert pair['gt'].shape[2] == 4 * pair['lq'].shape[2]


def test_every_training_image_holds_a_patch(prepared):
    way = dataset(prepared, 'train')
    for pair in (way[i] for i in range(len(way))):
        assert pair['gt'].shape == (3, 40, 40)
        assert pair['lq'].shape == (3, 10, 10)


def test_test_images_are_cropped_only(prepared, tmp_path):
    for path in (prepared / 'test' / 'HR').iterdir():
        hr, original = (np.asarray(Image.open(file)) for file in (path, tmp_path / 'folder' / 'sea' / path.name))
        height, width = (side // 4 * 4 for side in original.shape[:2])
        assert np.array_equal(hr, original[:height, :width])


def test_lmdb_meta_info_is_that_of_basicsr(prepared):
    hr, lr = ((prepared / f'train/{kind}.lmdb/meta_info.txt').read_text().splitlines() for kind in ('HR', 'LR'))
    assert hr[0] == 'sea0.png (40,44,3) 0'
    assert lr[0] == 'sea0.png (10,11,3) 0'
    assert (prepared / 'train/meta_info.txt').read_text().splitlines()[0] == 'sea0.png (40,44,3)'


def test_lmdb_can_be_added_later(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(16, 16, i), 'PNG') for i in range(4)})
    arguments = ('folder', '--source', source, '--out', tmp_path / 'out')
    prepare(*arguments)
    (tmp_path / 'out/x4/train/.HR.lmdb.partial').mkdir()  # as an interrupted run leaves it
    _, out, _ = prepare(*arguments, '--lmdb')
    assert 'x4: there already, LMDB added' in out
    assert len(dataset(tmp_path / 'out/x4', 'train', 'lmdb')) == 3
    assert not list(tmp_path.rglob('*.partial'))


def test_an_lmdb_that_cannot_be_written_leaves_nothing(prepare, tmp_path, monkeypatch):
    """LMDB's errors are no OSError. The next run adds it."""
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(64, 64, i), 'PNG') for i in range(4)})
    arguments = ('folder', '--source', source, '--out', tmp_path / 'out', '--lmdb')
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_store.lmdb, 'open', lambda *args, map_size, **options: lmdb.Environment(
            *args, map_size=1 << 15, **options))
        code, _, err = prepare(*arguments)
    assert code == 2 and err.count('\n') == 1
    assert 'train/HR.lmdb: LMDB cannot write it (mdb_put: MDB_MAP_FULL' in err and 'is the disk full?' in err
    assert not list(tmp_path.rglob('*lmdb*'))
    _, out, _ = prepare(*arguments)
    assert 'x4: there already, LMDB added' in out
    assert len(dataset(tmp_path / 'out/x4', 'train', 'lmdb')) == 3


def test_a_damaged_image_does_not_enter_an_lmdb(prepare, tmp_path):
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(64, 64, i), 'PNG') for i in range(4)})
    prepare('folder', '--source', source, '--out', tmp_path / 'out')
    path = min((tmp_path / 'out/x4/train/LR').iterdir())
    path.write_bytes(path.read_bytes()[:40])
    code, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--lmdb')
    assert code == 2 and f'{path}: damaged; delete it and give the command again' in err
    path.unlink()
    _, out, _ = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--lmdb')
    assert 'x4: mended, LMDB added' in out
    assert prepare('verify', tmp_path / 'out')[0] == 0


def test_what_an_ended_run_left_counts_as_room(prepare, tmp_path, monkeypatch):
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(64, 64, i), 'PNG') for i in range(4)})
    arguments = ('folder', '--source', source, '--out', tmp_path / 'out', '--min-train-size', '0')
    prepare(*arguments)
    monkeypatch.setattr(disk.shutil, 'disk_usage', lambda _: SimpleNamespace(free=40_000))
    assert 'are needed' in prepare(*arguments, '--lmdb')[2]
    left = tmp_path / 'out/x4/train/.HR.lmdb.partial/data.mdb'
    left.parent.mkdir()
    left.write_bytes(bytes(40_000))
    assert prepare(*arguments, '--lmdb')[0] == 0


def test_a_full_disk_is_one_line_with_its_folder(prepare, tmp_path, monkeypatch):
    """A write that finds no room names no file."""
    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')
    source = pack(tmp_path / 'folder', {f'a/a{i}.png': encode(photo(64, 64, i), 'PNG') for i in range(4)})
    with monkeypatch.context() as patch:
        patch.setattr(pairs_module, 'write_file', fail)
        code, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out')
    assert code == 2 and err == f'segsr prepare: error: {tmp_path / "out"}: No space left on device\n'
    assert prepare('folder', '--source', source, '--out', tmp_path / 'out')[0] == 0


def test_whole_data_verifies(prepare, prepared):
    code, out, _ = prepare('verify', prepared.parent)
    assert code == 0
    assert '8 pairs, pixels as in the manifest' in out


def test_png_bytes_may_differ(prepare, prepared):
    """Another zlib packs the same pixels into other bytes."""
    path = prepared / 'test/HR' / sorted(file.name for file in (prepared / 'test/HR').iterdir())[0]
    path.write_bytes(encode(np.asarray(Image.open(path)), 'PNG', compress_level=9))
    assert prepare('verify', prepared)[0] == 0


def test_every_fault_is_found(prepare, prepared):
    names = sorted(file.name for file in (prepared / 'train/HR').iterdir())
    hr, lr = prepared / 'train/HR', prepared / 'train/LR'
    (hr / names[0]).unlink()
    (hr / names[1]).write_bytes((hr / names[1]).read_bytes()[:300])
    changed = np.array(Image.open(lr / names[2]))
    changed[0, 0, 0] ^= 1
    (lr / names[2]).write_bytes(encode_png(changed))
    shutil.copy(lr / names[3], lr / 'stray9.png')
    with lmdb.open(str(prepared / 'train/LR.lmdb'), lock=False) as env, env.begin(write=True) as txn:
        txn.delete(names[4][:-4].encode())
        txn.put(b'stray8', b'x')
    code, out, _ = prepare('verify', prepared)
    assert code == 1
    faults = out.splitlines()
    assert len(faults) == 7
    for line in (f'{hr / names[0]}: missing', f'{hr / names[1]}: ', f'{lr / names[2]}: its pixels are not',
                 f'{lr / "stray9.png"}: not in the manifest', f'LR.lmdb, {names[4][:-4]}: missing',
                 'LR.lmdb: stray8 is not in the manifest', '6 faults'):
        assert any(line in fault for fault in faults), line


def test_comparing_with_another_machine(prepare, prepared, tmp_path):
    other = shutil.copy(prepared / 'manifest.jsonl', tmp_path / 'other.jsonl')
    assert prepare('verify', prepared, '--manifest', other)[0] == 0
    first = sorted((prepared / 'test/HR').iterdir())[0]
    first.write_bytes(encode(photo(40, 40, seed=9), 'PNG'))
    assert prepare('verify', prepared, '--manifest', other)[0] == 1


def test_verify_without_a_manifest(prepare, tmp_path):
    code, _, err = prepare('verify', tmp_path)
    assert code == 2
    assert 'manifest.jsonl: no such file; "segsr prepare" writes it' in err


def test_bench(prepare):
    code, out, _ = prepare('bench', '--images', '8', '--seconds', '0.05', '--loader-workers', '0')
    assert code == 0
    assert [line.split(':')[0].strip() for line in out.splitlines()][:3] == ['disk', 'lmdb', 'decode HR from disk']
    assert all(f'LR x{scale} of 256 x 256' in out for scale in (2, 4, 8))
    assert 'LR x3 of 255 x 255' in out

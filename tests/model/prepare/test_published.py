"""UCMerced and AID from archive to pairs, in miniature with the real structure."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from segsr_model.images.plain import ImageError, pixel_sum
from segsr_model.prepare import build as build_module
from segsr_model.prepare.lowres import downscale
from segsr_model.prepare.manifest import read_manifest
from tests.model.prepare.archives import encode, pack, photo, tree


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize('kind', ['archive.zip', 'archive.tar', 'archive.tgz', 'archive.rar', 'folder'])
def test_every_kind_of_source_gives_the_same_pairs(prepare, small_ucmerced, tmp_path, kind):
    source = pack(tmp_path / kind, small_ucmerced)
    code, out, err = prepare('ucmerced', '--source', source, '--out', tmp_path / 'out', '--min-train-size', '0')
    assert (code, err) == (0, '')
    assert '12 images of 3 classes found' in out
    assert ('NOT the published archive' in out) == source.is_file()
    _, records = read_manifest(tmp_path / 'out/x4/manifest.jsonl')
    assert [(record['part'], record['name']) for record in records] == [
        ('train', 'agricultural00'), ('train', 'agricultural01'), ('train', 'agricultural02'),
        ('train', 'beach01'), ('train', 'beach02'), ('train', 'beach03'),
        ('train', 'tenniscourt01'), ('train', 'tenniscourt02'), ('train', 'tenniscourt03'),
        ('test', 'agricultural03'), ('test', 'beach00'), ('test', 'tenniscourt00')]
    assert records[3]['source'].lower() == 'beach/beach01.tif'
    for record in records:
        name = next(name for name in small_ucmerced if f'/{record["name"]}.tif' in name.lower())
        original = np.asarray(Image.open(io.BytesIO(small_ucmerced[name])))
        height, width = (side // 4 * 4 for side in original.shape[:2])
        hr = pixels(tmp_path / f'out/x4/{record["part"]}/HR/{record["name"]}.png')
        lr = pixels(tmp_path / f'out/x4/{record["part"]}/LR/{record["name"]}.png')
        assert np.array_equal(hr, original[:height, :width])
        assert np.array_equal(lr, downscale(original[:height, :width].copy(), 4))
        assert (record['hr'], record['lr']) == (pixel_sum(hr), pixel_sum(lr))


def test_odd_sizes_are_kept_and_listed(prepare, small_ucmerced, tmp_path):
    _, out, _ = prepare('ucmerced', '--source', pack(tmp_path / 'a.zip', small_ucmerced), '--out', tmp_path / 'out',
                        '--scale', 4, 2, '--min-train-size', '40')
    assert '3 of an odd size' in out
    assert (tmp_path / 'out/x4/odd_sizes.txt').read_text().splitlines() == [
        'test agricultural03: 39 x 42, HR 36 x 40', 'test beach00: 41 x 38, HR 40 x 36',
        'train beach01: 37 x 40, HR 40 x 40']


def test_small_training_images_are_extended_and_test_images_are_not(prepare, small_ucmerced, tmp_path):
    prepare('ucmerced', '--source', pack(tmp_path / 'a.zip', small_ucmerced), '--out', tmp_path / 'out',
            '--min-train-size', '48')
    original = np.asarray(Image.open(io.BytesIO(small_ucmerced['UCMerced_LandUse/Images/beach/beach01.TIF'])))
    extended = pixels(tmp_path / 'out/x4/train/HR/beach01.png')
    assert np.array_equal(extended, np.pad(original, [(0, 11), (0, 8), (0, 0)], mode='reflect'))
    assert pixels(tmp_path / 'out/x4/test/HR/beach00.png').shape == (40, 36, 3)


def test_scales_stand_alone_and_share_equal_files(prepare, small_ucmerced, tmp_path):
    source = pack(tmp_path / 'a.zip', small_ucmerced)
    arguments = ('ucmerced', '--source', source, '--min-train-size', '0', '--out')
    prepare(*arguments, tmp_path / 'both', '--scale', '2', '4')
    hr = [tmp_path / f'both/x{scale}/train/HR/tenniscourt01.png' for scale in (2, 4)]
    assert os.path.samefile(*hr)
    assert pixels(tmp_path / 'both/x2/train/LR/tenniscourt01.png').shape == (20, 20, 3)
    prepare(*arguments, tmp_path / 'one', '--scale', '4')
    assert tree(tmp_path / 'both/x4') == tree(tmp_path / 'one/x4')


def test_a_file_system_without_hard_links_gets_copies(prepare, small_ucmerced, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError('not supported')
    monkeypatch.setattr(os, 'link', refuse)
    prepare('ucmerced', '--source', pack(tmp_path / 'a.zip', small_ucmerced), '--out', tmp_path / 'out', '--scale', '2',
            '4', '--min-train-size', '0')
    hr = [(tmp_path / f'out/x{scale}/train/HR/tenniscourt01.png').read_bytes() for scale in (2, 4)]
    assert hr[0] == hr[1]
    assert not list(tmp_path.rglob('.*.part*'))


def test_aid(prepare, small_aid, tmp_path):
    code, out, _ = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out',
                           '--scale', '2', '--val-fraction', '0.25')
    assert code == 0
    assert 'no published sum is known' in out
    assert 'train 6, val 2, test 2 images' in out
    assert (tmp_path / 'out/split.txt').read_text().startswith('# aid\n# train 6, val 2, test 2\ntrain pond_')
    for part, count in (('train', 6), ('val', 2), ('test', 2)):
        hr, lr = (sorted(os.listdir(tmp_path / f'out/x2/{part}/{kind}')) for kind in ('HR', 'LR'))
        assert hr == lr
        assert len(hr) == count


def test_number_of_workers_changes_nothing(prepare, small_aid, tmp_path):
    source = pack(tmp_path / 'AID.zip', small_aid)
    for workers in (1, 5):
        prepare('aid', '--source', source, '--out', tmp_path / str(workers), '--workers', workers)
    assert tree(tmp_path / '1') == tree(tmp_path / '5')


def test_second_run_does_nothing_and_says_so(prepare, small_aid, tmp_path):
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out', '--lmdb')
    prepare(*arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*')}
    code, out, _ = prepare(*arguments)
    assert code == 0
    assert 'x4: complete already, nothing to do' in out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*')}


def test_what_is_lost_is_made_again(prepare, small_aid, tmp_path, monkeypatch):
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out', '--lmdb',
                 '--scale', '2', '4')
    prepare(*arguments)
    before, folder = tree(tmp_path / 'out'), tmp_path / 'out' / 'x4' / 'train'
    for path in (folder / 'LR' / 'pond_1.png', folder / 'HR' / 'pond_2.png', folder / 'meta_info.txt'):
        path.unlink()
    kept = folder / 'HR' / 'pond_3.png'
    made = []
    make_pairs = build_module.make_pairs
    monkeypatch.setattr(build_module, 'make_pairs', lambda scene, item, **options: (
        made.append(item.name), make_pairs(scene, item, **options))[1])
    inode = kept.stat().st_ino
    code, out, _ = prepare(*arguments)
    assert code == 0 and 'x2: there already' in out and 'x4: mended' in out
    assert sorted(made) == ['pond_1', 'pond_2'] and kept.stat().st_ino == inode
    assert tree(tmp_path / 'out') == before
    (tmp_path / 'out' / 'split.txt').unlink()
    assert prepare(*arguments)[0] == 0
    assert tree(tmp_path / 'out') == before


def test_mending_that_fails_leaves_what_is_there(prepare, small_aid, tmp_path, monkeypatch):
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    prepare(*arguments)
    (tmp_path / 'out' / 'x4' / 'train' / 'HR' / 'pond_2.png').unlink()
    before = tree(tmp_path / 'out')

    def refuse(*_, **__):
        raise ImageError('damaged')
    monkeypatch.setattr(build_module, 'make_pairs', refuse)
    code, _, err = prepare(*arguments)
    assert code == 2 and 'pond_2.jpg: damaged' in err
    assert tree(tmp_path / 'out') == before


def test_another_scale_joins_later(prepare, small_aid, tmp_path):
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    prepare(*arguments, '--scale', '4')
    _, out, _ = prepare(*arguments, '--scale', '2', '4')
    assert 'x2: made' in out
    assert 'x4: there already' in out


def test_other_settings_are_not_mixed_in(prepare, small_aid, tmp_path):
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    prepare(*arguments)
    code, _, err = prepare(*arguments, '--seed', '1', '--min-train-size', '0')
    assert code == 2
    assert 'made from other images or with other settings (min_train_size, plan)' in err


def test_a_replaced_source_is_another(prepare, small_aid, tmp_path):
    """Of the same name and size. The same files elsewhere, packed, or fetched again are the same."""
    folder = pack(tmp_path / 'folder', small_aid)
    arguments = ('--out', tmp_path / 'out', '--source')
    assert prepare('aid', *arguments, folder)[0] == 0
    for source in (pack(tmp_path / 'a.zip', small_aid), pack(tmp_path / 'a.tgz', small_aid), folder / 'AID',
                   pack(tmp_path / 'later', {f'more/{name}': content for name, content in small_aid.items()})):
        code, out, err = prepare('aid', *arguments, source)
        assert code == 0 and 'nothing to do' in out, err
    path = folder / 'AID/Pond/pond_1.jpg'
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-3] + b'\0\xff\xd9')
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, _, err = prepare('aid', *arguments, folder)
    assert code == 2 and 'x4 was made from other images or with other settings (sources)' in err


def test_scales_of_one_folder_have_one_split(prepare, small_aid, tmp_path):
    """Else what trains at one scale is tested at another, and split.txt tells of the last run."""
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    prepare(*arguments, '--scale', '4')
    before = tree(tmp_path / 'out')
    code, _, err = prepare(*arguments, '--scale', '2', '--seed', '1')
    assert code == 2 and 'x4 was made from other images or with other settings (plan)' in err
    assert tree(tmp_path / 'out') == before


@pytest.mark.parametrize('change', ['more', 'format', 'sizes', 'copies', 'split', 'none'])
def test_a_copy_that_is_not_the_published_set_is_told(prepare, small_aid, tmp_path, change):
    paths = sorted(small_aid)
    if change == 'more':
        small_aid['AID/Pond/pond_0006.jpg'] = small_aid['AID/Pond/pond_90.jpg'] = encode(photo(64, 64, 77), 'JPEG')
    elif change == 'format':
        small_aid = {path.replace('_1.jpg', '_1.png'): content for path, content in small_aid.items()}
    elif change == 'sizes':
        small_aid[paths[0]] = encode(photo(60, 64, 0), 'JPEG')
    elif change == 'copies':
        small_aid[paths[1]] = small_aid[paths[4]]
    elif change == 'split':
        small_aid = {f'AID/{"test" if "_1." in path else "train"}/{path[4:]}': small_aid[path] for path in paths}
    _, out, _ = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    messages = {
        'more': 'warning: 2 images more than AID has, left out: AID/Pond/pond_0006.jpg, AID/Pond/pond_90.jpg',
        'format': 'warning: 2 images are not .jpg, as AID was published: AID/Pond/pond_1.png, AID/RailwayStation/railw',
        'sizes': 'warning: 1 of 10 images are not 64 x 64; of AID, as published, 0 are not',
        'copies': 'warning: 1 images are copies of others, such as AID/Pond/pond_5.jpg of AID/Pond/pond_2.jpg',
        'split': 'the split of its folders, train 8, test 2, is not used'}
    assert {key for key, message in messages.items() if message in out} == {change} - {'none'}
    assert out.count('warning') == (change in ('more', 'format', 'sizes', 'copies'))


def test_an_interrupted_run_goes_on(prepare, small_aid, tmp_path, monkeypatch):
    source = pack(tmp_path / 'AID.zip', small_aid)
    arguments = ('aid', '--source', source, '--workers', '1', '--scale', '2', '4', '--out')
    made = []
    make_pairs = build_module.make_pairs

    def make(scene, item, **options):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(item.name)
        return make_pairs(scene, item, **options)

    monkeypatch.setattr(build_module, 'make_pairs', make)
    assert prepare(*arguments, tmp_path / 'out')[0] == 130
    assert os.listdir(tmp_path / 'out') == ['.partial']
    for scale in (2, 4):  # as a power cut leaves it: the last pair was written, but not noted in full
        journal = tmp_path / f'out/.partial/x{scale}/journal.jsonl'
        journal.write_text(journal.read_text()[:-20])
    monkeypatch.setattr(build_module, 'make_pairs', lambda scene, item, **options: (
        made.append(item.name), make_pairs(scene, item, **options))[1])
    assert prepare(*arguments, tmp_path / 'out')[0] == 0
    assert len(made) - 4 < 10  # finished pairs were not made again
    prepare(*arguments, tmp_path / 'whole')
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


def test_bad_images_are_all_named_and_nothing_stays(prepare, small_aid, tmp_path):
    names = sorted(small_aid)
    small_aid[names[2]] = small_aid[names[2]][:500]
    small_aid[names[7]] = b'<html>not found</html>'
    code, _, err = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    assert code == 2
    assert '2 unusable images, nothing was written' in err
    assert f'{names[2]}: it is damaged, cut off' in err
    assert f'{names[7]}: not an image, or a damaged one' in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_sixteen_bit_images_are_refused(prepare, small_aid, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(stream, 'PNG')
    small_aid['AID/Pond/pond_3.jpg'] = stream.getvalue()
    _, _, err = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    assert 'AID/Pond/pond_3.jpg: its samples are uint16' in err


def test_too_small_for_the_scale(prepare, small_ucmerced, tmp_path):
    small_ucmerced['UCMerced_LandUse/Images/beach/beach00.TIF'] = encode(photo(3, 40, seed=0), 'TIFF')
    _, _, err = prepare('ucmerced', '--source', pack(tmp_path / 'a.zip', small_ucmerced), '--out', tmp_path / 'out')
    assert 'it has 3 x 40 pixels, too few for scale 4' in err


def test_full_disk_is_seen_before_work_begins(prepare, small_aid, tmp_path, monkeypatch):
    from segsr_model.prepare import disk
    monkeypatch.setattr(disk.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 100_000}))
    code, _, err = prepare('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--out', tmp_path / 'out')
    assert code == 2
    assert 'up to 0.0 GB are needed and 0.0 GB are free' in err
    assert not (tmp_path / 'out').exists()


def test_user_list(prepare, small_aid, tmp_path):
    listing = tmp_path / 'mine.txt'
    listing.write_text('train Pond/pond_1.jpg\ntrain pond_2\nval pond_3\ntest railwaystation_5\n')
    arguments = ('aid', '--source', pack(tmp_path / 'AID.zip', small_aid), '--split-list', listing, '--out')
    _, out, _ = prepare(*arguments, tmp_path / 'out')
    assert '6 images that the list does not name are left out' in out
    assert 'train 2, val 1, test 1 images' in out
    listing.write_text('train pond_1\ntest pond_17\n')
    _, _, err = prepare(*arguments, tmp_path / 'other')
    assert '1 listed images are not in the source, such as pond_17' in err

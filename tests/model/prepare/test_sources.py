"""Archives: damaged ones, clutter, what is missing in them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import sys
import tarfile
import zipfile

import pytest
import rarfile

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.archives import TarArchive, content_sum, describe_archive, list_images, open_source
from tests.model.prepare.archives import encode, pack, photo, tree


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.tgz', 'a.rar', 'folder'])
def test_every_kind_lists_and_reads_the_same(tmp_path, kind):
    files = {'Top/a/a1.JPG': b'one', 'Top/b/b1.tif': b'two', 'Top/readme.txt': b'x'}
    source = open_source(pack(tmp_path / kind, files))
    assert dict(source.sizes) == {name: len(content) for name, content in files.items()}
    opened = source.open('Top/b/b1.tif')
    assert (opened.getvalue() if isinstance(opened, io.BytesIO) else opened.read_bytes()) == b'two'
    assert list_images(source) == (['Top/a/a1.JPG', 'Top/b/b1.tif'], ['Top/readme.txt'])


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.tgz', 'a.rar', 'folder'])
def test_the_content_of_a_file_is_told_by_the_same_sum(tmp_path, kind):
    source = open_source(pack(tmp_path / kind, {'a/a1.png': b'123456789'}))
    assert content_sum(source.open('a/a1.png')) == 0xCBF43926  # the check value of CRC-32


@pytest.mark.parametrize('more', [(), ('--tile', 16)])
def test_archives_are_read_in_their_own_order(prepare, tmp_path, monkeypatch, more):
    """Else each image of a tar.gz is reached by unpacking all before it once more. The result is in order of names."""
    files = {f'{label}/{label}_{i}.png': encode(photo(32, 32, i), 'PNG') for label in 'ab' for i in range(8)}
    order = random.Random(0).sample(sorted(files), len(files))
    opened = []
    read = TarArchive.open
    monkeypatch.setattr(TarArchive, 'open', lambda source, path: (opened.append(path), read(source, path))[1])
    for name, paths in (('sorted', sorted(files)), ('mixed', order)):
        archive = pack(tmp_path / f'{name}.tgz', {path: files[path] for path in paths})
        opened.clear()
        assert prepare('folder', '--source', archive, '--out', tmp_path / name, *more)[0] == 0
        assert opened == [*paths, *paths]  # to look at them, and to make the pairs
    assert tree(tmp_path / 'sorted') == tree(tmp_path / 'mixed')


def test_links_in_a_folder_are_followed_once(tmp_path):
    """Own folders come first; then links, of which those to folders that were entered, or hold the source, are left."""
    files = dict.fromkeys(['disk/forest/1.png', 'set/lake/1.png', 'set/lake/deep/2.png', 'beside/3.png'], b'x')
    root = pack(tmp_path / 'root', files) / 'set'
    (root / 'forest').symlink_to(tmp_path / 'root/disk/forest')
    (root / 'again').symlink_to(root / 'lake')
    (root / 'twice').symlink_to(tmp_path / 'root/disk/forest')
    (root / 'lake' / 'up').symlink_to('..')
    (root / 'lake' / 'above').symlink_to(tmp_path / 'root')
    (root / 'lake' / '4.png').symlink_to(tmp_path / 'root/beside/3.png')
    assert list(open_source(root).sizes) == ['forest/1.png', 'lake/1.png', 'lake/4.png', 'lake/deep/2.png']
    assert open_source(root).open('forest/1.png').read_bytes() == b'x'


def test_what_cannot_be_read_in_a_folder_is_named(prepare, tmp_path, monkeypatch):
    root = pack(tmp_path / 'set', {'lake/1.png': b'x', 'sea/1.png': b'x', '.trash/1.png': b'x'})
    (root / 'forest').symlink_to('/nonexistent/forest')
    (root / 'lake' / '2.png').symlink_to('3.png')
    (root / 'lake' / '3.png').symlink_to('2.png')
    (root / '.hidden').symlink_to('/nonexistent/hidden')
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ('sea', '.trash'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    code, _, err = prepare('folder', '--source', root, '--out', tmp_path / 'out')
    assert code == 2 and err.count('\n') == 1
    for reason in ('forest (a link that leads nowhere)', 'sea (Permission denied)', '3.png (Too many levels of symb'):
        assert reason in err
    assert 'hidden' not in err and 'trash' not in err


def test_links_in_a_tar_archive_lead_to_its_files(tmp_path):
    """Also to one that comes before; what leads out of the archive is refused, see test_hostile."""
    with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
        for name, kind, target in (('./a/1.png', None, ''), ('./b/2.png', tarfile.SYMTYPE, '../a/1.png'),
                                   ('./a/3.png', tarfile.LNKTYPE, './a/1.png'), ('./c', tarfile.SYMTYPE, 'a')):
            info = tarfile.TarInfo(name)
            info.size = 0 if kind else 3
            info.type, info.linkname = kind or tarfile.REGTYPE, target
            archive.addfile(info, io.BytesIO(b'one'))
    source = open_source(tmp_path / 'a.tar')
    assert sorted(source.sizes) == ['./a/1.png', './a/3.png', './b/2.png']
    assert all(source.open(path).getvalue() == b'one' for path in source.sizes)


def test_a_linked_class_folder_in_a_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('a/a1.png', b'one')
        link = zipfile.ZipInfo('forest')
        link.external_attr = 0o120777 << 16
        archive.writestr(link, '../disk/forest')
    with pytest.raises(CommandError, match=r'has links that are not followed: forest; unpack it'):
        open_source(tmp_path / 'a.zip')


@pytest.mark.parametrize('damage', ['a.tar', 'a.rar', 'header'])
def test_an_archive_that_ends_between_two_files_is_not_whole(tmp_path, damage):
    """The libraries would take it for a shorter one."""
    files = {f'a/a{i}.png': bytes([i]) * 1024 for i in range(1, 5)}
    path = pack(tmp_path / ('a.tar' if damage == 'header' else damage), files)
    content = bytearray(path.read_bytes())
    end = content.index(files['a/a3.png'])
    if damage == 'header':
        content[end - 512 + 150] ^= 255  # its checksum
        path.write_bytes(content)
    else:
        path.write_bytes(content[:end + 1024])
    with pytest.raises(CommandError, match=r'not a complete zip, tar or rar archive .*download it again'):
        open_source(path)


def test_solid_rar_archives_are_to_be_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(rarfile.RarFile, 'is_solid', lambda _: True)
    with pytest.raises(CommandError, match='solid rar archives cannot be read file by file; unpack it'):
        open_source(pack(tmp_path / 'a.rar', {'a/a1.png': b'one'}))


def test_the_kind_is_told_by_content_not_by_name(tmp_path):
    path = pack(tmp_path / 'a.zip', {'a/a1.png': b'one'}).rename(tmp_path / 'download')
    assert list(open_source(path).sizes) == ['a/a1.png']


def test_clutter_is_not_listed(tmp_path):
    files = dict.fromkeys(['__MACOSX/a/._a1.png', 'a/._a1.png', '.hidden/a2.png', 'a/Thumbs.db', 'a/a1.png'], b'x')
    assert list_images(open_source(pack(tmp_path / 'a.zip', files))) == (['a/a1.png'], ['a/Thumbs.db'])


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.tgz', 'a.rar'])
def test_truncated_archives_are_named(prepare, small_aid, tmp_path, kind):
    path = pack(tmp_path / kind, small_aid)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    code, _, err = prepare('aid', '--source', path, '--out', tmp_path / 'out')
    assert code == 2
    assert kind in err or 'is not complete' in err or 'unusable images' in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_file_damaged_inside_a_zip_is_named(prepare, small_aid, tmp_path):
    path = pack(tmp_path / 'a.zip', small_aid)
    content = bytearray(path.read_bytes())
    content[content.index(small_aid['AID/Pond/pond_2.jpg']) + 300] ^= 255
    path.write_bytes(content)
    _, _, err = prepare('aid', '--source', path, '--out', tmp_path / 'out')
    assert "AID/Pond/pond_2.jpg: Bad CRC-32 for file 'AID/Pond/pond_2.jpg'" in err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('content', [b'', b'<html>please log in</html>', b'PK\x03\x04 cut off'])
def test_no_archive_at_all(tmp_path, content):
    path = tmp_path / 'AID.zip'
    path.write_bytes(content)
    with pytest.raises(CommandError, match=rf'AID.zip: not a complete zip, tar or rar archive .*{len(content)} bytes'):
        open_source(path)


def test_no_file_at_all(tmp_path):
    with pytest.raises(CommandError, match='no such file or folder'):
        open_source(tmp_path / 'none.zip')


def test_missing_classes_and_images_are_named(prepare, small_aid, tmp_path):
    del small_aid['AID/Pond/pond_4.jpg']
    source = pack(tmp_path / 'a.zip', {name: content for name, content in small_aid.items() if 'pond' in name})
    arguments = ('aid', '--source', source, '--out', tmp_path / 'out')
    code, _, err = prepare(*arguments)
    assert code == 2
    assert 'no image of the class railwaystation; images missing from pond (1 of 5: pond_4)' in err
    assert not (tmp_path / 'out').exists()
    assert prepare(*arguments, '--allow-incomplete')[0] == 0


def test_the_wrong_archive(prepare, small_aid, tmp_path):
    _, _, err = prepare('ucmerced', '--source', pack(tmp_path / 'a.zip', small_aid), '--out', tmp_path / 'out')
    assert 'no UCMerced Land Use image: they should lie as UCMerced_LandUse/Images/<class>/<class>NN.tif' in err


def test_an_image_that_is_there_twice(prepare, small_aid, tmp_path):
    small_aid['copy/Pond/POND_1.jpg'] = small_aid['AID/Pond/pond_1.jpg']
    _, _, err = prepare('aid', '--source', pack(tmp_path / 'a.zip', small_aid), '--out', tmp_path / 'out')
    assert 'pond_1 is in the source twice: AID/Pond/pond_1.jpg and copy/Pond/POND_1.jpg' in err


def test_nothing_is_written_outside_the_target(prepare, small_aid, tmp_path):
    hostile = {f'../../{name}': content for name, content in small_aid.items()}
    work = tmp_path / 'deep' / 'work'
    work.mkdir(parents=True)
    prepare('aid', '--source', pack(work / 'a.zip', hostile), '--out', work / 'out')
    written = {path for path in tmp_path.rglob('*') if path.is_file()} - {work / 'a.zip'}
    assert written
    assert all(work / 'out' in path.parents for path in written)


def test_output_inside_the_source_is_refused(prepare, small_aid, tmp_path):
    source = pack(tmp_path / 'folder', small_aid)
    assert 'lies in --source' in prepare('aid', '--source', source, '--out', source / 'out')[2]


def test_the_published_archive_is_recognised(tmp_path):
    path = tmp_path / 'a.zip'
    path.write_bytes(b'content')
    md5 = hashlib.md5(b'content').hexdigest()
    assert describe_archive(path, published_bytes=7, published_md5=md5).endswith('the published archive')
    assert 'NOT the published archive (8 bytes' in describe_archive(path, published_bytes=8, published_md5=md5)


def test_rar_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rarfile', None)
    with pytest.raises(CommandError, match='need the rarfile package'):
        open_source(pack(tmp_path / 'a.rar', {'a/a1.png': b'one'}))


def test_zip_methods_that_python_lacks_are_named(prepare, small_aid, tmp_path):
    """Windows packs large archives with Deflate64."""
    path = tmp_path / 'a.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in small_aid.items():
            archive.writestr(name, content)
    stored, deflate64 = (b'\x14\x00\x00\x00' + method for method in (b'\x00\x00', b'\x09\x00'))
    path.write_bytes(path.read_bytes().replace(b'PK\x03\x04' + stored, b'PK\x03\x04' + deflate64)
                     .replace(b'PK\x01\x02\x14\x03' + stored, b'PK\x01\x02\x14\x03' + deflate64))
    _, _, err = prepare('aid', '--source', path, '--out', tmp_path / 'out')
    assert 'compression' in err
    assert err.count('\n') == 1


def test_rar_without_a_tool_leaves_nothing(prepare, small_aid, tmp_path, monkeypatch):
    def fail(*_):
        raise rarfile.RarCannotExec('Cannot find working tool')
    monkeypatch.setattr(rarfile.RarFile, 'read', fail)
    _, _, err = prepare('aid', '--source', pack(tmp_path / 'a.rar', small_aid), '--out', tmp_path / 'out')
    assert 'need the tool unrar, unar, 7z or bsdtar' in err
    assert not (tmp_path / 'out').exists()

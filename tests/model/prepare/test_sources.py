"""Archives: damaged ones, clutter, what is missing in them."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile

import pytest
import rarfile

from segsr_model.errors import CommandError
from segsr_model.prepare.sources.archives import describe_archive, list_images, open_source
from tests.model.prepare.archives import pack


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.tgz', 'a.rar', 'folder'])
def test_every_kind_lists_and_reads_the_same(tmp_path, kind):
    files = {'Top/a/a1.JPG': b'one', 'Top/b/b1.tif': b'two', 'Top/readme.txt': b'x'}
    source = open_source(pack(tmp_path / kind, files))
    assert dict(source.sizes) == {name: len(content) for name, content in files.items()}
    opened = source.open('Top/b/b1.tif')
    assert (opened.getvalue() if isinstance(opened, io.BytesIO) else opened.read_bytes()) == b'two'
    assert list_images(source) == (['Top/a/a1.JPG', 'Top/b/b1.tif'], ['Top/readme.txt'])


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

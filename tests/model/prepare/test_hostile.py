"""Archives, images and lists that mean harm: nothing leaves the target folder, nothing unfolds into the memory."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib

import lmdb
import numpy as np
import pytest

from segsr_model.cli import main
from segsr_model.files import is_file_name, is_inside, printable
from segsr_model.images import plain
from segsr_model.prepare import plan
from segsr_model.prepare.manifest import MANIFEST, read_manifest
from segsr_model.prepare.sources import archives
from tests.model.prepare.archives import encode, pack, photo, tree

PNGS = {f'top/field/field{i}.png': encode(photo(32, 32, seed=i), 'PNG') for i in range(4)}


@pytest.fixture
def folder(prepare, tmp_path):
    """Calls ``segsr prepare folder`` on a source; returns the exit code and stderr. Nothing lies beside its output."""
    work = tmp_path / 'deep' / 'work'
    work.mkdir(parents=True)

    def call(source, *more):
        before = {path for path in tmp_path.rglob('*') if path.is_file()}
        code, _, err = prepare('folder', '--source', source, '--out', work / 'out', '--scale', 2, '--min-train-size', 8,
                               '--workers', 1, *more)
        written = {path for path in tmp_path.rglob('*') if path.is_file()} - before
        assert all(work / 'out' in path.parents for path in written)
        assert (work / 'out' / 'x2' / MANIFEST).is_file() if code == 0 else not (work / 'out').exists()
        assert code in (0, 2) and (code == 0 or err.count('\n') == 1)
        return code, err
    return call


NAMES = ['../../field9.png', '/tmp/segsr/field9.png', 'C:\\field9.png', '..\\..\\field9.png',
         'top/field/../../../f9.png', 'top/field/\x1b[31m9.png',
         'top/field/nine\n9.png', 'top/field/\u0669.png', f'top/field/{"9" * 240}.png']


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.tgz', 'a.rar'])
@pytest.mark.parametrize('name', NAMES)
def test_names_in_archives_lead_nowhere(folder, tmp_path, kind, name):
    assert folder(pack(tmp_path / kind, {**PNGS, name: PNGS['top/field/field0.png']}))[0] == 0


def test_a_name_that_is_no_text(folder, prepare, tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w', format=tarfile.GNU_FORMAT) as archive:
        for name, content in {**PNGS, 'top/\udcff/note.txt': b'', 'top/field/\udcff.png': b'x'}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    code, err = folder(tmp_path / 'a.tar')
    assert code == 2 and '\\udcff.png' in err


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize('again', [False, True])
def test_links_and_devices_in_tar_archives_lead_nowhere(folder, tmp_path, kind, again):
    """Not even one that has the name of an image before it: links are refused, devices and folders are no files."""
    (tmp_path / 'secret.png').write_bytes(encode(photo(32, 32, seed=9), 'PNG'))
    with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
        for name, content in PNGS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo('top/field/field0.png' if again else 'top/field/field9.png')
        link.type, link.linkname = kind, str(tmp_path / 'secret.png')
        archive.addfile(link)
    code, err = folder(tmp_path / 'a.tar')
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        assert code == 2 and f'has links that are not followed: {link.name}; unpack it and give the folder' in err
        return
    assert code == 0
    lines = (tmp_path / 'deep/work/out/x2' / MANIFEST).read_text().splitlines()
    assert sorted(json.loads(line)['name'] for line in lines[1:]) == ['field0', 'field1', 'field2', 'field3']


def test_a_sparse_tar_member_of_a_terabyte(folder, tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w', format=tarfile.PAX_FORMAT) as archive:
        for name, content in {**PNGS, 'top/field/field9.png': b'0\n'}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith('9.png'):
                info.pax_headers = {'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', 'GNU.sparse.map': '0,0',
                                    'GNU.sparse.size': str(1 << 40)}
            archive.addfile(info, io.BytesIO(content))
    code, err = folder(tmp_path / 'a.tar')
    assert code == 2 and 'field9.png: 1,099,511,627,776 bytes are too many to be read from an archive' in err


@pytest.mark.parametrize('kind', ['a.zip', 'a.tar', 'a.rar'])
def test_a_member_that_unfolds_beyond_the_limit(folder, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, 'MOST_BYTES', 100_000)
    code, err = folder(pack(tmp_path / kind, {**PNGS, 'top/field/field9.png': bytes(1 << 20)}))
    assert code == 2 and 'field9.png: 1,048,576 bytes are too many' in err


def test_a_zip_member_that_lies_about_its_size(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in PNGS.items():
            archive.writestr(name, content)
        archive.writestr('top/field/field9.png', bytes(1 << 24))
    size = struct.pack('<L', 1 << 24)
    (tmp_path / 'a.zip').write_bytes((tmp_path / 'a.zip').read_bytes().replace(size, struct.pack('<L', 100)))
    code, err = folder(tmp_path / 'a.zip')
    assert code == 2 and 'field9.png' in err


def png_of(width: int, height: int) -> bytes:
    """The start of a PNG that says it has this size."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>L', len(content)) + kind + content + struct.pack('>L', zlib.crc32(kind + content))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>LLBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


def test_an_image_bomb_is_told_by_its_header(folder, tmp_path, capsys):
    bomb = tmp_path / 'bomb.png'
    bomb.write_bytes(png_of(1 << 20, 1 << 20))
    code, err = folder(pack(tmp_path / 'a.zip', {**PNGS, 'top/field/field9.png': bomb.read_bytes()}))
    assert code == 2 and 'field9.png' in err
    (tmp_path / 'good.png').write_bytes(PNGS['top/field/field0.png'])
    code = main(['compare', '--hr', str(bomb), '--crop', '0', '0', '8', '8', '--results', str(tmp_path), '--scale', '2',
                 '--out', str(tmp_path / 'out.png')])
    assert code == 2 and 'bomb.png' in capsys.readouterr().err


def test_a_geotiff_bomb(folder, tmp_path, monkeypatch):
    """Sparse: a million pixels wide and high in a file of a few kilobytes."""
    rasterio = pytest.importorskip('rasterio')
    source = pack(tmp_path / 'scenes', {name: content for name, content in PNGS.items()})
    with rasterio.open(source / 'top/field/field9.tif', 'w', driver='GTiff', dtype='uint16', count=3, height=1 << 17,
                       width=1 << 17, tiled=True, blockxsize=4096, blockysize=4096, sparse_ok=True, compress='deflate'):
        pass
    code, err = folder(source, '--value-range', 0, 1)
    assert code == 2 and 'field9.tif: its 131072 x 131072 pixels are too many for one image: cut it with --tile' in err
    code, err = folder(source, '--value-range', 0, 1, '--tile', 16)
    assert code == 2 and 'would be more than 1,000,000 tiles' in err
    assert plain.MOST_PIXELS > 10_000 ** 2 and plan.MOST_TILES == 1_000_000


@pytest.fixture
def prepared(folder, tmp_path):
    """A prepared data set, with LMDB: the folder that holds x2."""
    assert folder(pack(tmp_path / 'a.zip', PNGS), '--lmdb')[0] == 0
    return tmp_path / 'deep' / 'work' / 'out'


@pytest.mark.parametrize('name', ['top/field/field{}.png', f'top/{"field" * 50}/{{}}.png', 'top/field_{}.png'])
def test_names_of_any_length_can_be_read_again(folder, prepare, tmp_path, name):
    """What a manifest may hold decides how images are called, not the other way round."""
    names = [name.format('1' * digits) for digits in (1, 100, 240, 250)]
    images = dict(zip(names, PNGS.values()))
    assert folder(pack(tmp_path / 'a.zip', images))[0] == 0
    out = tmp_path / 'deep' / 'work' / 'out'
    assert prepare('verify', out)[0] == 0
    _, records = read_manifest(out / 'x2' / MANIFEST)
    assert {record['source'] for record in records} == {name.rpartition('/')[2] for name in names}
    assert all(is_file_name(record['name']) for record in records)


@pytest.mark.parametrize('change', [
    {'name': '../../../secret'}, {'name': '/etc/passwd'}, {'name': 3}, {'name': 'a\u0301'}, {'part': '../..'},
    {'part': ['train']}, {'hr': None}, {'hr_size': [0, 32]}, {'hr_size': 32}, {'source_size': [1, 2, 3]}])
def test_a_manifest_is_not_believed(prepared, prepare, change):
    path = prepared / 'x2' / MANIFEST
    settings, first, *rest = path.read_text().splitlines()
    path.write_text('\n'.join([settings, json.dumps({**json.loads(first), **change}), *rest]) + '\n')
    code, _, err = prepare('verify', prepared)
    assert code == 2 and err.count('\n') == 1 and 'line 2 is no pair of images' in err


@pytest.mark.parametrize('text', ['', '[]', '3\n', '{}', '[' * 100_000, '{"dataset": "x"}\n[]'])
def test_a_manifest_that_is_none(prepared, prepare, text):
    (prepared / 'x2' / MANIFEST).write_text(text)
    code, _, err = prepare('verify', prepared)
    assert code == 2 and err.count('\n') == 1 and 'not a manifest' in err


@pytest.mark.parametrize('journal', ['', 'x', '{}\n', '[' * 100_000 + '}\n', '\xff}\n', None])
def test_a_damaged_journal_starts_afresh(folder, tmp_path, journal, monkeypatch):
    """With the same result; a journal whose settings fit but whose pairs lead elsewhere counts as damaged."""
    source = pack(tmp_path / 'a.zip', PNGS)
    assert folder(source)[0] == 0
    out = tmp_path / 'deep' / 'work' / 'out'
    expected = tree(out)
    if journal is None:
        settings, first, *_ = (out / 'x2' / MANIFEST).read_text().splitlines()
        journal = f'{settings}\n{json.dumps({**json.loads(first), "name": "../../x"})}\n'
    (out / 'x2').rename(tmp_path / 'old')
    (out / '.partial' / 'x2').mkdir(parents=True)
    (out / '.partial' / 'x2' / 'journal.jsonl').write_bytes(journal.encode('latin-1'))
    assert folder(source)[0] == 0
    assert tree(out) == expected


@pytest.mark.parametrize('damage', ['empty', 'cut', 'noise', 'pages'])
def test_a_damaged_lmdb_is_a_fault_and_no_crash(prepared, prepare, damage):
    path = prepared / 'x2' / 'train' / 'HR.lmdb' / 'data.mdb'
    content = bytearray(path.read_bytes())
    if damage == 'empty':
        content = bytearray()
    elif damage == 'cut':  # the map reaches beyond the file: reading there ends the process
        content = content[:3 * 4096]
    elif damage == 'noise':
        content = bytearray(np.random.default_rng(0).bytes(len(content)))
    else:
        content[2 * 4096:] = np.random.default_rng(0).bytes(len(content) - 2 * 4096)
    path.write_bytes(content)
    code, out, _ = prepare('verify', prepared, '--workers', 1)
    assert code == 1 and 'HR.lmdb' in out
    with lmdb.open(str(prepared / 'x2' / 'test' / 'HR.lmdb'), readonly=True, lock=False) as env:
        assert env.stat()['entries'] == 1


@pytest.mark.parametrize(('name', 'plain'), [
    ('run', True), ('my run_x4.v2', True), ('Ä', True), ('', False), ('.', False), ('..', False), ('a/b', False),
    ('a\\b', False), ('C:x', False), ('a\0', False), ('a\n', False), (' a', False), ('x' * 300, False), (None, False)])
def test_plain_names(name, plain):
    assert is_file_name(name) == plain


@pytest.mark.parametrize(('path', 'inside'), [
    ('a.png', True), ('a/b.png', True), ('a..b/c', True), ('', False), ('/a', False), ('../a', False),
    ('a/../b', False), ('a\\..\\b', False), ('C:\\a', False), ('\\a', False), ('a\0b', False)])
def test_paths_inside(path, inside):
    assert is_inside(path) == inside


def test_messages_are_one_line_without_control_characters():
    assert printable('ä b\x1b[31m\n\udcff') == 'ä b\\x1b[31m\\n\\udcff'

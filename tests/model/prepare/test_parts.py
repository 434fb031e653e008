"""What folders say beside the class: a split that is there already, LR images, years."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segsr_model.prepare.manifest import read_manifest
from segsr_model.prepare.sources.parts import find_parts, shared_folder, without_part
from tests.model.prepare.archives import encode, pack, photo


def images(*paths):
    return {path: encode(photo(16, 16, seed=i), 'PNG') for i, path in enumerate(paths)}


@pytest.fixture
def folder(prepare, tmp_path):
    """Calls ``segsr prepare folder`` on files; returns the exit code, stdout, stderr and part to source paths."""
    def call(files, *more):
        source = pack(tmp_path / 'source', files)
        code, out, err = prepare('folder', '--source', source, '--out', tmp_path / 'out', '--scale', 2,
                                 '--min-train-size', 0, *more)
        parts = {}
        if code == 0:
            for record in read_manifest(tmp_path / 'out/x2/manifest.jsonl')[1]:
                hr = Image.open(tmp_path / f'out/x2/{record["part"]}/HR/{record["name"]}.png')
                found = [path for path in files if path.endswith(record['source']) and np.array_equal(
                    np.asarray(hr), np.asarray(Image.open(source / path)))]
                parts.setdefault(record['part'], []).extend(found)
        else:
            assert not (tmp_path / 'out/.partial').exists()
        return code, out, err, {part: sorted(paths) for part, paths in parts.items()}
    return call


SPLIT = [f'set/{part}/{label}/{i}.png' for part in ('Train', 'test') for label in ('forest', 'lake') for i in range(3)]


def test_a_split_that_is_there_is_kept(folder, tmp_path):
    code, out, _, parts = folder(images(*SPLIT))
    assert code == 0
    assert 'the folders of the source are kept as the split: train 6, test 6; --split-anew draws another' in out
    assert '12 images of 2 classes found' in out
    assert parts == {'train': sorted(SPLIT[:6]), 'test': sorted(SPLIT[6:])}
    _, records = read_manifest(tmp_path / 'out/x2/manifest.jsonl')
    assert sorted(record['source'] for record in records) == sorted(path[len('set/'):] for path in SPLIT)


def test_validation_images_can_be_drawn_from_its_training_part(folder):
    _, _, _, parts = folder(images(*SPLIT), '--val-fraction', '0.34')
    assert parts['test'] == sorted(SPLIT[6:])
    assert (len(parts['train']), len(parts['val'])) == (4, 2)
    assert sorted(parts['train'] + parts['val']) == sorted(SPLIT[:6])


@pytest.mark.parametrize(('more', 'files'), [
    (('--ratio', '1:1'), SPLIT), (('--val-fraction', '0.5'), [*SPLIT, 'set/valid/lake/1.png'])])
def test_options_that_a_kept_split_leaves_nothing_to_do(folder, more, files):
    code, _, err, _ = folder(images(*files), *more)
    assert code == 2
    assert f'{more[0]}: the folders of the source are its split already; --split-anew draws another' in err


def test_it_is_split_anew_on_demand(folder):
    code, out, _, parts = folder(images(*SPLIT), '--split-anew')
    assert code == 0 and 'kept' not in out
    assert {part: len(paths) for part, paths in parts.items()} == {'train': 10, 'test': 2}  # 5:1 of 6 in each class


def test_a_list_goes_before_it(folder, tmp_path):
    listing = tmp_path / 'list.txt'
    listing.write_text('train test/lake/0.png\ntest Train/lake/0.png\n')
    _, out, _, parts = folder(images(*SPLIT), '--split-list', listing)
    assert 'kept' not in out
    assert parts == {'train': ['set/test/lake/0.png'], 'test': ['set/Train/lake/0.png']}


@pytest.mark.parametrize('stray', ['set/extra/forest/1.png', 'set/train/test/1.png'])
def test_images_of_no_part_or_of_two_are_asked_about(folder, stray):
    code, _, err, _ = folder(images(*SPLIT, stray))
    assert code == 2
    assert f'12 images lie in folders called train, val or test, and 1 in none or in several: {stray}; move' in err


@pytest.mark.parametrize(('paths', 'parts'), [
    (['DIV2K_train_HR/1.png', 'DIV2K_valid_HR/2.png'], ['train', 'val']),
    (['a/train_1.png', 'a/test_1.png'], ['train', 'test']),
    (['train_test/a/1.png', 'train_test/b/1.png'], None),  # a folder that all lie in says nothing
    (['a/train/1.png', 'b/train/1.png'], None), (['a/trains/1.png', 'a/contest/1.png'], None),
    (['a/test.png', 'a/lake.png'], None)])
def test_what_tells_a_part(paths, parts):
    assert find_parts(paths) == (dict(zip(paths, parts)) if parts else {})


@pytest.mark.parametrize(('path', 'plain'), [
    ('set/train/forest/1.png', 'set/forest/1.png'), ('DIV2K_train_HR/1.png', 'DIV2K__HR/1.png'),
    ('test_lake/2.png', 'lake/2.png'), ('a/test_lake_2.png', 'a/lake_2.png'), ('trains/1.png', 'trains/1.png')])
def test_the_class_is_what_remains(path, plain):
    assert str(without_part(path)) == plain


@pytest.mark.parametrize(('paths', 'shared'), [
    (['a/b/1.png', 'a/b/2.png'], 'a/b/'), (['a/b1/1.png', 'a/b2/1.png'], 'a/'), (['a/1.png', '2.png'], ''), ([], '')])
def test_the_folder_that_holds_all(paths, shared):
    assert shared_folder(paths) == shared


def test_low_resolution_images_are_not_taken_for_ground_truth(folder):
    paths = [f'set/{part}/{kind}/1.png' for part in ('train', 'test') for kind in ('HR', 'LR_bicubic')]
    code, _, err, _ = folder(images(*paths))
    assert code == 2
    assert 'images of low resolution beside those of high resolution: test/LR_bicubic and test/HR; give only' in err

def test_a_class_of_several_folders_is_told(folder):
    paths = [f'{year}/{label}/{i}.png' for year in (2019, 2020) for label in 'ab' for i in '123']
    code, out, _, _ = folder(images(*paths))
    assert code == 0
    assert 'the class a is made of 2 folders: 2019/a, 2020/a' in out


def test_small_classes_are_split_together(folder):
    code, _, _, parts = folder(images(*(f'class {letter}/1.png' for letter in 'abcdefgh')))
    assert code == 0
    assert {part: len(paths) for part, paths in parts.items()} == {'train': 6, 'test': 2}


@pytest.mark.parametrize(('count', 'more', 'message'), [
    (1, (), 'the split has no test image: its part of 1 images is less than one; give more, or change --ratio (3:1)'),
    (4, ('--val-fraction', '0.1'), 'the split has no validation image: its part of 4 images is less than one'),
    (2, ('--val-fraction', '0.1'), 'the split has no validation and no test image'),
    (2, ('--ratio', '1:9'), 'the split has no training image')])
def test_a_part_that_would_be_empty_is_refused(folder, count, more, message):
    code, _, err, _ = folder(images(*(f'a/{i}.png' for i in range(count))), *more)
    assert code == 2 and message in err


def test_folders_without_training_images(folder):
    _, _, err, _ = folder(images('val/a/1.png', 'test/a/1.png'))
    assert 'no training image: the folders of the source have none; --split-anew draws another' in err


def test_no_test_part_can_be_asked_for(folder):
    assert folder(images('a/1.png'), '--ratio', '1:0')[3] == {'train': ['a/1.png']}


def test_files_of_the_source_in_a_list(folder, tmp_path):
    """Of names that are in several folders, and are replaced."""
    paths = [f'{label}/IMG_{i}.png' for label in ('lake', 'sea') for i in range(3)]
    listing = tmp_path / 'list.txt'
    listing.write_text(''.join(f'{part} {path}\n' for part, path in zip(['train', 'val', 'test'] * 2, paths)))
    _, _, _, parts = folder(images(*paths), '--split-list', listing)
    assert parts == {'train': [paths[0], paths[3]], 'val': [paths[1], paths[4]], 'test': [paths[2], paths[5]]}
    listing.write_text('test sea/IMG_1.png\n')
    assert 'lists no training image' in folder(images(*paths), '--split-list', listing, '--scale', '4')[2]


def test_output_that_leads_nowhere(prepare, tmp_path):
    (tmp_path / 'out').symlink_to('/nonexistent/disk')
    source = pack(tmp_path / 'source', images('a/1.png'))
    _, _, err = prepare('folder', '--source', source, '--out', tmp_path / 'out')
    assert f'--out {tmp_path / "out"}: a file, or a link that leads to no folder' in err

"""Scores per image, class and on average."""

import json

import pytest

from segsr_model.cli import main
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.testing.scores import SavedScores, Scores, read_scores


@pytest.mark.parametrize(('name', 'expected'), [
    ('agricultural85', 'agricultural'), ('airport_1', 'airport'), ('storagetanks99', 'storagetanks'),
    ('railwaystation_127', 'railwaystation'), ('mobilehomepark00', 'mobilehomepark'), ('0801', ''),
])
def test_the_class_is_the_name_without_its_digits(name, expected):
    assert class_of(name) == expected


def test_averages_are_over_images_not_over_classes(tmp_path):
    scores = SavedScores(tmp_path, {'dataset': 'x'})
    for name, value in (('beach01', 30), ('beach02', 34), ('river01', 20)):
        scores.add(name, {'psnr': value, 'ssim': value / 100})
    assert scores.average() == pytest.approx({'psnr': 28, 'ssim': 0.28})
    assert scores.classes() == {'beach': pytest.approx({'psnr': 32, 'ssim': 0.32}),
                                'river': pytest.approx({'psnr': 20, 'ssim': 0.2})}
    assert [line.split() for line in scores.table().splitlines()] == [
        ['psnr', 'ssim'], ['beach', '32.0000', '0.3200'], ['river', '20.0000', '0.2000'],
        ['average', '28.0000', '0.2800']]
    scores.finish()
    content = json.loads((tmp_path / 'scores_x.json').read_text())
    assert content['images']['river01'] == {'psnr': 20, 'ssim': 0.2} and content['protocol'] == {'dataset': 'x'}


def strictly(text):
    """JSON that has no NaN and no infinity."""
    def refuse(name):
        raise AssertionError(name)
    return json.loads(text, parse_constant=refuse)


def test_what_has_no_value_is_left_out_and_counted(tmp_path):
    protocol = {'dataset': 'x'}
    scores = SavedScores(tmp_path, protocol)
    scores.add('beach01', {'psnr': float('inf'), 'ssim': 1, 'niqe': None})
    scores.add('beach02', {'psnr': 30, 'ssim': float('nan'), 'niqe': float('nan')})
    scores.add('river01', {'psnr': 20, 'ssim': 0.5, 'niqe': None})
    assert scores.average() == {'psnr': 25, 'ssim': 0.75}
    assert scores.counts() == {'psnr': 2, 'ssim': 2, 'niqe': 0}
    assert scores.gaps(3) == ['psnr is the average over 2 of 3 images', 'ssim is the average over 2 of 3 images',
                              'no image has a niqe']
    assert scores.gaps(2) == ['no image has a niqe']
    assert [line.split() for line in scores.table().splitlines()] == [
        ['psnr', 'ssim'], ['beach', '30.0000', '1.0000'], ['river', '20.0000', '0.5000'],
        ['average', '25.0000', '0.7500']]
    again = SavedScores(tmp_path, protocol)  # as after an interruption
    assert again.images == scores.images and again.images['beach02'] == {'psnr': 30, 'ssim': None, 'niqe': None}
    again.add('river02', {'psnr': None, 'ssim': None, 'niqe': None})
    assert again.table().splitlines()[2].split() == ['river', '20.0000', '0.5000']
    again.finish()
    content = strictly((tmp_path / 'scores_x.json').read_text())
    assert content['counts'] == {'psnr': 2, 'ssim': 2, 'niqe': 0} and content['average'] == scores.average()
    assert content['images']['beach01'] == {'psnr': None, 'ssim': 1, 'niqe': None}


def test_a_class_without_a_value_has_a_dash():
    scores = Scores()
    scores.add('beach01', {'psnr': 30, 'ssim': None})
    scores.add('river01', {'psnr': 20, 'ssim': 0.5})
    assert scores.classes() == {'beach': {'psnr': 30}, 'river': {'psnr': 20, 'ssim': 0.5}}
    assert scores.table().splitlines()[1].split() == ['beach', '30.0000', '-']


def test_scores_that_older_tests_wrote_with_nan_and_infinity_are_read(tmp_path, capsys):
    (tmp_path / 'scores_x.json').write_text(
        '{"protocol": {"name": "old", "dataset": "x"}, "average": {"psnr": Infinity, "ssim": NaN}, "classes": {}, '
        '"images": {"a": {"psnr": Infinity, "ssim": NaN}, "b": {"psnr": 31.5, "ssim": 0.25}, '
        '"c": {"psnr": 30.5, "ssim": 0.75}}}')
    content = read_scores(tmp_path / 'scores_x.json')
    assert content['average'] == {'psnr': 31, 'ssim': 0.5} and content['counts'] == {'psnr': 2, 'ssim': 2}
    assert content['images']['a'] == {'psnr': None, 'ssim': None}
    assert main(['scores', str(tmp_path)]) == 0
    assert capsys.readouterr().out == 'old   x   psnr 31.0000 (2 of 3 images)   ssim 0.5000 (2 of 3 images)\n'


def test_names_from_a_file_of_others_move_no_cursor(tmp_path, capsys):
    (tmp_path / 'scores_x.json').write_text(json.dumps(
        {'protocol': {'name': 'n\x1b[2J', 'dataset': 'x\ny'}, 'images': {'a': {'psnr': 1.0}}}))
    assert main(['scores', str(tmp_path)]) == 0
    assert capsys.readouterr().out == 'n\\x1b[2J   x\\ny   psnr 1.0000\n'


def test_no_images_no_averages():
    assert Scores().average() == {} and Scores().classes() == {}


@pytest.mark.parametrize('content', ['{', '[]', '{"protocol": {}}'])
def test_what_is_no_scores_file_is_one_line(content, tmp_path, capsys):
    (tmp_path / 'scores_x.json').write_text(content)
    assert main(['scores', str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("scores_x.json' is not a scores file of basicsr/test.py\n")

"""Scores per image, class and on average."""

import json

import pytest

from segsr_model.cli import main
from segsr_model.prepare.sources.catalogue import class_of
from segsr_model.testing.scores import SavedScores, Scores


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


def test_no_images_no_averages():
    assert Scores().average() == {} and Scores().classes() == {}


@pytest.mark.parametrize('content', ['{', '[]', '{"protocol": {}}'])
def test_what_is_no_scores_file_is_one_line(content, tmp_path, capsys):
    (tmp_path / 'scores_x.json').write_text(content)
    assert main(['scores', str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("scores_x.json' is not a scores file of basicsr/test.py\n")

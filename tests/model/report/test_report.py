"""From finished tests to the paper's tables."""

import csv
import json
import os
import re

import pytest
import yaml

from segsr_model.cli import main
from segsr_model.report.paper import check_claims, check_rows, paper_tables
from segsr_model.testing.scores import SavedScores

PSNR_Y = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
RECIPE = {'made_by': 'segsr prepare ucmerced', 'kernel': "MATLAB's antialiased bicubic, 8 bit",
          'pixels_sha256': 'b' * 64}


@pytest.fixture
def tested(tmp_path):
    """Makes a test in ``results/``: ``tested('HAT', ['I HAT'], {'beach01': (29.5, 0.8)}, self_ensemble=True)``."""
    def make(name, rows, values, *, finish=True, **changes):
        scale = changes.get('scale', 4)
        psnr = {**PSNR_Y, 'crop_border': scale}
        protocol = {
            'name': name, 'rows': rows, 'network': 'HAT', 'scale': scale, 'dataset': 'UCMerced_test',
            'images': len(values), 'split_sha256': 'a' * 64, 'lr_recipe': RECIPE,
            'metrics': {'psnr_rgb': {'type': 'calculate_psnr', 'crop_border': scale}, 'psnr': psnr,
                        'ssim': {**psnr, 'type': 'calculate_ssim'}},
            'self_ensemble': False, 'checkpoint': f'experiments/{name}/models/net_g_latest.pth', 'iterations': 80000,
            'checkpoint_sha256': 'c' * 64, 'param_key': 'params_ema',
            'versions': {'segsr': '0.1.0', 'basicsr': '1.4.2', 'torch': '2.8.0'}, **changes}
        folder = tmp_path / 'results' / name
        folder.mkdir(parents=True)
        scores = SavedScores(folder, protocol)
        for image, (psnr, ssim) in values.items():
            scores.add(image, {'psnr_rgb': psnr - 1.3, 'psnr': psnr, 'ssim': ssim})
        if finish:
            scores.finish()
        return folder
    return make


@pytest.fixture
def report(tmp_path, capsys):
    """Runs ``segsr report`` and returns its exit code, its output, and the report's Markdown and CSV rows by table."""
    def run(*arguments):
        out = tmp_path / 'report'
        code = main(['report', '--results', str(tmp_path / 'results'), '--experiments', str(tmp_path / 'experiments'),
                     '--out', str(out), *map(str, arguments)])
        captured = capsys.readouterr()
        tables = {file.stem[6:]: list(csv.DictReader(file.open())) for file in out.glob('*.csv')}
        text = (out / 'report.md').read_text(encoding='utf-8') if out.exists() else ''
        return code, captured.out + captured.err, text, tables
    return run


def number(tables, table, row, column, metric, what='ours'):
    found = [line for line in tables[table] if (line['row'], line['column'], line['metric']) == (row, column, metric)]
    assert len(found) == 1
    return found[0][what]


def test_the_papers_numbers_are_in_place():
    tables = paper_tables()
    assert list(tables) == ['I', 'II', 'III', 'IV', 'V', 'VI', 'VII']
    assert tables['I'].rows['SeG-SR'].values == {2: (0.9415, 35.8757), 4: (0.7961, 29.3042)}
    assert tables['II'].rows['MFG-HMoE'].values[2] == (0.9443, 36.5399)
    assert tables['VII'].rows['EDSR +2 unit'].values[4] == (0.7885, 29.2717)
    third = tables['III']
    assert len(third.classes) == 22 and third.rows['SeG-SR'].classes['parking lot'] == (0.8294, 24.6582)
    for name, row in third.rows.items():  # its last line is Table I's
        assert not row.classes or row.classes['Average'] == tables['I'].rows[name].values[4]
    for index in range(2):  # and its average is that of its classes, 25 images each
        for row in third.rows.values():
            values = [value[index] for label, value in row.classes.items() if label != 'Average']
            assert not values or sum(values) / 21 == pytest.approx(row.classes['Average'][index], abs=2e-4)
    leads = sum(any(third.rows['SeG-SR'].classes[label][i] == max(row.classes[label][i] for row in third.rows.values()
                                                                  if row.classes) for i in range(2))
                for label in third.classes if label != 'Average')
    assert leads == 19  # the paper's text says 18 of 20
    full = [tables[n].rows[r].values[4] for n, r in (('I', 'SeG-SR'), ('IV', '4'), ('V', '4'), ('VI', '5'))]
    assert set(full) == {(0.7961, 29.3042)}
    for table in tables.values():
        assert all(0.4 < ssim < 1 < 19 < psnr < 40 for row in table.rows.values() for ssim, psnr in row.values.values())


def test_ours_the_papers_and_the_difference(tested, report):
    tested('HAT_UCMerced_x4', ['I HAT', 'III HAT', 'IV 1', 'VII HAT'],
           {'beach01': (30.0, 0.80), 'beach02': (29.0, 0.79), 'tenniscourt98': (28.0, 0.75)})
    code, output, text, tables = report()
    assert code == 0 and 'Table I: 1 runs' in output and 'warning' not in output
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR') == '29.0000'
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR', 'paper') == '29.0985'
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR', 'difference') == '-0.0985'
    assert number(tables, 'VII', 'HAT', 'x4', 'SSIM', 'paper') == '0.7884'  # the paper has two numbers for it
    assert number(tables, 'IV', '1', 'x4', 'SSIM', 'run') == 'HAT_UCMerced_x4'
    assert number(tables, 'I', 'HAT', 'x2', 'PSNR', 'status') == 'not run'
    assert number(tables, 'IV', '2', 'x4', 'SSIM', 'status') == 'not run'
    assert number(tables, 'I', 'MFG-HMoE', 'x4', 'PSNR', 'status') == 'not run'
    assert number(tables, 'I', 'Bicubic', 'x4', 'PSNR', 'paper') == ''
    line = next(line for line in text.splitlines() if line.startswith('| HAT |'))
    assert [cell.strip() for cell in line.split('|')[1:-1]] == [
        'HAT', 'not run', '0.9398', '', 'not run', '35.6829', '', '0.7800', '0.7893', '-0.0093', '29.0000', '29.0985',
        '-0.0985']

    assert number(tables, 'III', 'beach', 'HAT', 'PSNR') == '29.5000'
    assert number(tables, 'III', 'tennis court', 'HAT', 'PSNR', 'difference') == '-3.3149'
    assert number(tables, 'III', 'Average', 'HAT', 'PSNR') == '29.0000'
    assert number(tables, 'III', 'beach', 'SeG-SR', 'PSNR', 'status') == 'not run'
    assert number(tables, 'III', 'beach', 'TTST', 'PSNR', 'paper') == '38.8446'
    section = text.split('## Table I.')[1].split('##')[0]
    for statement in ('Test set UCMerced_test: 3 images, sha256 aaaaaaaaaaaa of the sorted names',
                      'Y, border crop = scale; self-ensemble: none', "LR images: MATLAB's antialiased bicubic, 8 bit",
                      'x4: bbbbbbbbbbbb', 'Iterations: 80,000', 'Row HAT, x4: HAT_UCMerced_x4, HAT, net_g_latest.pth',
                      'sha256 cccccccccccc', 'basicsr 1.4.2, torch 2.8.0', '29.1013 / 0.7884 in its Tables IV and VII'):
        assert statement in section


def test_the_latex_table_has_the_markdown_ones_numbers(tested, report, tmp_path):
    tested('HAT_UCMerced_x4', ['I HAT', 'VI 5'], {'beach01': (30.0, 0.80)})
    report()
    text = (tmp_path / 'report' / 'table_I.tex').read_text(encoding='utf-8')
    body = [line for line in text.splitlines() if line.endswith(r'\\')]
    assert {line.count('&') for line in body[1:]} == {12} and text.count('{') == text.count('}')
    assert (r'HAT & not run & 0.9398 &  & not run & 35.6829 &  & '
            r'0.8000 & 0.7893 & +0.0107 & 30.0000 & 29.0985 & +0.9015 \\') in body
    assert re.findall(r'\\multicolumn\{(\d+)\}\{c\}\{(x\d)\}', text) == [('6', 'x2'), ('6', 'x4')]
    assert r'5 & $\checkmark$ & $\checkmark$' in (tmp_path / 'report' / 'table_VI.tex').read_text(encoding='utf-8')


def test_mixed_protocols_are_flagged_and_marked(tested, report):
    values = {'beach01': (30.0, 0.80)}
    tested('A', ['I HAT'], values)
    tested('B', ['I SeG-SR'], values)
    tested('C', ['I RCAN'], values, self_ensemble=True, split_sha256='d' * 64)
    code, output, text, tables = report()
    assert code == 0
    assert 'Mixed protocols, self-ensemble: x8: RCAN x4; none: HAT x4, SeG-SR x4' in text and 'Mixed' in output
    assert "split: 1 images, sha256 dddddddddddd: RCAN x4; 1 images, sha256 aaaaaaaaaaaa: HAT x4, SeG-SR x4" in text
    assert "Not the paper's protocol, self-ensemble should be none: RCAN x4" in text
    assert '30.0000†' in next(line for line in text.splitlines() if line.startswith('| RCAN |'))
    assert '†' not in next(line for line in text.splitlines() if line.startswith('| HAT |'))
    assert number(tables, 'I', 'RCAN', 'x4', 'PSNR', 'other protocol') == 'yes'


def test_a_table_of_two_scales_is_one_protocol(tested, report):
    values = {'beach01': (30.0, 0.80)}
    tested('A', ['I HAT'], values)
    tested('B', ['I HAT'], values, scale=2, lr_recipe={**RECIPE, 'pixels_sha256': 'e' * 64})
    tested('Bicubic', ['I Bicubic'], values, checkpoint=None, iterations=None, checkpoint_sha256=None, param_key=None)
    _, output, text, _ = report()
    assert 'warning' not in output and 'x2: eeeeeeeeeeee; x4: bbbbbbbbbbbb' in text
    assert 'Bicubic, HAT, no weights' in text


def test_iterations_that_differ_are_said_but_are_no_other_protocol(tested, report):
    tested('A', ['I HAT'], {'beach01': (30.0, 0.80)})
    tested('B', ['I RCAN'], {'beach01': (30.0, 0.80)}, iterations=75000)
    _, output, text, _ = report()
    assert 'warning: Iterations differ: 80,000: HAT x4; 75,000: RCAN x4' in output and '†' not in text


def test_rgb_numbers_are_not_taken_for_the_papers(tested, report):
    metrics = {kind: {'type': f'calculate_{kind}', 'crop_border': 4} for kind in ('psnr', 'ssim')}
    tested('A', ['I HAT'], {'beach01': (30.0, 0.80)}, metrics=metrics)
    assert 'channel should be Y, border crop = scale: HAT x4' in report()[2]


def test_another_test_set_is_left_out_unless_asked_for(tested, report):
    tested('sample_HAT_x4', ['I HAT', 'III HAT'], {'meadow01': (30.0, 0.80), 'woodland02': (20.0, 0.60)},
           dataset='sample_test')
    _, output, _, tables = report()
    assert "was tested on sample_test, which is not the test set of Table I, III" in output
    assert {line['status'] for line in tables['I'] if line['row'] == 'HAT'} == {'not run'}


def test_the_same_tables_for_another_test_set(tested, report):
    tested('sample_HAT_x4', ['I HAT', 'III HAT'], {'meadow01': (30.0, 0.80), 'woodland02': (20.0, 0.60)},
           dataset='sample_test')
    code, output, text, tables = report('--dataset', 'sample_test')
    assert code == 0 and set(tables) == {'I', 'III'} and '## Table I. Its rows on sample_test' in text
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR') == '25.0000'
    assert number(tables, 'I', 'SeG-SR', 'x4', 'PSNR', 'status') == 'not run'
    assert not any(line['paper'] for table in tables.values() for line in table)
    assert [line['row'] for line in tables['III'] if (line['column'], line['metric']) == ('HAT', 'PSNR')] == [
        'meadow', 'woodland', 'Average']
    code, output, *_ = report('--dataset', 'AID_test')
    assert code == 2 and output.splitlines()[-1].endswith("has no finished test on it, but on sample_test")


def test_a_row_of_ones_own_is_added(tested, report):
    tested('MyNet', ['I new MyNet', 'VII new MyNet'], {'beach01': (30.0, 0.80)})
    _, _, text, tables = report()
    assert number(tables, 'I', 'MyNet', 'x4', 'PSNR') == '30.0000'
    assert number(tables, 'I', 'MyNet', 'x4', 'PSNR', 'paper') == ''
    assert '|  | MyNet | not run |' in text


def test_the_newer_of_two_runs_counts_and_the_other_is_named(tested, report):
    old = tested('old', ['I HAT'], {'beach01': (30.0, 0.80)})
    tested('new', ['I HAT'], {'beach01': (31.0, 0.81)})
    tested('new_archived_20260101_000000', ['I HAT'], {'beach01': (32.0, 0.81)})
    os.utime(old / 'scores_UCMerced_test.json', (1, 1))
    _, output, _, tables = report()
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR') == '31.0000'
    assert re.search(r"Two runs for one row: '.*new' is used, '.*old' is not", output)


def test_a_run_under_the_papers_protocol_comes_before_a_newer_one_under_another(tested, report):
    paper = tested('paper', ['I HAT'], {'beach01': (30.0, 0.80)})
    tested('ensemble', ['I HAT'], {'beach01': (30.3, 0.81)}, self_ensemble=True)
    os.utime(paper / 'scores_UCMerced_test.json', (1, 1))
    _, output, _, tables = report()
    assert number(tables, 'I', 'HAT', 'x4', 'PSNR') == '30.0000' and "/ensemble' is not" in output


def test_how_far_a_row_is(tested, report, tmp_path):
    for name, row in (('one', 'I HAT'), ('two', 'I RCAN'), ('three', 'I SwinIR')):
        (tmp_path / 'experiments' / name / 'models').mkdir(parents=True)
        (tmp_path / 'experiments' / name / 'training_states').mkdir()
        (tmp_path / 'experiments' / name / f'{name}.yml').write_text(yaml.safe_dump(
            {'name': name, 'rows': [row], 'scale': 4, 'datasets': {'val': {'name': 'UCMerced_test'}}}))
    (tmp_path / 'experiments' / 'one' / 'training_states' / '35000.state').touch()
    (tmp_path / 'experiments' / 'two' / 'models' / 'net_g_latest.pth').touch()
    tested('three', ['I SwinIR'], {'beach01': (30, 0.8), 'beach02': (30, 0.8)}, finish=False, images=525)
    _, _, text, tables = report()
    assert [number(tables, 'I', row, 'x4', 'PSNR', 'status') for row in ('HAT', 'RCAN', 'SwinIR')] == [
        'training, 35,000 iterations', 'not tested', '2 of 525 images tested']


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda file, content: file.write_text('{'), r"scores_UCMerced_test\.json' cannot be used, remove it or test"),
    (lambda file, content: file.write_text(json.dumps({'images': {}})), r'protocol is missing$'),
    (lambda file, content: content['protocol'].update(rows=['I HATT']), r"Table I has no row 'HATT' for a run; it"),
    (lambda file, content: content['images'].popitem(), r'has 1 of 2 images; test again with basicsr/test\.py$'),
    (lambda file, content: content['protocol']['metrics'].pop('ssim'), r'it has no metric of type calculate_ssim$'),
])
def test_a_damaged_scores_file_ends_in_one_line_and_writes_nothing(tested, report, tmp_path, spoil, message):
    file = tested('A', ['I HAT'], {'beach01': (30, 0.8), 'beach02': (30, 0.8)}) / 'scores_UCMerced_test.json'
    content = json.loads(file.read_text())
    before = file.read_text()
    spoil(file, content)
    if file.read_text() == before:
        file.write_text(json.dumps(content))
    code, output, text, _ = report()
    assert code == 2 and len(output.splitlines()) == 1 and re.search(message, output), output
    assert not (tmp_path / 'report').exists()


def test_no_results_at_all(report):
    code, output, *_ = report()
    assert code == 2 and "there is no folder" in output and len(output.splitlines()) == 1


def test_tests_that_claim_no_row_do_not_matter(tested, report, tmp_path):
    tested('HAT', ['I HAT'], {'beach01': (29.5, 0.8)})
    other = tested('other', [], {'beach01': (20.0, 0.5)})
    scores = json.loads((other / 'scores_UCMerced_test.json').read_text())
    (other / 'scores_UCMerced_test.json').write_text(json.dumps({**scores, 'average': {}, 'classes': {}}))
    assert report()[0] == 0


def test_what_others_left_among_the_runs_does_not_stop_it(tested, report, tmp_path):
    folder = tested('HAT', ['I HAT'], {'beach01': (29.5, 0.8)})
    (folder / 'scores_x.unfinished.jsonl').write_text('garbage}\n')
    for i, datasets in enumerate(('[1, 2]', '{val: 3}')):
        (tmp_path / 'experiments' / str(i)).mkdir(parents=True)
        (tmp_path / 'experiments' / str(i) / 'run.yml').write_text(f'rows: [I HAT]\ndatasets: {datasets}')
    assert report()[0] == 0


def test_a_report_of_someone_elses_is_not_overwritten(tested, report, tmp_path):
    tested('HAT', ['I HAT'], {'beach01': (29.5, 0.8)})
    (tmp_path / 'report').mkdir()
    (tmp_path / 'report' / 'report.md').write_text('mine')
    code, output, text, tables = report()
    assert code == 2 and 'was not written by segsr report' in output and text == 'mine' and not tables
    (tmp_path / 'report' / 'report.md').unlink()
    assert report()[0] == report()[0] == 0
    code, output, *_ = report('--out', tmp_path / 'results' / 'HAT' / 'scores_UCMerced_test.json')
    assert code == 2 and 'is a file; name a folder' in output


def test_values_that_are_missing_are_counted(tested, report):
    tested('HAT', ['I HAT', 'III HAT'], {'beach01': (30.0, float('nan')), 'beach02': (29.0, 0.8),
                                         'river01': (float('inf'), float('nan'))})
    tested('RCAN', ['I RCAN'], {'beach01': (28.0, float('nan')), 'beach02': (28.0, None), 'river01': (28.0, None)})
    code, output, text, tables = report()
    assert code == 0
    assert [number(tables, 'I', 'HAT', 'x4', metric) for metric in ('PSNR', 'SSIM')] == ['29.5000', '0.8000']
    for said in ('HAT x4: PSNR of 2 images, not of all 3', 'HAT x4: SSIM of 1 images, not of all 3',
                 'RCAN x4: SSIM of 0 images, not of all 3'):
        assert f'warning: {said}' in output and f'**Warning.** {said}' in text
    assert number(tables, 'I', 'RCAN', 'x4', 'SSIM', 'status') == 'no value'
    assert number(tables, 'I', 'RCAN', 'x4', 'SSIM', 'difference') == number(tables, 'I', 'RCAN', 'x4', 'SSIM') == ''
    assert number(tables, 'III', 'river', 'HAT', 'SSIM', 'status') == 'no value'
    assert number(tables, 'III', 'harbor', 'HAT', 'SSIM', 'status') == ''  # was not tested
    assert 'nan' not in text and 'inf' not in text


def test_texts_of_users_are_no_markup(tested, report, tmp_path):
    name = r'my_*net* $5 | {x} \input{y} 50% #1 <b> ~^ 名前'
    tested('own', [f'I new {name}'], {'beach01': (30.0, 0.80)}, dataset='set_$1', versions={'torch': '2\n\\input{z}'})
    code, output, text, tables = report('--dataset', 'set_$1')
    assert code == 0 and number(tables, 'I', name, 'x4', 'PSNR') == '30.0000'
    assert r'| my\_\*net\* \$5 \| {x} \\input{y} 50% #1 \<b\> \~^ 名前 |' in text
    assert r'## Table I. Its rows on set\_\$1' in text
    latex = (tmp_path / 'report' / 'table_I.tex').read_text(encoding='utf-8')
    row = next(line for line in latex.splitlines() if line.startswith(r'my'))
    assert row.startswith(r'my\_*net* \$5 \textbar{} \{x\} \textbackslash{}input\{y\} 50\% \#1 \textless{}b'
                          r'\textgreater{} \textasciitilde{}\textasciicircum{} 名前 & not run')
    assert r'\caption{Its rows on set\_\$1}' in latex
    for line in latex.splitlines():  # none of a file's texts becomes a line of its own
        assert 'input{z}' not in line or line.startswith('% Versions: torch 2')
    assert latex.startswith('% Has characters that pdflatex lacks')


def test_a_table_without_foreign_characters_says_nothing_of_them(tested, report, tmp_path):
    tested('HAT', ['I HAT', 'VI 5'], {'beach01': (30.0, 0.80)})
    report()
    assert '% Has characters' not in (tmp_path / 'report' / 'table_I.tex').read_text(encoding='utf-8')
    assert r'ID & $p_i$ & $p_g$ & $I_g$ &' in (tmp_path / 'report' / 'table_VI.tex').read_text(encoding='utf-8')


@pytest.mark.parametrize(('rows', 'message'), [
    (['I new HAT'], "rows: 'I new HAT': Table I has a row of this name; call yours otherwise"),
    (['I new srformer'], "rows: 'I new srformer': Table I has a row of this name"),
    (['I HAT', 'VII HAT', 'I RCAN'], 'rows: I HAT, VII HAT, I RCAN: a run stands for one row of Table I')])
def test_rows_that_would_be_one_or_none_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        check_claims(rows)
    check_rows(rows)  # tests that were made before are read
    check_claims(['I new HAT2', 'II HAT'])

"""`segsr bench`: what inference and training steps cost."""

import copy
import csv
import itertools

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.models import build_model
from torch import nn

from segsr_arch.layers.swin import Mlp
from segsr_model.cli import main
from segsr_model.cost.bench_runs import Cost, Work, bench, flops, random_batch, runnable, times_by_part
from segsr_model.cost.measuring import SMALLER
from segsr_model.cost.profile_network import count_multiply_adds, with_random_tower
from segsr_model.errors import CommandError

pytestmark = pytest.mark.usefixtures('forked')


@pytest.fixture
def file(options, tmp_path, monkeypatch):
    """An option file for training, of which bench needs neither seed, validation nor CLIP's weights."""
    monkeypatch.chdir(tmp_path)
    for key in ('manual_seed', 'val', 'path'):
        del options[key]
    options['network_g']['semantic']['encoder']['pretrained'] = 'weights that are nowhere'
    (tmp_path / 'net.yml').write_text(yaml.safe_dump(options))
    return tmp_path / 'net.yml'


def test_the_tables_and_the_csv(file, tmp_path, capsys):
    hat = yaml.safe_load(file.read_text())
    hat['network_g'] = {'type': 'HAT', 'upscale': 4, 'img_size': 8, 'window_size': 4, 'embed_dim': 12, 'depths': [2],
                        'num_heads': [2], 'squeeze_factor': 1}
    (tmp_path / 'hat.yml').write_text(yaml.safe_dump(hat))
    before = sorted(path for path in tmp_path.rglob('*') if path.is_file())
    assert main(['bench', '-opt', 'net.yml', 'hat.yml', '--repeat', '1', '--csv', 'c.csv']) == 0
    assert sorted(path for path in tmp_path.rglob('*') if path.is_file()) == sorted([*before, tmp_path / 'c.csv'])
    machine, _, head, *lines = capsys.readouterr().out.splitlines()
    assert machine.startswith('CPU (') and head.split()[:4] == ['option', 'file', 'precision', 'LR']
    assert [line.split()[:4] for line in lines[:2]] == [[name, 'fp32', '8', '2'] for name in ('net', 'hat')]
    rows = list(csv.DictReader((tmp_path / 'c.csv').open()))
    for row, line in zip(rows, lines):
        numbers = {key: float(value) for key, value in row.items() if key not in ('option file', 'precision', 'machine')
                   and value}
        assert all(value > 0 for key, value in numbers.items() if key != 'other')
        _, _, _, _, _, seconds, rate, gflops, of_peak, *_ = line.split()
        assert float(seconds) == pytest.approx(numbers['forward'], abs=1e-3)
        assert float(rate) == pytest.approx(numbers['batch'] / numbers['forward'], abs=0.01)
        assert float(gflops) == pytest.approx(numbers['forward_flops'] / numbers['forward'] / 1e9, abs=1)
        assert float(of_peak) == pytest.approx(numbers['forward_flops'] / numbers['forward'] / numbers['peak_rate'],
                                               abs=0.01)
    assert all(rows[0][part] and not rows[1][part] for part in ('CLIP', 'SLM', 'LMM'))
    assert all(rows[1][part] and not rows[0][part] for part in ('attention', 'MLPs'))
    assert all(row[part] for row in rows for part in ('convolutions', 'other', 'EMA', 'saving', 'data'))


def test_the_options_of_a_run_leave_the_users_alone(options):
    before = copy.deepcopy(options)
    run = runnable(Work(options, precision='bf16', device='cuda'), 'folder')
    assert run['train']['amp'] == 'bf16' and run['num_gpu'] == 1 and set(run['path'].values()) == {'folder'}
    assert runnable(Work(run), 'folder')['train']['amp'] is None
    assert options == before


def test_the_flops_of_a_step_are_counted_with_its_backward(options):
    options['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1,
                            'upscale': 4}
    model = build_model(options)
    images = random_batch(2, 8, 4, 3)
    forward, step = flops(model, model.net_g, images)
    assert forward == 4 * count_multiply_adds(model.net_g, images['lq'][:1])
    first = 2 * 2 * 8 * 8 * 9 * 3 * 8  # the first layer needs no gradient of its input
    assert step == 3 * forward - first


def test_frozen_weights_cost_no_gradient(network, options):
    options['network_g'] = with_random_tower(network)
    model = build_model(options)
    forward, step = flops(model, model.net_g, random_batch(1, 8, 4, 3))
    assert 2 * forward < step < 3 * forward


def test_time_goes_to_the_innermost_part_that_is_told(monkeypatch):
    """Each look at the clock is a second later: between the hooks of a part lies one, for the part itself."""
    clock = itertools.count()
    monkeypatch.setattr('segsr_model.cost.bench_runs.time.perf_counter', lambda: next(clock))
    net = nn.Sequential(nn.Conv2d(4, 4, 1), Mlp(4, 8, 0.0), nn.ReLU(), nn.Conv2d(4, 4, 1))
    times = times_by_part(net, lambda: net(torch.rand(1, 4, 4, 4)), 'cpu')
    assert times == {'convolutions': 2, 'MLPs': 1, 'other': 4}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_model_is_built_as_the_training_builds_it(options):
    built = []

    def build(opt):
        built.append(opt)
        return build_model(opt)

    options['network_g'] = with_random_tower(options['network_g'])
    cost = bench(Work(options, size=8, batch=3, repeat=1), build)
    assert (cost.size, cost.batch) == (8, 3)
    assert built == [runnable(Work(options), built[0]['root_path'])]
    net = build_network(options['network_g'])
    assert cost.forward_flops == 6 * count_multiply_adds(net.eval(), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(('change', 'message'), [
    (['-opt', 'none.yml'], "cannot read the option file 'none.yml'"),
    (['-opt', 'test.yml'], "'test.yml' is not for training: it has no train or no datasets:train"),
    (['-opt', 'typo.yml'], "'typo': network_g: unknown option 'num_feats'; did you mean 'num_feat'?"),
    (['--batch', '1', '0'], '--batch must be at least 1'), (['--size', '0'], '--size must be at least 1'),
    (['--repeat', '0'], '--repeat must be at least 1'), (['--csv', 'mine.csv'], "'mine.csv' exists and holds"),
    (['--device', 'cuda'], 'PyTorch finds no CUDA device')])
def test_bad_input_is_one_line(change, message, file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    options = yaml.safe_load(file.read_text())
    (tmp_path / 'typo.yml').write_text(
        yaml.safe_dump({**options, 'network_g': {**options['network_g'], 'num_feats': 8}}))
    (tmp_path / 'test.yml').write_text(yaml.safe_dump({'network_g': options['network_g']}))
    (tmp_path / 'mine.csv').write_text('a,b\n')
    assert main(['bench', '-opt', 'net.yml', *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('segsr bench: error: ') and message in error
    assert (tmp_path / 'mine.csv').read_text() == 'a,b\n'


def test_a_run_that_fails_takes_nothing_from_the_others(file, tmp_path, monkeypatch, capsys):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'net.yml').write_text(file.read_text())

    def cost(name, work):
        if work.batch == 2:
            raise CommandError(f"'{name}': LR 8 x 8, batch 2, fp32 does not fit into memory; {SMALLER}")
        return Cost(8, work.batch, 1, 1, 1, 2**30, 1, 1, 1, {'other': 1}, 'machine')

    monkeypatch.setattr('segsr_model.cost.bench.cost', cost)
    assert main(['bench', '-opt', 'net.yml', 'other/net.yml', '--batch', '1', '2', '3', '--csv', 'c.csv']) == 2
    captured = capsys.readouterr()
    rows = [line.split()[:4] for line in captured.out.splitlines() if 'fp32' in line][:4]
    assert rows == [[name, 'fp32', '8', batch] for name in ('net.yml', 'other/net.yml') for batch in '13']
    assert len(list(csv.DictReader((tmp_path / 'c.csv').open()))) == 4
    assert captured.err.splitlines()[-1] == (
        "segsr bench: error: 'net.yml': LR 8 x 8, batch 2, fp32 does not fit into memory; take a smaller --size or "
        "--batch; 'other/net.yml': LR 8 x 8, batch 2, fp32 does not fit into memory; take a smaller --size or --batch")


def test_what_does_not_fit_into_memory_is_named_with_its_size(options):
    def build(opt):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')

    with pytest.raises(CommandError, match='^LR 8 x 8, batch 3, bf16 does not fit into memory; take a smaller --size'):
        bench(Work(options, size=8, batch=3, precision='bf16'), build)

"""segsr profile: parameters and multiply-adds equal their formulas, time and memory are measured."""

import csv
import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from segsr_arch.layers import swin
from segsr_arch.layers.swin import WindowAttention, position_index, to_heads
from segsr_arch.layers.window_attention import windows_of
from segsr_model.cli import main
from segsr_model.cost.profile_network import Profile, Workload, build, count_multiply_adds, measure, profile
from segsr_model.errors import CommandError


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


def block_formula(n, w, rank):
    """Multiply-adds of a transformer block: n tokens of width w, low-rank pairs on q, k, v and both linears."""
    linears = [(w, w)] * 3 + [(w, 4 * w), (4 * w, w)]
    low_rank = sum(rank * (i + o) for i, o in linears)
    return n * (12 * w * w + low_rank) + 2 * n * n * w


@pytest.mark.parametrize('net, shape, expected', [
    (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 12), 2 * 10 * 12 * 8 * 3 * 9),
    (nn.Conv2d(6, 12, 3, stride=2, groups=3), (1, 6, 9, 9), 4 * 4 * 12 * 2 * 9),
    (nn.Linear(7, 5), (4, 7), 4 * 7 * 5),
    (Attention(), (2, 3, 20, 8), 2 * 3 * 2 * 20 * 20 * 8),
    (nn.TransformerEncoderLayer(16, 4, 64, batch_first=True).eval(), (1, 10, 16), block_formula(10, 16, 0))])
def test_multiply_adds_equal_the_formula(net, shape, expected):
    for frozen in (False, True):
        assert count_multiply_adds(net.requires_grad_(not frozen), torch.rand(shape)) == expected
    assert torch.backends.cuda.flash_sdp_enabled()


def test_multiply_adds_of_hats_attention_are_those_of_heads_without_the_zeros_that_extend_them():
    attention, index = WindowAttention(12, 2, 4, 2, True, 0.0), position_index(4, 4)
    width = 6 + -6 % swin.HEAD_MULTIPLE
    assert to_heads(attention.qkv, torch.rand(5, 12), 2).shape == (5, 3, 2, width) and width > 6
    image, pixels = torch.rand(1, 8, 12, 12), 8 * 12  # six windows of 16
    attention.forward = functools.partial(attention.forward, index=index, windows=windows_of(image, 4, 2))
    assert count_multiply_adds(attention, image) == pixels * (4 * 12 * 12 + 2 * 16 * 12)
    assert to_heads(attention.qkv, torch.rand(5, 12), 2).shape[-1] == width


@pytest.mark.parametrize(('name', 'parameters', 'multiply_adds'), [
    ('TTST', 18_366_555, 85.01 - 3.15),  # four products with the values are one, which project_out has to make anyway
    ('SRFormer', 10_524_495, 53.96)])
def test_networks_of_the_papers_size_cost_what_their_authors_networks_cost(name, parameters, multiply_adds):
    with torch.device('meta'):
        net = ARCH_REGISTRY.get(name)(upscale=4).eval()
        counted = count_multiply_adds(net, torch.rand(1, 3, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert round(counted / 1e9, 2) == pytest.approx(multiply_adds, abs=0.011)


@pytest.mark.parametrize('rank', [0, 4])
def test_multiply_adds_of_clips_tower(network, rank):
    network['semantic']['encoder']['lora_rank'] = rank
    net = build(network)
    # 12 x 8 LR pixels at x4 in patches of 8: a grid of 6 x 4 and the class token; 2 blocks of width 64, 32 dimensions
    n, w, d = 25, 64, 32
    expected = 24 * 3 * 64 * w + 2 * block_formula(n, w, rank) + n * w * d
    assert count_multiply_adds(net.guidance.sfem, torch.rand(1, 3, 12, 8)) == expected


def test_parameters_are_counted_by_whether_they_are_trained(network):
    result = profile(network, Workload(16, 12, batch=2, repeat=1))
    net = build(network)
    tower = sum(p.numel() for name, p in net.guidance.sfem.named_parameters() if 'lora_' not in name)
    assert result.frozen == tower
    assert result.trained == sum(p.numel() for p in net.parameters()) - tower
    assert result.random_tower and result.seconds > 0
    assert result.multiply_adds == count_multiply_adds(net, torch.rand(1, 3, 16, 12))  # per image, whatever the batch


def test_a_plain_backbone_costs_what_its_guided_one_costs_without_guidance(network):
    plain = {k: v for k, v in network.items() if k not in ('num_units', 'semantic')}
    work = Workload(12, 12, repeat=1)
    stock = profile({**plain, 'type': 'EDSR'}, work)
    unguided = profile({**network, 'semantic': {'guidance': 'none'}}, work)
    assert stock.multiply_adds == unguided.multiply_adds < profile(network, work).multiply_adds
    assert stock.trained == unguided.trained and stock.frozen == unguided.frozen == 0
    assert not stock.random_tower and not unguided.random_tower


def test_the_median_of_the_runs_after_the_first_counts(monkeypatch):
    ticks = iter([0, 100, 200, 203, 300, 301, 400, 402])
    monkeypatch.setattr('segsr_model.cost.measuring.time.perf_counter', lambda: next(ticks))
    assert measure(nn.Identity(), torch.rand(1), 3)[0] == 2


def test_the_table_and_the_csv(network, tmp_path, capsys):
    heavy = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 256, 'num_block': 16, 'upscale': 4}
    network['semantic']['encoder']['pretrained'] = 'weights that are nowhere'
    for name, options in (('heavy', heavy), ('light', network)):
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump({'network_g': options}))
    files = [str(tmp_path / 'heavy.yml'), str(tmp_path / 'light.yml')]
    path = tmp_path / 'table.csv'
    assert main(['profile', '-opt', *files, '--size', '8', '12', '--repeat', '1', '--csv', str(path)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith('LR 8 x 12 (H x W), batch 1, CPU')
    assert lines[3].split()[:2] == ['heavy', 'EDSR'] and lines[4].split()[:2] == ['light', 'SeGSR_EDSR']
    assert "CLIP's tower has random weights" in out and 'attention; one is two FLOPs' in out
    rows = list(csv.DictReader(path.open()))
    net = build(heavy)
    parameters = sum(p.numel() for p in net.parameters())
    assert float(rows[0]['trained (M)']) == parameters / 1e6 and float(rows[0]['frozen (M)']) == 0
    assert float(rows[0]['multiply-adds (G)']) == count_multiply_adds(net, torch.rand(1, 3, 8, 12)) / 1e9
    heavy_memory, light_memory = (float(row['peak memory (MiB)']) for row in rows)
    assert heavy_memory > parameters * 4 / 2 ** 20 and 0 < light_memory < heavy_memory  # a process each: no sum
    assert float(rows[1]['images/s']) == pytest.approx(1 / float(rows[1]['s/image']))


@pytest.mark.parametrize('change, message', [
    (['-opt', 'none.yml'], "cannot read the option file 'none.yml'"),
    (['-opt', 'empty.yml'], "'empty.yml' has no network_g with a type"),
    (['--size', '0', '8'], '--size must be at least 1'),
    (['--repeat', '0'], '--repeat must be at least 1'),
    (['--csv', 'table.txt'], "'table.txt' must end in .csv"),
    (['--csv', 'mine.csv'], "'mine.csv' exists and holds something else"),
    (['-opt', 'typo.yml'], "'typo.yml': network_g: unknown option 'num_feats'; did you mean 'num_feat'?"),
    (['--device', 'cuda'], 'PyTorch finds no CUDA device'),
])
def test_bad_input_is_one_line(change, message, network, tmp_path, monkeypatch, capsys, forked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    for name, options in (('net', {'network_g': network}), ('empty', {'name': 'x'}),
                          ('typo', {'network_g': {**network, 'num_feats': 8}})):
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump(options))
    (tmp_path / 'mine.csv').write_text('a,b\n1,2\n')
    assert main(['profile', '-opt', 'net.yml', *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith('segsr profile: error: ') and message in error and error.count('\n') == 1
    assert (tmp_path / 'mine.csv').read_text() == 'a,b\n1,2\n' and not (tmp_path / 'table.txt').exists()


def test_a_network_that_fails_takes_nothing_from_the_others(network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('net', 'wrong'):
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump({'network_g': network}))

    def own_process(file, *arguments):
        if file == 'wrong.yml':
            raise CommandError(f"'{file}': it fails")
        return Profile(10, 20, 30, 0.5, 2**20, 'machine', False)

    monkeypatch.setattr('segsr_model.cost.profile.in_own_process', own_process)
    assert main(['profile', '-opt', 'wrong.yml', 'net.yml', '--csv', 'c.csv']) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[3].split()[:2] == ['net', 'SeGSR_EDSR']
    assert len((tmp_path / 'c.csv').read_text().splitlines()) == 2
    assert captured.err == "segsr profile: error: 'wrong.yml': it fails\n"


def test_what_does_not_fit_into_memory_is_named_with_its_size(network, monkeypatch):
    def lack(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr('segsr_model.cost.profile_network.measure', lack)
    with pytest.raises(CommandError, match='^LR 16 x 12, batch 2 does not fit into memory; take a smaller --size'):
        profile(network, Workload(16, 12, batch=2, repeat=1))

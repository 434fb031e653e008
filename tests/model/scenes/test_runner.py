"""Running a network on tiles: the whole image's result, with little memory, in any precision."""

import itertools

import pytest
import torch
from basicsr.archs.edsr_arch import EDSR
from torch import nn

from segsr_model.scenes.runner import Runner, Tile, is_out_of_memory
from segsr_model.scenes.tiles import cut, weighted

HALO = 8  # of the network below: 1 + 2 * 2 + 1, and 2 for what is upsampled


@pytest.fixture
def net():
    return EDSR(3, 3, num_feat=8, num_block=2, upscale=4).eval()


def tiled(runner, lr, core):
    axes = [cut(side, core=core, halo=HALO) for side in lr.shape[-2:]]
    total = torch.zeros(1, 3, *(4 * side for side in lr.shape[-2:]))
    for row, column in itertools.product(*axes):
        result, = runner.run([Tile(lr[..., slice(*row.seen), slice(*column.seen)])])
        total[..., slice(*row.kept.times(4)), slice(*column.kept.times(4))] += weighted(result.sr, row, column, 4)
    return total


@pytest.mark.parametrize('core', [16, 23, 40])
def test_tiles_make_the_whole_image_whatever_their_size(net, core):
    lr = torch.rand(1, 3, 57, 70)
    with torch.no_grad():
        torch.testing.assert_close(tiled(Runner(net), lr, core), net(lr), atol=2e-6, rtol=0)


class Small(nn.Module):
    """A network that has no memory for more than some pixels at once."""

    def __init__(self, net, most):
        super().__init__()
        self.net, self.most, self.calls = net, most, []

    def forward(self, x):
        self.calls.append(len(x))
        if x[:, 0].numel() > self.most:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')
        return self.net(x)


def test_where_memory_is_short_batches_then_tiles_are_halved(net, log):
    tiles = [Tile(torch.rand(1, 3, 48, 64)) for _ in range(4)]
    whole = Runner(net).run(tiles)
    runner = Runner(Small(net, 48 * 64), batch=4)
    assert all(torch.allclose(a.sr, b.sr, atol=2e-6) for a, b in zip(runner.run(tiles), whole))
    assert runner.net.calls == [4, 2, 1, 1, 1, 1]
    runner = Runner(Small(net, 40 * 50), batch=2, halo=HALO)
    assert all(torch.allclose(a.sr, b.sr, atol=2e-6) for a, b in zip(runner.run(tiles), whole))
    said = [record.message for record in log.records]
    assert said[-2:] == ['Not enough memory: tiles are run 1 at a time.',
                         'Not enough memory: tiles are cut into 4 parts.']
    count = len(said)
    runner.run(tiles)
    assert len(log.records) == count  # it remembers


def test_no_memory_for_anything_ends_in_one_line(net):
    with pytest.raises(MemoryError, match='a part of 16 x 12 pixels'):
        Runner(Small(net, 10), halo=HALO).run([Tile(torch.rand(1, 3, 48, 64))])


def test_other_errors_are_not_taken_for_a_lack_of_memory(net):
    assert not is_out_of_memory(RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    with pytest.raises(RuntimeError, match='size of tensor'):
        Runner(net).run([Tile(torch.rand(1, 4, 9, 9))])


def test_what_is_not_finite_is_repeated_in_fp32(net, log, monkeypatch):
    class Overflowing(nn.Module):
        def forward(self, x):
            sr = net(x).float()
            return sr / 0 if torch.is_autocast_enabled('cpu') else sr

    lr = torch.rand(1, 3, 9, 9)
    result, = Runner(Overflowing(), precision='bf16').run([Tile(lr)])
    with torch.no_grad():
        torch.testing.assert_close(result.sr, net(lr))
    assert log.records[-1].message == 'A result in bf16 is not finite: computed again in fp32.'


def test_the_spread_over_flips_and_rotations(net):
    """That of a network whose results turn with the image is 0; its mean is then the result itself."""
    lr = torch.rand(1, 3, 12, 17)
    turning = nn.Upsample(scale_factor=2, mode='nearest')
    result, = Runner(turning, spread=True, self_ensemble=True).run([Tile(lr)])
    assert result.spread.shape == (1, 1, 24, 34) and result.spread.max() < 1e-6
    torch.testing.assert_close(result.sr, turning(lr))
    plain, ensemble = (Runner(net, spread=True, self_ensemble=own).run([Tile(lr)])[0] for own in (False, True))
    with torch.no_grad():
        torch.testing.assert_close(plain.sr, net(lr))
    assert plain.spread.min() > 0 and torch.equal(plain.spread, ensemble.spread)
    assert not torch.equal(plain.sr, ensemble.sr)

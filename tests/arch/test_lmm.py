"""LMM against Eq. 9; it starts neutral."""

import pytest
import torch

from segsr_arch.lmm import LMM
from tests.arch import formulas


def moved(module):
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.3)
    return module


@pytest.mark.parametrize('channels, num_feat', [(1, 8), (8, 8), (1, 180), (3, 5)])
def test_eq_9(channels, num_feat):
    lmm = moved(LMM(guidance_channels=channels, num_feat=num_feat))
    feat, guidance = 3 * torch.randn(2, num_feat, 5, 7) + 1, torch.randn(2, channels, 5, 7)
    torch.testing.assert_close(lmm(feat, guidance), formulas.lmm(lmm.state_dict(), feat, guidance),
                               rtol=1e-4, atol=1e-4)


def test_starts_with_gain_1_and_bias_0_for_any_guidance():
    lmm = LMM(guidance_channels=4, num_feat=6)
    feat, guidance = torch.randn(2, 6, 9, 4), 100 * torch.randn(2, 4, 9, 4)
    gain, bias = lmm.modulation(guidance)
    assert torch.equal(gain, torch.ones(2, 6, 9, 4))
    assert torch.equal(bias, torch.zeros(2, 6, 9, 4))
    torch.testing.assert_close(lmm(feat, guidance), formulas.layer_norm(feat.movedim(1, -1)).movedim(-1, 1))


def test_gain_is_not_written_as_an_increment():
    """A12: with all of gain's weights 0 the output is the bias, not LN(F) + bias."""
    lmm = LMM(guidance_channels=1, num_feat=4)
    with torch.no_grad():
        lmm.gain.bias.zero_()
        lmm.bias.bias.fill_(0.25)
    out = lmm(torch.randn(1, 4, 3, 3), torch.randn(1, 1, 3, 3))
    assert torch.equal(out, torch.full_like(out, 0.25))


def test_normalises_each_pixel_over_its_channels():
    """Adding a number to, or scaling, all channels of a pixel changes nothing, at that pixel or elsewhere."""
    lmm = moved(LMM(guidance_channels=1, num_feat=16))
    feat, guidance = torch.randn(1, 16, 4, 4), torch.randn(1, 1, 4, 4)
    changed = feat.clone()
    changed[..., 2, 1] = 5 * changed[..., 2, 1] - 30
    torch.testing.assert_close(lmm(changed, guidance), lmm(feat, guidance), rtol=1e-3, atol=1e-3)


def test_nothing_but_three_convolutions_is_stored():
    """A12: no unused norm leaves buffers behind."""
    lmm = LMM(guidance_channels=1, num_feat=4)
    assert list(lmm.buffers()) == []
    assert set(lmm.state_dict()) == {f'{c}.{p}' for c in ('shared.0', 'gain', 'bias') for p in ('weight', 'bias')}


def test_every_parameter_is_trained():
    lmm = moved(LMM(guidance_channels=1, num_feat=4))
    lmm(torch.randn(1, 4, 6, 6), torch.randn(1, 1, 6, 6)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in lmm.parameters())

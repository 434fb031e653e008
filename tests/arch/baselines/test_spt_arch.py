"""SPT against the official implementation's outputs, gradients and keys, and against its formulas."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from segsr_arch.baselines.hat_arch import ChannelAttention
from segsr_arch.baselines.spt_arch import SPT, pooled
from tests.arch.baselines.official import (
    check_case,
    check_gradients,
    check_manifest,
    check_paper_size,
    golden,
    kept_for_backward,
)

CASES = ['x2', 'x4']
SMALL = {'upscale': 2, 'embed_dim': 16, 'SPTB_num': 1, 'SPAL_num': 1}
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
PLACES = {'layers.0.Self_PPSA_Block.0.pools': 'layers.0.Self_PPSA_Block.0.attn.norm<',
          'low_resolution_residual': 'final_feat1<'}


def small(**changes):
    net = SPT(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


@pytest.mark.parametrize('case', CASES)
def test_equals_the_official_outputs(case):
    check_case(SPT, golden('spt')[0][case], PLACES)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_official_gradients(case):
    check_gradients(SPT, golden('spt')[0][case])


def test_equals_the_official_output_at_paper_size():
    check_paper_size(SPT, golden('spt')[1])


def test_keys_and_shapes_of_the_official_x4():
    check_manifest(SPT, 'spt')


def test_the_defaults_are_the_papers():
    with torch.device('meta'):
        assert sum(p.numel() for p in SPT(upscale=2).parameters()) == 3063660


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 13), (4, 5), (30, 31)])
@pytest.mark.parametrize('upscale', [2, 3])
def test_any_size(size, upscale):
    with torch.inference_mode():
        hr = small(upscale=upscale)(torch.rand(1, 3, *size))
    assert hr.shape == (1, 3, upscale * size[0], upscale * size[1]) and hr.isfinite().all()


def test_sides_below_5_are_padded_by_reflection_which_is_cut_off():
    net, lr = small(), torch.rand(1, 3, 4, 6)
    with torch.no_grad():
        assert torch.equal(net(lr), net(F.pad(lr, (0, 0, 0, 1), mode='reflect'))[..., :8, :12])


@pytest.mark.parametrize('size', [(8, 8), (5, 7)])
def test_batch_equals_one_by_one_in_any_layout(size):
    net, lr = small(), torch.rand(3, 3, *size)
    with torch.no_grad():
        expected = torch.cat([net(x[None]) for x in lr])
        for image in (lr, lr.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-5)
        net.to(memory_format=torch.channels_last)
        torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-5)


def test_all_norms_have_swins_epsilon():
    """The golden vectors cannot tell 1e-5 from 1e-6."""
    norms = [module for module in small().modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5
    for norm in norms:
        x = 1e-3 * torch.randn(4, *norm.normalized_shape)
        plain = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(norm(x), plain * norm.weight + norm.bias)


@pytest.mark.parametrize('size', [(8, 6), (20, 12), (5, 9)])
def test_pooled_image(size):
    """Average plus maximum, of the pixels as rows of another length, and a convolution of that added to it."""
    h, w = size
    convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, groups=3) for _ in range(3))
    x = torch.randn(2, h, w, 3)
    places = torch.arange(h * w).view(w, h)
    expected = []
    for conv, ratio in zip(convs, (2, 4, 8)):
        rows, columns = round(w / ratio), round(h / ratio)
        scale = torch.empty(2, 3, rows, columns)
        for i in range(rows):
            for j in range(columns):
                some = places[i * w // rows:-(-(i + 1) * w // rows), j * h // columns:-(-(j + 1) * h // columns)]
                pixels = x.flatten(1, 2)[:, some.flatten()]
                scale[:, :, i, j] = pixels.mean(1) + pixels.amax(1)
        expected.append((scale + conv(scale)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(pooled(x, convs), torch.cat(expected, 1))


@pytest.mark.parametrize(('upscale', 'img_range'), [(2, 1.0), (3, 1.0), (4, 255.0)])
def test_what_becomes_of_the_image_itself(upscale, img_range):
    """A network that adds nothing gives the enlarged image, divided by the range, and the mean, once too often."""
    net, lr = small(upscale=upscale, img_range=img_range), torch.rand(1, 3, 6, 8)
    for last in (net.conv_last, net.final_feat2):
        last.weight.data.zero_()
        last.bias.data.zero_()
    enlarged = F.interpolate(lr, scale_factor=upscale, mode='bilinear', align_corners=False)
    torch.testing.assert_close(net(lr), enlarged / img_range + MEAN)


def test_only_three_channels_have_a_mean():
    assert not small(in_chans=4).mean.any() and torch.equal(small().mean, MEAN)
    assert small(in_chans=4)(torch.rand(1, 4, 5, 6)).shape == (1, 4, 10, 12)


@pytest.mark.parametrize('changes', [{}, {'qkv_bias': False, 'patch_norm': False}, {'upscale': 3}])
def test_every_parameter_gets_a_gradient(changes):
    net = small(**changes)
    for module in net.modules():
        if isinstance(module, ChannelAttention):
            module.attention[1].bias.data.fill_(1.0)  # else all of its few rectifiers may be at 0
    net(torch.rand(1, 3, 8, 11)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_recomputing_saves_memory_and_draws_the_same_dropout():
    results, lr = [], torch.rand(1, 3, 12, 12)
    weights = small(SPAL_num=2).state_dict()
    for use_checkpoint in (False, True):
        net = SPT(**{**SMALL, 'SPAL_num': 2}, drop_rate=0.2, use_checkpoint=use_checkpoint)
        net.load_state_dict(weights)
        torch.manual_seed(0)
        hr, kept = kept_for_backward(net, lr)
        hr.square().mean().backward()
        results.append((hr, [p.grad for p in net.parameters()], kept))
    (hr, gradients, kept), (hr_again, gradients_again, kept_again) = results
    assert torch.equal(hr, hr_again) and kept_again < 0.6 * kept
    for gradient, other in zip(gradients, gradients_again):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7)


def test_dropout_acts_in_training_only():
    net, lr = small(drop_rate=0.2), torch.rand(1, 3, 8, 8)
    assert torch.equal(net(lr), net(lr))
    net.train()
    assert not torch.equal(net(lr), net(lr))


def test_scale_of_attention():
    net, lr = small(), torch.rand(1, 3, 8, 8)
    scaled = SPT(**SMALL, qk_scale=0.25).eval()
    scaled.load_state_dict(net.state_dict())
    torch.testing.assert_close(scaled(lr), net(lr), rtol=0, atol=1e-6)
    other = SPT(**SMALL, qk_scale=4.0).eval()
    other.load_state_dict(net.state_dict())
    assert not torch.allclose(other(lr), net(lr), rtol=0, atol=1e-6)


def test_options_without_effect():
    net, lr = small(), torch.rand(1, 3, 8, 8)
    other = SPT(**SMALL, img_size=[64, 64], patch_size=2, num_head=5, drop_path_rate=0.5, attn_drop_rate=0.5,
                resi_connection='3conv')
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.train()(lr), net(lr))


def test_mixed_precision_is_near():
    net, lr = small(), torch.rand(1, 3, 8, 12)
    expected = net(lr)
    with torch.autocast('cpu', torch.bfloat16):
        hr = net(lr)
    torch.testing.assert_close(hr.float(), expected, rtol=0, atol=0.05)
    hr.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_nothing_is_left_from_one_call_for_the_next():
    net, lr = small(), torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = net(lr)
        net(torch.rand(2, 3, 5, 9))
    hr = net(lr)
    hr.mean().backward()
    torch.testing.assert_close(hr, expected, rtol=0, atol=0)


@pytest.mark.parametrize(('options', 'words'), [
    ({'upscale': 5}, 'SPT: upscale is 5; there are 3 and the powers of two'),
    ({'upscale': 0}, 'SPT: upscale is 0; there are'), ({'upscale': -4}, 'SPT: upscale is -4; there are'),
    ({'embed_dim': 15}, 'SPT: embed_dim is 15, must be at least 16'),
    ({'SPTB_num': 0}, 'SPT: SPTB_num is 0, must be at least 1'),
    ({'SPAL_num': 0}, 'SPT: SPAL_num is 0, must be at least 1'),
    ({'ape': True}, 'SPT: ape is true; its embedding would never be used, so it must be false'),
    ({'upsampler': 'nearest'}, "SPT: upsampler is 'nearest'; there is pixelshuffle")])
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(ValueError, match=words):
        SPT(**{**SMALL, **options})


def test_misspelt_option():
    with pytest.raises(TypeError, match='CPTB_num'):
        SPT(**SMALL, CPTB_num=6)

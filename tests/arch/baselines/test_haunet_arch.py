"""HAUNet against the official implementation's outputs, gradients and keys, and against its formulas."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange

from segsr_arch.baselines.haunet_arch import CEMBlock, HAUNet, SCEMBlock, pixel_attention
from tests.arch.baselines.official import (
    check_case,
    check_gradients,
    check_manifest,
    check_paper_size,
    golden,
    kept_for_backward,
)

CASES = ['x2', 'x4']
SMALL = {'up_scale': 2, 'width': 8, 'middle_blk_num': 2, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}
UNUSED = [f'lateral_nafblock.qkv.0.project_out2.{name}' for name in ('weight', 'bias')]


def small(**changes):
    net = HAUNet(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize('case', CASES)
def test_equals_the_official_outputs(case):
    check_case(HAUNet, golden('haunet')[0][case])


@pytest.mark.parametrize('case', CASES)
def test_equals_the_official_gradients(case):
    check_gradients(HAUNet, golden('haunet')[0][case])


def test_equals_the_official_output_at_paper_size():
    check_paper_size(HAUNet, golden('haunet')[1])


def test_keys_and_shapes_of_the_official_x4():
    net = check_manifest(HAUNet, 'haunet')
    assert list(net.buffers()) == []


def test_the_defaults_are_the_papers():
    with torch.device('meta'):
        assert sum(p.numel() for p in HAUNet(up_scale=2).parameters()) == 2630786
        assert sum(p.numel() for p in HAUNet(width=180).parameters()) == pytest.approx(9.06e6, rel=1e-3)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 13), (2, 3), (31, 30)])
@pytest.mark.parametrize('up_scale', [2, 3])
def test_any_size(size, up_scale):
    with torch.inference_mode():
        hr = small(up_scale=up_scale)(torch.rand(1, 3, *size))
    assert hr.shape == (1, 3, up_scale * size[0], up_scale * size[1]) and hr.isfinite().all()


def test_padding_is_reflection_and_is_cut_off():
    """What is added to the enlarged image comes of the padded one; the image itself is enlarged as it is."""
    net, lr = small(), torch.rand(1, 3, 6, 7)
    padded = F.pad(lr, (0, 1, 0, 2), mode='reflect')

    def enlarged(image):
        return F.interpolate(image, scale_factor=2, mode='bilinear', align_corners=False)

    with torch.no_grad():
        expected = enlarged(lr) + (net(padded) - enlarged(padded))[..., :12, :14]
        torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', [(8, 8), (5, 7)])
def test_batch_equals_one_by_one_in_any_layout(size):
    net, lr = small(heads=[2, 2, 4]), torch.rand(3, 3, *size)
    with torch.no_grad():
        expected = torch.cat([net(x[None]) for x in lr])
        for image in (lr, lr.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-5)
        net.to(memory_format=torch.channels_last)
        torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('block', [CEMBlock, SCEMBlock])
def test_a_block_starts_as_the_identity(block):
    x = torch.rand(2, 8, 4, 6)
    assert torch.equal(block(8, 2)(x), x)


def test_attention_to_pixels_with_several_heads():
    """The official configurations have one head where pixels attend to pixels."""
    q, k, v = torch.randn(3, 2, 8, 3, 4).unbind()
    temperature = torch.tensor([0.5, 3.0]).view(2, 1, 1)
    expected = torch.empty_like(v)
    for image in range(2):
        for head in range(2):
            some = slice(4 * head, 4 * head + 4)
            a, b, c = (t[image, some].flatten(1).T for t in (q, k, v))
            scores = temperature[head] * (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
            expected[image, some] = (scores.clamp(min=0).softmax(1) @ c).T.unflatten(1, (3, 4))
    tokens = (rearrange(t, 'b (m c) h w -> b m (h w) c', m=2) for t in (q, k, v))
    out = rearrange(pixel_attention(*tokens, temperature), 'b m (h w) c -> b (m c) h w', h=3)
    torch.testing.assert_close(out, expected)


def test_every_trained_parameter_gets_a_gradient():
    net = small()
    net(torch.rand(1, 3, 8, 12)).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == UNUSED == [name for name, p in net.named_parameters() if not p.requires_grad]


def test_what_is_frozen_is_not_used():
    net, lr = small(), torch.rand(1, 3, 8, 8)
    expected = net(lr)
    for name in UNUSED:
        net.get_parameter(name).data.fill_(float('nan'))
    assert torch.equal(net(lr), expected)


def test_memory_does_not_grow_with_the_square_of_the_pixels():
    net = small()
    (_, few), (_, many) = (kept_for_backward(net, torch.rand(1, 3, side, side)) for side in (24, 48))
    assert many < 4.5 * few  # 4 times the pixels


def test_mixed_precision_is_near():
    net, lr = small(), torch.rand(1, 3, 8, 12)
    expected = net(lr)
    with torch.autocast('cpu', torch.bfloat16):
        hr = net(lr)
    torch.testing.assert_close(hr.float(), expected, rtol=0, atol=0.05)
    hr.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def test_nothing_is_left_from_one_call_for_the_next():
    net, lr = small(), torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = net(lr)
        net(torch.rand(2, 3, 5, 9))
    hr = net(lr)
    hr.mean().backward()
    torch.testing.assert_close(hr, expected, rtol=0, atol=0)


@pytest.mark.parametrize(('options', 'words'), [
    ({'up_scale': 0}, 'HAUNet: up_scale is 0, must be at least 1'),
    ({'middle_blk_num': -1}, 'HAUNet: middle_blk_num is -1, must be at least 0'),
    ({'enc_blk_nums': [1, -1]}, r'HAUNet: enc_blk_nums is \[1, -1\], must be 2 numbers, none below 0'),
    ({'enc_blk_nums': [1, 1, 1]}, r'HAUNet: enc_blk_nums is \[1, 1, 1\], must be 2 numbers'),
    ({'dec_blk_nums': [1]}, r'HAUNet: dec_blk_nums is \[1\], must be 2 numbers'),
    ({'heads': [1, 2]}, r'HAUNet: heads is \[1, 2\], must be 3 numbers'),
    ({'heads': [1, 3, 4]}, 'HAUNet: width 8 does not divide by 3; it must, by each of heads and by 2'),
    ({'heads': [0, 2, 4]}, 'HAUNet: width 8 does not divide by 0'),
    ({'width': 9, 'heads': [1, 3, 9]}, 'HAUNet: width 9 does not divide by 2')])
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(ValueError, match=words):
        HAUNet(**{**SMALL, **options})


def test_misspelt_option():
    with pytest.raises(TypeError, match='upscale'):
        HAUNet(**SMALL, upscale=4)

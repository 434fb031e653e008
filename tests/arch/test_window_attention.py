"""Windowed attention against full matrices, values and gradients, and the whole network against a plain one."""

import copy

import pytest
import torch

from segsr_arch import window_attention as module
from segsr_arch.hat_arch import HAT, shift_mask, window_kinds
from segsr_arch.segsr_arch import SeGSR_HAT
from segsr_arch.window_attention import window_attention
from tests.conftest import SMALL
from tests.plain.network import make_plain, mask_of, windows_of


def full_matrices(q, k, v, bias, kinds):
    """The definition, in float64."""
    q, k, v, bias = (t.double() for t in (q, k, v, bias))
    scores = torch.einsum('bwnmc,bwlmc->bwmnl', q, k) / q.shape[-1]**0.5 + bias[list(kinds)]
    return torch.einsum('bwmnl,bwlmc->bwnmc', scores.softmax(-1), v)


def inputs(keys=9):
    q, k, v = (torch.randn(2, 6, n, 2, 5, requires_grad=True) for n in (4, keys, keys))
    return q, k, v, torch.randn(3, 2, 4, keys, requires_grad=True), (0, 0, 1, 0, 0, 2)


@pytest.mark.parametrize('keys', [4, 9])
@pytest.mark.parametrize('chunk', [1, 2 * 4 * 9 * 2, 2**19])
def test_values_and_gradients_are_those_of_full_matrices(chunk, keys, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    *tensors, kinds = inputs(keys)
    out, expected = window_attention(*tensors, kinds), full_matrices(*tensors, kinds)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad((out * direction).sum(), tensors)
    wanted = torch.autograd.grad((expected * direction).sum(), tensors)
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_gpus_way_gives_the_same(monkeypatch):
    *tensors, kinds = inputs()
    one_kind = (*tensors[:3], tensors[3][:1], (0,) * 6)
    expected = [window_attention(*tensors, kinds), window_attention(*one_kind)]
    monkeypatch.setattr(module, 'WINDOWWISE', ())
    for ours, theirs in zip([window_attention(*tensors, kinds), window_attention(*one_kind)], expected):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_strided_inputs_and_half_precision():
    packed = torch.randn(2, 6, 4, 3, 2, 5).bfloat16()
    bias = torch.randn(1, 2, 4, 4)
    q, k, v = packed.unbind(3)
    out = window_attention(q, k, v, bias, (0,) * 6)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), full_matrices(q, k, v, bias, (0,) * 6), atol=0.03, rtol=0.03)


@pytest.mark.parametrize('size', [(8, 12), (4, 8), (4, 4)])
def test_four_kinds_of_windows_make_the_shift_mask_of_any_image(size):
    mask = shift_mask(4, 2, torch.device('cpu'))[list(window_kinds(size[0] // 4, size[1] // 4)), 0]
    assert torch.equal(mask, mask_of(*size, 4, 2, 'cpu'))


def test_windows_are_counted_row_by_row():
    image = torch.arange(8 * 12).float().view(1, 8, 12, 1)
    assert windows_of(image, 4)[4, :, 0].min() == 4 * 12 + 4  # second row, second column


@pytest.mark.parametrize('checkpointed', [False, True])
def test_the_network_equals_the_plain_one_in_outputs_and_gradients(tiny_clip, checkpointed):
    net = SeGSR_HAT(**SMALL['SeGSR_HAT'], upscale=2, num_units=2, use_checkpoint=checkpointed, semantic={
        'encoder': {'model': str(tiny_clip.model), 'pretrained': str(tiny_clip.weights), 'lora_rank': 4}})
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    plain = make_plain(copy.deepcopy(net.double()))
    lr = torch.rand(2, 3, 9, 16, dtype=torch.float64)
    ours, theirs = net(lr), plain(lr)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    direction = torch.randn_like(ours)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    for (name, p), q in zip(net.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None), name
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-8, rtol=1e-7, msg=name)


def test_the_memory_of_a_mask_does_not_grow_with_the_image():
    net = HAT(**SMALL['SeGSR_HAT'], upscale=2)
    shift_mask.cache_clear()
    with torch.no_grad():
        for size in (8, 16, 32):
            net(torch.rand(1, 3, size, size))
    assert shift_mask.cache_info().misses == 1

"""Windowed attention against full matrices, values and gradients, and the whole network against a plain one."""

import copy

import pytest
import torch

from segsr_arch import window_attention as module
from segsr_arch.hat_arch import HAT, shift_mask
from segsr_arch.segsr_arch import SeGSR_HAT
from segsr_arch.window_attention import window_attention
from tests.conftest import SMALL
from tests.plain.network import make_plain, mask_of, windows_of

SIDE = 2


def full_matrices(q, k, v, bias, mask=None):
    """The definition, in float64."""
    q, k, v, bias = (t.double() for t in (q, k, v, bias))
    (_, h, w, _, _), side, overlap = q.shape, SIDE, int(bias.shape[-1]**0.5)
    out = torch.zeros_like(q)
    for y in range(0, h, side):
        for x in range(0, w, side):
            q_ = q[:, y:y + side, x:x + side].flatten(1, 2)
            k_, v_ = (t[:, y:y + overlap, x:x + overlap].flatten(1, 2) for t in (k, v))
            scores = torch.einsum('bnmc,blmc->bmnl', q_, k_) / q.shape[-1]**0.5 + bias
            if mask is not None:
                scores = scores + mask[2 * (y + side == h) + (x + side == w)]
            attended = torch.einsum('bmnl,blmc->bnmc', scores.softmax(-1), v_).unflatten(1, (side, side))
            out = out.index_put((torch.arange(2)[:, None, None], torch.arange(y, y + side)[:, None],
                                 torch.arange(x, x + side)), attended)
    return out


def inputs(overlap=3, masked=False, columns=3):
    q, k, v = (torch.randn(2, 4 + o, SIDE * columns + o, 2, 5, requires_grad=True)
               for o in (0, overlap - SIDE, overlap - SIDE))
    bias = torch.randn(2, SIDE**2, overlap**2, requires_grad=True)
    return q, k, v, bias, torch.randn(4, 1, SIDE**2, overlap**2) if masked else None


CASES = [(2, False, 3), (2, True, 3), (2, True, 1), (3, False, 3), (4, True, 3)]


@pytest.mark.parametrize(('overlap', 'masked', 'columns'), CASES)
@pytest.mark.parametrize('chunk', [1, 2 * 4 * 9 * 2, 2**19])
def test_values_and_gradients_are_those_of_full_matrices(chunk, overlap, masked, columns, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    *tensors, mask = inputs(overlap, masked, columns)
    out, expected = window_attention(*tensors, mask), full_matrices(*tensors, mask)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad((out * direction).sum(), tensors)
    wanted = torch.autograd.grad((expected * direction).sum(), tensors)
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(('overlap', 'masked', 'columns'), CASES)
def test_the_gpus_way_gives_the_same(overlap, masked, columns, monkeypatch):
    *tensors, mask = inputs(overlap, masked, columns)
    expected = window_attention(*tensors, mask)
    monkeypatch.setattr(module, 'WINDOWWISE', ())
    out = window_attention(*tensors, mask)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(out)
    gradients, wanted = (torch.autograd.grad((each * direction).sum(), tensors) for each in (out, expected))
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_strided_inputs_and_half_precision():
    q, k, v = torch.randn(2, 4, 6, 3, 2, 5).bfloat16().unbind(3)
    bias, mask = torch.randn(2, 4, 4), torch.randn(4, 1, 4, 4)
    out = window_attention(q, k, v, bias, mask)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), full_matrices(q, k, v, bias, mask), atol=0.03, rtol=0.03)


@pytest.mark.parametrize(('rows', 'columns'), [(2, 3), (1, 2), (1, 1)])
def test_four_kinds_of_windows_make_the_shift_mask_of_any_image(rows, columns):
    kinds = [2 * (y == rows - 1) + (x == columns - 1) for y in range(rows) for x in range(columns)]
    mask = shift_mask(4, 2, torch.device('cpu'))[kinds, 0]
    assert torch.equal(mask, mask_of(4 * rows, 4 * columns, 4, 2, 'cpu'))


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

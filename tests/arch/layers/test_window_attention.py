"""Windowed attention against full matrices, values and gradients, and the whole network against a plain one."""

import copy

import pytest
import torch

from segsr_arch.layers import window_attention as module
from segsr_arch.layers.window_attention import window_attention, windows_of
from segsr_arch.segsr_arch import SeGSR_HAT
from tests.conftest import SMALL
from tests.plain import network as plain_network
from tests.plain.network import make_plain, mask_of

WINDOWS = 5


def full_matrices(q, k, v, bias, mask=None, counts=()):
    """The definition, in float64."""
    q, k, v, bias = (t.double() for t in (q, k, v, bias))
    k, v = (t.reshape(len(q), -1, *q.shape[2:]) for t in (k, v))
    scores = torch.einsum('wnmc,wlmc->wmnl', q, k) / q.shape[-1]**0.5 + bias
    if mask is not None:
        scores = scores + mask.repeat_interleave(torch.tensor(counts), 0)
    return torch.einsum('wmnl,wlmc->wnmc', scores.softmax(-1), v)


def inputs(keys=4, counts=(), overlapping=False):
    """Five windows of four queries of two heads with five channels, and what is added to their products."""
    q, k, v = (torch.randn(WINDOWS, n, 2, 5, requires_grad=True) for n in (4, keys, keys))
    if overlapping:  # two of three neighbouring rows of ``keys / 2`` pixels
        k, v = (torch.randn(WINDOWS + 1, keys // 2, 2, 5, requires_grad=True) for _ in range(2))
    bias = torch.randn(2, 4, keys, requires_grad=True)
    return q, k, v, bias, torch.randn(len(counts), 1, 4, keys) if counts else None


def seen(tensors, overlapping):
    """The tensors as attention gets them: keys and values perhaps as overlapping views."""
    q, k, v, bias = tensors
    return (q, *(t.unfold(0, 2, 1).permute(0, 4, 1, 2, 3) if overlapping else t for t in (k, v)), bias)


def assert_same_gradients(out, expected, tensors):
    direction = torch.randn_like(out)
    ours, wanted = (torch.autograd.grad((each * direction).sum(), tensors) for each in (out, expected))
    for gradient, other in zip(ours, wanted):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)


CASES = [(4, (), False), (9, (), False), (6, (), True), (4, (1, 2, 1, 1), False), (4, (0, 4, 0, 1), False),
         (6, (3, 2), True)]


@pytest.mark.parametrize(('keys', 'counts', 'overlapping'), CASES)
@pytest.mark.parametrize('chunk', [1, 2 * 4 * 9 * 2, 2**19])
def test_values_and_gradients_are_those_of_full_matrices(chunk, keys, counts, overlapping, monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    *tensors, mask = inputs(keys, counts, overlapping)
    out, expected = (attention(*seen(tensors, overlapping), mask, counts)
                     for attention in (window_attention, full_matrices))
    with torch.no_grad():
        torch.testing.assert_close(window_attention(*seen(tensors, overlapping), mask, counts), out)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
    assert_same_gradients(out, expected, tensors)


@pytest.mark.parametrize(('keys', 'counts', 'overlapping'), CASES)
def test_the_gpus_way_gives_the_same(keys, counts, overlapping, monkeypatch):
    *tensors, mask = inputs(keys, counts, overlapping)
    expected = window_attention(*seen(tensors, overlapping), mask, counts)
    monkeypatch.setattr(module, 'WINDOWWISE', ())
    out = window_attention(*seen(tensors, overlapping), mask, counts)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    assert_same_gradients(out, expected, tensors)


def test_strided_inputs_and_half_precision():
    q, k, v = torch.randn(WINDOWS, 4, 3, 2, 5).bfloat16().unbind(2)
    bias, mask = torch.randn(2, 4, 4), torch.randn(2, 1, 4, 4)
    out = window_attention(q, k, v, bias, mask, (2, 3))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), full_matrices(q, k, v, bias, mask, (2, 3)), atol=0.03, rtol=0.03)


def test_the_bias_gets_a_gradient_summed_in_fp32(monkeypatch):
    """In bf16, of which 256 + 1 is 256, the gradients of many windows would vanish in their sum."""
    monkeypatch.setattr(module, 'CHUNK', 1)
    q, k, v = torch.zeros(300, 1, 1, 8), torch.zeros(300, 2, 1, 8), torch.tensor([1.0, 0]).view(1, 2, 1, 1)
    q, k, v = (t.bfloat16().expand(300, -1, -1, 8).contiguous() for t in (q, k, v))
    bias = torch.zeros(1, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    window_attention(q, k, v, bias).sum().backward()  # 8 channels, of which each gives +-1/4
    assert bias.grad.flatten().tolist() == [600, -600]


def test_a_second_derivative_is_refused():
    *tensors, _ = inputs()
    first, = torch.autograd.grad(window_attention(*tensors).square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()


def test_keys_that_overlap_are_not_copied_for_backward():
    *tensors, _ = inputs(6, (), True)
    q, k, v, bias = seen(tensors, True)
    saved = window_attention(q, k, v, bias).grad_fn.saved_tensors
    for kept, given in zip(saved[1:3], tensors[1:3]):
        assert kept.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()


@pytest.mark.parametrize(('side', 'shift'), [(4, 0), (4, 2), (5, 2), (5, 0)])
@pytest.mark.parametrize(('rows', 'columns'), [(2, 3), (1, 2), (3, 1), (1, 1)])
def test_windows_are_those_of_the_plain_network_in_order_of_their_kinds(rows, columns, side, shift):
    height, width = side * rows, side * columns
    image = torch.rand(2, height, width, 3, requires_grad=True)
    windows = windows_of(image, side, shift)
    cut, plain = windows.cut(image), plain_network.windows_of(image.roll((-shift, -shift), (1, 2)), side)
    order = (cut[:, None] == plain).all(-1).all(-1).int().argmax(1)
    assert sorted(order.tolist()) == list(range(2 * rows * columns))
    assert torch.equal(cut, plain[order])
    assert torch.equal(windows.join(cut, image), image)
    if shift:
        kinds = torch.arange(4).repeat_interleave(torch.tensor(windows.counts))
        assert windows.mask.shape == (4, 1, side**2, side**2)  # whatever the image's size
        expected = mask_of(height, width, side, shift, 'cpu').repeat(2, 1, 1)[order]
        assert torch.equal(windows.mask[kinds, 0], expected)
    else:
        assert windows.mask is None
    assert_same_gradients(cut, plain[order], [image])
    weights = torch.rand_like(cut)
    joined = windows.join(windows.cut(image) * weights, image)
    assert_same_gradients(joined, image * windows.join(weights, image), [image])


@pytest.mark.parametrize(('side', 'shift'), [(4, 0), (4, 2), (6, 3)])
def test_windows_of_cells(side, shift):
    """Pixels come cell by cell; a key is a cell, and one that straddles the image's end counts as wrapped around."""
    image = torch.rand(1, 2 * side, 3 * side, 3)
    windows, plain = windows_of(image, side, shift, 2), windows_of(image, side, shift)
    assert windows.counts == plain.counts and torch.equal(windows.join(windows.cut(image), image), image)
    order = [(y + dy) * side + x + dx for y in range(0, side, 2) for x in range(0, side, 2)
             for dy in (0, 1) for dx in (0, 1)]
    assert torch.equal(windows.cut(image), plain.cut(image)[:, order])
    if not shift:
        assert windows.mask is None
        return
    assert windows.mask.shape == (4, 1, side**2, side**2 // 4)
    for kind, (rows, columns) in enumerate([(False, False), (False, True), (True, False), (True, True)]):
        for query, pixel in enumerate(order):
            for key in range(side**2 // 4):
                place, cell = divmod(pixel, side), divmod(key, side // 2)
                torn = [last and (place[i] >= side - shift) != (2 * cell[i] + 1 >= side - shift)
                        for i, last in enumerate((rows, columns))]
                assert windows.mask[kind, 0, query, key] == (-100 if any(torn) else 0)


def test_windows_are_counted_row_by_row():
    image = torch.arange(8 * 12).float().view(1, 8, 12, 1)
    assert plain_network.windows_of(image, 4)[4, :, 0].min() == 4 * 12 + 4  # second row, second column


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

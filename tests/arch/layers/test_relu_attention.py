"""Rectified softmax attention against its formula, and what it keeps."""

import pytest
import torch

from segsr_arch.layers import relu_attention as module
from segsr_arch.layers.relu_attention import relu_attention


def formula(q, k, v):
    return (q @ k.transpose(1, 2)).relu().softmax(-1) @ v


def inputs(*, dtype=torch.float32, n=37, sizes=(5, 5, 7)):
    return [torch.randn(3, n, size, dtype=dtype, requires_grad=True) for size in sizes]


@pytest.mark.parametrize(('chunk', 'least'), [(2**20, 64), (3 * 37 * 4, 4), (37 * 37 * 2, 4), (1, 1), (1, 10), (1, 64)])
def test_equals_the_formula_however_it_is_worked_off(monkeypatch, chunk, least):
    """All at once, some rows of an image, two of three images, one row, 10 of 37 rows, one image."""
    monkeypatch.setattr(module, 'CPU_CHUNK', chunk)
    monkeypatch.setattr(module, 'LEAST_QUERIES', least)
    leaves = inputs()
    gradient = torch.randn(3, 37, 7)
    out, expected = relu_attention(*leaves), formula(*leaves)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    for own, other in zip(torch.autograd.grad(out, leaves, gradient), torch.autograd.grad(expected, leaves, gradient)):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_the_parts_are_bounded_and_cover_everything_once(monkeypatch):
    monkeypatch.setattr(module, 'CPU_CHUNK', 1000)
    monkeypatch.setattr(module, 'LEAST_QUERIES', 4)
    for images, n in [(5, 10), (5, 20), (2, 100), (1, 999), (3, 1)]:
        done = torch.zeros(images, n)
        for part in module._parts(done[..., None]):
            done[part] += 1
            assert done[part].numel() * n <= max(1000, 4 * n)
        assert (done == 1).all()


def test_gradients_are_those_of_differences(monkeypatch):
    monkeypatch.setattr(module, 'CPU_CHUNK', 20)
    monkeypatch.setattr(module, 'LEAST_QUERIES', 2)
    assert torch.autograd.gradcheck(relu_attention, inputs(dtype=torch.float64, n=5, sizes=(3, 3, 2)))


def test_no_matrix_is_kept_for_backward():
    kept, leaves = [], inputs(n=200)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        relu_attention(*leaves)
    assert sum(kept) == sum(t.numel() for t in leaves)


def test_in_half_precision_sums_over_parts_are_in_single(monkeypatch):
    monkeypatch.setattr(module, 'CPU_CHUNK', 1)
    monkeypatch.setattr(module, 'LEAST_QUERIES', 1)
    leaves = [t.detach().bfloat16().requires_grad_() for t in inputs(n=100)]
    exact = [t.detach().float().requires_grad_() for t in leaves]
    relu_attention(*leaves).float().sum().backward()
    formula(*exact).sum().backward()
    torch.testing.assert_close(leaves[2].grad.float(), exact[2].grad, rtol=2e-2, atol=2e-2)
    assert all(t.grad.dtype == torch.bfloat16 for t in leaves)

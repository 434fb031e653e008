"""SLM against Eqs. 5 to 8, in every variant of Table VI."""

import itertools

import pytest
import torch

from segsr_arch.options import LocalizationOptions, OptionError
from segsr_arch.slm import SLM
from tests.arch import formulas

DIM = 24
VARIANTS = [v for v in itertools.product([True, False], repeat=3) if any(v)]


def make(variant=(True, True, True), num_units=3, dim=DIM):
    slm = SLM(dim=dim, num_units=num_units, options=LocalizationOptions(*variant))
    with torch.no_grad():
        for p in slm.parameters():
            p.normal_(std=dim**-0.5 if p.ndim > 1 else 0.5)
    return slm


def reference_embeddings(slm, scene, variant, heads=8):
    """Eqs. 5 to 7 for one scene (d): a list of e_i (d), from the module's weights."""
    s, k = slm.state_dict(), slm.num_units
    units, with_global, with_scene = variant
    context = scene[None]
    if with_global and with_scene:  # Eq. 5
        g = formulas.part(s, 'global_token')
        context = formulas.linear(g, 'mlp.2', formulas.linear(g, 'mlp.0', context).clamp(min=0))
        context = formulas.linear(g, 'scale', context) * g['descriptor'] + formulas.linear(g, 'shift', context)
        context = formulas.linear(g, 'out', context)
    elif with_global:
        context = s['global_token.descriptor'][None]
    tokens = torch.cat(([context] if with_global or with_scene else []) + ([s['unit_descriptors']] if units else []))
    if len(tokens) > 1:  # Eq. 6; a single token has nothing to attend to
        tokens = formulas.self_attention(formulas.part(s, 'attention.attention'), tokens[None], heads)[0]
    f = formulas.part(s, 'fusion')
    if units and (with_global or with_scene):  # Eq. 7
        return [formulas.linear(f, 'out', torch.sigmoid(formulas.linear(f, 'gate', p)) * formulas.linear(
            f, 'value', tokens[0])) for p in tokens[1:]]
    embeddings = [p @ s['fusion.weight'].T + s['fusion.bias'] for p in tokens]
    return embeddings if units else embeddings * k


@pytest.mark.parametrize('num_units', [1, 3, 6])
@pytest.mark.parametrize('variant', VARIANTS)
def test_eqs_5_to_8(variant, num_units):
    slm = make(variant, num_units)
    scene, local = torch.randn(2, DIM), torch.randn(2, DIM, 3, 4)
    maps = slm(scene, local)
    assert maps.shape == (2, num_units, 3, 4)
    for b in range(2):
        embeddings = reference_embeddings(slm, scene[b], variant)
        torch.testing.assert_close(slm.embeddings(scene)[b], torch.stack(embeddings), rtol=1e-4, atol=1e-5)
        for i, y, x in itertools.product(range(num_units), range(3), range(4)):
            expected = formulas.cosine(embeddings[i], local[b, :, y, x])  # A6: norm of each position
            torch.testing.assert_close(maps[b, i, y, x], expected, rtol=1e-4, atol=1e-5)


def test_all_off_is_an_error():
    with pytest.raises(OptionError, match='unit_descriptors, global_descriptor and scene_context'):
        LocalizationOptions(unit_descriptors=False, global_descriptor=False, scene_context=False)


@pytest.mark.parametrize('variant', VARIANTS)
def test_what_a_variant_does_not_need_is_not_there(variant):
    names = {name.split('.')[0] for name, _ in make(variant).named_parameters()}
    units, with_global, with_scene = variant
    assert ('unit_descriptors' in names) == units
    assert ('global_token' in names) == with_global
    assert ('attention' in names) == units


@pytest.mark.parametrize('variant', VARIANTS)
def test_units_differ_where_they_have_descriptors(variant):
    maps = make(variant)(torch.randn(1, DIM), torch.randn(1, DIM, 4, 4))
    assert torch.equal(maps[:, 0], maps[:, 1]) != variant[0]


@pytest.mark.parametrize('variant', VARIANTS)
def test_scene_matters_where_it_is_asked_for(variant):
    slm = make(variant)
    same = torch.allclose(slm.embeddings(torch.randn(1, DIM)), slm.embeddings(torch.randn(1, DIM)))
    assert same != variant[2]


@pytest.mark.parametrize('variant', VARIANTS)
def test_maps_lie_in_minus_1_to_1(variant):
    """A5: also where an embedding points exactly at, or away from, a local feature, and for features of 0."""
    slm = make(variant)
    scene = 1000 * torch.randn(1, DIM)
    e = slm.embeddings(scene)[0, 0].detach()
    local = torch.stack([e, -e, 1e6 * e, 1e-4 * e, torch.zeros(DIM)], dim=-1).view(1, DIM, 1, 5)
    maps = slm(scene, local)
    assert maps.abs().max() <= 1
    torch.testing.assert_close(maps[0, 0, 0], torch.tensor([1.0, -1, 1, 1, 0]), rtol=0, atol=1e-4)


def test_norm_is_per_position():
    """A6: scaling one position's feature changes no map; with a Frobenius norm it would change all."""
    slm = make()
    scene, local = torch.randn(1, DIM), torch.randn(1, DIM, 3, 3)
    scaled = local.clone()
    scaled[..., 1, 2] *= 50
    torch.testing.assert_close(slm(scene, scaled), slm(scene, local), rtol=1e-5, atol=1e-6)


def test_descriptors_are_parameters():
    """A4: in parameters() and state_dict, with a gradient, and the same after save and load."""
    slm = make()
    names = dict(slm.named_parameters())
    assert names['unit_descriptors'].shape == (3, DIM)
    assert names['global_token.descriptor'].shape == (DIM,)
    scene, local = torch.randn(2, DIM), torch.randn(2, DIM, 3, 4)
    (slm(scene, local) * torch.randn(3, 3, 4)).sum().backward()
    assert (names['unit_descriptors'].grad.abs().sum(dim=1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in slm.parameters())

    other = SLM(dim=DIM, num_units=3, options=LocalizationOptions())
    assert not torch.equal(other(scene, local), slm(scene, local))
    other.load_state_dict(slm.state_dict())
    assert torch.equal(other(scene, local), slm(scene, local))


def test_descriptors_start_apart():
    fresh = SLM(dim=64, num_units=6, options=LocalizationOptions())
    similarity = torch.corrcoef(fresh.unit_descriptors.detach()) - torch.eye(6)
    assert similarity.abs().max() < 0.6
    assert 0.8 < fresh.unit_descriptors.std() < 1.2


@pytest.mark.parametrize('dim, heads', [(512, 8), (768, 8), (24, 8), (36, 6), (35, 7), (13, 1), (6, 6), (10, 5)])
def test_heads_are_the_largest_divisor_not_above_8(dim, heads):
    slm = make(dim=dim)
    scene = torch.randn(1, dim)
    assert slm.attention.attention.num_heads == heads
    expected = reference_embeddings(slm, scene[0], (True, True, True), heads)
    torch.testing.assert_close(slm.embeddings(scene)[0], torch.stack(expected), rtol=1e-4, atol=1e-4)

"""The four guidances of Table IV: formulas, a neutral start, and gradients from the first step on."""

import itertools

import pytest
import torch

from tests.arch import formulas

NAMES = ['SeGSR_HAT', 'SeGSR_EDSR', 'SeGSR_RCAN']
KEYS = ('unit_descriptors', 'global_descriptor', 'scene_context')
TABLE_VI = [dict(zip(KEYS, v)) for v in itertools.product([True, False], repeat=3) if any(v)]


def unit_outputs(net, lr):
    """Feature before and after guidance of each unit."""
    pairs, modulate = [], net.guidance.modulate

    def record(i, feat, context):
        out = modulate(i, feat, context)
        pairs.append((feat, out))
        return out

    net.guidance.modulate = record
    net(lr)
    del net.guidance.modulate
    return pairs


def projected(net, i, lr):
    """1 x 1 convolution of I_l to the unit's channels, at the pixels of the LR image."""
    state = formulas.part(net.state_dict(), f'guidance.projection.{i}')
    local = net.semantics(lr)[1]
    low = torch.einsum('od,bdhw->bohw', state['weight'].flatten(1), local) + state['bias'].view(-1, 1, 1)
    pixels = [formulas.to_pixels(plane, *lr.shape[-2:], 8 / net.upscale) for plane in low.flatten(0, 1)]
    return torch.stack(pixels).unflatten(0, low.shape[:2])


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_none(build, upscale):
    """ID 1."""
    net = build('SeGSR_EDSR', guidance='none', upscale=upscale)
    assert list(net.guidance.parameters()) == [] and list(net.guidance.buffers()) == []
    assert all(torch.equal(before, after) for before, after in unit_outputs(net, torch.rand(1, 3, 5, 7)))


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_add(build, upscale):
    """ID 2: each unit has a projection of its own, added to its output."""
    net, lr = build('SeGSR_EDSR', guidance='add', upscale=upscale), torch.rand(2, 3, 7, 5)
    with torch.no_grad():
        for i, (before, after) in enumerate(unit_outputs(net, lr)):
            torch.testing.assert_close(after, before + projected(net, i, lr), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_feature(build, upscale):
    """ID 3: the LMM takes as many channels as the unit has."""
    net, lr = build('SeGSR_EDSR', guidance='feature', upscale=upscale), torch.rand(2, 3, 7, 5)
    with torch.no_grad():
        for i, (before, after) in enumerate(unit_outputs(net, lr)):
            lmm = formulas.part(net.state_dict(), f'guidance.lmm.{i}')
            assert lmm['shared.0.weight'].shape[1] == 8
            expected = formulas.lmm(lmm, before, projected(net, i, lr))
            torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('variant', TABLE_VI)
def test_map(build, variant):
    """ID 4: each unit is modulated by its own map, in each variant of the SLM."""
    net, lr = build('SeGSR_EDSR', localization=variant), torch.rand(2, 3, 7, 5)
    with torch.no_grad():
        maps = net.guidance_maps(lr)
        for i, (before, after) in enumerate(unit_outputs(net, lr)):
            expected = formulas.lmm(formulas.part(net.state_dict(), f'guidance.lmm.{i}'), before, maps[:, i:i + 1])
            torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', NAMES)
def test_starts_neutral(build, name):
    """Added features start at 0, modulation at the plain layer norm, whatever the image."""
    lr = torch.rand(2, 3, 7, 9)
    with torch.no_grad():
        assert all(torch.equal(before, after)
                   for before, after in unit_outputs(build(name, guidance='add', fresh=True), lr))
        for guidance in ('feature', 'map'):
            for before, after in unit_outputs(build(name, guidance=guidance, fresh=True), lr):
                normed = formulas.layer_norm(before.movedim(1, -1)).movedim(-1, 1)
                torch.testing.assert_close(after, normed, rtol=1e-4, atol=1e-4)


def train(net, steps, lr=1e-2):
    """A few steps from a fresh network, as an optimizer would make them; the last gradients are kept."""
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        image = torch.rand(2, 3, 8, 8)
        target = torch.rand(2, 3, 8 * net.upscale, 8 * net.upscale)
        (net(image) - target).abs().mean().backward()
        optimizer.step()


def without_gradient(net):
    return [name for name, p in net.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]


@pytest.mark.parametrize('num_units', [1, 4])
@pytest.mark.parametrize('variant', TABLE_VI)
def test_every_trainable_parameter_gets_a_gradient_in_each_variant(build, variant, num_units):
    net = build('SeGSR_EDSR', localization=variant, num_units=num_units, upscale=2, fresh=True).train()
    train(net, steps=4)
    assert without_gradient(net) == []


@pytest.mark.parametrize('guidance', ['none', 'add', 'feature', 'map'])
@pytest.mark.parametrize('name', NAMES)
def test_the_first_step_already_uses_every_trainable_parameter(build, name, guidance):
    """Plain DDP waits for a gradient, be it 0, of each: there is a path to all of them from the first step."""
    net = build(name, guidance=guidance, upscale=2, fresh=True).train()
    net(torch.rand(1, 3, 8, 8)).mean().backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_unit_descriptors_are_trained_with_the_network(build):
    """A4: each p_i moves once the LMMs have left their neutral start."""
    net = build('SeGSR_EDSR', upscale=2, fresh=True).train()
    start = net.guidance.slm.unit_descriptors.detach().clone()
    train(net, steps=4)
    assert ((net.guidance.slm.unit_descriptors - start).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize('guidance', ['add', 'feature', 'map'])
def test_training_reduces_the_loss(build, guidance):
    net = build('SeGSR_EDSR', guidance=guidance, upscale=2, fresh=True).train()
    lr, hr = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(lr) - hr).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

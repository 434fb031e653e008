"""The whole network against the paper's equations, its guidance maps, precisions and devices."""

import pytest
import torch

import segsr_arch
from tests.arch import formulas

NAMES = ['SeGSR_HAT', 'SeGSR_EDSR', 'SeGSR_RCAN']  # of the paper
OTHERS = ['SeGSR_SRFormer', 'SeGSR_SwinIR', 'SeGSR_TTST']
SIZES = [(1, 1), (7, 13), (12, 8)]


def maps_by_formulas(net, tiny_clip, lr):
    """M_i (Eqs. 1 to 8) of a network with full SLM."""
    state = net.state_dict()
    increment = formulas.lora_increment(formulas.part(state, 'guidance.sfem'), 1.0)
    x = formulas.clip_input(lr, net.upscale, 8)
    tokens = formulas.clip_tokens(tiny_clip.clip.visual.state_dict(), x, 8, 4, formulas.gelu, increment)
    slm = formulas.part(state, 'guidance.slm')
    g, f = formulas.part(slm, 'global_token'), formulas.part(slm, 'fusion')
    grid = [-(-net.upscale * n // 8) for n in lr.shape[-2:]]
    maps = []
    for scene, local in zip(tokens[:, :1], tokens[:, 1:]):
        context = formulas.linear(g, 'mlp.2', formulas.linear(g, 'mlp.0', scene).clamp(min=0))
        p_g = formulas.linear(g, 'out', formulas.linear(g, 'scale', context) * g['descriptor']
                              + formulas.linear(g, 'shift', context))
        p = formulas.self_attention(formulas.part(slm, 'attention.attention'),
                                    torch.cat([p_g, slm['unit_descriptors']])[None], 8)[0]
        for p_i in p[1:]:
            e = formulas.linear(f, 'out', torch.sigmoid(formulas.linear(f, 'gate', p_i))
                                * formulas.linear(f, 'value', p[0]))
            low = torch.stack([formulas.cosine(e, position) for position in local]).view(*grid)
            maps.append(formulas.to_pixels(low, *lr.shape[-2:], 8 / net.upscale))
    return torch.stack(maps).view(len(lr), -1, *lr.shape[-2:])


@pytest.mark.parametrize('upscale, size', [(4, (5, 9)), (2, (8, 8)), (3, (7, 4)), (8, (2, 3))])
def test_whole_network_equals_the_papers_equations(build, tiny_clip, upscale, size):
    """Eqs. 1 to 10 in a row, with EDSR's blocks as they are in BasicSR."""
    net = build('SeGSR_EDSR', upscale=upscale)
    stock, state, lr = net.backbone, net.state_dict(), torch.rand(2, 3, *size)
    with torch.no_grad():
        maps = maps_by_formulas(net, tiny_clip, lr)
        torch.testing.assert_close(net.guidance_maps(lr), maps, rtol=1e-3, atol=1e-3)
        mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)
        feat = skip = stock.conv_first(255 * (lr - mean))
        for i in range(2):
            feat = stock.body[2 * i + 1](stock.body[2 * i](feat))
            feat = formulas.lmm(formulas.part(state, f'guidance.lmm.{i}'), feat, maps[:, i:i + 1])
        expected = stock.conv_last(stock.upsample(stock.conv_after_body(feat) + skip)) / 255 + mean
        torch.testing.assert_close(net(lr), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', NAMES + OTHERS)
def test_padding_of_the_backbone_does_not_move_the_maps(build, name):
    """At a size that the backbone pads, the modulated pixels see the map that `guidance_maps` shows."""
    net, seen, lr = build(name), [], torch.rand(1, 3, 5, 7)
    for lmm in net.guidance.lmm:
        lmm.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad():
        net(lr)
        maps = net.guidance_maps(lr)
    padded = (5, 7) if name in ('SeGSR_EDSR', 'SeGSR_RCAN') else (8, 8)
    assert [tuple(m.shape) for m in seen] == [(1, 1, *padded)] * 2
    assert torch.equal(torch.cat(seen, dim=1)[..., :5, :7], maps)


@pytest.mark.parametrize('upscale', [2, 3, 4, 8])
@pytest.mark.parametrize('name', NAMES)
def test_guidance_maps(build, name, upscale):
    """One per unit, of the LR image's size, in [-1, 1], and not the same for each unit and pixel."""
    net = build(name, upscale=upscale)
    for h, w in SIZES:
        maps = net.guidance_maps(torch.rand(2, 3, h, w))
        assert maps.shape == (2, 2, h, w)
        assert maps.abs().max() <= 1
    assert not torch.allclose(maps[:, 0], maps[:, 1], atol=1e-3)
    assert maps.std(dim=(2, 3)).min() > 1e-3


@pytest.mark.parametrize('guidance', ['add', 'feature', 'map'])
def test_semantics(build, guidance):
    net, lr = build('SeGSR_EDSR', guidance=guidance, upscale=3), torch.rand(2, 3, 7, 9)
    scene, local = net.semantics(lr)
    assert (scene.shape, local.shape) == ((2, 32), (2, 32, 3, 4))
    expected_scene, expected_local = net.guidance.sfem(lr)
    assert torch.equal(scene, expected_scene) and torch.equal(local, expected_local)


@pytest.mark.parametrize('name', NAMES)
def test_what_a_guidance_does_not_have_is_an_error(build, name):
    lr = torch.rand(1, 3, 4, 4)
    with pytest.raises(TypeError, match=f'{name}.*none.*no semantics'):
        build(name, guidance='none').semantics(lr)
    for guidance in ('none', 'add', 'feature'):
        with pytest.raises(TypeError, match=f'{name}.*guidance: map'):
            build(name, guidance=guidance).guidance_maps(lr)


@pytest.mark.parametrize('guidance', ['none', 'add', 'feature', 'map'])
@pytest.mark.parametrize('name', NAMES)
def test_mixed_precision_stays_close(build, name, guidance):
    net, lr = build(name, guidance=guidance), torch.rand(2, 3, 7, 9)
    with torch.no_grad():
        full = net(lr)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            mixed = net(lr).float()
    assert mixed.isfinite().all()
    assert (mixed - full).abs().mean() < 0.05 * full.std()


@pytest.mark.parametrize('name', NAMES + OTHERS)
def test_mixed_precision_costs_less_than_a_hundredth_of_a_decibel(build, name):
    """As the networks start: their images have the range of real ones."""
    net, lr = build(name, fresh=True, upscale=4), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        full = net(lr)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            mixed = net(lr).float()
    hr = full + 0.03 * torch.randn_like(full)  # about 30 dB
    single, half = (-10 * (sr - hr).square().mean().log10() for sr in (full, mixed))
    assert (mixed - full).abs().max() > 0
    assert abs(single - half) < 0.01


@pytest.mark.parametrize('name', NAMES + OTHERS)
def test_double_precision(build, name):
    """Dtype comes from the input: nothing inside is tied to float32."""
    net, lr = build(name), torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        single = net(lr)
        double = net.double()(lr.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize('name', NAMES + OTHERS)
def test_can_be_moved_to_another_device(build, name):
    """On the meta device any tensor left behind on the CPU is an error."""
    net = build(name).to('meta')
    assert net(torch.rand(1, 3, 7, 9, device='meta')).shape == (1, 3, 28, 36)


def test_network_of_the_papers_options(encoder):
    """SeG-SR with HAT x4 as in Section IV-C, but for CLIP: six units of 180 channels, maps for each."""
    net = segsr_arch.SeGSR_HAT(
        upscale=4, embed_dim=180, depths=[1] * 6, num_heads=[6] * 6, window_size=16, compress_ratio=3,
        squeeze_factor=30, mlp_ratio=2, num_units=6, semantic={'encoder': encoder(lora_rank=32)}).eval()
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)
        assert net.guidance_maps(torch.rand(1, 3, 20, 30)).shape == (1, 6, 20, 30)


@pytest.mark.parametrize('name', ['SeGSR_HAT', 'SeGSR_SwinIR'])
def test_checkpointing_in_a_guided_network(build, name):
    """``use_checkpoint`` of the backbone, with guidance between the units: same output, same gradients."""
    net = build(name).train()
    thrifty = build(name, use_checkpoint=True).train()
    thrifty.load_state_dict(net.state_dict())
    lr, gradients = torch.rand(1, 3, 8, 8), []
    for model in (net, thrifty):
        model(lr).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('guidance', ['add', 'feature', 'map'])
@pytest.mark.parametrize('name', NAMES)
def test_context_made_elsewhere(build, name, guidance):
    """It is what the network would have made itself, and CLIP is not asked again."""
    net, lr = build(name, guidance=guidance), torch.rand(2, 3, 5, 7)
    with torch.no_grad():
        expected, context = net(lr), net.guidance(lr)
        net.guidance.sfem.visual = None
        assert torch.equal(net(lr, context), expected)
        assert torch.equal(net(lr, context=context), expected)


def test_a_tile_reads_its_cut_of_the_scenes_maps(build):
    """With maps of its own a tile would be another picture; with the scene's it is what lies there."""
    net, lr = build('SeGSR_EDSR'), torch.rand(1, 3, 40, 12)
    with torch.no_grad():
        maps = net.guidance_maps(lr)
        whole, tile = net(lr, maps), net(lr[:, :, :30], maps[:, :, :30])
        torch.testing.assert_close(tile[:, :, :40], whole[:, :, :40])
        assert not torch.allclose(net.guidance_maps(lr[:, :, :30]), maps[:, :, :30], atol=1e-3)


@pytest.mark.parametrize(('guidance', 'make', 'message'), [
    ('none', lambda context: torch.zeros(1, 2, 5, 7), 'guidance: none takes no context'),
    ('map', lambda context: context[:, :1], r'must be \(1, 2, 5, 7\), not \(1, 1, 5, 7\)'),
    ('map', lambda context: context[..., :6], r'must be \(1, 2, 5, 7\), not \(1, 2, 5, 6\)'),
    ('add', lambda context: (context[0][..., :1], context[1]), r'must be \(1, 32, 3, 4\), not \(1, 32, 3, 1\)'),
    ('feature', lambda context: (context[0], torch.Size((5, 6))), 'local features and the size of this image'),
    ('add', lambda context: context[0], 'local features and the size of this image')])
def test_a_context_that_does_not_fit(build, guidance, make, message):
    net, lr = build('SeGSR_EDSR', guidance=guidance), torch.rand(1, 3, 5, 7)
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        net(lr, make(net.guidance(lr)))

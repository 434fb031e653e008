"""HAT against the official implementation's outputs, its key list, and spandrel's HAT."""

import copy

import pytest
import torch
from spandrel.architectures.HAT import HATArch

from segsr_arch.baselines.hat_arch import HAT
from segsr_arch.layers.checkpointing import without_recomputing
from segsr_arch.layers.window_attention import windows_of

CONFIGS = ['hat_x4_w8', 'hat_x2_w4_resi_identity']
SMALL = {'img_size': 8, 'embed_dim': 12, 'depths': [2, 2], 'num_heads': [2, 3], 'window_size': 4,
         'compress_ratio': 3, 'squeeze_factor': 1, 'mlp_ratio': 2, 'drop_path_rate': 0.0}


def small(**changes):
    net = HAT(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


@pytest.mark.parametrize('name', CONFIGS)
def test_equals_the_official_outputs(golden, name):
    case = golden[name]
    net = HAT(**case['config']).eval()
    net.load_state_dict(case['state_dict'], strict=True)
    assert net.state_dict().keys() == case['state_dict'].keys()
    assert len(case['inputs']) == 2
    with torch.no_grad():
        for lr, expected in zip(case['inputs'], case['outputs']):
            torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', CONFIGS)
def test_equals_the_official_output_of_each_group(golden, name):
    case = golden[name]
    net = HAT(**case['config']).eval()
    net.load_state_dict(case['state_dict'])
    with torch.no_grad():
        x = net.embed(net.shallow(case['inputs'][0]))
        for i, expected in enumerate(case['unit_outputs_first_input']):
            x = net.group(i, x)
            torch.testing.assert_close(x.flatten(1, 2), expected, rtol=0, atol=1e-4)
    assert len(net.layers) == len(case['unit_outputs_first_input'])


def test_keys_shapes_and_size_of_the_official_x4(manifest):
    net = HAT(**manifest['config'])
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == manifest['state_dict']
    assert sum(p.numel() for p in net.parameters()) == manifest['num_parameters'] == 20772507


@pytest.mark.parametrize('changes', [
    {'upscale': 3}, {'upscale': 8}, {'upscale': 2, 'qkv_bias': False}, {'upscale': 4, 'ape': True},
    {'upscale': 2, 'patch_norm': False}, {'upscale': 3, 'window_size': 6, 'overlap_ratio': 1, 'img_size': 12},
    {'upscale': 2, 'resi_connection': 'identity', 'in_chans': 4},
    {'upscale': 2, 'window_size': 5, 'overlap_ratio': 0.4, 'img_size': 10}])
def test_equals_spandrels(changes):
    net = small(**changes)
    other = HATArch().load(copy.deepcopy(net.state_dict())).model.eval()
    side, bands = changes.get('img_size', 8), changes.get('in_chans', 3)
    for size in [(side, side)] if changes.get('ape') else [(side, side), (side, 2 * side), (7, 10)]:
        lr = torch.rand(2, bands, *size)
        with torch.no_grad():
            torch.testing.assert_close(net(lr), other(lr), rtol=1e-4, atol=1e-4)


def test_an_image_that_needs_no_padding_gets_none():
    """The parts in a row, which pad nothing, equal forward where the sides divide by the window."""
    net, lr = small(), torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        shallow = net.shallow(lr)
        x = net.embed(shallow)
        for i in range(2):
            x = net.group(i, x)
        assert torch.equal(net(lr), net.reconstruct(x, shallow))


def test_padding_is_reflection_and_is_cut_off():
    net, lr = small(upscale=2), torch.rand(1, 3, 6, 7)
    padded = torch.nn.functional.pad(lr, (0, 1, 0, 2), mode='reflect')
    with torch.no_grad():
        assert torch.equal(net(lr), net(padded)[..., :12, :14])


@pytest.mark.parametrize('size', [(8, 8), (12, 8), (5, 9)])
def test_absolute_position_embedding_at_other_sizes(size):
    """With the embedding set to 0 or to a constant per channel, resizing it must not matter."""
    net = small(ape=True, depths=[1], num_heads=[2])
    lr = torch.rand(1, 3, *size)
    with torch.no_grad():
        different = net(lr)
        net.absolute_pos_embed.copy_(torch.randn(12).expand(1, 64, 12))
        x = net.embed(net.shallow(torch.zeros(1, 3, 8, 8)))
        plain = net.patch_embed(net.shallow(torch.zeros(1, 3, 8, 8)).permute(0, 2, 3, 1))
        torch.testing.assert_close(x, plain + net.absolute_pos_embed[0, 0], rtol=1e-4, atol=1e-4)
        wide = net.embed(torch.zeros(1, 12, 12, 20)) - net.patch_embed(torch.zeros(1, 12, 20, 12))
        torch.testing.assert_close(wide, net.absolute_pos_embed[0, 0].expand_as(wide), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(net(lr), different)


def test_absolute_position_embedding_keeps_rows_and_columns_apart():
    net = small(ape=True, depths=[1], num_heads=[2])
    with torch.no_grad():
        net.absolute_pos_embed[0, :, 0] = torch.arange(8.0).repeat_interleave(8)
        net.absolute_pos_embed[0, :, 1] = torch.arange(8.0).repeat(8)
        added = net.embed(torch.zeros(1, 12, 4, 16)) - net.patch_embed(torch.zeros(1, 4, 16, 12))
    rows, columns = added[0, ..., 0], added[0, ..., 1]
    assert (rows - rows[:, :1]).abs().max() < 1e-4 < (rows[1:] - rows[:-1]).min()
    assert (columns - columns[:1]).abs().max() < 1e-4 < (columns[:, 1:] - columns[:, :-1]).min()


def test_checkpointing_changes_neither_output_nor_gradients():
    net = small()
    thrifty = HAT(**SMALL, use_checkpoint=True)
    thrifty.load_state_dict(net.state_dict())
    lr, results = torch.rand(2, 3, 8, 8), []
    for model in (net.train(), thrifty.train()):
        hr = model(lr)
        hr.square().mean().backward()
        results.append((hr, [p.grad for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for plain, again in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore:.*torch.jit.*:FutureWarning')
@pytest.mark.parametrize('grad', [False, True])
def test_can_be_traced_and_exported(grad):
    """As fvcore does to count operations, and as those do who take a network elsewhere."""
    net, lr = small(depths=[2], num_heads=[2]), torch.rand(1, 3, 8, 12)
    expected = net(lr)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(torch.jit.trace(net, lr, check_trace=False)(lr), expected)
        torch.testing.assert_close(torch.export.export(net, (lr,)).module()(lr), expected)


def test_stochastic_depth_and_dropout_act_in_training_only():
    net = small(drop_path_rate=0.9, drop_rate=0.2)
    lr = torch.rand(2, 3, 8, 8)
    assert torch.equal(net(lr), net(lr))
    net.train()
    assert not torch.equal(net(lr), net(lr))
    paths = [block.drop_path.p for layer in net.layers for block in layer.residual_group.blocks]
    assert paths == pytest.approx([0, 0.3, 0.6, 0.9])


@pytest.mark.parametrize('changes', [{'drop_path_rate': 1.0}, {'drop_rate': 1.0}])
def test_what_stochastic_depth_and_dropout_drop(changes):
    """Attention and the MLP, not the convolutional path between them."""
    net = small(**changes).train()
    block, x = net.layers[-1].residual_group.blocks[-1], torch.rand(2, 8, 8, 12)
    out = block(x, net.relative_position_index_SA, windows_of(x, 4, block.attn.shift))
    conv = block.conv_block(block.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, x + conv)


@pytest.mark.parametrize('img_size, shifts', [(8, [0, 2]), (4, [0, 0]), (3, [0, 0])])
def test_windows_are_shifted_where_the_training_patch_has_several(img_size, shifts):
    layer = small(img_size=img_size).layers[0]
    assert [block.attn.shift for block in layer.residual_group.blocks] == shifts


def gradients(net, lr):
    """Gradients of a training step with a fixed seed, and the bytes kept for backward."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hr = net.train()(lr)
    hr.square().mean().backward()
    result = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    return result, sum(kept.values())


def test_recomputing_saves_memory_and_draws_the_same_dropout():
    net, lr = small(drop_rate=0.3, drop_path_rate=0.5), torch.rand(2, 3, 16, 16)
    by_default, some = gradients(net, lr)
    with without_recomputing():
        expected, everything = gradients(net, lr)
    for layer in net.layers:
        layer.residual_group.use_checkpoint = True
    checkpointed, few = gradients(net, lr)
    assert few < 0.6 * some and some < 0.75 * everything  # 0.76 with a copy of the windows' pixels
    for again in (by_default, checkpointed):
        for gradient, other in zip(again, expected):
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('options, words', [
    ({'patch_size': 2}, 'patch_size is 2'), ({'upsampler': 'nearest'}, "upsampler is 'nearest'.*pixelshuffle"),
    ({'resi_connection': '3conv'}, "resi_connection is '3conv'.*1conv and identity"),
    ({'depths': [2, 2, 2]}, 'depths names 3 groups, num_heads 2'),
    ({'embed_dim': 16}, 'embed_dim 16 does not divide by num_heads 3'),
    ({'window_size': 6, 'overlap_ratio': 0.5}, 'window_size 6 .* overlap_ratio 0.5'), ({'upscale': 5}, '5')])
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(ValueError, match=words):
        HAT(**{**SMALL, **options})


def test_misspelt_option():
    with pytest.raises(TypeError, match='embed_dims'):
        HAT(**SMALL, embed_dims=12)

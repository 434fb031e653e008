"""What is demanded of each network that is written afresh after an official one. A subclass names the network."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.arch.baselines import golden


class WindowedContract:
    """Of a network with attention in windows.

    Attributes:
        network: its class.
        files: what the names of its golden files begin with.
    """

    network: type
    files: str
    small = {'img_size': 8, 'embed_dim': 12, 'depths': [2, 1], 'num_heads': [2, 3], 'window_size': 4, 'mlp_ratio': 2,
             'drop_path_rate': 0.0, 'upscale': 2}

    def build(self, **changes):
        net = self.network(**{**self.small, **changes}).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return net

    @pytest.mark.parametrize('i', [0, 1])
    def test_equals_the_official_network(self, i):
        """Entries of the state_dict, outputs, outputs of modules and gradients."""
        case = golden.golden(self.files)['cases'][i]
        net = golden.loaded(self.network, case)
        golden.assert_outputs(net, case)
        golden.assert_outputs_of_modules(net, case)
        golden.assert_gradients(net, case)

    def test_equals_the_official_network_of_the_papers_size(self, monkeypatch):
        net, lr, expected = golden.paper_size(self.network, self.files, monkeypatch)
        state = {key: (list(value.shape), str(value.dtype).removeprefix('torch.'))
                 for key, value in net.state_dict().items()}
        assert state == golden.manifest(self.files)
        with torch.no_grad():
            torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(('size', 'upscale'), [((1, 1), 2), ((1, 9), 3), ((7, 13), 4), ((2, 3), 8)])
    def test_any_size(self, size, upscale):
        with torch.inference_mode():
            hr = self.build(upscale=upscale, depths=[2], num_heads=[2])(torch.rand(1, 3, *size))
        assert hr.shape == (1, 3, upscale * size[0], upscale * size[1])
        assert hr.isfinite().all() and hr.std() > 0

    def test_padding_is_reflection_and_is_cut_off(self):
        net, lr = self.build(), torch.rand(1, 3, 6, 7)
        with torch.no_grad():
            assert torch.equal(net(lr), net(F.pad(lr, (0, 1, 0, 2), mode='reflect'))[..., :12, :14])

    @pytest.mark.parametrize('size', [(8, 8), (5, 7)])
    def test_batch_equals_one_by_one_in_any_layout_and_precision(self, size):
        net, lr = self.build(ape=True), torch.rand(3, 3, *size)
        with torch.no_grad():
            hr = net(lr)
            torch.testing.assert_close(hr, torch.cat([net(x[None]) for x in lr]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net(lr.contiguous(memory_format=torch.channels_last)), hr, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net.double()(lr.double()).float(), hr, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize('changes', [{}, {'ape': True}, {'resi_connection': 'identity', 'qkv_bias': False}])
    def test_every_parameter_gets_a_gradient(self, changes):
        net = self.build(**changes).train()
        net(torch.rand(1, 3, 8, 8)).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_computing_blocks_again_changes_neither_output_nor_gradients(self):
        net, lr, results = self.build().train(), torch.rand(2, 3, 8, 12), []
        thrifty = self.network(**{**self.small, 'use_checkpoint': True}).train()
        thrifty.load_state_dict(net.state_dict())
        for model in (net, thrifty):
            hr = model(lr)
            hr.square().mean().backward()
            results.append((hr, *(p.grad for p in model.parameters())))
        for plain, again in zip(*results):
            torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)

    def test_its_random_start_is_the_official_ones(self):
        """Linears and position tables: a spread of 0.02, biases 0; norms 1 and 0, with the official eps."""
        net = self.network(**{**self.small, 'embed_dim': 48})
        for name, module in net.named_modules():
            if isinstance(module, torch.nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
                assert not module.bias.any(), name
            elif isinstance(module, torch.nn.LayerNorm):
                assert module.eps == 1e-5 and (module.weight == 1).all() and not module.bias.any(), name
            elif hasattr(module, 'relative_position_bias_table'):
                assert module.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2), name

    def test_stochastic_depth_grows_over_the_blocks(self):
        net = self.network(**{**self.small, 'drop_path_rate': 0.4})
        assert [block.drop_path.p for layer in net.layers for block in layer.residual_group.blocks] == pytest.approx(
            [0, 0.2, 0.4])

    @pytest.mark.parametrize(('img_size', 'shift'), [(8, 2), (4, 0), (3, 0)])
    def test_windows_are_shifted_where_the_training_patch_has_several(self, img_size, shift):
        layer = self.network(**{**self.small, 'img_size': img_size}).layers[0]
        assert [block.attn.shift for block in layer.residual_group.blocks] == [0, shift]

    def test_nothing_is_kept_between_calls(self):
        net, lr = self.build(), torch.rand(1, 3, 8, 12)
        with torch.inference_mode():
            expected = net(lr)
            net(torch.rand(1, 3, 12, 4))
        torch.testing.assert_close(net(lr), expected)
        assert copy.deepcopy(net).state_dict().keys() == net.state_dict().keys()

    @pytest.mark.parametrize(('options', 'words'), [
        ({'patch_size': 2}, 'patch_size is 2; super-resolution needs 1'),
        ({'upsampler': 'nearest+conv'}, r"upsampler is 'nearest\+conv'; there is pixelshuffle"),
        ({'resi_connection': '3conv'}, "resi_connection is '3conv'; there are 1conv and identity"),
        ({'depths': [2, 2, 2]}, 'depths names 3 groups, num_heads 2'),
        ({'num_heads': [2, 5]}, 'embed_dim 12 does not divide by num_heads 5'),
        ({'window_size': 0}, 'window_size is 0, must be at least'),
        ({'upscale': 5}, 'upscale is 5; there are 3 and the powers of two')])
    def test_options_that_cannot_be_used(self, options, words):
        with pytest.raises(ValueError, match=f'^{self.network.name}: {words}'):
            self.network(**{**self.small, **options})

    def test_misspelt_option(self):
        with pytest.raises(TypeError, match='embed_dims'):
            self.network(**self.small, embed_dims=12)

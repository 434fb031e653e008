"""MFG-HMoE against the official implementation's outputs and key list, and its mixture of experts against formulas."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from segsr_arch.baselines.mfg_hmoe_arch import MFGHMoE, Mixture, routed
from segsr_arch.layers.window_attention import windows_of
from tests.conftest import REFERENCE

SMALL = {'img_size': 8, 'embed_dim': 12, 'depths': [1, 1], 'num_heads': [2, 3], 'window_size': 4, 'squeeze_factor': 1,
         'drop_path_rate': 0.0, 'num_feat': 8, 'num_experts': 4}
INDICES = ('relative_position_index_SA', 'relative_position_index_OCA')


@pytest.fixture(scope='module')
def official():
    """Small configurations and the paper's x4, with the official implementation's weights, outputs and gradients."""
    def exact(value):  # float16 saves space
        if isinstance(value, dict):
            return {key: exact(item) for key, item in value.items()}
        if isinstance(value, list):
            return [exact(item) for item in value]
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return exact(torch.load(REFERENCE / 'mfg_hmoe_golden.pt', weights_only=True))


@pytest.fixture(params=[0, 1], ids=['x2', 'x4'])
def case(request, official):
    return official['cases'][request.param]


def loaded(case):
    net = MFGHMoE(**case['config']).eval()
    for name in INDICES:  # which loading would overwrite
        assert torch.equal(net.state_dict()[name], case['state_dict'][name])
    net.load_state_dict(case['state_dict'], strict=True)
    return net


def assert_equal(value, expected, largest=1.0):
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5 * max(1.0, largest))


def outputs_of_modules(net, names, lr):
    """What the modules of these names return, ``norm.aggregate`` being the first use of ``norm``."""
    seen, hooks = {}, []

    def keep(name):
        def hook(module, args, output):
            seen[name if name != 'norm' or 'norm.aggregate' in seen else 'norm.aggregate'] = output
        return hook

    for name in names:
        hooks.append(net.get_submodule(name).register_forward_hook(keep(name)))
    with torch.no_grad():
        net(lr)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize('which', [0, 1])
def test_equals_the_official_outputs_and_those_of_its_parts(case, which):
    net, lr, expected = loaded(case), case['inputs'][which], dict(case['intermediates'][which])
    index, group, experts = (expected.pop(name) for name in ('expert_index', 'group_logits', 'expert_logits'))
    with torch.no_grad():
        assert_equal(net(lr), case['outputs'][which])
    names = {name.removesuffix('.aggregate') for name in expected} | {'aggr_conv', 'upsample.0.gate'}
    seen = outputs_of_modules(net, names, lr)
    for name, value in expected.items():
        ours = seen[name]
        if name.endswith('.attn'):
            ours = windows_of(ours, net.window_size, 0).cut(ours)
        elif name.endswith('.conv_block'):
            ours = ours / case['config']['conv_scale']
        elif value.ndim == 3:
            ours = ours.flatten(1, 2)
        assert_equal(ours, value, value.abs().max().item())
    choice = net.upsample[0].choice(seen['aggr_conv'].permute(0, 2, 3, 1))
    assert torch.equal(choice, index)
    half = case['config']['num_experts'] // 2
    assert_equal(seen['upsample.0.gate'][0], group, group.abs().max().item())
    chosen = (index // half)[..., None, None].expand(*index.shape, 1, half)
    assert_equal(seen['upsample.0.gate'][1].gather(-2, chosen)[..., 0, :], experts, experts.abs().max().item())


def test_equals_the_official_gradients(case):
    net, train = loaded(case), case['train']
    loss = (net(case['inputs'][train['input']]) - train['target']).abs().sum()
    loss.backward()
    assert loss.item() == pytest.approx(train['loss'], rel=1e-6)
    parameters = dict(net.named_parameters())
    for name, expected in train['gradients'].items():
        torch.testing.assert_close(parameters[name].grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert {name for name, p in parameters.items() if p.grad is None} == set(train['without_gradient'])
    assert {name for name, p in parameters.items() if not p.requires_grad} == set(train['without_gradient'])


def test_paper_size(official):
    """Keys, shapes, and the output of weights that a rule makes; the buffers are the network's own."""
    paper = official['paper_size'][0]
    manifest = json.loads((REFERENCE / 'mfg_hmoe_x4_manifest.json').read_text(encoding='utf-8'))
    net = MFGHMoE(**paper['config']).eval()
    assert {name: (list(value.shape), str(value.dtype)) for name, value in net.state_dict().items()} == {
        name: (entry['shape'], f'torch.{entry["dtype"]}') for name, entry in manifest['state_dict'].items()}
    assert sum(p.numel() for p in net.parameters()) == manifest['num_parameters'] == 27089173
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == 1350666
    for i, (name, p) in enumerate(sorted(net.named_parameters())):
        values = torch.from_numpy(np.random.RandomState(i).standard_normal(p.numel())).view(p.shape)
        if not name.endswith('.weight'):
            values *= 0.1
        else:
            values = values * (paper['gain'] / np.sqrt(p[0].numel())) if p.ndim > 1 else 1 + 0.1 * values
        p.data.copy_(values)
    net.load_state_dict(paper['overrides'], strict=False)
    seen = outputs_of_modules(net, ['aggr_conv', ''], paper['input'])
    assert_equal(seen[''], paper['output'])
    choice = net.upsample[0].choice(seen['aggr_conv'].permute(0, 2, 3, 1))
    assert torch.equal(choice, paper['expert_index']) and len(choice.unique()) == 16


@pytest.mark.parametrize('index', [[0, 1, 2, 3], [2, 2, 2, 2, 2, 2, 2, 2, 2], [3], [0, 3, 3, 0, 1, 3, 0, 3, 3, 3, 0],
                                   [1, 0] * 20, [3] * 16 + [0, 1, 2] * 16])
def test_routed_rows_are_those_of_their_experts(index):
    index = torch.tensor(index)
    tensors = [torch.randn(*size, dtype=torch.float64, requires_grad=True)
               for size in ((len(index), 3), (4, 3, 5), (4, 5))]
    rows, weight, bias = tensors
    out = routed(rows, index, weight, bias)
    expected = torch.stack([row @ weight[e] + bias[e] for row, e in zip(rows, index)])
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad((each * direction).sum(), tensors) for each in (out, expected))):
        torch.testing.assert_close(ours, theirs)  # zeros for an expert without rows


def moved(net):
    """With weights that differ from any initialisation."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def test_soft_routing_adds_up_the_experts_by_their_probabilities():
    mixture = moved(Mixture(8, 5, 6, soft=True))
    x, guide = torch.randn(2, 8, 4, 3), torch.randn(2, 4, 3, 8)
    gate, expected = mixture.gate, torch.zeros(2, 5, 4, 3)
    groups = torch.softmax(guide @ gate.w_group_gate.weight.T + gate.w_group_gate.bias, -1)
    for i, expert in enumerate(mixture.experts):
        group, place = divmod(i, 3)
        linear = gate.w_expert_gates[group]
        seen = guide + gate.group_embedding.weight[group]
        share = groups[..., group] * torch.softmax(seen @ linear.weight.T + linear.bias, -1)[..., place]
        assert expert.kernel_size == ((1, 1) if group == 0 else (3, 3))
        expected += share[:, None] * expert(x)
    torch.testing.assert_close(mixture(x, guide), expected, rtol=1e-4, atol=1e-5)


def test_soft_routing_of_a_decided_router_is_the_hard_choice():
    soft, hard = Mixture(8, 5, 6, soft=True), Mixture(8, 5, 6, soft=False)
    moved(soft)
    for linear in (soft.gate.w_group_gate, *soft.gate.w_expert_gates):
        nn.init.normal_(linear.weight, std=1e4)
    hard.load_state_dict(soft.state_dict())
    x, guide = torch.randn(2, 8, 5, 6), torch.randn(2, 5, 6, 8)
    assert len(hard.choice(guide).unique()) > 3
    torch.testing.assert_close(soft(x, guide), hard(x, guide), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('soft', [False, True])
def test_the_router_learns_with_soft_routing_only(soft):
    net = moved(MFGHMoE(**SMALL, soft_routing=soft))
    net(torch.rand(2, 3, 8, 8)).square().mean().backward()
    router = {name for name, p in net.named_parameters()
              if '.gate.' in name or name.startswith('aggr_conv') or (name.startswith('mfg') and name.count('.') == 3)}
    assert len(router) == 17
    for name, p in net.named_parameters():
        if name not in router:
            assert p.requires_grad and p.grad is not None, name
        else:
            assert p.requires_grad == soft and (p.grad is not None and bool(p.grad.any())) == soft, name


def test_soft_routing_has_the_same_weights_and_forgets_nothing_it_recomputes():
    hard, soft = (MFGHMoE(**SMALL, soft_routing=soft) for soft in (False, True))
    soft.load_state_dict(hard.state_dict())
    lr = torch.rand(1, 3, 8, 8)
    assert not torch.allclose(soft(lr), hard(lr))


def test_an_image_is_used_as_it_is():
    """Unlike HAT's, without mean and range."""
    net, lr = MFGHMoE(**SMALL, img_range=255.0).eval(), torch.rand(1, 3, 8, 8)
    assert torch.equal(outputs_of_modules(net, ['conv_first'], lr)['conv_first'], net.conv_first(lr))


def test_a_fresh_router():
    """It stays as it starts, so its start is a part of the method."""
    gate = MFGHMoE(**{**SMALL, 'num_feat': 512}).upsample[0].gate
    assert gate.group_embedding.weight.std().item() == pytest.approx(1, abs=0.1)
    for linear in (gate.w_group_gate, *gate.w_expert_gates):
        assert linear.weight.std().item() == pytest.approx(0.02, abs=0.002) and not linear.bias.any()


@pytest.mark.parametrize('options, words', [
    ({'num_experts': 5}, 'num_experts is 5, must be an even number'), ({'num_experts': 0}, 'num_experts is 0'),
    ({'num_feat': 0}, 'num_feat is 0, must be 1 or more'), ({'depths': []}, r'depths is \[\], must be a list of one'),
    ({'upscale': 5}, 'upscale is 5; there are 3 and the powers of two'), ({'window_size': 0}, 'window_size is 0'),
    ({'num_heads': [2, 5]}, 'embed_dim 12 does not divide by num_heads 5'), ({'patch_size': 2}, 'patch_size is 2')])
def test_options_that_cannot_be_used(options, words):
    with pytest.raises(ValueError, match=f'^MFGHMoE: {words}'):
        MFGHMoE(**{**SMALL, **options})

"""Golden vectors of official networks: their files, a network with their weights, and how it compares with them.

A file holds ``cases``, small configurations with weights, inputs, outputs, outputs of modules and gradients, and
``paper_size``, a network whose weights follow a rule. All is stored in half precision without loss.
"""

import functools
import json
import math

import numpy as np
import torch
from torch import nn

from tests.conftest import REFERENCE


def _single(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.float16 else value
    if isinstance(value, dict):
        return {key: _single(content) for key, content in value.items()}
    return [_single(content) for content in value] if isinstance(value, list) else value


@functools.cache
def golden(name):
    """The content of a file, in single precision: do not change it."""
    return _single(torch.load(REFERENCE / f'{name}_golden.pt', weights_only=True))


def manifest(name):
    """Shape and type of each entry of the x4 network's state_dict."""
    content = json.loads((REFERENCE / f'{name}_x4_manifest.json').read_text(encoding='utf-8'))['state_dict']
    return {key: (entry['shape'], entry['dtype']) for key, entry in content.items()}


def loaded(cls, case):
    """The network of a case, in evaluation mode. What it computes of the state_dict is compared, not loaded."""
    net = cls(**case['config']).eval()
    own, weights = net.state_dict(), case['state_dict']
    assert own.keys() == weights.keys()
    parameters = dict(net.named_parameters())
    for key in own.keys() - parameters.keys():
        assert own[key].dtype == weights[key].dtype and torch.equal(own[key], weights[key]), key
    net.load_state_dict(weights, strict=True)
    return net


def assert_outputs(net, case):
    with torch.no_grad():
        for lr, expected in zip(case['inputs'], case['outputs']):
            torch.testing.assert_close(net(lr), expected, rtol=0, atol=1e-5)


def assert_gradients(net, case):
    train = case['train']
    loss = (net(case['inputs'][train['input']]) - train['target']).abs().sum()
    loss.backward()
    torch.testing.assert_close(loss.item(), train['loss'], rtol=1e-5, atol=0)
    parameters = dict(net.named_parameters())
    for name, expected in train['gradients'].items():
        torch.testing.assert_close(parameters[name].grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert not train['without_gradient']


def outputs_of_modules(net, names, lr):
    """What modules give in a forward pass, by name."""
    outputs, hooks = {}, []
    for name in names:
        module = net.get_submodule(name)
        hooks.append(module.register_forward_hook(lambda module, args, out, name=name: outputs.update({name: out})))
    with torch.no_grad():
        net(lr)
    for hook in hooks:
        hook.remove()
    return outputs


def windows(feature, side, shift):
    """A feature (b, h, w, c) as official attention gives it: rolled, (b windows, side * side, c), row by row."""
    rolled = feature.roll((-shift, -shift), (1, 2))
    cut = rolled.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return cut.flatten(3, 4).flatten(0, 2)


def assert_outputs_of_modules(net, case):
    for lr, expected in zip(case['inputs'], case['intermediates']):
        for name, ours in outputs_of_modules(net, expected, lr).items():
            module = net.get_submodule(name)
            if name.endswith('.attn'):
                ours = windows(ours, net.window_size, module.shift)
            elif ours.shape[-1] == expected[name].shape[-1] and expected[name].ndim == 3:
                ours = ours.flatten(1, 2)  # tokens
            else:
                ours = ours / getattr(module, 'scale', 1)
            torch.testing.assert_close(ours, expected[name], rtol=0, atol=1e-5, msg=name)


def paper_size(cls, name, monkeypatch):
    """The paper's x4 network, its input and its output."""
    content = golden(name)['paper_size'][0]
    for init in ('trunc_normal_', 'kaiming_uniform_'):  # which takes longer than what is tested
        monkeypatch.setattr(nn.init, init, lambda tensor, **options: tensor)
    net = cls(**content['config']).eval()
    assert sum(p.numel() for p in net.parameters()) == content['num_parameters']
    set_by_rule(net, content['gain'])
    return net, content['input'], content['output']


@torch.no_grad()
def set_by_rule(net, gain):
    """Weights that follow from their names."""
    for i, (name, p) in enumerate(sorted(net.named_parameters())):
        z = torch.from_numpy(np.random.RandomState(i).standard_normal(p.numel())).view(p.shape)
        last = name.rsplit('.', 1)[-1]
        if last == 'weight' and p.ndim > 1:
            p.copy_(gain * z / math.sqrt(p.numel() / len(p)))
        else:
            p.copy_(1 + 0.1 * z if last == 'weight' or last.startswith('temperature') else 0.1 * z)

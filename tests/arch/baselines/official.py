"""What official implementations give, from tests/reference, and what a network gives to be compared with it."""

import functools
import json

import numpy as np
import torch

from tests import ROOT

REFERENCE = ROOT / 'tests' / 'reference'


@functools.cache
def golden(name):
    """``cases`` (by name) and ``paper_size`` of a network, everything in float32; not to be changed."""
    content = in_float32(torch.load(REFERENCE / f'{name}_golden.pt', weights_only=True))
    return {case['name']: case for case in content['cases']}, content['paper_size'][0]


def in_float32(content):
    """Stored as halves, of which each is exact."""
    if isinstance(content, dict):
        return {key: in_float32(value) for key, value in content.items()}
    if isinstance(content, list):
        return [in_float32(value) for value in content]
    return content.float() if isinstance(content, torch.Tensor) and content.is_floating_point() else content


def check_manifest(cls, name):
    """Keys and shapes of the paper-size x4 network, built without values."""
    manifest = json.loads((REFERENCE / f'{name}_x4_manifest.json').read_text(encoding='utf-8'))
    with torch.device('meta'):
        net = cls(**manifest['config'])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == {
        key: entry['shape'] for key, entry in manifest['state_dict'].items()}
    assert sum(p.numel() for p in net.parameters()) == manifest['num_parameters']
    return net


def load_case(cls, case):
    """The network of a case; its buffers are the official ones before they are loaded."""
    net = cls(**case['config']).eval()
    for name, buffer in net.state_dict().items():
        if name not in dict(net.named_parameters()):
            torch.testing.assert_close(buffer, case['state_dict'][name], rtol=0, atol=0)
    net.load_state_dict(case['state_dict'], strict=True)
    return net


def features_of(net, lr):
    """The output, and by module path what went into each module (``path<``) and what came out (``path``)."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen.update({f'{name}<': inputs[0], name: output})
            if isinstance(output, tuple):
                seen.update({f'{name}.{i}': each for i, each in enumerate(output)})
        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in net.named_modules()]
    with torch.no_grad():
        output = net(lr)
    for hook in hooks:
        hook.remove()
    return output, seen


def kept_for_backward(net, lr):
    """The output, and the bytes of what is kept until backward."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = net(lr)
    return output, sum(kept.values())


def check_case(cls, case, places=None):
    """Outputs and intermediate ones, to 1e-5 (of the largest, where that is above 1).

    ``places``: where features_of finds an intermediate output that is not under its own name.
    """
    net = load_case(cls, case)
    for lr, expected, intermediates in zip(case['inputs'], case['outputs'], case['intermediates']):
        output, seen = features_of(net, lr)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
        assert intermediates
        for name, value in intermediates.items():
            found = seen[(places or {}).get(name, name)]
            found = found.flatten(1, 2) if found.dim() > value.dim() else found  # (b, h, w, c) inside
            torch.testing.assert_close(found, value, rtol=0, atol=1e-5 * max(1, float(value.abs().max())), msg=name)


def check_gradients(cls, case):
    """The loss and gradients of a step, to 1e-4 of the largest."""
    net, step = load_case(cls, case), case['train']
    loss = (net(case['inputs'][step['input']]) - step['target']).abs().sum()
    loss.backward()
    parameters = dict(net.named_parameters())
    torch.testing.assert_close(loss.item(), step['loss'], rtol=1e-5, atol=0)
    for name, value in step['gradients'].items():
        torch.testing.assert_close(parameters[name].grad, value, rtol=0, atol=1e-4 * float(value.abs().max()), msg=name)
    assert [name for name, p in parameters.items() if p.grad is None] == step['without_gradient']
    assert [name for name, p in parameters.items() if not p.requires_grad] == step['without_gradient']


def check_paper_size(cls, paper_size):
    """The output of the paper-size network with weights made by a rule."""
    net = cls(**paper_size['config']).eval()
    weights = {}
    for i, (name, p) in enumerate(sorted(net.named_parameters())):
        z = np.random.RandomState(i).standard_normal(p.numel()).reshape(p.shape)
        last = name.split('.')[-1]
        if last == 'weight' and p.dim() > 1:
            z *= paper_size['gain'] / (p.numel() / len(p))**0.5
        else:
            z = 0.1 * z + (last == 'weight' or last.startswith('temperature'))
        weights[name] = torch.from_numpy(z).float()
    net.load_state_dict(weights, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(paper_size['input']), paper_size['output'], rtol=0, atol=1e-5)

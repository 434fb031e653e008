"""What a state_dict holds: what is trained, and of the frozen tower its name and checksum, unless it must hold it."""

import copy

import pytest
import torch

import segsr_arch

from .stored import TOWER, output, saved

NAMES = ['SeGSR_HAT', 'SeGSR_EDSR', 'SeGSR_RCAN']


@pytest.mark.parametrize('guidance', ['none', 'add', 'feature', 'map'])
@pytest.mark.parametrize('name', NAMES)
def test_frozen_tower_is_left_out_and_found_again(build, name, guidance):
    """A4 and decision 10: save -> load gives the same output bit for bit, p_i included, without CLIP's weights."""
    net, other = build(name, guidance=guidance), build(name, guidance=guidance)
    state = saved(net.state_dict())
    parameters = dict(net.named_parameters())
    assert {k for k in state if k in parameters} == {k for k, p in parameters.items() if p.requires_grad}
    assert not torch.equal(output(other), output(net))
    assert str(other.load_state_dict(state)) == '<All keys matched successfully>'
    assert torch.equal(output(other), output(net))
    if guidance == 'map':
        assert torch.equal(state['guidance.slm.unit_descriptors'], net.guidance.slm.unit_descriptors)


@pytest.mark.parametrize('targets', [['qkv', 'ffn'], ['qkv'], ['ffn']])
@pytest.mark.parametrize('rank', [0, 4])
def test_in_every_lora_variant(build, rank, targets):
    changes = {'encoder_options': {'lora_rank': rank, 'lora_targets': targets}}
    net, other = build('SeGSR_EDSR', **changes), build('SeGSR_EDSR', **changes)
    state = saved(net.state_dict())
    layers = 2 * (3 * ('qkv' in targets) + 2 * ('ffn' in targets))
    assert sum('.lora_' in k for k in state) == (2 * layers if rank else 0)
    assert [k for k in state if k.startswith(TOWER) and '.lora_' not in k] == []
    other.load_state_dict(state)
    assert torch.equal(output(other), output(net))


def test_state_dict_holds_tensors_only(build):
    """BasicSR calls .cpu() on each value and compares sizes."""
    assert all(isinstance(v, torch.Tensor) for v in build('SeGSR_EDSR').state_dict().values())


def test_random_tower_is_kept(build):
    """Nothing but the checkpoint could bring it back."""
    changes = {'encoder_options': {'pretrained': None}}
    net, other = build('SeGSR_EDSR', **changes), build('SeGSR_EDSR', **changes)
    state = saved(net.state_dict())
    assert set(dict(net.named_parameters())) <= set(state)
    assert not torch.equal(output(other), output(net))
    other.load_state_dict(state)
    assert torch.equal(output(other), output(net))
    assert other.state_dict().keys() == state.keys()


def test_state_dict_is_the_same_in_every_mode(build):
    """Nothing is merged on eval(): a checkpoint saved while validating equals one saved while training."""
    net = build('SeGSR_EDSR', encoder_options={'lora_dropout': 0.2})
    states = [{k: v.clone() for k, v in net.train(mode).state_dict().items()} for mode in (True, False, True)]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(v, states[0][k]) for k, v in state.items())


@pytest.mark.parametrize('name', NAMES)
def test_copy_that_shares_what_is_frozen(build, name):
    """As an EMA network is made: frozen weights once in memory, the rest its own; both save and load."""
    net = build(name)
    frozen = {id(p): p for p in net.parameters() if not p.requires_grad}
    twin = copy.deepcopy(net, dict(frozen))
    for (key, p), q in zip(net.named_parameters(), twin.parameters()):
        assert (p is q) == (not p.requires_grad), key
    assert torch.equal(output(twin), output(net))
    before = output(net)
    with torch.no_grad():
        for p in twin.parameters():
            if p.requires_grad:
                p.mul_(0.9)
    assert torch.equal(output(net), before)
    state = saved(twin.state_dict())
    assert state.keys() == net.state_dict().keys()
    tower = {k: p.clone() for k, p in net.named_parameters() if not p.requires_grad}
    fresh = build(name)
    fresh.load_state_dict(state)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(output(fresh), output(copy.deepcopy(fresh))) and torch.equal(output(twin), before)
    assert all(torch.equal(dict(net.named_parameters())[k], v) for k, v in tower.items())


def test_a_key_too_few_or_too_many_is_an_error(build):
    net = build('SeGSR_EDSR')
    state = net.state_dict()
    missing = {k: v for k, v in state.items() if k != 'guidance.slm.unit_descriptors'}
    with pytest.raises(RuntimeError, match='Missing.*guidance.slm.unit_descriptors'):
        net.load_state_dict(missing)
    with pytest.raises(RuntimeError, match='Unexpected.*guidance.slm.more'):
        net.load_state_dict({**state, 'guidance.slm.more': torch.zeros(1)})


def test_loading_does_not_change_the_given_state_dict(build):
    net = build('SeGSR_EDSR')
    state = net.state_dict()
    keys = list(state)
    net.load_state_dict(state)
    assert list(state) == keys


def test_weights_of_the_stock_backbone_warm_start_a_guided_network(build, backbone_options):
    """Decision 1: a stock checkpoint fits the backbone as it is."""
    stock = segsr_arch.HAT(upscale=4, **backbone_options('SeGSR_HAT'))
    net = build('SeGSR_HAT')
    net.backbone.load_state_dict(stock.state_dict())
    assert all(torch.equal(v, stock.state_dict()[k]) for k, v in net.backbone.state_dict().items())

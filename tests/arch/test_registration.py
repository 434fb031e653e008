"""Names in BasicSR's registry: ours, unless another package wants them."""

import pytest
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY, Registry

import segsr_arch
from segsr_arch.registration import register_yielding


def network(name):
    return type(name, (), {})


@pytest.fixture
def registry(monkeypatch):
    fresh = Registry('arch')
    monkeypatch.setattr('segsr_arch.registration.ARCH_REGISTRY', fresh)
    return fresh


@pytest.mark.parametrize('name', segsr_arch.__all__)
def test_registered_with_basicsr(name):
    assert ARCH_REGISTRY.get(name) is getattr(segsr_arch, name)


def test_built_by_basicsr(options):
    net = build_network({'type': 'SeGSR_EDSR', **options('SeGSR_EDSR', upscale=2)})
    assert isinstance(net, segsr_arch.SeGSR_EDSR)


def test_ours_where_no_one_else_has_the_name(registry):
    ours = network('HAT')
    register_yielding(ours)
    assert registry.get('HAT') is ours


def test_one_registered_before_wins(registry):
    ours, theirs = network('HAT'), network('HAT')
    registry.register(theirs)
    register_yielding(ours)
    assert registry.get('HAT') is theirs


@pytest.mark.parametrize('as_decorator', [True, False])
def test_one_registered_after_wins(registry, as_decorator):
    ours, theirs = network('HAT'), network('HAT')
    register_yielding(ours)
    if as_decorator:
        registry.register()(theirs)
    else:
        registry.register(theirs)
    assert registry.get('HAT') is theirs


def test_two_others_still_collide(registry):
    """BasicSR's check between other packages is left as it is."""
    register_yielding(network('HAT'))
    registry.register(network('HAT'))
    with pytest.raises(AssertionError, match='HAT'):
        registry.register(network('HAT'))


def test_several_names_yield_each_for_itself(registry):
    hat, bicubic, other = network('HAT'), network('Bicubic'), network('Other')
    register_yielding(hat)
    register_yielding(bicubic)
    registry.register(other)
    assert [registry.get(n) for n in ('HAT', 'Bicubic', 'Other')] == [hat, bicubic, other]
    theirs = network('HAT')
    registry.register(theirs)
    assert [registry.get(n) for n in ('HAT', 'Bicubic', 'Other')] == [theirs, bicubic, other]


def test_a_name_with_another_suffix_is_another_name(registry):
    ours, theirs = network('HAT'), network('HAT')
    register_yielding(ours)
    registry.register(theirs, suffix='lite')
    assert registry.get('HAT_lite') is theirs
    assert registry.get('HAT') is ours

"""Registering a network under a name that other packages may want too."""

from basicsr.utils.registry import ARCH_REGISTRY


def register_yielding(network: type) -> None:
    """Register ``network`` with BasicSR under its class name, unless, now or later, another package takes that name.

    BasicSR stops with an assertion when a name is registered twice. Other packages register a HAT of their own, before
    or after this one; either way theirs is the one that ``type: HAT`` means.
    """
    name = network.__name__
    if name in ARCH_REGISTRY:
        return
    ARCH_REGISTRY.register(network)
    do_register = ARCH_REGISTRY._do_register

    def replace(new_name, obj, suffix=None):
        if new_name == name and suffix is None and ARCH_REGISTRY._obj_map.get(name) is network:
            del ARCH_REGISTRY._obj_map[name]
        do_register(new_name, obj, suffix)

    ARCH_REGISTRY._do_register = replace

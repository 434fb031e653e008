"""Cutting a network's blocks into SR units."""

from __future__ import annotations

from segsr_arch.options import OptionError


def split_units(num_blocks: int, num_units: int, blocks: str) -> list[range]:
    """Blocks of each unit, in equal runs.

    Args:
        num_blocks: blocks (or groups) of the backbone.
        num_units: k.
        blocks: what the backbone calls them, for the error.

    Returns:
        k ranges of block indices.

    Raises:
        OptionError: ``num_units`` does not divide ``num_blocks``.
    """
    if num_blocks < 1:
        raise OptionError(f'network_g: the backbone has no {blocks}')
    if type(num_units) is not int or num_units < 1 or num_blocks % num_units:
        divisors = ', '.join(str(k) for k in range(1, num_blocks + 1) if num_blocks % k == 0)
        raise OptionError(f'network_g:num_units: {num_units!r} does not divide the {num_blocks} {blocks} of the '
                          f'backbone into equal units; there are {divisors}')
    size = num_blocks // num_units
    return [range(i * size, (i + 1) * size) for i in range(num_units)]

"""Backbones a `SeGSR` network can guide: each one a thin adapter of a stock network.

An adapter subclasses the stock class, adds no parameters and offers

* ``head(lr) -> feat`` (b, c, h, w), the shallow feature,
* ``unit(i, feat) -> feat``, SR unit i, a run of the stock network's blocks,
* ``tail(feat, skip) -> hr`` (b, 3, s h, s w), with the shallow feature as ``skip``,

and the attributes ``num_feat`` (c), ``num_units`` (k), ``upscale`` (s) and ``multiple_of``, which the sides of ``lr``
must divide by. Head, units and tail in a row equal the stock network's forward.
"""

from segsr_arch.backbones.edsr import EDSRBackbone
from segsr_arch.backbones.hat import HATBackbone
from segsr_arch.backbones.rcan import RCANBackbone
from segsr_arch.backbones.srformer import SRFormerBackbone
from segsr_arch.backbones.swinir import SwinIRBackbone
from segsr_arch.backbones.ttst import TTSTBackbone

__all__ = ['EDSRBackbone', 'HATBackbone', 'RCANBackbone', 'SRFormerBackbone', 'SwinIRBackbone', 'TTSTBackbone']

"""SeG-SR: a vision-language model sees the scene and tells each unit of a super-resolution network where to look."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from segsr_arch.backbones import (
    EDSRBackbone,
    HATBackbone,
    RCANBackbone,
    SRFormerBackbone,
    SwinIRBackbone,
    TTSTBackbone,
)
from segsr_arch.guidance import GUIDANCE, MapGuidance
from segsr_arch.layers.padding import pad_to_multiple
from segsr_arch.options import OptionError, SemanticOptions, check_keys, parse


def backbone_options(backbone: type) -> dict[str, bool]:
    """Option names of a backbone, its own and those of the stock class, each with whether it must be given."""
    names = {}
    for cls in backbone.__mro__[:backbone.__mro__.index(nn.Module)]:
        if '__init__' in vars(cls):
            _, *parameters = inspect.signature(cls.__init__).parameters.values()
            names.update({p.name: p.default is p.empty for p in parameters
                          if p.kind is not p.VAR_KEYWORD and p.name not in names})
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break  # what it gives on is its own affair
    return names


class SeGSR(nn.Module):
    """Semantic-guided super-resolution (Fig. 2, Eq. 10).

    Args:
        semantic: the ``semantic:`` block of the option file, see `segsr_arch.options`.
        **backbone: the backbone's own options, spelled as in its own option files, and ``num_units``: k, the SR units
            it is cut into.

    Raises:
        OptionError: an unknown option, named, or one that cannot be used.
    """

    backbone_class: type

    def __init__(self, *, semantic: Mapping[str, Any] | None = None, **backbone):
        super().__init__()
        known = backbone_options(self.backbone_class)
        check_keys('network_g', backbone, [*known, 'semantic'], [name for name, required in known.items() if required])
        options = parse(SemanticOptions, semantic, 'network_g:semantic')
        for name in ('num_in_ch', 'in_chans'):
            if options.guidance != 'none' and backbone.get(name, 3) != 3:
                raise OptionError(f'network_g:{name}: is {backbone[name]}, must be 3: CLIP sees RGB images')
        upscale = backbone.get('upscale', 4)
        if type(upscale) is not int or upscale < 1:
            raise OptionError(f'network_g:upscale: is {upscale!r}, must be a whole number such as 4')
        try:
            self.backbone = self.backbone_class(**backbone)
        except OptionError:
            raise
        except Exception as error:  # the stock classes check nothing: any error comes of a wrong option
            raise OptionError(f'network_g: {self.backbone_class.__name__} cannot be built from these options: '
                              f'{type(error).__name__}: {error}') from error
        self.upscale = self.backbone.upscale
        self.guidance = GUIDANCE[options.guidance](
            options=options, num_units=self.backbone.num_units, num_feat=self.backbone.num_feat, upscale=self.upscale)

    def forward(self, lr: torch.Tensor, context: Any = None) -> torch.Tensor:
        """Super-resolve.

        Args:
            lr: (b, 3, h, w) RGB in [0, 1], any h and w.
            context: what ``guidance(lr)`` gives, made elsewhere, such as for a scene of which ``lr`` is a tile; with
                guidance: map (b, k, h, w) maps in [-1, 1]. None: CLIP looks at ``lr``.

        Returns:
            (b, 3, s h, s w).

        Raises:
            ValueError: the context does not fit the network or ``lr``.
        """
        h, w = lr.shape[-2:]
        if context is None:
            context = self.guidance(lr)
        else:
            self.guidance.check_context(context, lr)
        feat = skip = self.backbone.head(pad_to_multiple(lr, self.backbone.multiple_of))
        for i in range(self.backbone.num_units):
            feat = self.guidance.modulate(i, self.backbone.unit(i, feat), context)
        return self.backbone.tail(feat, skip)[..., :h * self.upscale, :w * self.upscale]

    def semantics(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What CLIP sees: LR (b, 3, h, w) in [0, 1] -> I_g (b, d) and I_l (b, d, gh, gw), one per patch (Eq. 1)."""
        if self.guidance.sfem is None:
            raise TypeError(f'{type(self).__name__} with guidance: none has no semantics')
        return self.guidance.sfem(lr)

    def guidance_maps(self, lr: torch.Tensor) -> torch.Tensor:
        """Where each unit looks: LR (b, 3, h, w) in [0, 1] -> (b, k, h, w) in [-1, 1] (Eq. 8)."""
        if not isinstance(self.guidance, MapGuidance):
            raise TypeError(f'{type(self).__name__} has guidance maps with guidance: map only')
        return self.guidance(lr)


@ARCH_REGISTRY.register()
class SeGSR_HAT(SeGSR):  # noqa: N801
    """SeG-SR with HAT, the paper's network."""

    backbone_class = HATBackbone


@ARCH_REGISTRY.register()
class SeGSR_EDSR(SeGSR):  # noqa: N801
    """SeG-SR with EDSR (Table VII, ID 1)."""

    backbone_class = EDSRBackbone


@ARCH_REGISTRY.register()
class SeGSR_RCAN(SeGSR):  # noqa: N801
    """SeG-SR with RCAN (Table VII, ID 2)."""

    backbone_class = RCANBackbone


@ARCH_REGISTRY.register()
class SeGSR_SwinIR(SeGSR):  # noqa: N801
    """SeG-SR with SwinIR, which the paper did not try, nor those below."""

    backbone_class = SwinIRBackbone


@ARCH_REGISTRY.register()
class SeGSR_SRFormer(SeGSR):  # noqa: N801
    """SeG-SR with SRFormer."""

    backbone_class = SRFormerBackbone


@ARCH_REGISTRY.register()
class SeGSR_TTST(SeGSR):  # noqa: N801
    """SeG-SR with TTST."""

    backbone_class = TTSTBackbone

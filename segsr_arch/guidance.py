"""The ways semantics guide a network's units (Table IV): nothing, added features, modulation by features or by maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from segsr_arch.layers.padding import pad_to_size
from segsr_arch.lmm import LMM
from segsr_arch.options import SemanticOptions
from segsr_arch.sfem import SFEM
from segsr_arch.slm import SLM


def _check_shape(context: torch.Tensor, expected: tuple[int, ...]) -> None:
    if context.shape != expected:
        raise ValueError(f'the context of this image must be {expected}, not {tuple(context.shape)}')


class NoGuidance(nn.Module):
    """ID 1: the plain backbone, and what all guidances share.

    A guidance is called once with the LR image, for whatever it needs of it (its context), then once per unit.

    Args:
        options: the ``semantic:`` block.
        num_units, num_feat, upscale: of the backbone.
    """

    def __init__(self, *, options: SemanticOptions, num_units: int, num_feat: int, upscale: int):
        super().__init__()
        self.sfem = None

    def forward(self, lr: torch.Tensor) -> Any:
        """LR image (b, 3, h, w) in [0, 1] -> context."""
        return None

    def check_context(self, context: Any, lr: torch.Tensor) -> None:
        """ValueError: a context is not what `forward` gives for an image of this size."""
        raise ValueError('a network with guidance: none takes no context')

    def modulate(self, i: int, feat: torch.Tensor, context: Any) -> torch.Tensor:
        """Feature (b, c, H, W) of unit i, H >= h and W >= w by the backbone's padding -> guided feature."""
        return feat


class LocalGuidance(NoGuidance):
    """What ID 2 and ID 3 share: local features I_l, projected to each unit's channels."""

    def __init__(self, *, options: SemanticOptions, num_units: int, num_feat: int, upscale: int):
        super().__init__(options=options, num_units=num_units, num_feat=num_feat, upscale=upscale)
        self.sfem = SFEM(options=options.encoder, upscale=upscale)
        self.projection = nn.ModuleList(nn.Conv2d(self.sfem.dim, num_feat, 1) for _ in range(num_units))

    def forward(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """I_l (b, d, gh, gw) and the LR image's size."""
        return self.sfem(lr)[1], lr.shape[-2:]

    def check_context(self, context: tuple[torch.Tensor, torch.Size], lr: torch.Tensor) -> None:
        local, size = context if isinstance(context, tuple) and len(context) == 2 else (context, None)
        if size != lr.shape[-2:]:
            raise ValueError('the context is not of local features and the size of this image')
        _check_shape(local, (len(lr), self.sfem.dim, *self.sfem.grid(*size)))

    def project(self, i: int, feat: torch.Tensor, context: tuple[torch.Tensor, torch.Size]) -> torch.Tensor:
        """Unit i's view of I_l, brought to the pixels of its feature: (b, c, H, W)."""
        local, size = context
        return pad_to_size(self.sfem.to_pixels(self.projection[i](local), *size), *feat.shape[-2:])


class AddGuidance(LocalGuidance):
    """ID 2: projected local features are added to each unit's output. The projections start at 0."""

    def __init__(self, *, options: SemanticOptions, num_units: int, num_feat: int, upscale: int):
        super().__init__(options=options, num_units=num_units, num_feat=num_feat, upscale=upscale)
        for unit in self.projection:
            nn.init.zeros_(unit.weight)
            nn.init.zeros_(unit.bias)

    def modulate(self, i: int, feat: torch.Tensor, context: Any) -> torch.Tensor:
        return feat + self.project(i, feat, context)


class FeatureGuidance(LocalGuidance):
    """ID 3: projected local features set gain and bias of each unit's output."""

    def __init__(self, *, options: SemanticOptions, num_units: int, num_feat: int, upscale: int):
        super().__init__(options=options, num_units=num_units, num_feat=num_feat, upscale=upscale)
        self.lmm = nn.ModuleList(LMM(guidance_channels=num_feat, num_feat=num_feat) for _ in range(num_units))

    def modulate(self, i: int, feat: torch.Tensor, context: Any) -> torch.Tensor:
        return self.lmm[i](feat, self.project(i, feat, context))


class MapGuidance(NoGuidance):
    """ID 4, SeG-SR: a guidance map of its own sets gain and bias of each unit's output."""

    def __init__(self, *, options: SemanticOptions, num_units: int, num_feat: int, upscale: int):
        super().__init__(options=options, num_units=num_units, num_feat=num_feat, upscale=upscale)
        self.sfem = SFEM(options=options.encoder, upscale=upscale)
        self.slm = SLM(dim=self.sfem.dim, num_units=num_units, options=options.localization)
        self.lmm = nn.ModuleList(LMM(guidance_channels=1, num_feat=num_feat) for _ in range(num_units))

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """LR image (b, 3, h, w) -> guidance maps M_i (b, k, h, w) in [-1, 1] (Eq. 8)."""
        return self.sfem.to_pixels(self.slm(*self.sfem(lr)), *lr.shape[-2:])

    def check_context(self, context: torch.Tensor, lr: torch.Tensor) -> None:
        _check_shape(context, (len(lr), len(self.lmm), *lr.shape[-2:]))

    def modulate(self, i: int, feat: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.lmm[i](feat, pad_to_size(context[:, i:i + 1], *feat.shape[-2:]))


GUIDANCE = {'none': NoGuidance, 'add': AddGuidance, 'feature': FeatureGuidance, 'map': MapGuidance}

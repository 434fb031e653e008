"""Semantic Localization Module (Section III-B, Fig. 3): where each SR unit should look."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from segsr_arch.options import LocalizationOptions


class MetaNet(nn.Module):
    """Fuses the scene's I_g into the global descriptor p_g (Eq. 5).

    I'_g = Linear(ReLU(Linear(I_g))),  p'_g = Linear(Linear(I'_g) * p_g + Linear(I'_g)).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.descriptor = nn.Parameter(torch.randn(dim))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))
        self.scale = nn.Linear(dim, dim)
        self.shift = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, scene: torch.Tensor) -> torch.Tensor:
        """I_g (b, d) -> p'_g (b, d)."""
        context = self.mlp(scene)
        return self.out(self.scale(context) * self.descriptor + self.shift(context))


class GlobalDescriptor(nn.Module):
    """p_g alone, the same for each scene (Table VI, ID 2)."""

    def __init__(self, dim: int):
        super().__init__()
        self.descriptor = nn.Parameter(torch.randn(dim))

    def forward(self, scene: torch.Tensor) -> torch.Tensor:
        """I_g (b, d) -> p_g (b, d)."""
        return self.descriptor.expand_as(scene)


class SceneContext(nn.Identity):
    """I_g itself in place of p_g (Table VI, ID 3)."""

    def __init__(self, dim: int):
        super().__init__()


# (global_descriptor, scene_context) -> what makes the global token
GLOBAL_TOKENS = {(True, True): MetaNet, (True, False): GlobalDescriptor, (False, True): SceneContext}


class DescriptorAttention(nn.Module):
    """One multi-head self-attention layer over the descriptors (Eq. 6): (b, n, d) -> the same."""

    def __init__(self, dim: int):
        super().__init__()
        heads = max(h for h in range(1, 9) if dim % h == 0)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class GatedFusion(nn.Module):
    """Each unit's descriptor gates the global one (Eq. 7): e_i = Linear(sigmoid(Linear(p*_i)) * Linear(p*_g))."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, units: torch.Tensor, scene: torch.Tensor) -> torch.Tensor:
        """p*_i (b, k, d) and p*_g (b, 1, d) -> e_i (b, k, d)."""
        return self.out(torch.sigmoid(self.gate(units)) * self.value(scene))


class SLM(nn.Module):
    """From CLIP's features to one low-resolution guidance map per SR unit.

    Table VI's variants: without unit descriptors all units share the global embedding, Linear(p*_g); without a global
    token a unit's embedding is Linear(p*_i).

    Args:
        dim: d, channels of CLIP's joint space.
        num_units: k.
        options: which descriptors there are.
    """

    def __init__(self, *, dim: int, num_units: int, options: LocalizationOptions):
        super().__init__()
        self.num_units = num_units
        self.unit_descriptors = nn.Parameter(torch.randn(num_units, dim)) if options.unit_descriptors else None
        make_global = GLOBAL_TOKENS.get((options.global_descriptor, options.scene_context))
        self.global_token = make_global(dim) if make_global else None
        tokens = (num_units if options.unit_descriptors else 0) + (1 if make_global else 0)
        self.attention = DescriptorAttention(dim) if tokens > 1 else nn.Identity()
        both = options.unit_descriptors and make_global
        self.fusion = GatedFusion(dim) if both else nn.Linear(dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # PyTorch's default biases would drown what tells units and scenes apart
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embeddings(self, scene: torch.Tensor) -> torch.Tensor:
        """Semantic localization embeddings e_i (Eqs. 5 to 7): I_g (b, d) -> (b, k, d)."""
        tokens = []
        if self.global_token is not None:
            tokens.append(self.global_token(scene)[:, None])
        if self.unit_descriptors is not None:
            tokens.append(self.unit_descriptors.expand(len(scene), -1, -1))
        refined = self.attention(torch.cat(tokens, dim=1))
        if len(tokens) == 2:
            return self.fusion(refined[:, 1:], refined[:, :1])
        return self.fusion(refined).expand(-1, self.num_units, -1)

    def forward(self, scene: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
        """Cosine similarity of each e_i with each local feature (Eq. 8).

        Args:
            scene: I_g (b, d).
            local: I_l (b, d, h, w).

        Returns:
            M^lr (b, k, h, w) in [-1, 1]. The norm of I_l is per position (the paper writes Frobenius).
        """
        e = F.normalize(self.embeddings(scene), dim=-1)
        maps = torch.einsum('bkd,bdhw->bkhw', e, F.normalize(local, dim=1))
        return maps.clamp(-1, 1)

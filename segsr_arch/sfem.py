"""Semantic Feature Extraction Module (Section III-A): what CLIP sees in the LR image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import nn

from segsr_arch.clip.clip_tower import fingerprint, load_tower, set_quick_gelu
from segsr_arch.clip.lora import add_lora, merge_lora
from segsr_arch.layers.checkpointing import recomputed
from segsr_arch.options import EncoderOptions


class SFEM(nn.Module):
    """Bilinear enlargement, then CLIP's image tower with LoRA (Eq. 1).

    Features are taken after CLIP's last norm and projection, in the space its text embeddings live in.

    The tower is frozen. Where its weights can be found again (``source`` has a checksum), ``state_dict`` leaves them
    out and names them instead, and ``load_state_dict`` verifies that the tower at hand is the same. Random weights are
    kept, and ``stores_tower = True`` keeps any, for a self-contained file. Weights that come with their tower replace
    the one at hand.

    Args:
        options: model, weights and LoRA.
        upscale: s, by which the LR image is enlarged before CLIP.

    The tower's blocks are computed again in backward: for LoRA alone their features would take much memory.
    """

    def __init__(self, *, options: EncoderOptions, upscale: int):
        super().__init__()
        tower = load_tower(options)
        self.visual = tower.visual
        add_lora(self.visual, options)
        self.upscale = upscale
        self.patch_size = self.visual.patch_size[0]
        self.dim = self.visual.output_dim
        self.frozen = [name for name, p in self.named_parameters() if not p.requires_grad]
        self.source = {**tower.source, 'lora_alpha': options.lora_alpha or options.lora_rank}
        self.stores_tower = tower.source['sha256'] is None
        for name in ('mean', 'std'):
            self.register_buffer(name, torch.tensor(tower.source[name]).view(1, 3, 1, 1), persistent=False)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """How many of CLIP's patches an LR image of h x w pixels has: (ceil(s h / P), ceil(s w / P))."""
        return -(-h * self.upscale // self.patch_size), -(-w * self.upscale // self.patch_size)

    def position_embedding(self, h: int, w: int) -> torch.Tensor:
        """CLIP's position embedding for an h x w grid, (1 + h w, c): 2-D bicubic, the class token's untouched."""
        embedding = self.visual.positional_embedding
        if (h, w) == tuple(self.visual.grid_size):
            return embedding
        grid = rearrange(embedding[1:], '(h w) c -> 1 c h w', h=self.visual.grid_size[0])
        grid = F.interpolate(grid.float(), size=(h, w), mode='bicubic', antialias=True, align_corners=False)
        return torch.cat([embedding[:1], rearrange(grid, '1 c h w -> (h w) c').to(embedding)])

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """CLIP on a normalised image (b, 3, H, W) of whole patches -> I_g (b, d), I_l (b, d, h, w)."""
        tower = self.visual
        patches = tower.conv1(x)
        h, w = patches.shape[-2:]
        tokens = rearrange(patches, 'b c h w -> b (h w) c')
        cls = tower.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = torch.cat([cls, tokens], dim=1) + self.position_embedding(h, w).to(tokens.dtype)
        tokens = tower.ln_pre(tokens)
        for block in tower.transformer.resblocks:
            tokens = recomputed(block, tokens)
        tokens = tower.ln_post(tokens) @ tower.proj
        return tokens[:, 0], rearrange(tokens[:, 1:], 'b (h w) d -> b d h w', h=h)

    def forward(self, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """LR image to semantic features.

        Args:
            lr: (b, 3, h, w) RGB in [0, 1], any size.

        Returns:
            I_g (b, d), the scene's, and I_l (b, d, ceil(s h / P), ceil(s w / P)), one per patch of P x P pixels of the
            enlarged image, which is extended by its edge to whole patches at the bottom and right.
        """
        x = F.interpolate(lr, scale_factor=self.upscale, mode='bilinear', align_corners=False)
        x = F.pad(x, (0, -x.shape[-1] % self.patch_size, 0, -x.shape[-2] % self.patch_size), mode='replicate')
        return self.encode((x - self.mean) / self.std)

    def to_pixels(self, grid: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """Bilinear interpolation from CLIP's patches to LR pixels.

        Args:
            grid: (b, c, gh, gw), one value per patch.
            h, w: size of the LR image the patches were cut from.

        Returns:
            (b, c, h, w). A pixel's value depends on its place among the patches alone: with P / s LR pixels per patch,
            pixel y lies at (y + 1/2) s / P - 1/2, whatever the image's size, and what lies in the padding is cut off.
        """
        grid = F.pad(grid, (0, 1, 0, 1), mode='replicate')  # so that rounding cannot make the result too small
        pixels = F.interpolate(grid, scale_factor=self.patch_size / self.upscale, mode='bilinear', align_corners=False)
        return pixels[..., :h, :w]

    def merge_lora(self) -> None:
        """Add LoRA's increments to the frozen weights, for use only: the same features to rounding, without LoRA.

        The tower is then that of ``lora_rank: 0``, and another one than it was: it is kept in ``state_dict``.
        """
        merge_lora(self.visual)
        self.frozen = [name for name, _ in self.named_parameters()]
        found = self.source['sha256'] is not None
        self.source = {**self.source, 'lora_alpha': 0,
                       'sha256': fingerprint(self.visual.state_dict()) if found else None,
                       'pretrained': f"{self.source['pretrained']} with LoRA merged" if found else None}
        self.stores_tower = True

    def get_extra_state(self) -> torch.Tensor:
        return torch.frombuffer(bytearray(json.dumps(self.source).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """The tower's source is checked before the weights are loaded, see ``_load_from_state_dict``."""

    def state_dict(self, *args, destination=None, prefix: str = '', keep_vars: bool = False):
        state = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        if not self.stores_tower:
            for name in self.frozen:
                del state[prefix + name]
        return state

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        trained, contained = self._trained_with(state_dict, prefix)
        problem = self.foreign_tower(state_dict, prefix)
        if problem:
            error_msgs.append(problem)
        elif contained and trained and not self._same_tower(trained):
            self._adopt(trained)
        if not contained:
            own = dict(self.named_parameters())
            state_dict.update({prefix + name: own[name] for name in self.frozen})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def _adopt(self, trained: dict[str, Any]) -> None:
        """Become the tower whose weights are being loaded."""
        set_quick_gelu(self.visual, trained['quick_gelu'])
        for name in ('mean', 'std'):
            getattr(self, name).copy_(torch.tensor(trained[name]).view(1, 3, 1, 1))
        self.source, self.stores_tower = trained, True

    def foreign_tower(self, state_dict: Mapping[str, torch.Tensor], prefix: str) -> str | None:
        """Why weights do not fit this tower, or None: they were trained with another one and do not contain it."""
        trained, contained = self._trained_with(state_dict, prefix)
        if trained is None:
            return None
        if trained['lora_alpha'] != self.source['lora_alpha']:
            return (f"the checkpoint was trained with LoRA's alpha at {trained['lora_alpha']}, this network has "
                    f"{self.source['lora_alpha']}. Set semantic:encoder:lora_alpha (~: the rank) to what it was "
                    'trained with')
        if trained['heads'] == self.source['heads'] if contained else self._same_tower(trained):
            return None
        return (f'the checkpoint was trained with the CLIP image tower {_describe(trained)} and '
                f'{"contains it" if contained else "does not contain it"}; this network has {_describe(self.source)}. '
                'Set semantic:encoder:model and pretrained to the tower it was trained with')

    def _trained_with(self, state_dict: Mapping[str, torch.Tensor], prefix: str) -> tuple[dict[str, Any] | None, bool]:
        """Source of the tower that weights were trained with, if they tell, and whether they contain it."""
        record = state_dict.get(prefix + '_extra_state')
        contained = any(prefix + name in state_dict for name in self.frozen)
        try:
            return None if record is None else _read_record(record), contained
        except (LookupError, RecursionError, TypeError, ValueError):
            raise ValueError(f'{prefix}_extra_state, the record of the CLIP tower, is damaged') from None

    def _same_tower(self, trained: dict[str, Any]) -> bool:
        return trained['sha256'] is not None and all(
            trained[key] == self.source[key] for key in ('sha256', 'quick_gelu', 'heads', 'mean', 'std'))


def _read_record(record: torch.Tensor) -> dict[str, Any]:
    """The source of a tower from `SFEM.get_extra_state`. Any error: it is not as that has written it."""
    if record.dtype != torch.uint8 or record.ndim != 1 or len(record) > 1 << 16:
        raise ValueError('no text')
    source = json.loads(bytes(record.cpu().tolist()))
    sound = (isinstance(source['model'], str) and isinstance(source['quick_gelu'], bool)
             and all(source[key] is None or isinstance(source[key], str) for key in ('pretrained', 'sha256'))
             and all(isinstance(source[key], (int, float)) for key in ('heads', 'lora_alpha'))
             and all(torch.tensor(source[key], dtype=torch.float).shape == (3,) for key in ('mean', 'std')))
    if not sound:
        raise TypeError('another kind of value')
    return source


def _describe(source: dict[str, Any]) -> str:
    weights = f"pretrained '{source['pretrained']}' (sha256 {source['sha256'][:12]})" if source['sha256'] else (
        'random weights')
    activation = 'QuickGELU' if source['quick_gelu'] else 'GELU'
    return f"{source['model']}, {weights}, {activation}, {source['heads']} heads, mean {source['mean']}"

"""Low-rank adaptation (Eq. 2) of CLIP's image tower, with loralib's layers.

loralib merges A and B into the frozen weight on ``eval()`` and subtracts them on ``train()``. Here they are never
merged: frozen weights are never written to, and what is saved does not depend on the mode.
"""

from __future__ import annotations

import loralib
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import nn

from segsr_arch.options import EncoderOptions, OptionError


def lora_linear(weight: torch.Tensor, bias: torch.Tensor | None, options: EncoderOptions) -> loralib.Linear:
    """A frozen linear with a trainable increment: W* = W + (alpha / r) B A, which is 0 at the start (B = 0)."""
    layer = loralib.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, r=options.lora_rank,
        lora_alpha=options.lora_alpha or options.lora_rank, lora_dropout=options.lora_dropout, merge_weights=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    if not isinstance(layer.lora_dropout, nn.Module):
        layer.lora_dropout = nn.Identity()  # loralib's lambda cannot be pickled
    return layer


def merged_linear(layer: loralib.Linear) -> nn.Linear:
    """A frozen linear that is the same to rounding, without a pair: its weight is W* (Eq. 2)."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    linear.weight.data = layer.weight.data + layer.scaling * layer.lora_B.data @ layer.lora_A.data
    if layer.bias is not None:
        linear.bias.data = layer.bias.data
    return linear.requires_grad_(False)


class LoRAAttention(nn.Module):
    """CLIP's self-attention with low-rank pairs of their own for q, k and v (Eq. 3), in nn.MultiheadAttention's place.

    Args:
        attention: the module it replaces; its frozen weights are taken over.
        options: rank, alpha and dropout.
    """

    def __init__(self, attention: nn.MultiheadAttention, options: EncoderOptions):
        super().__init__()
        self.num_heads = attention.num_heads
        self.q, self.k, self.v = (
            lora_linear(w.clone(), b.clone(), options)
            for w, b in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)))
        self.out_proj = attention.out_proj

    def merged(self) -> nn.MultiheadAttention:
        """The same attention to rounding, with its pairs added to the frozen weights."""
        attention = nn.MultiheadAttention(self.out_proj.in_features, self.num_heads, batch_first=True)
        attention.in_proj_weight.data = torch.cat([merged_linear(layer).weight for layer in (self.q, self.k, self.v)])
        attention.in_proj_bias.data = torch.cat([layer.bias for layer in (self.q, self.k, self.v)])
        attention.out_proj = self.out_proj
        return attention.requires_grad_(False).train(self.training)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool = False,
                attn_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        """(b, n, c) each -> (b, n, c) and None, as nn.MultiheadAttention with ``batch_first``."""
        q, k, v = (rearrange(f(x), 'b n (m c) -> b m n c', m=self.num_heads)
                   for f, x in ((self.q, query), (self.k, key), (self.v, value)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(rearrange(out, 'b m n c -> b n (m c)')), None


def add_lora(visual: nn.Module, options: EncoderOptions) -> None:
    """Give the tower's blocks their trainable increments, in place; nothing for rank 0.

    Raises:
        OptionError: the tower's attention is not the one of CLIP.
    """
    if not options.lora_rank:
        return
    for block in visual.transformer.resblocks:
        if 'qkv' in options.lora_targets:
            if not isinstance(block.attn, nn.MultiheadAttention) or not block.attn.batch_first:
                raise OptionError('network_g:semantic:encoder:lora_targets: qkv needs a tower with plain multi-head '
                                  f'attention; {options.model_name} has {type(block.attn).__name__}')
            block.attn = LoRAAttention(block.attn, options)
        if 'ffn' in options.lora_targets:
            for name in ('c_fc', 'c_proj'):
                linear = getattr(block.mlp, name)
                setattr(block.mlp, name, lora_linear(linear.weight, linear.bias, options))


def merge_lora(visual: nn.Module) -> None:
    """Undo `add_lora` in place, with what was trained added to the frozen weights."""
    for block in visual.transformer.resblocks:
        if isinstance(block.attn, LoRAAttention):
            block.attn = block.attn.merged()
        for name in ('c_fc', 'c_proj'):
            layer = getattr(block.mlp, name)
            if isinstance(layer, loralib.Linear):
                setattr(block.mlp, name, merged_linear(layer))

"""A straightforward SeG-SR HAT, as HAT's public code would do it: the yardstick of speed, a second opinion on values.

Token lists instead of images, windows cut by permuted copies, attention matrices in full, the shift mask made anew on
each call, overlapping windows by unfold, LoRA's increment added to the weight before use, CLIP's attention in full.
Modules and state_dict keys are the product's: `make_plain` only replaces what the modules do.
"""

import types

import torch
import torch.nn.functional as F  # noqa: N812

from segsr_arch.clip.lora import LoRAAttention
from segsr_arch.layers.swin import ResidualGroup


def windows_of(x, size):
    """(b, h, w, c) -> (windows, size * size, c)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def image_of(windows, size, h, w):
    """(windows, size * size, c) -> (b, h, w, c)."""
    b = windows.shape[0] // ((h // size) * (w // size))
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


def mask_of(h, w, size, shift, device):
    """0 where a shifted window may attend, -100 elsewhere: (windows, size², size²)."""
    regions = torch.zeros(1, h, w, 1, device=device)
    cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    count = 0
    for rows in cuts:
        for columns in cuts:
            regions[:, rows, columns, :] = count
            count += 1
    regions = windows_of(regions, size).squeeze(-1)
    difference = regions[:, None] - regions[:, :, None]
    return difference.masked_fill(difference != 0, -100.0)


def bias_of(table, index):
    """(heads, queries, keys)."""
    return table[index.reshape(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous()


def hab_forward(self, x, index, size):
    """(b, h w, c) tokens."""
    (h, w), (b, _, c) = size, x.shape
    window, shift, heads = self.attn.window_size, self.attn.shift, self.attn.num_heads
    shortcut = x
    x = self.norm1(x).view(b, h, w, c)
    conv = self.conv_block(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).contiguous().view(b, h * w, c)
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    x = windows_of(x, window)
    n = window * window
    q, k, v = self.attn.qkv(x).reshape(len(x), n, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
    attention = (q * (c // heads)**-0.5) @ k.transpose(-2, -1)
    attention = attention + bias_of(self.attn.relative_position_bias_table, index).unsqueeze(0)
    if shift:
        mask = mask_of(h, w, window, shift, x.device)
        attention = attention.view(b, len(mask), heads, n, n) + mask[None, :, None]
        attention = attention.view(-1, heads, n, n)
    x = (attention.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c)
    x = image_of(self.attn.proj_drop(self.attn.proj(x)), window, h, w)
    if shift:
        x = torch.roll(x, (shift, shift), (1, 2))
    x = shortcut + self.drop_path(x.view(b, h * w, c)) + conv
    return x + self.drop_path(self.mlp(self.norm2(x)))


def ocab_forward(self, x, index, size):
    """(b, h w, c) tokens."""
    (h, w), (b, _, c) = size, x.shape
    window, overlap, heads = self.window_size, self.overlap, self.num_heads
    shortcut = x
    x = self.qkv(self.norm1(x).view(b, h, w, c)).reshape(b, h, w, 3, c).permute(3, 0, 4, 1, 2)
    q = windows_of(x[0].permute(0, 2, 3, 1), window)
    kv = torch.cat((x[1], x[2]), dim=1)
    kv = F.unfold(kv, overlap, stride=window, padding=(overlap - window) // 2)
    kv = kv.view(b, 2, c, overlap * overlap, -1).permute(1, 0, 4, 3, 2).reshape(2, -1, overlap * overlap, c)
    q, k, v = (t.reshape(len(t), t.shape[1], heads, c // heads).permute(0, 2, 1, 3) for t in (q, kv[0], kv[1]))
    attention = (q * (c // heads)**-0.5) @ k.transpose(-2, -1)
    attention = attention + bias_of(self.relative_position_bias_table, index).unsqueeze(0)
    x = (attention.softmax(-1) @ v).transpose(1, 2).reshape(-1, window * window, c)
    x = image_of(x, window, h, w).view(b, h * w, c)
    x = shortcut + self.proj(x)
    return x + self.mlp(self.norm2(x))


def group_forward(self, x, index, overlap_index):
    """(b, h, w, c) image, as tokens inside."""
    b, h, w, c = x.shape
    tokens = x.reshape(b, h * w, c)
    for block in self.residual_group.blocks:
        tokens = hab_forward(block, tokens, index, (h, w))
    tokens = ocab_forward(self.residual_group.overlap_attn, tokens, overlap_index, (h, w))
    image = tokens.transpose(1, 2).contiguous().view(b, c, h, w)
    return self.conv(image).permute(0, 2, 3, 1).contiguous() + x


def full_attention(q, k, v, heads):
    """(b, n, c) each, matrices in full."""
    b, n, c = q.shape
    q, k, v = (t.reshape(b, n, heads, c // heads).transpose(1, 2) for t in (q, k, v))
    scores = (q * (c // heads)**-0.5) @ k.transpose(-2, -1)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)


def merged(linear, x):
    """A LoRA linear by its merged weight."""
    weight = linear.weight + (linear.lora_B @ linear.lora_A) * linear.scaling if linear.r else linear.weight
    return F.linear(x, weight, linear.bias)


def lora_attention_forward(self, query, key, value, need_weights=False, attn_mask=None):
    q, k, v = merged(self.q, query), merged(self.k, key), merged(self.v, value)
    return F.linear(full_attention(q, k, v, self.num_heads), self.out_proj.weight, self.out_proj.bias), None


def make_plain(net):
    """Let a SeG-SR HAT, or a HAT, compute in the straightforward way, in place; its weights and keys stay."""
    for module in net.modules():
        if isinstance(module, ResidualGroup):
            module.forward = types.MethodType(group_forward, module)
        elif isinstance(module, LoRAAttention):
            module.forward = types.MethodType(lora_attention_forward, module)
            module.q.forward, module.k.forward, module.v.forward = (
                types.MethodType(merged, linear) for linear in (module.q, module.k, module.v))
        elif type(module).__name__ == 'ResidualAttentionBlock':
            for linear in (module.mlp.c_fc, module.mlp.c_proj):
                if hasattr(linear, 'lora_A'):
                    linear.forward = types.MethodType(merged, linear)
    return net

"""The paper's equations as plain formulas, to compare the package with. Nothing here calls the package."""

import math

import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def part(state, prefix):
    """The entries of a state_dict under ``prefix.``, without it."""
    return {k[len(prefix) + 1:]: v for k, v in state.items() if k.startswith(prefix + '.')}


def linear(state, name, x):
    return x @ state[name + '.weight'].T + state[name + '.bias']


def layer_norm(x, weight=1.0, bias=0.0, eps=1e-5):
    """Over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight + bias


def attention(q, k, v, heads):
    """softmax(Q K^T / sqrt(head width)) V per head (Eq. 3), head by head: (b, n, d) each."""
    width = q.shape[-1] // heads
    out = []
    for i in range(heads):
        s = slice(i * width, (i + 1) * width)
        scores = q[..., s] @ k[..., s].transpose(1, 2) / math.sqrt(width)
        out.append(torch.softmax(scores, dim=-1) @ v[..., s])
    return torch.cat(out, dim=-1)


def self_attention(state, x, heads):
    """nn.MultiheadAttention's weights: in_proj, out_proj."""
    q, k, v = (x @ state['in_proj_weight'].T + state['in_proj_bias']).chunk(3, dim=-1)
    return linear(state, 'out_proj', attention(q, k, v, heads))


def cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic_matrix(size, target):
    """(target, size) weights of an antialiased bicubic resize of a line, as Pillow does it."""
    step = size / target
    stretch = max(step, 1.0)
    rows = []
    for i in range(target):
        row = torch.tensor([cubic((j + 0.5 - (i + 0.5) * step) / stretch) for j in range(size)], dtype=torch.float64)
        rows.append(row / row.sum())
    return torch.stack(rows)


def position_embedding(embedding, h, w):
    """CLIP's (1 + g g, c) embedding for an h x w grid: the class token as it is, the grid resized in 2-D."""
    g = math.isqrt(len(embedding) - 1)
    grid = embedding[1:].double().reshape(g, g, -1)
    grid = torch.einsum('yi,xj,ijc->yxc', bicubic_matrix(g, h), bicubic_matrix(g, w), grid)
    return torch.cat([embedding[:1], grid.reshape(h * w, -1).float()])


def bilinear_at(line, place):
    """Value of a sampled line (n, ...) at a real place, constant beyond its ends."""
    place = min(max(place, 0.0), len(line) - 1.0)
    low = min(int(place), max(len(line) - 2, 0))
    high = min(low + 1, len(line) - 1)
    return line[low] * (1 - (place - low)) + line[high] * (place - low)


def to_pixels(grid, h, w, step):
    """(gh, gw) patch values at h x w pixels, ``step`` pixels per patch: pixel y lies at (y + 1/2) / step - 1/2."""
    rows = torch.stack([bilinear_at(grid, (y + 0.5) / step - 0.5) for y in range(h)])
    return torch.stack([bilinear_at(rows.T, (x + 0.5) / step - 0.5) for x in range(w)]).T


def clip_input(lr, scale, patch):
    """Enlarged (bilinear), extended by its edge to whole patches, normalised as CLIP was trained."""
    b, c, h, w = lr.shape
    big = torch.stack([to_pixels(plane, h * scale, w * scale, scale) for plane in lr.flatten(0, 1)])
    rows = [min(y, h * scale - 1) for y in range(math.ceil(h * scale / patch) * patch)]
    columns = [min(x, w * scale - 1) for x in range(math.ceil(w * scale / patch) * patch)]
    big = big[:, rows][:, :, columns].unflatten(0, (b, c))
    return (big - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def clip_tokens(state, x, patch, heads, activation, increment=None):
    """CLIP's image tower on (b, 3, H, W): all tokens in the joint space, (b, 1 + h w, d).

    ``increment`` maps 'block.{i}.{q,k,v,c_fc,c_proj}' to what LoRA adds to that weight.
    """
    increment = increment or {}
    h, w = x.shape[-2] // patch, x.shape[-1] // patch
    patches = x.unfold(2, patch, patch).unfold(3, patch, patch)  # b c h w patch patch
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(x), h * w, -1)
    tokens = patches @ state['conv1.weight'].flatten(1).T
    tokens = torch.cat([state['class_embedding'].expand(len(x), 1, -1), tokens], dim=1)
    tokens = tokens + position_embedding(state['positional_embedding'], h, w)
    tokens = layer_norm(tokens, state['ln_pre.weight'], state['ln_pre.bias'])
    blocks = {k.split('.')[2] for k in state if k.startswith('transformer.resblocks.')}
    for i in range(len(blocks)):
        block = part(state, f'transformer.resblocks.{i}')
        y = layer_norm(tokens, block['ln_1.weight'], block['ln_1.bias'])
        q, k, v = (y @ (weight + increment.get(f'block.{i}.{name}', 0)).T + bias for name, weight, bias in zip(
            'qkv', block['attn.in_proj_weight'].chunk(3), block['attn.in_proj_bias'].chunk(3)))
        tokens = tokens + linear(block, 'attn.out_proj', attention(q, k, v, heads))
        y = layer_norm(tokens, block['ln_2.weight'], block['ln_2.bias'])
        c_fc = block['mlp.c_fc.weight'] + increment.get(f'block.{i}.c_fc', 0)
        c_proj = block['mlp.c_proj.weight'] + increment.get(f'block.{i}.c_proj', 0)
        y = activation(y @ c_fc.T + block['mlp.c_fc.bias'])
        tokens = tokens + y @ c_proj.T + block['mlp.c_proj.bias']
    return layer_norm(tokens, state['ln_post.weight'], state['ln_post.bias']) @ state['proj']


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def lora_increment(state, scaling):
    """What LoRA adds to each weight (Eq. 2): scaling * B A, under the names of `clip_tokens`."""
    out = {}
    for key in state:
        if key.endswith('.lora_A'):
            layer = key[:-len('.lora_A')]
            i = layer.split('resblocks.')[1].split('.')[0]
            out[f'block.{i}.{layer.split(".")[-1]}'] = scaling * state[layer + '.lora_B'] @ state[key]
    return out


def cosine(a, b):
    return (a * b).sum() / (torch.sqrt((a * a).sum()) * torch.sqrt((b * b).sum()))


def convolve(state, name, x):
    """3 x 3 convolution with zero padding, as a sum of nine shifted products."""
    weight, (h, w) = state[name + '.weight'], x.shape[-2:]
    big = x.new_zeros(*x.shape[:2], h + 2, w + 2)
    big[..., 1:-1, 1:-1] = x
    out = sum(torch.einsum('oc,bchw->bohw', weight[:, :, i, j], big[..., i:i + h, j:j + w])
              for i in range(3) for j in range(3))
    return out + state[name + '.bias'].view(-1, 1, 1)


def lmm(state, feat, guidance):
    """F_out = g * LN(F) + b (Eq. 9)."""
    hidden = convolve(state, 'shared.0', guidance).clamp(min=0)
    normed = layer_norm(feat.movedim(1, -1)).movedim(-1, 1)
    return convolve(state, 'gain', hidden) * normed + convolve(state, 'bias', hidden)

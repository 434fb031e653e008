"""SFEM against open_clip itself and against CLIP written as plain formulas (Eqs. 1 to 4)."""

import copy

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed

from segsr_arch.options import EncoderOptions
from segsr_arch.sfem import SFEM
from tests.arch import formulas

PATCH, HEADS = 8, 4


@pytest.fixture
def sfem(encoder):
    """Makes an SFEM of the tiny CLIP; LoRA's increments have moved away from 0."""
    def make(upscale=4, **options):
        module = SFEM(options=EncoderOptions(**encoder(**options)), upscale=upscale).eval()
        with torch.no_grad():
            for name, p in module.named_parameters():
                if name.endswith('lora_B'):
                    p.normal_(std=0.1)
        return module
    return make


def reference(tiny_clip, module, lr, scaling=1.0):
    state = {k: v.float() for k, v in tiny_clip.clip.visual.state_dict().items()}
    increment = formulas.lora_increment(module.state_dict(), scaling)
    x = formulas.clip_input(lr, module.upscale, PATCH)
    return formulas.clip_tokens(state, x, PATCH, HEADS, formulas.gelu, increment)


@pytest.mark.parametrize('upscale', [2, 4, 8])
def test_equals_open_clip_at_native_size(tiny_clip, sfem, upscale):
    """A2, A3, A8: I_g is open_clip's encode_image, for CLIP's own mean and std; no attention of our own making."""
    lr = torch.rand(3, 3, 32 // upscale, 32 // upscale)
    big = torch.nn.functional.interpolate(lr, (32, 32), mode='bilinear')
    x = (big - torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)) / torch.tensor(
        open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    scene, local = sfem(upscale, lora_rank=0)(lr)
    torch.testing.assert_close(scene, tiny_clip.clip.encode_image(x), rtol=1e-4, atol=1e-4)

    visual = copy.deepcopy(tiny_clip.clip.visual)
    visual.output_tokens = True
    _, tokens = visual(x)  # after the last norm
    expected = (tokens @ visual.proj).transpose(1, 2).reshape(3, 32, 4, 4)
    torch.testing.assert_close(local, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('targets', [['qkv', 'ffn'], ['qkv'], ['ffn']])
@pytest.mark.parametrize('upscale, size', [(4, (8, 8)), (4, (5, 9)), (3, (7, 4)), (2, (13, 21)), (8, (1, 1))])
def test_equals_plain_formulas_at_any_size(tiny_clip, sfem, upscale, size, targets):
    """Enlargement, padding, normalisation, position embedding, LoRA (A9) and blocks, on square and other grids."""
    module = sfem(upscale, lora_targets=targets)
    lr = torch.rand(2, 3, *size)
    tokens = reference(tiny_clip, module, lr)
    gh, gw = (-(-upscale * n // PATCH) for n in size)
    scene, local = module(lr)
    assert local.shape == (2, 32, gh, gw)
    torch.testing.assert_close(scene, tokens[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(local.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-3, atol=1e-3)


def test_quick_gelu_equals_plain_formulas(tiny_clip, sfem):
    """A10: c_fc, QuickGELU, c_proj."""
    module = sfem(4, model=tiny_clip.model_quickgelu)
    lr = torch.rand(1, 3, 6, 8)
    state = tiny_clip.clip.visual.state_dict()
    tokens = formulas.clip_tokens(state, formulas.clip_input(lr, 4, PATCH), PATCH, HEADS, formulas.quick_gelu,
                                  formulas.lora_increment(module.state_dict(), 1.0))
    torch.testing.assert_close(module(lr)[0], tokens[:, 0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(module(lr)[0], sfem(4)(lr)[0], atol=1e-3)


@pytest.mark.parametrize('h, w', [(4, 4), (1, 1), (2, 2), (3, 5), (9, 2), (8, 8), (5, 4), (1, 7)])
def test_position_embedding(tiny_clip, sfem, h, w):
    """A7: 2-D bicubic over the grid, class token untouched, rows and columns kept apart."""
    embedding = tiny_clip.clip.visual.positional_embedding
    resized = sfem().position_embedding(h, w)
    assert torch.equal(resized[0], embedding[0])
    torch.testing.assert_close(resized, formulas.position_embedding(embedding, h, w), rtol=1e-4, atol=1e-5)
    if (h, w) == (4, 4):
        assert torch.equal(resized, embedding)


@pytest.mark.parametrize('h, w', [(3, 7), (7, 3), (4, 8), (8, 4), (2, 8)])
def test_position_embedding_keeps_rows_and_columns_apart(sfem, h, w):
    """A7: channel 0 holds the row, channel 1 the column; a 1-D interpolation of the token list would mix them."""
    module = sfem()
    with torch.no_grad():
        grid = module.visual.positional_embedding[1:].view(4, 4, -1)
        grid[..., 0] = torch.arange(4.0)[:, None]
        grid[..., 1] = torch.arange(4.0)[None, :]
    resized = module.position_embedding(h, w)[1:].view(h, w, -1)
    assert (resized[:, :, 0] - resized[:, :1, 0]).abs().max() < 1e-5
    assert (resized[:, :, 1] - resized[:1, :, 1]).abs().max() < 1e-5
    assert (resized[1:, :, 0] > resized[:-1, :, 0]).all()
    assert (resized[:, 1:, 1] > resized[:, :-1, 1]).all()


@pytest.mark.parametrize('image_size', [24, 48, 64, (16, 40)])
def test_position_embedding_equals_open_clips_own_resizing(tiny_clip, sfem, image_size):
    """A7: what open_clip's loader makes of the embedding for a model with another image size."""
    config = copy.deepcopy(tiny_clip.config)
    config['vision_cfg']['image_size'] = image_size
    state = tiny_clip.clip.state_dict()
    model = open_clip.CLIP(**config)
    resize_pos_embed(state, model)
    h, w = model.visual.grid_size
    torch.testing.assert_close(sfem().position_embedding(h, w), state['visual.positional_embedding'])


def test_equals_open_clip_built_for_another_image_size(tiny_clip, sfem):
    config = copy.deepcopy(tiny_clip.config)
    config['vision_cfg']['image_size'] = (24, 48)
    state = tiny_clip.clip.state_dict()
    model = open_clip.CLIP(**config).eval()
    resize_pos_embed(state, model)
    model.load_state_dict(state)
    lr = torch.rand(2, 3, 8, 16)
    x = formulas.clip_input(lr, 3, PATCH)
    torch.testing.assert_close(sfem(3, lora_rank=0)(lr)[0], model.encode_image(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('upscale', [2, 3, 4, 8])
@pytest.mark.parametrize('h, w', [(1, 1), (7, 13), (16, 8), (33, 5), (3, 40)])
def test_to_pixels(sfem, upscale, h, w):
    gh, gw = -(-upscale * h // PATCH), -(-upscale * w // PATCH)
    grid = torch.randn(2, 3, gh, gw)
    pixels = sfem(upscale).to_pixels(grid, h, w)
    expected = [formulas.to_pixels(plane, h, w, PATCH / upscale) for plane in grid.flatten(0, 1)]
    torch.testing.assert_close(pixels.flatten(0, 1), torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('upscale', [2, 3, 4, 8])
def test_a_pixel_has_its_place_whatever_the_image_size(sfem, upscale):
    """The map of an image's upper left part is the upper left part of the image's map, but for the last patches."""
    module = sfem(upscale)
    grid = torch.randn(1, 2, 6, 9)
    step = PATCH / upscale
    full = module.to_pixels(grid, int(6 * step), int(9 * step))
    part = module.to_pixels(grid[..., :4, :5], int(4 * step), int(5 * step))
    h, w = int(3.5 * step), int(4.5 * step)
    torch.testing.assert_close(part[..., :h, :w], full[..., :h, :w])
    cut = module.to_pixels(grid, int(6 * step) - 1, int(9 * step) - 1)  # padding does not move a pixel either
    assert torch.equal(cut, full[..., :-1, :-1])


@pytest.mark.parametrize('size', [(5, 9), (8, 8), (1, 1)])
def test_batch_equals_one_by_one(sfem, size):
    module, lr = sfem(3), torch.rand(3, 3, *size)
    scene, local = module(lr)
    for i in range(3):
        one_scene, one_local = module(lr[i:i + 1])
        torch.testing.assert_close(scene[i:i + 1], one_scene, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(local[i:i + 1], one_local, rtol=1e-4, atol=1e-5)

"""LoRA (Eq. 2): what is frozen stays, what is added starts at 0 and is trained."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from segsr_arch.clip.lora import lora_linear
from segsr_arch.options import EncoderOptions, OptionError
from segsr_arch.sfem import SFEM


@pytest.fixture
def sfem(encoder):
    def make(**options):
        return SFEM(options=EncoderOptions(**encoder(**options)), upscale=4)
    return make


def layers(module):
    """(block, layer, its LoRA linear) of an SFEM."""
    out = []
    for i, block in enumerate(module.visual.transformer.resblocks):
        places = [(name, block.attn, name) for name in 'qkv']
        places += [(name, block.mlp, name) for name in ('c_fc', 'c_proj')]
        out += [(i, name, getattr(parent, name, None)) for name, parent, name in places]
    return out


def frozen_weights(module):
    """The frozen weights under open_clip's names, q, k and v put together again."""
    out = {}
    for name, value in module.visual.named_parameters():
        if '.lora_' not in name and '.attn.q.' not in name and '.attn.k.' not in name and '.attn.v.' not in name:
            out[name] = value
    for i, block in enumerate(module.visual.transformer.resblocks):
        if hasattr(block.attn, 'q'):
            for kind in ('weight', 'bias'):
                out[f'transformer.resblocks.{i}.attn.in_proj_{kind}'] = torch.cat(
                    [getattr(getattr(block.attn, n), kind) for n in 'qkv'])
    return out


def moved(module):
    with torch.no_grad():
        for name, p in module.named_parameters():
            if '.lora_' in name:
                p.normal_(std=0.1)
    return module


def step(module, lr, optimizer):
    scene, local = module(lr)
    optimizer.zero_grad()
    (scene.square().sum() + local.square().sum()).backward()
    optimizer.step()


@pytest.mark.parametrize('targets', [['qkv', 'ffn'], ['qkv'], ['ffn']])
def test_frozen_weights_are_the_loaded_ones_bit_for_bit(tiny_clip, sfem, targets):
    """A1: after building, after training steps and after any change of mode."""
    module = sfem(lora_targets=targets, lora_dropout=0.1)
    expected = tiny_clip.clip.visual.state_dict()
    lr = torch.rand(2, 3, 8, 8)
    # weight decay would move frozen weights if they were trained
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)

    def check():
        own = frozen_weights(module)
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[k], v) for k, v in expected.items())

    check()
    for mode in (True, False, False, True):
        step(module.train(mode), lr, optimizer)
        check()


@pytest.mark.parametrize('targets', [['qkv', 'ffn'], ['qkv'], ['ffn']])
def test_increment_is_0_at_the_start(sfem, targets):
    """A1: B is 0, A is not; the output is that of the tower without LoRA."""
    lr = torch.rand(2, 3, 8, 8)
    for _, _, layer in layers(module := sfem(lora_targets=targets)):
        if hasattr(layer, 'lora_B'):
            assert layer.lora_B.abs().max() == 0 < layer.lora_A.abs().min()
    for got, expected in zip(module(lr), sfem(lora_rank=0)(lr)):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('targets, names', [(['qkv', 'ffn'], 'q k v c_fc c_proj'), (['qkv'], 'q k v'),
                                            (['ffn'], 'c_fc c_proj'), (('ffn', 'qkv'), 'q k v c_fc c_proj')])
def test_separate_pairs_where_asked_for(sfem, targets, names):
    """A9: q, k and v have an A and a B each, of rank r; nothing else is trained."""
    module = sfem(lora_targets=targets, lora_rank=5)
    adapted = [(i, name, layer) for i, name, layer in layers(module) if hasattr(layer, 'lora_A')]
    assert [(i, name) for i, name, _ in adapted] == [(i, name) for i in range(2) for name in names.split()]
    pairs = [p for _, _, layer in adapted for p in (layer.lora_A, layer.lora_B)]
    assert len({p.data_ptr() for p in pairs}) == len(pairs)
    assert {id(p) for p in pairs} == {id(p) for p in module.parameters() if p.requires_grad}
    assert all(layer.lora_A.shape == (5, layer.in_features) and layer.lora_B.shape == (layer.out_features, 5)
               for _, _, layer in adapted)


def test_rank_0_trains_nothing(sfem):
    assert not any(p.requires_grad for p in sfem(lora_rank=0).parameters())


@pytest.mark.parametrize('alpha, scaling', [(None, 1.0), (4, 1.0), (8, 2.0), (1, 0.25), (0.5, 0.125)])
@pytest.mark.parametrize('has_bias', [True, False])
def test_alpha_scales_the_increment(alpha, scaling, has_bias):
    """A9: W* = W + (alpha / r) B A, with alpha = r by default."""
    weight, bias = torch.randn(6, 10), torch.randn(6) if has_bias else None
    layer = lora_linear(weight, bias, EncoderOptions(lora_rank=4, lora_alpha=alpha))
    nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 10)
    expected = x @ (weight + scaling * layer.lora_B @ layer.lora_A).T + (bias if has_bias else 0)
    for mode in (True, False):
        layer.train(mode)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_off_by_default_and_acts_in_training_only(sfem):
    assert EncoderOptions().lora_dropout == 0
    lr = torch.rand(1, 3, 8, 8)
    plain = moved(sfem())
    assert torch.equal(plain.train()(lr)[0], plain.eval()(lr)[0])

    dropping = sfem(lora_dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(dropping.eval()(lr)[0], plain.eval()(lr)[0])
    dropping.train()
    assert not torch.allclose(dropping(lr)[0], dropping(lr)[0], atol=1e-4)


def test_dropout_is_scaled_so_that_the_mean_stays():
    layer = lora_linear(torch.zeros(1, 1), None, EncoderOptions(lora_rank=1, lora_dropout=0.25))
    nn.init.ones_(layer.lora_A)
    nn.init.ones_(layer.lora_B)
    values = layer(torch.ones(4000, 1))
    assert sorted({round(v, 4) for v in values.flatten().tolist()}) == [0, 1.3333]
    assert values.mean().item() == pytest.approx(1, abs=0.05)


def test_mode_changes_no_weight_and_no_output(sfem):
    """Nothing is merged into the frozen weights on eval(), nothing subtracted on train()."""
    module, lr = moved(sfem()), torch.rand(1, 3, 8, 8)
    module.stores_tower = True
    before = {k: v.clone() for k, v in module.state_dict().items()}
    outputs = [module.train(mode)(lr)[0] for mode in (True, False, True, True, False, False, True)]
    assert all(torch.equal(out, outputs[0]) for out in outputs)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize('targets', [['qkv', 'ffn'], ['qkv'], ['ffn']])
def test_gradients_reach_both_matrices(sfem, targets):
    """B moves in the first step; A from then on. The first layer's q, k and v count too."""
    module, lr = sfem(lora_targets=targets), torch.rand(2, 3, 8, 8)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1e-3)
    step(module, lr, optimizer)
    assert all(p.grad.abs().max() > 0 for name, p in trained.items() if name.endswith('lora_B'))
    step(module, lr, optimizer)
    assert all(p.grad.abs().max() > 0 for p in trained.values())
    assert all(p.grad is None for p in module.parameters() if not p.requires_grad)


def test_can_be_copied_and_pickled(sfem):
    module, lr = moved(sfem()).eval(), torch.rand(1, 3, 8, 8)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(lr)[0], module(lr)[0])


def test_attention_that_is_not_clips_is_an_error(tmp_path, tiny_clip, sfem):
    config = copy.deepcopy(tiny_clip.config)
    config['vision_cfg'].update(block_type='custom', qk_norm=True)
    path = tmp_path / 'custom.json'
    path.write_text(json.dumps(config), encoding='utf-8')
    with pytest.raises(OptionError, match='lora_targets.*qkv.*custom.json'):
        sfem(model=str(path), pretrained=None)
    assert sfem(model=str(path), pretrained=None, lora_targets=['ffn'])(torch.rand(1, 3, 8, 8))[0].shape == (1, 32)


@pytest.mark.parametrize('targets', [['qkv'], ['ffn'], ['qkv', 'ffn']])
def test_merged_it_is_a_plain_tower_that_sees_the_same(sfem, targets):
    module, lr = moved(sfem(lora_targets=targets, lora_alpha=8)).eval(), torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        expected = module(lr)
        module.merge_lora()
        for feature, same in zip(module(lr), expected):
            torch.testing.assert_close(feature, same)
        plain = sfem(lora_rank=0, pretrained=None).eval()
        plain.load_state_dict(module.state_dict())  # strictly, the tower included
        for feature, same in zip(plain(lr), module(lr)):
            assert torch.equal(feature, same)
    assert not any('lora' in name for name in module.state_dict())
    assert not any(p.requires_grad for p in module.parameters())
    assert module.source['pretrained'].endswith('open_clip.pt with LoRA merged')
    assert module.source['sha256'] != sfem().source['sha256']


def test_a_merged_random_tower_stays_one(sfem):
    module = moved(sfem(pretrained=None))
    module.merge_lora()
    assert module.source['sha256'] is module.source['pretrained'] is None and module.source['lora_alpha'] == 0

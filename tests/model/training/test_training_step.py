"""Precision, accumulation, clipping and numbers gone wrong, in SemanticGuidedSRModel's training step."""

import copy

import pytest
import torch
from basicsr.models import build_model

from segsr_model.training.training_step import build_optimizer


def batch(seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    return {'lq': torch.rand(size, 3, 8, 8, generator=generator),
            'gt': torch.rand(size, 3, 32, 32, generator=generator),
            'lq_path': [f'image{i}.png' for i in range(size)]}


def trained(model):
    return [p for p in model.net_g.parameters() if p.requires_grad]


def build(options, tmp_path, **train):
    options = copy.deepcopy(options)
    options['train'].update(train)
    options['path']['log'] = str(tmp_path)
    torch.manual_seed(0)
    return build_model(options)


def step(model, data=None, iteration=1):
    model.feed_data(data or batch())
    model.optimize_parameters(iteration)
    return model


@pytest.mark.parametrize('parts', [2, 3, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(options, tmp_path, parts):
    whole, split = step(build(options, tmp_path)), step(build(options, tmp_path, accumulate=parts))
    for p, q in zip(trained(whole), trained(split)):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-7, rtol=1e-4)
    assert split.log_dict['l_pix'] == pytest.approx(whole.log_dict['l_pix'], rel=1e-6)


def test_the_step_is_basicsrs_own(options, tmp_path):
    model = build(options, tmp_path)
    other = copy.deepcopy(model.net_g)
    optimizer = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.99))
    data = batch()
    loss = (other(data['lq']) - data['gt']).abs().mean()
    loss.backward()
    optimizer.step()
    step(model, data)
    assert model.log_dict['l_pix'] == pytest.approx(loss.item(), rel=1e-6)
    for p, q in zip(trained(model), (p for p in other.parameters() if p.requires_grad)):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)


def test_grad_clip_limits_the_norm_of_all_gradients(options, tmp_path):
    free, clipped = step(build(options, tmp_path)), step(build(options, tmp_path, grad_clip=1e-3))
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in trained(free)]))
    assert norm > 1e-2
    for p, q in zip(trained(free), trained(clipped)):
        torch.testing.assert_close(q.grad, p.grad * (1e-3 / norm), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_mixed_precision_trains_like_fp32_with_loss_and_weights_in_fp32(options, tmp_path, amp):
    single, mixed = build(options, tmp_path), build(options, tmp_path, amp=amp)
    seen = []
    mixed.net_g.backbone.conv_last.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    for i in range(1, 4):
        step(single, batch(i), i)
        step(mixed, batch(i), i)
    assert seen[0] == {'bf16': torch.bfloat16, 'fp16': torch.float16}[amp]
    assert {p.dtype for p in mixed.net_g.parameters()} == {torch.float32}
    assert mixed.log_dict['l_pix'] == pytest.approx(single.log_dict['l_pix'], rel=0.01)
    assert mixed.step.scaler.is_enabled() == (amp == 'fp16')


@pytest.mark.parametrize('option', ['use_checkpoint', 'channels_last'])
def test_memory_and_layout_options_change_no_value(options, tmp_path, option):
    plain, other = step(build(options, tmp_path)), step(build(options, tmp_path, **{option: True}))
    for p, q in zip(trained(plain), trained(other)):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-4)


def test_use_checkpoint_reaches_the_backbone(options, tmp_path):
    assert build(options, tmp_path, use_checkpoint=True).net_g.backbone.use_checkpoint


def test_use_checkpoint_sets_the_outermost_that_can(options, tmp_path):
    """BasicSR's own layers of SwinIR have the option, but fail with it."""
    options['network_g'] = {'type': 'SeGSR_SwinIR', 'upscale': 4, 'num_units': 1, 'semantic': {'guidance': 'none'},
                            'img_size': 8, 'window_size': 4, 'embed_dim': 12, 'depths': [1], 'num_heads': [2],
                            'drop_path_rate': 0}
    plain, other = step(build(options, tmp_path)), step(build(options, tmp_path, use_checkpoint=True))
    assert other.net_g.backbone.use_checkpoint
    for p, q in zip(trained(plain), trained(other)):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-4)


def test_a_step_gone_wrong_changes_nothing_and_names_its_images(options, tmp_path, log):
    model = build(options, tmp_path, max_bad_steps=1)
    before = [p.clone() for p in trained(model)]
    data = batch()
    data['gt'][1, 0, 0, 0] = float('nan')
    step(model, data, 7)
    assert all(torch.equal(p, q) for p, q in zip(before, trained(model)))
    lines = (tmp_path / 'bad_steps.txt').read_text().splitlines()
    assert lines == [f'7\tloss is\timage{i}.png' for i in range(4)]
    assert 'Iteration 7' in log.text
    step(model, batch(1), 8)
    assert not all(torch.equal(p, q) for p, q in zip(before, trained(model)))
    (tmp_path / 'training_states' / '6.state').touch()
    with pytest.raises(SystemExit, match=r'max_bad_steps.*6\.state'):
        step(model, data, 9)


def test_gradients_gone_wrong_are_noticed_behind_a_finite_loss(options, tmp_path):
    model = build(options, tmp_path)
    weight = trained(model)[0]
    weight.register_hook(lambda gradient: gradient * float('inf'))
    before = [p.clone() for p in trained(model)]
    step(model)
    assert all(torch.equal(p, q) for p, q in zip(before, trained(model)))
    assert '\tgradients are\t' in (tmp_path / 'bad_steps.txt').read_text()


def test_an_overflow_of_fp16_lowers_the_scale_and_is_no_bad_step(options, tmp_path):
    model = build(options, tmp_path, amp='fp16')
    trained(model)[0].register_hook(lambda gradient: gradient * float('inf'))
    scale = model.step.scaler.get_scale()
    step(model)
    assert model.step.scaler.get_scale() < scale
    assert not (tmp_path / 'bad_steps.txt').exists()


def test_optimizers_are_fused_unless_asked_otherwise():
    weights = [torch.nn.Parameter(torch.ones(3))]
    assert build_optimizer('AdamW', weights, {'lr': 1e-3}).defaults['fused']
    assert not build_optimizer('AdamW', weights, {'lr': 1e-3, 'fused': False}).defaults['fused']
    assert type(build_optimizer('Rprop', weights, {'lr': 1e-3})) is torch.optim.Rprop
    with pytest.raises(ValueError, match="no optimizer 'Adan'"):
        build_optimizer('Adan', weights, {})


def test_validation_in_bf16_returns_fp32(options, tmp_path):
    model = build(options, tmp_path)
    model.feed_data(batch())
    model.test()
    single = model.output
    model.opt['val']['amp'] = 'bf16'
    model.test()
    assert model.output.dtype == torch.float32
    assert not torch.equal(model.output, single)
    torch.testing.assert_close(model.output, single, atol=0.1, rtol=0.1)

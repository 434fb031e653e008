"""Settings of optimizer and scheduler that have changed in the option file are used when a training is resumed."""

import copy

import pytest
import torch
from basicsr.models import build_model
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from torch import nn

from segsr_model.basicsr_mends import load_resume_state
from segsr_model.training.settings import restore
from tests.model.trainings import differences

ADAM = {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]}
STEPS = {'type': 'MultiStepRestartLR', 'milestones': [3], 'gamma': 0.5}
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [8], 'restart_weights': [1], 'eta_min': 0}
SCHEDULERS = {cls.__name__: cls for cls in (MultiStepRestartLR, CosineAnnealingRestartLR)}


class Run:
    """A training of one layer, with an optimizer and a scheduler as option files have them."""

    def __init__(self, optimizer, scheduler):
        torch.manual_seed(0)
        self.layer, self.inputs = nn.Linear(3, 2), torch.randn(20, 4, 3)
        (kind, options), (schedule, steps) = (({**block}.pop('type'), {k: v for k, v in block.items() if k != 'type'})
                                              for block in (optimizer, scheduler))
        self.optimizer = getattr(torch.optim, kind)(self.layer.parameters(), **options)
        self.scheduler = SCHEDULERS[schedule](self.optimizer, **steps)
        self.iteration = 0

    def train(self, iterations):
        """As BasicSR does. Returns the learning rate of each iteration."""
        rates = []
        for _ in range(iterations):
            self.iteration += 1
            if self.iteration > 1:
                self.scheduler.step()
            rates.append(self.optimizer.param_groups[0]['lr'])
            self.optimizer.zero_grad()
            self.layer(self.inputs[self.iteration]).square().mean().backward()
            self.optimizer.step()
        return rates

    def resume(self, saved):
        """Go on from what another run has come to. Returns what there is to say."""
        self.layer.load_state_dict(saved.layer.state_dict())
        self.iteration = saved.iteration
        return restore(self.optimizer, self.scheduler, copy.deepcopy(saved.optimizer.state_dict()),
                       copy.deepcopy(saved.scheduler.state_dict()), steps=saved.iteration - 1)


@pytest.fixture
def saved():
    run = Run(ADAM, STEPS)
    run.train(5)
    return run


@pytest.mark.parametrize(('optimizer', 'scheduler', 'said'), [
    ({**ADAM, 'lr': 1e-5}, STEPS,
     'train:optim_g: the run had lr 0.001; from here on, as the option file says, lr 1e-05.'),
    (ADAM, {**STEPS, 'milestones': [3, 5, 7], 'gamma': 0.1},
     'train:scheduler: the run had milestones [3], gamma 0.5; from here on, as the option file says, milestones '
     '[3, 5, 7], gamma 0.1.'),
    (ADAM, COSINE, 'train:scheduler: the run had milestones [3], gamma 0.5, restarts [0]; from here on, as the option '
                   'file says, periods [8], eta_min 0.'),
    ({**ADAM, 'type': 'AdamW', 'lr': 2e-3}, STEPS, 'lr 0.001'),
    ({'type': 'SGD', 'lr': 1e-2, 'momentum': 0.9}, STEPS, 'momentum 0.9'),
])
def test_learning_rates_are_those_of_the_option_file(saved, optimizer, scheduler, said):
    run, straight = Run(optimizer, scheduler), Run(optimizer, scheduler)
    assert any(said in note for note in run.resume(saved))
    assert run.train(4) == straight.train(9)[5:]


def test_what_has_not_changed_is_taken_from_the_state_as_it_is(saved):
    saved.optimizer.param_groups[0]['lr'] = 0.123  # as after a warm-up of BasicSR's, which no option tells
    saved.optimizer.param_groups[0]['scheduled_lr'] = 0.5
    run = Run(ADAM, {**STEPS, 'milestones': [3.0]})
    assert run.resume(saved) == []
    assert differences(run.optimizer.state_dict(), saved.optimizer.state_dict()) == []
    assert differences(run.scheduler.state_dict(), saved.scheduler.state_dict()) == []


@pytest.mark.parametrize('changed', [{'weight_decay': 0.1}, {'betas': [0.5, 0.9]}, {'eps': 1e-3}, {'maximize': True}])
def test_other_settings_of_an_optimizer_work_on_its_moments(saved, changed):
    run = Run({**ADAM, **changed}, STEPS)
    note, = run.resume(saved)
    key, = changed
    assert f'the run had {key}' in note and f'{key} {changed[key]}' in note
    saved.optimizer.param_groups[0].update(changed)
    saved.train(3)
    run.train(3)
    assert differences(run.layer.state_dict(), saved.layer.state_dict()) == []


@pytest.mark.filterwarnings('ignore:Detected call')  # the reference's scheduler, before its optimizer
@pytest.mark.parametrize('optimizer', [
    {'type': 'SGD', 'lr': 1e-2, 'momentum': 0.9}, {**ADAM, 'amsgrad': True}, {'type': 'Adagrad', 'lr': 1e-2},
    {'type': 'Adamax', 'lr': 1e-3}, {'type': 'RMSprop', 'lr': 1e-3}, {'type': 'Adadelta', 'lr': 1.0}])
def test_an_optimizer_of_another_kind_begins_anew(saved, optimizer):
    run, fresh = Run(optimizer, STEPS), Run(optimizer, STEPS)
    assert f'{optimizer["type"]} cannot use what the optimizer of the run has gathered' in run.resume(saved)[0]
    fresh.layer.load_state_dict(saved.layer.state_dict())
    for run_ in (run, fresh):
        run_.iteration = 5
    for _ in range(4):
        fresh.scheduler.step()
    run.train(2)
    fresh.train(2)
    assert differences(run.layer.state_dict(), fresh.layer.state_dict()) == []


def test_from_sgd_to_adam_and_back(saved):
    plain = Run({'type': 'SGD', 'lr': 1e-2}, STEPS)
    plain.resume(saved)
    plain.train(1)
    again = Run(ADAM, STEPS)
    notes = again.resume(plain)  # SGD without momentum gathers nothing: there is nothing to lose
    assert len(notes) == 1 and notes[0].startswith('train:optim_g: the run had lr 0.01')
    again.train(2)


def test_states_of_another_pytorch_resume(saved):
    group, = saved.optimizer.param_groups
    for key in ('decoupled_weight_decay', 'fused', 'foreach', 'maximize'):
        group.pop(key, None)
    group['of_the_future'] = 3
    run = Run(ADAM, STEPS)
    assert run.resume(saved) == []
    run.train(1)


@pytest.mark.filterwarnings('ignore:Detected call')
def test_a_model_resumes_with_a_lower_rate_and_says_so(options, tmp_path, log):
    options['train'].update(warmup_iter=6, scheduler={'type': 'MultiStepLR', 'milestones': [7], 'gamma': 0.5})
    model = build_model(copy.deepcopy(options))
    for iteration in range(1, 5):  # in the warm-up
        model.update_learning_rate(iteration, 6)
    model.save(0, 4)
    options['train']['optim_g'].update(lr=3e-4, weight_decay=0.1)
    options['train']['warmup_iter'] = 5
    again = build_model(copy.deepcopy(options))
    again.resume_training(torch.load(tmp_path / 'training_states' / '4.state'))
    assert 'train:optim_g: the run had lr 0.001, weight_decay 0; from here on' in log.text
    rates = []
    for iteration in range(5, 10):
        again.update_learning_rate(iteration, 5)
        rates.append(again.get_current_learning_rate()[0])
    assert rates == pytest.approx([3e-4, 3e-4, 3e-4, 1.5e-4, 1.5e-4])
    assert again.optimizer_g.param_groups[0]['weight_decay'] == 0.1


def test_another_seed_or_network_is_said(options, tmp_path):
    model = build_model(copy.deepcopy(options))
    model.save(0, 4)
    options.update(auto_resume=True, manual_seed=5)
    options['path'].update(strict_load_g=False)
    state = load_resume_state(options)
    assert state['notes'] == ['manual_seed: the run goes on with its own, 0; 5 is not used.']
    options['network_g']['num_feat'] = 8  # its optimizer's moments would not fit
    with pytest.raises(ValueError, match="net_g_4.pth': the weights do not fit"):
        build_model(options)


def test_a_state_of_several_optimizers_is_refused(options):
    model = build_model(options)
    with pytest.raises(SystemExit, match='5.state: is of a training with 2 optimizers, not with one'):
        model.opt['path']['resume_state'] = '5.state'
        model.resume_training({'iter': 5, 'epoch': 0, 'optimizers': [{}, {}], 'schedulers': [{}, {}]})

"""What keeps a training whole: checkpoints, exact resuming, stopping on signals. The network does not matter here."""

from __future__ import annotations

from os import path as osp
from typing import TYPE_CHECKING, Any, NoReturn

from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import nn
from torch.utils.data import DataLoader

from segsr_model.files import remove_leftovers
from segsr_model.training.checkpoints import CheckpointWriter, best_metric, prune, snapshot
from segsr_model.training.distributed import from_first, gather, timeout_of
from segsr_model.training.interrupts import EXIT_CODE, InterruptionError, StopRequest
from segsr_model.training.resume import random_states, set_random_states
from segsr_model.training.settings import restore

if TYPE_CHECKING:
    from segsr_model.training.training_run import TrainingRun


class ResumableSRModel(SRModel):
    """BasicSR's SRModel whose training can be ended at any moment and gone on with as if it had not been.

    Checkpoints are moved into place when complete, and hold all random states; SIGTERM and SIGINT save and end.
    """

    def init_training_settings(self) -> None:
        super().init_training_settings()
        self.iterations = self.epoch = self.position = 0
        self.random_states = None  # to be set before the next iteration
        self.writer = CheckpointWriter()
        self.stop = StopRequest()
        self.run = None  # of train.py, if it is one

    def take_over(self, run: TrainingRun) -> None:
        """Called once by a run of train.py: write checkpoints beside the training, and stop on signals."""
        self.run = run
        self.stop.listen(timeout_of(self.opt.get('dist_params')))
        if self.opt['rank'] == 0:
            self.writer = CheckpointWriter(background=True)
            for folder in ('models', 'training_states'):
                remove_leftovers(self.opt['path'][folder])

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begin an iteration: stop if that was asked for, else the learning rates, with the warm-up as a factor.

        In BasicSR a scheduler goes on from the last rate of the warm-up and never reaches the full one.
        """
        if self.stop.agreed_in_passing():
            self.leave()
        if self.random_states is not None:
            set_random_states(self.opt, self.random_states)
            self.random_states = None
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group['lr'] = group.pop('scheduled_lr', group['lr'])
        super().update_learning_rate(current_iter)
        if current_iter < warmup_iter:
            for group in groups:
                group['scheduled_lr'] = group['lr']
                group['lr'] = group['initial_lr'] / warmup_iter * current_iter

    def feed_data(self, data: dict[str, Any]) -> None:
        """As in SRModel; notes which place in the training set it is."""
        super().feed_data(data)
        if 'place' in data:
            epochs, positions = data['place']
            self.epoch, self.position = int(epochs[-1]), int(positions[-1]) + 1

    def save_unsaved(self) -> None:
        """Save the training as it is, if that is not done yet. All processes call it together."""
        self.writer.wait()
        if from_first(lambda: self.writer.saved != self.iterations > 0):
            self.save(self.epoch, self.iterations)
        self.finish_writing()

    def leave(self) -> NoReturn:
        """End the process after saving. All processes call it together."""
        self.save_unsaved()
        get_root_logger().info(f'Stopped by {self.stop.name or "another process"} after iteration {self.iterations}. '
                               'Go on with --auto_resume.')
        self.stop.barrier()
        raise SystemExit(EXIT_CODE)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore all but the networks, which are loaded as pretrained ones, and repeat a validation that was due.

        Settings of optimizer and scheduler that have changed in the option file are used, and logged.

        BasicSR saves before it validates: of an iteration with both, the state does not know the validation.
        """
        logger = get_root_logger()
        for note in resume_state.get('notes', ()):
            logger.warning(note)
        logger.info(f'Resuming from {self.opt["path"].get("resume_state")}')
        states = resume_state['optimizers'], resume_state['schedulers']
        if [len(state) for state in states] != [1, 1]:
            raise SystemExit(f'{self.opt["path"].get("resume_state")}: is of a training with {len(states[0])} '
                             'optimizers, not with one')
        steps = min(resume_state['iter'] - 1, int(self.opt['train']['total_iter']))
        for note in restore(*self.optimizers, *self.schedulers, *(state[0] for state in states), steps=steps):
            logger.warning(note)
        self.iterations = self.writer.saved = resume_state['iter']
        self.epoch = resume_state['epoch']
        if 'data' in resume_state:
            self.position = resume_state['data']['position']
        self.load_extra_training_state(resume_state.get('extra', {}))
        self.random_states = self.random_states_of(resume_state)
        val_opt = self.opt.get('val') or {}
        for dataset_name, records in resume_state.get('best', {}).items() if val_opt.get('metrics') else ():
            self._initialize_best_metric_results(dataset_name)
            had, has = resume_state.get('metrics', {}), self.metrics()
            for metric in filter(records.__contains__, has):
                if had.get(metric, has[metric]) == has[metric]:
                    self.best_metric_results[dataset_name][metric] = records[metric]
                else:
                    logger.warning(f'val:metrics:{metric}: the run had {had[metric]}; from here on, as the option file '
                                   f'says, {has[metric]}: its best value begins anew.')
        if self.run and val_opt and self.iterations % val_opt['val_freq'] == 0:
            for loader in self.run.val_loaders:
                self.validation(loader, self.iterations, self.run.tb_logger, val_opt['save_img'])

    def metrics(self) -> dict[str, str]:
        """The options of the metrics of validation, as text, by name."""
        metrics = (self.opt.get('val') or {}).get('metrics') or {}
        return {name: ', '.join(f'{key} {value}' for key, value in opt.items()) for name, opt in metrics.items()}

    def random_states_of(self, resume_state: dict[str, Any]) -> dict[str, Any] | None:
        """Those of this process in a training state, if it was saved by as many processes on as many GPUs."""
        states = resume_state.get('random', [])
        gpus = len(random_states(self.opt)['cuda'])
        if len(states) == self.opt['world_size'] and all(len(each['cuda']) == gpus for each in states):
            return states[self.opt['rank']]
        get_root_logger().warning('The training state holds no random states for these processes and GPUs: the run '
                                  'goes on with others.')
        return None

    def extra_training_state(self) -> dict[str, Any]:
        """What else a checkpoint is to hold, as plain values and tensors."""
        return {}

    def load_extra_training_state(self, extra: dict[str, Any]) -> None:
        """Take back what `extra_training_state` returned; empty for a state of BasicSR's own."""

    def save(self, epoch: int, current_iter: int) -> None:
        """As in BasicSR, but in the background when training; ``current_iter`` -1, the end of training, waits.

        Raises:
            OSError: at the end of training, if the weights cannot be saved. Otherwise that is logged as an error.
        """
        self.save_networks(current_iter)
        self.save_training_state(epoch, current_iter)
        if current_iter == -1:
            self.finish_writing()

    def finish_writing(self) -> None:
        """Wait for what is being written. OSError, or in a run of train.py SystemExit: it cannot be."""
        try:
            self.writer.finish()
        except OSError as error:
            if self.run:
                raise SystemExit(str(error)) from None
            raise

    def save_networks(self, current_iter: int | str) -> None:
        """Save the network, with its average if there is one, as ``net_g_<current_iter>.pth``."""
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', current_iter, ['params', 'params_ema'])
        else:
            self.save_network(self.net_g, 'net_g', current_iter)

    @master_only
    def save_network(self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int | str,
                     param_key: str | list[str] = 'params') -> None:
        """As in BasicSR, with the iterations, weights that networks share stored once, and the file old or complete."""
        nets, keys = (x if isinstance(x, list) else [x] for x in (net, param_key))
        content = snapshot({key: dict(self.get_bare_model(net_).state_dict()) for net_, key in zip(nets, keys)})
        content['iterations'] = self.iterations if current_iter in (-1, 'best') else current_iter
        name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        self.writer.save_network(osp.join(self.opt['path']['models'], name), content)

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """As in BasicSR, with all that an exact resume takes, and what identifies the network saved just before."""
        if current_iter == -1:
            return
        states = gather(random_states(self.opt))
        if self.opt['rank'] != 0:
            return
        state = snapshot({
            'epoch': epoch, 'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'data': {'seed': self.opt['manual_seed'], 'epoch': self.epoch, 'position': self.position,
                     'length': self.run and self.run.epoch_length, 'processes': self.opt['world_size']},
            'random': states, 'best': getattr(self, 'best_metric_results', {}),
            'metrics': self.metrics(), 'extra': self.extra_training_state()})
        folders = self.opt['path']
        keep = self.opt['logger'].get('keep_last')
        self.writer.save_state(
            osp.join(folders['training_states'], f'{current_iter}.state'), state, [f'net_g_{current_iter}.pth'],
            lambda: keep and prune(folders['training_states'], folders['models'], newest=current_iter, keep=keep))

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        super()._update_best_metric_result(dataset_name, metric, val, current_iter)
        if (self.is_train and best_metric(self.opt) == (dataset_name, metric)
                and self.best_metric_results[dataset_name][metric]['iter'] == current_iter):
            self.save_networks('best')

    def validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any,
                   save_img: bool = False) -> None:
        """As in BasicSR. It leaves the random states as they were, and in training a signal breaks it off.

        It is then repeated first when the training is resumed.
        """
        states = random_states(self.opt)
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        except InterruptionError:
            get_root_logger().info('The validation is broken off. It will be repeated first when resuming.')
        finally:
            set_random_states(self.opt, states)
        if self.is_train and self.stop.agreed():
            self.leave()

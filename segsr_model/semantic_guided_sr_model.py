"""The BasicSR model that trains, validates and tests semantic-guided networks, and plain ones beside them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from os import path as osp
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import nn
from torch.utils.data import DataLoader, Dataset

from segsr_model.files import UnwrittenError
from segsr_model.testing.evaluation import ADVICE, evaluate
from segsr_model.testing.inference import super_resolve
from segsr_model.testing.metrics import set_better
from segsr_model.testing.protocol import protocol_of
from segsr_model.testing.scores import SavedScores, Scores
from segsr_model.training.corrupt_images import CorruptImageError, CorruptImages
from segsr_model.training.distributed import from_first, gather, parallel, share_of
from segsr_model.training.interrupts import InterruptionError
from segsr_model.training.resumable_model import ResumableSRModel
from segsr_model.training.training_step import TrainingStep, autocast, build_optimizer, prepare_network
from segsr_model.weights.loading import load_weights
from segsr_model.weights.reading import read_weights


@MODEL_REGISTRY.register()
class SemanticGuidedSRModel(ResumableSRModel):
    """BasicSR's SRModel where a part of the network is frozen.

    It takes the options of SRModel. What differs: only what is trained is optimised and averaged; the EMA network
    shares the frozen weights; checkpoints hold each weight once and are moved into place when complete; a stock
    checkpoint of the backbone warm-starts a guided network; validation reports each scene class.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self._corrupt_images: dict[str, CorruptImages] = {}
        self._tested, self._unfinished = 0, []  # test sets, and what is said of those with images that are too large
        super().__init__(opt)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As in BasicSR, but also distributed without GPUs; what ``train:`` does to a network comes before that."""
        if self.is_train:
            prepare_network(net, self.opt['train'])
        if self.opt['dist']:
            return parallel(net.to(self.device), self.device, self.opt.get('find_unused_parameters', False))
        return super().model_to_device(net)

    def print_network(self, net: nn.Module) -> None:
        """Log trained and frozen parameters by part, instead of the network's full text."""
        net = self.get_bare_model(net)
        parts = {}
        for name, p in net.named_parameters():
            part = 'LoRA' if '.lora_' in name else '.'.join(name.split('.')[:2 if name.startswith('guidance.') else 1])
            key = (part, 'trained' if p.requires_grad else 'frozen')
            parts[key] = parts.get(key, 0) + p.numel()
        lines = [f'\n\t{part} ({state}): {count:,d}' for (part, state), count in parts.items()]
        get_root_logger().info(f'Network: {type(net).__name__}, with parameters: {sum(parts.values()):,d}'
                               + ''.join(lines))

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        """Load own checkpoints, or a stock checkpoint of the backbone, and log what became of the weights.

        Raises:
            ValueError: the file cannot be read, or does not fit and ``strict`` is set.
        """
        self.load_read_weights(net, *read_weights(load_path, param_key), load_path, strict)

    def load_read_weights(self, net: nn.Module, weights: dict[str, torch.Tensor], param_key: str | None,
                          load_path: str, strict: bool) -> None:
        """The part of `load_network` after `read_weights`."""
        try:
            report = load_weights(self.get_bare_model(net), weights, strict=strict)
        except ValueError as error:
            raise ValueError(f"path:pretrain_network_g: '{load_path}': {error}") from None
        kind = 'Warm start of the backbone' if report.warm_start else 'Loading'
        get_root_logger().info(f'{kind} from {load_path}, with param key [{param_key}]: {report}.')

    def init_training_settings(self) -> None:
        """As in SRModel, but the EMA network is a copy that shares what is frozen, not a second build."""
        train_opt = self.opt['train']
        ema_decay = train_opt.pop('ema_decay', 0)
        super().init_training_settings()
        self.step = TrainingStep(train_opt, self.device)
        self.ema_decay = train_opt['ema_decay'] = ema_decay
        if ema_decay > 0:
            self.init_ema()

    def init_ema(self) -> None:
        """Make ``net_g_ema``: a copy of ``net_g``, or the EMA weights of the checkpoint that was loaded."""
        net = self.get_bare_model(self.net_g)
        shared = {id(p): p for p in net.parameters() if not p.requires_grad}
        self.net_g_ema = copy.deepcopy(net, shared).requires_grad_(False).eval()
        trained = [(p, q) for p, q in zip(self.net_g_ema.parameters(), net.parameters()) if p is not q]
        self.ema_weights, self.net_weights = [list(weights) for weights in zip(*trained)]
        load_path = self.opt['path'].get('pretrain_network_g')
        if load_path:
            weights, key = read_weights(load_path, 'params_ema')
            if key == 'params_ema':
                strict = self.opt['path'].get('strict_load_g', True)
                self.load_read_weights(self.net_g_ema, weights, key, load_path, strict)
        get_root_logger().info(f'Use Exponential Moving Average with decay: {self.ema_decay}')

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Move the EMA weights by ``1 - decay`` towards the trained ones. Frozen weights are not touched."""
        torch._foreach_lerp_(self.ema_weights, self.net_weights, 1 - decay)

    def setup_optimizers(self) -> None:
        """As in SRModel, for what is trained, with any optimizer of torch.optim and in its fused form where it has one.

        ``optim_g: fused: false`` leaves that out.
        """
        train_opt = self.opt['train']
        optim_type = train_opt['optim_g'].pop('type')
        trained = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = build_optimizer(optim_type, trained, train_opt['optim_g'])
        self.optimizers.append(self.optimizer_g)

    def feed_data(self, data: dict[str, Any]) -> None:
        if any(data.get('corrupt', ())):
            try:
                self.corrupt_images(self.opt['datasets']['train']).add(data['corrupt'])
            except CorruptImageError as error:
                self.give_up(error)
        super().feed_data(data)
        self.paths = data.get('lq_path', [])

    def optimize_parameters(self, current_iter: int) -> None:
        """One step on the batch, in ``train: accumulate`` parts; see `segsr_model.training.training_step`."""
        self.log_dict = self.step(self, current_iter)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        self.iterations = current_iter

    def losses(self, output: torch.Tensor, gt: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of ``pixel_opt`` and ``perceptual_opt``, under the names that SRModel logs."""
        losses = {}
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(output, gt)
        if self.cri_perceptual:
            losses['l_percep'], losses['l_style'] = self.cri_perceptual(output, gt)
        return {name: loss for name, loss in losses.items() if loss is not None}

    def corrupt_images(self, dataset_opt: Mapping[str, Any]) -> CorruptImages:
        """The images of a dataset that were passed over."""
        option = next((f'datasets:{key}' for key, each in self.opt['datasets'].items()
                       if (each['phase'], each['name']) == (dataset_opt['phase'], dataset_opt['name'])),
                      dataset_opt['name'])
        if option not in self._corrupt_images:
            folder = self.opt['path'].get('log' if self.is_train else 'results_root')
            self._corrupt_images[option] = CorruptImages(f'{option}:max_corrupt_images',
                                                         dataset_opt.get('max_corrupt_images', 0), folder)
        return self._corrupt_images[option]

    def give_up(self, error: CorruptImageError | UnwrittenError) -> NoReturn:
        """End a run whose data cannot be used, or results not be written; a training by one process is saved first."""
        saved = ''
        if self.is_train and not self.opt['dist'] and self.iterations:
            self.save_unsaved()
            saved = f' Iteration {self.iterations} is saved: go on with --auto_resume.'
        raise SystemExit(f'{error}.{saved}')

    def extra_training_state(self) -> dict[str, Any]:
        """The scaler of fp16, and how many steps went wrong."""
        return {'scaler': self.step.scaler.state_dict(), 'bad_steps': self.step.bad_steps}

    def load_extra_training_state(self, extra: dict[str, Any]) -> None:
        self.step.bad_steps = extra.get('bad_steps', 0)
        if self.step.scaler.is_enabled() and extra.get('scaler'):
            self.step.scaler.load_state_dict(extra['scaler'])

    @torch.no_grad()
    def test(self) -> None:
        """Super-resolve ``self.lq``, with the EMA network if there is one, as ``val: self_ensemble``, ``amp`` say."""
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)
        training = net.training
        val_opt = self.opt['val']
        try:
            with autocast(self.lq.device, val_opt.get('amp')):
                output = super_resolve(net.eval(), self.lq, self_ensemble=val_opt.get('self_ensemble', False))
            self.output = output.float()
        finally:  # an image that does not fit into memory does not end a training
            net.train(training)

    def validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any,
                   save_img: bool = False) -> None:
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        except (CorruptImageError, UnwrittenError) as error:
            self.give_up(error)

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        set_better(self.opt['val']['metrics'])
        super()._initialize_best_metric_results(dataset_name)

    def dist_validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """`nondist_validation`, which spreads the images over the processes; each of them gets all values."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any,
                           save_img: bool) -> None:
        """As in SRModel, with values per scene class; a dataset without ground truth gets no-reference metrics only.

        When testing, all values are also saved as ``scores_<dataset>.json`` in the results folder; a test that was
        interrupted, or had images that do not fit into memory, goes on with those it has not yet done.
        """
        dataset_name = dataloader.dataset.opt['name']
        metrics = self.opt['val'].get('metrics') or {}
        scores = Scores() if self.is_train or self.opt['rank'] != 0 else SavedScores(
            self.opt['path']['results_root'], protocol_of(self.opt, dataloader.dataset))
        if metrics:
            self._initialize_best_metric_results(dataset_name)
        image_path = (lambda name: self.image_path(name, dataset_name, current_iter)) if save_img else None
        too_large = self.evaluate(dataloader, scores, metrics, image_path)

        for gap in scores.gaps(len(dataloader.dataset)):
            get_root_logger().warning(f'{dataset_name}: {gap}.')
        self.metric_results = scores.average()
        if self.metric_results:
            for metric, value in self.metric_results.items():
                self._update_best_metric_result(dataset_name, metric, value, current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)
            if len(scores.classes()) > 1:
                get_root_logger().info(f'{dataset_name} per class\n{scores.table()}')
        if isinstance(scores, SavedScores) and not too_large:
            scores.finish()
        if not self.is_train:
            self.end_test(dataloader.dataset, too_large)

    def end_test(self, dataset: Dataset, too_large: list[str]) -> None:
        """After each test set. SystemExit, after the last: images did not fit into memory; all others are done."""
        self._tested += 1
        if too_large:
            self._unfinished.append(
                f'{dataset.opt["name"]}: {len(too_large)} of {len(dataset)} images did not fit into memory, the first '
                f'is {too_large[0]}. The others are done; the same command goes on with what is missing. {ADVICE}')
        if self._unfinished and self._tested >= len(self.opt['datasets']):
            raise SystemExit('\n'.join(self._unfinished))

    def evaluate(self, dataloader: DataLoader, scores: Scores, metrics: Mapping[str, dict[str, Any]],
                 image_path: Callable[[str], str] | None) -> list[str]:
        """`testing.evaluation.evaluate` with this model: a share of the images, then what all processes found.

        What breaks off one of them, a signal in training, too many corrupt images or a full disk, breaks off all.

        Returns:
            The images that do not fit into memory.
        """
        scores.images.update(from_first(lambda: dict(scores.images)))
        known = set(scores.images)
        error, too_large = None, []
        try:
            too_large = evaluate(
                self, share_of(dataloader, self.opt['rank'], self.opt['world_size']), scores, metrics=metrics,
                passed_over=self.corrupt_images(dataloader.dataset.opt), image_path=image_path,
                stopped=self.stop.requested if self.is_train else None,
                pbar=self.opt['val'].get('pbar', False) and self.opt['rank'] == 0)
        except (CorruptImageError, InterruptionError, UnwrittenError) as broken_off:
            error = broken_off
        own = [item for item in scores.images.items() if item[0] not in known]
        shares, too_large, errors = zip(*gather((own, too_large, error)))
        for name, values in itertools.chain(*shares):
            if name not in scores.images:
                scores.add(name, values)
        for error in filter(None, errors):
            raise error
        return list(itertools.chain(*too_large))

    def image_path(self, name: str, dataset_name: str, current_iter: int | str) -> str:
        """Where BasicSR saves an SR image."""
        folder = self.opt['path']['visualization']
        if self.is_train:
            return osp.join(folder, name, f'{name}_{current_iter}.png')
        return osp.join(folder, dataset_name, f'{name}_{self.opt["val"].get("suffix") or self.opt["name"]}.png')

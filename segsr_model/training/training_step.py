"""One training step: precision, accumulation, clipping, and what is done with numbers gone wrong."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from os import path as osp
from typing import Any

import torch
import torch.distributed as dist
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch import nn

from segsr_model.files import printable
from segsr_model.training.checkpoints import states_in
from segsr_model.training.records import note

AMP = {'bf16': torch.bfloat16, 'fp16': torch.float16}
BAD_STEPS = 'bad_steps.txt'
SLOW_BF16 = ('DEFAULT', 'AVX2')  # CPUs, as PyTorch names them


def autocast(device: torch.device, amp: str | bool | None) -> contextlib.AbstractContextManager:
    """Mixed precision for ``amp``: ``bf16``, ``fp16``, or nothing."""
    return torch.autocast(device.type, AMP[amp]) if amp else contextlib.nullcontext()


def prepare_network(net: nn.Module, train_opt: Mapping[str, Any]) -> None:
    """What ``use_checkpoint``, ``channels_last`` and ``compile`` of ``train:`` do to a network, in place."""
    if train_opt.get('use_checkpoint'):
        _recompute(net)
    if train_opt.get('channels_last'):
        net.to(memory_format=torch.channels_last)
    if train_opt.get('compile'):
        net.compile()


def _recompute(module: nn.Module) -> None:
    """Let a network compute its blocks again in backward: the outermost modules that can."""
    if hasattr(module, 'use_checkpoint'):
        module.use_checkpoint = True
        return
    for child in module.children():
        _recompute(child)


def build_optimizer(name: str, parameters: Sequence[nn.Parameter], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer of torch.optim, fused into one kernel where it can be.

    Raises:
        ValueError: torch.optim has no such optimizer.
    """
    cls = getattr(torch.optim, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f'train:optim_g:type: torch.optim has no optimizer {name!r}; there are Adam, AdamW, SGD, ...')
    choosable = {'fused', 'foreach'} <= set(inspect.signature(cls).parameters)
    if choosable and not {'fused', 'foreach'} & set(options):
        with contextlib.suppress(RuntimeError):  # not on this device, or not in this version of PyTorch
            return cls(parameters, fused=True, **options)
    return cls(parameters, **options)


class TrainingStep:
    """Forward, backward and the optimizer's step.

    The batch is worked off in ``accumulate`` parts, with the gradients of the whole. The network runs in ``amp``, the
    losses in fp32, and fp16's gradients are scaled. Gradients of a norm above ``grad_clip`` are scaled down to it. A
    step whose loss or gradients are not finite changes nothing: its images are named in bad_steps.txt, and after
    ``max_bad_steps`` of them the training ends.

    Args:
        options: ``train:`` of the option file.
        device: where the network is.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device):
        self.amp = options.get('amp')
        self.accumulate = options.get('accumulate') or 1
        self.grad_clip = options.get('grad_clip') or float('inf')
        self.max_bad_steps = options.get('max_bad_steps', 10)
        self.channels_last = bool(options.get('channels_last'))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == 'fp16')
        self.bad_steps = 0
        if self.amp == 'bf16' and device.type == 'cpu' and torch.backends.cpu.get_cpu_capability() in SLOW_BF16:
            get_root_logger().warning('train:amp: this CPU has no instructions for bf16: fp32 is many times faster.')

    def __call__(self, model: SRModel, current_iter: int) -> dict[str, float]:
        """Step on ``model.lq`` and ``model.gt`` of a SemanticGuidedSRModel.

        Returns:
            The losses by name, averaged over parts and ranks, for the log.

        Raises:
            SystemExit: too many steps went wrong.
        """
        optimizer, lq = model.optimizer_g, model.lq
        if self.channels_last:
            lq = lq.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        totals: dict[str, torch.Tensor] = {}
        parts = list(zip(lq.chunk(self.accumulate), model.gt.chunk(self.accumulate)))
        for i, (lq_part, gt_part) in enumerate(parts):
            share = len(lq_part) / len(lq)
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last or not model.opt['dist'] else model.net_g.no_sync():
                with autocast(lq.device, self.amp):
                    model.output = model.net_g(lq_part)
                losses = model.losses(model.output.float(), gt_part)
                self.scaler.scale(share * sum(losses.values())).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + share * loss.detach()
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._can_be_used(model, current_iter, sum(totals.values()), norm):
            if norm > self.grad_clip:
                torch._foreach_mul_(gradients, self.grad_clip / norm)
            self.scaler.step(optimizer)
        self.scaler.update()
        return model.reduce_loss_dict(totals)

    def _can_be_used(self, model: SRModel, current_iter: int, loss: torch.Tensor,
                     norm: torch.Tensor) -> bool:
        """Whether loss and gradients are finite on all ranks; says so where they are not."""
        wrong = torch.stack([~torch.isfinite(loss), ~torch.isfinite(norm)]).float()
        if model.opt['dist']:
            dist.all_reduce(wrong, dist.ReduceOp.MAX)
        wrong_loss, wrong_norm = wrong.bool().tolist()
        if wrong_norm and not wrong_loss and self.scaler.is_enabled() and self.scaler.get_scale() > 1:
            return False  # fp16 overflowed, which is how the scaler finds its scale
        if not (wrong_loss or wrong_norm):
            return True
        self.bad_steps += 1
        what = 'loss is' if wrong_loss else 'gradients are'
        file = osp.join(model.opt['path']['log'], BAD_STEPS)
        note(file, [f'{current_iter}\t{what}\t{printable(path)}' for path in model.paths])
        get_root_logger().warning(
            f'Iteration {current_iter}: the {what} not finite. The step is left out, its images are named in {file} '
            f'({self.bad_steps} of at most {self.max_bad_steps}).')
        if self.bad_steps > self.max_bad_steps:
            raise SystemExit(
                f'train:max_bad_steps: loss or gradients of {self.bad_steps} steps were not finite, the last at '
                f'iteration {current_iter}; their images are named in {file}. A lower learning rate or train:grad_clip '
                f'may help, or amp: bf16 instead of fp16. {_last_checkpoint(model)}')
        return False


def _last_checkpoint(model: SRModel) -> str:
    """Where to go on from."""
    states = states_in(model.opt['path']['training_states'])
    return f'The last good checkpoint is {states[0]}.' if states else 'No checkpoint was saved yet.'

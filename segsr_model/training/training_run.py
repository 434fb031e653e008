"""A run of BasicSR's train.py with SemanticGuidedSRModel: the parts the model must know to resume and stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import basicsr.train
from basicsr.data import build_dataloader
from basicsr.models import build_model
from torch.utils.data import DataLoader, Dataset

from segsr_model.training.records import Curves
from segsr_model.training.resume import build_train_loader

init_tb_loggers = basicsr.train.init_tb_loggers


class TrainingRun:
    """Its methods take the place of train.py's functions of the same names.

    Args:
        build: makes the model.

    Attributes:
        val_loaders: the validation sets, in order.
        epoch_length: samples of an epoch for each process.
        tb_logger: TensorBoard's, or None.
    """

    def __init__(self, build: Callable[[dict[str, Any]], Any] = build_model) -> None:
        self.build = build
        self.val_loaders: list[DataLoader] = []
        self.epoch_length: int | None = None
        self.tb_logger: Any = None

    def init_tb_loggers(self, opt: dict[str, Any]) -> Any:
        writer = init_tb_loggers(opt)
        self.tb_logger = Curves(writer) if writer else None
        return self.tb_logger

    def build_dataloader(self, dataset: Dataset, dataset_opt: dict[str, Any], **options: Any) -> DataLoader:
        if dataset_opt['phase'] == 'train':
            self.epoch_length = len(options['sampler'])
            return build_train_loader(build_dataloader, dataset, dataset_opt, **options)
        self.val_loaders.append(build_dataloader(dataset, dataset_opt, **options))
        return self.val_loaders[-1]

    def build_model(self, opt: dict[str, Any]) -> Any:
        model = self.build(opt)
        model.take_over(self)
        return model

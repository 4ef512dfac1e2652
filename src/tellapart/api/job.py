"""What a run trains: data, network, loss, optimizer and schedule, built from the config."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tellapart import seeding
from tellapart.api.reading import ReadData
from tellapart.config import RunConfig
from tellapart.data.augment import Augment, Mix
from tellapart.data.loader import Batch, MemoryLoader, Order, WorkerLoader, take
from tellapart.errors import ConfigError
from tellapart.evaluation.evaluator import run_model
from tellapart.evaluation.metrics import quick_metrics
from tellapart.evaluation.outputs import to_outputs
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model
from tellapart.optim import EMA, Schedule, create_loss, create_optimizer, create_schedule
from tellapart.optim.losses import Loss
from tellapart.training.recorder import TimedLoader
from tellapart.training.state import TrainState


@dataclass(frozen=True)
class Job:
    """What a run trains: its config, data, network and what follows from them."""

    config: RunConfig
    data: ReadData
    device: torch.device
    state: TrainState
    targets: torch.Tensor
    criterion: Loss
    loader: TimedLoader
    module: ClassifierModule

    @staticmethod
    def make(config: RunConfig, data: ReadData, device: torch.device) -> Job:
        """Build everything at its start; the weights are a function of the seed."""
        task, rows = data.source.task, data.split.rows("train")
        network = make_network(config, data.source.num_outputs, data.source.num_channels).to(device)
        raw_targets = torch.from_numpy(data.source.targets)
        mean, std = target_scale(task, raw_targets[torch.from_numpy(rows)])
        targets = ((raw_targets - mean) / std if task == "regression" else raw_targets).to(device)
        loader = TimedLoader(make_loader(config, data, targets, rows, device))
        optimizer = create_optimizer(
            config.optim.name,
            network,
            lr=config.optim.lr,
            weight_decay=config.optim.weight_decay,
            momentum=config.optim.momentum,
            decay_norm_and_bias=config.optim.decay_norm_and_bias,
        )
        state = TrainState(
            network,
            optimizer,
            make_schedule(config, optimizer, loader.num_batches),
            EMA(network, config.train.ema_decay) if config.train.ema_decay else None,
        )
        criterion = create_loss(
            config.loss.name,
            label_smoothing=config.loss.label_smoothing,
            class_weights=balanced_weights(config, data, rows),
        ).to(device)
        module = ClassifierModule(copy.deepcopy(data.preprocess), network, task, mean.to(device), std.to(device)).to(
            device
        )
        return Job(config, data, device, state, targets, criterion, loader, module)

    @cached_property
    def mix(self) -> Mix:
        """What mixes training batches, if anything does."""
        return Mix(self.config.augment, self.data.source.num_outputs, self.config.seed)

    def prepare(self, batch: Batch, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's input and targets for a training batch."""
        return self.mix(self.inputs(batch), batch.targets, epoch, number)

    def inputs(self, batch: Batch) -> torch.Tensor:
        """Return the network's input for a batch of reduced images."""
        inputs = self.module.preprocess.normalize(batch.images)
        is_channels_last = self.config.compute.channels_last
        return inputs.contiguous(memory_format=torch.channels_last) if is_channels_last else inputs

    def batches(self, split: str) -> Iterator[Batch]:
        """Yield a split's reduced images in order, with targets as the loss takes them."""
        rows = torch.from_numpy(self.data.split.rows(split))
        for part in rows.to(self.targets.device).split(self.config.train.eval_batch_size):
            yield Batch(self._reduced(part), self.targets[part], part)

    def _reduced(self, rows: torch.Tensor) -> torch.Tensor:
        """Return reduced images uint8 `(B, C, R, R)` on the device."""
        loader = self.loader.loader
        if isinstance(loader, MemoryLoader):
            return take(loader.images, rows)
        return self.data.reduced.batch(rows.cpu().numpy()).to(self.device)

    def validate(self, state: TrainState) -> dict[str, float]:
        """Return loss and metrics on val, of the averaged weights where there are any."""
        if state.ema is None:
            return self._validate(state)
        with state.ema.swapped_in():
            return self._validate(state)

    def _validate(self, state: TrainState) -> dict[str, float]:
        found = run_model(
            state.model,
            self.batches("val"),
            prepare=self.inputs,
            criterion=self.criterion,
            device=self.device,
            precision=self.config.compute.precision,
        )
        module, task = self.module, self.data.source.task
        outputs = to_outputs(found.logits, task, module.target_mean.cpu(), module.target_std.cpu())
        wanted = self.data.source.targets[found.indices.numpy()]
        return {"loss": found.loss, **quick_metrics(task, outputs.numpy(), wanted)}


def make_network(config: RunConfig, num_outputs: int, num_channels: int) -> torch.nn.Module:
    """Return the network with the initial weights that belong to the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(config.seed, "init"))
        network = create_model(
            config.model.name,
            num_classes=num_outputs,
            in_channels=num_channels,
            size_px=config.preprocess.size_px,
            pretrained=config.model.pretrained,
        )
    return network.to(memory_format=torch.channels_last) if config.compute.channels_last else network


def target_scale(task: str, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of numeric training targets, `(K,)` each; 0 and 1 for classes."""
    if task != "regression":
        return torch.zeros(1), torch.ones(1)
    std = targets.std(0, correction=0)
    return targets.mean(0), torch.where(std > 0, std, torch.ones_like(std))


def make_loader(
    config: RunConfig, data: ReadData, targets: torch.Tensor, rows: np.ndarray, device: torch.device
) -> MemoryLoader | WorkerLoader:
    """Return the loader of the training images: from memory where they fit, from worker processes elsewhere."""
    augment = Augment(config.augment, config.preprocess.size_px, config.seed)
    size, blocks = config.train.batch_size, data.source.blocks
    order = Order(config.seed, None if blocks is None else blocks[rows], config.data.shuffle_window)
    if data.images is not None:
        images = data.images.to(device)
        return MemoryLoader(images, targets, rows, batch_size=size, augment=augment, order=order)
    return WorkerLoader(
        data.reduced,
        targets.cpu(),
        rows,
        batch_size=size,
        augment=augment,
        order=order,
        device=device,
        num_workers=config.data.num_workers,
        timeout_s=config.data.worker_timeout_s,
    )


def make_schedule(config: RunConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Schedule:
    """Return the schedule over the whole run."""
    schedule = config.schedule
    return create_schedule(
        schedule.name,
        optimizer,
        total_steps=config.train.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(schedule.warmup_epochs * steps_per_epoch),
        min_factor=schedule.min_factor,
        step_epochs=schedule.step_epochs,
        gamma=schedule.gamma,
        patience=schedule.patience,
        pct_start=schedule.pct_start,
        div_factor=schedule.div_factor,
        final_div_factor=schedule.final_div_factor,
        cycle_momentum=schedule.cycle_momentum,
    )


def balanced_weights(config: RunConfig, data: ReadData, rows: np.ndarray) -> torch.Tensor | None:
    """Return weights inverse to the classes' frequency in train, mean 1 over images, or None if not asked for."""
    if config.loss.class_weights == "none":
        return None
    if data.source.task != "multiclass":
        raise ConfigError(["loss.class_weights: 'balanced' needs one class an image"])
    counts = np.bincount(data.source.targets[rows], minlength=data.source.num_outputs)
    return torch.from_numpy(len(rows) / (len(counts) * np.maximum(counts, 1))).float()

"""The tutorial's three functions over plain PyTorch objects, run by the same loop as the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tellapart import hardware
from tellapart.data.loader import Batch
from tellapart.errors import DataError
from tellapart.evaluation.evaluator import run_model
from tellapart.optim import TorchSchedule, create_optimizer, create_schedule
from tellapart.training.loop import fit, train_epoch
from tellapart.training.state import TrainState
from tellapart.training.step import TrainStep, check_finite

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Any iterable of (inputs, targets) that has a length and can be gone through again: a DataLoader is one.
Loader = Any

_NO_TRAINING = "the training loader yields no batch. Is its data set empty, or smaller than drop_last allows?"
_NO_VALIDATION = "the validation loader yields no batch. Is its data set empty?"


def train_one_epoch(
    model: nn.Module,
    train_loader: Loader,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
) -> float:
    """Update the model by every batch once and return the mean loss over images.

    Args:
        model: moved to the device and put into training mode.
        train_loader: yields (inputs, targets), such as a DataLoader.
        criterion: mean loss of (logits, targets), such as `nn.CrossEntropyLoss()`.
        optimizer: over the model's parameters.
        device: where to compute.

    Raises:
        DataError: the loader yields nothing.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    device = torch.device(device)
    optimizer.zero_grad(set_to_none=True)
    state = TrainState(model.to(device), optimizer)
    train_epoch(state, _batches(train_loader, device), TrainStep(criterion))
    if not state.num_seen:
        raise DataError(_NO_TRAINING)
    check_finite(state)
    return state.mean_loss()


def validate(
    model: nn.Module, val_loader: Loader, criterion: Criterion, device: torch.device | str
) -> tuple[float, float]:
    """Return the mean loss over images and the accuracy in percent; the model's mode is put back.

    Args:
        model: gives logits `(B, K)`.
        val_loader: yields (inputs, labels int64 `(B,)`).
        criterion: mean loss of (logits, targets).
        device: where to compute.

    Raises:
        DataError: the loader yields nothing.
    """
    device = torch.device(device)
    batches = _batches(val_loader, device)
    first = next(batches, None)
    if first is None:
        raise DataError(_NO_VALIDATION)
    result = run_model(model.to(device), chain([first], batches), criterion=criterion, device=device)
    num_correct = int((result.logits.argmax(1) == result.targets).sum())
    return result.loss, 100.0 * num_correct / len(result.targets)


def train_model(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    num_epochs: int = 50,
    *,
    criterion: Criterion | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    device: torch.device | str | None = None,
    save_to: str | os.PathLike[str] | None = "best_model.safetensors",
) -> dict[str, list[float]]:
    """Train, print a line an epoch, keep the weights that are best on val, and return the history.

    Args:
        model: trained in place; it ends with the best weights, which `save_to` holds too.
        train_loader: yields (inputs, labels).
        val_loader: yields (inputs, labels); chooses the best epoch by accuracy.
        num_epochs: passes over the training data.
        criterion: default `nn.CrossEntropyLoss()`.
        optimizer: default AdamW with lr 0.001 and weight decay 0.01 on matrices and filters.
        scheduler: any torch scheduler; it is stepped at its right moment, one-cycle per step, plateau per epoch on the
            val loss. Default: cosine over the epochs.
        device: default the fastest there is.
        save_to: a safetensors file, or None.

    Returns:
        {"train_loss": [...], "val_loss": [...], "val_acc": [...]}, accuracy in percent, one entry an epoch.

    Raises:
        DataError: a loader yields nothing.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    chosen = hardware.choose_device("auto") if device is None else torch.device(device)
    for loader, problem in ((train_loader, _NO_TRAINING), (val_loader, _NO_VALIDATION)):
        if not len(loader):
            raise DataError(problem)
    model = model.to(chosen)
    criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
    if optimizer is None:
        optimizer = create_optimizer("adamw", model, lr=0.001, weight_decay=0.01)
    optimizer.zero_grad(set_to_none=True)
    if scheduler is not None:
        schedule = TorchSchedule(scheduler)
    else:
        steps = len(train_loader)
        schedule = create_schedule("cosine", optimizer, total_steps=num_epochs * steps, steps_per_epoch=steps)
    printer = _EpochPrinter(num_epochs, Path(save_to) if save_to is not None else None)

    def validate_state(state: TrainState) -> dict[str, float]:
        loss, accuracy = validate(state.model, val_loader, criterion, chosen)
        return {"loss": loss, "accuracy": accuracy}

    state = TrainState(model, optimizer, schedule)
    fit(state, _Repeated(train_loader, chosen), TrainStep(criterion), validate_state, _FixedEpochs(num_epochs), printer)
    if state.best_weights is not None:
        model.load_state_dict(state.best_weights)
    return printer.history


class _FixedEpochs:
    higher_is_better = True

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs = num_epochs

    def is_over(self, state: TrainState) -> bool:
        return state.epoch >= self.num_epochs

    def chosen_value(self, metrics: dict[str, float]) -> float:
        return metrics["accuracy"]

    def save_if_due(self, state: TrainState) -> None:
        """Weights are saved when they are the best so far; there is no checkpoint to resume from."""


class _EpochPrinter:
    def __init__(self, num_epochs: int, save_to: Path | None) -> None:
        self.num_epochs, self.save_to = num_epochs, save_to
        self.history: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_acc": []}

    def step(self, state: TrainState, loss: torch.Tensor) -> None:
        """Nothing is shown within an epoch."""

    def epoch(self, state: TrainState, train_loss: float, metrics: dict[str, float]) -> None:
        values = (train_loss, metrics["loss"], metrics["accuracy"])
        for name, value in zip(self.history, values, strict=True):
            self.history[name].append(value)
        print(
            f"Epoch {state.epoch}/{self.num_epochs} | Train Loss: {train_loss:.4f} | "
            f"Val Loss: {metrics['loss']:.4f} | Val Acc: {metrics['accuracy']:.2f}%"
        )
        if self.save_to is not None and state.best_epoch == state.epoch and state.best_weights is not None:
            _save_weights(self.save_to, state.best_weights)


def _save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    # Tied weights share memory, which safetensors refuses: each name gets its own copy.
    save_file({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}, temporary)
    temporary.replace(path)


class _Repeated:
    """A user's loader as the loop wants it."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.num_batches = len(loader)
        self.num_images = len(loader.dataset) if hasattr(loader, "dataset") else 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        is_empty = True
        for batch in _batches(self.loader, self.device):
            is_empty = False
            yield batch
        if is_empty:
            raise DataError(f"epoch {epoch + 1}: {_NO_TRAINING} A generator, for one, can be gone through only once.")


def _batches(loader: Loader, device: torch.device) -> Iterator[Batch]:
    first = 0
    for inputs, targets in loader:
        indices = torch.arange(first, first + len(targets))
        first += len(targets)
        yield Batch(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True), indices)

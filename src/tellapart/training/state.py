"""TrainState: everything that can change the next step, and nothing else. A checkpoint is this and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tellapart.errors import RunError
from tellapart.evaluation.evaluator import sum_dtype
from tellapart.optim import EMA, Schedule, TorchSchedule, align_layouts


@dataclass
class TrainState:
    """The model and where its training stands.

    `step` counts optimizer updates, `epoch` finished epochs, `batch_in_epoch` the finished batches of the current one;
    `loss_sum` and `num_seen` make the current epoch's mean loss over images. `best_value` is the best value of the
    metric that chooses, `best_weights` what the model (or its EMA) held then.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule | TorchSchedule | None = None
    ema: EMA | None = None
    step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    num_seen: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] | None = None
    epochs_without_progress: int = 0

    def count(self, loss: torch.Tensor, num_images: int) -> None:
        """Enter a finished batch: its mean loss, a tensor that is not read here, and its number of images."""
        dtype = sum_dtype(loss.device)
        self.loss_sum = self.loss_sum.to(loss.device, dtype) + loss.detach().to(dtype) * num_images
        self.num_seen += num_images
        self.batch_in_epoch += 1
        self.step += 1

    def mean_loss(self) -> float:
        """Return the mean loss over the images of the current epoch so far."""
        return float(self.loss_sum) / max(self.num_seen, 1)

    def end_epoch(self, value: float, *, higher_is_better: bool, val_loss: float) -> None:
        """Close the epoch: move the schedule, note whether `value` is the best so far, and start the next one."""
        if self.schedule is not None:
            self.schedule.after_epoch(val_loss)
        self.epoch += 1
        self.batch_in_epoch = self.num_seen = 0
        self.loss_sum = torch.zeros_like(self.loss_sum)
        improved = _is_better(value, self.best_value, higher_is_better)
        if improved:
            self.best_value, self.best_epoch = value, self.epoch
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.weights_to_ship().items()}
        self.epochs_without_progress = 0 if improved else self.epochs_without_progress + 1

    def weights_to_ship(self) -> dict[str, torch.Tensor]:
        """Return the weights that are evaluated: the EMA's where there is one, else the model's own."""
        return self.ema.state_dict() if self.ema is not None else self.model.state_dict()

    def position(self) -> dict[str, Any]:
        """Return what is no tensor, as plain data for JSON; floats come back with the same bits."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch_in_epoch": self.batch_in_epoch,
            "loss_sum": float(self.loss_sum),
            "num_seen": self.num_seen,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "epochs_without_progress": self.epochs_without_progress,
            "schedule": self.schedule.state_dict() if self.schedule is not None else {},
            "optimizer": type(self.optimizer).__name__,
            "param_groups": [
                {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
            ],
            "optimizer_scalars": {key: v for key, v in self._optimizer_state().items() if not torch.is_tensor(v)},
        }

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors by file: model, optimizer, and ema and best where they exist."""
        optimizer = {key: v for key, v in self._optimizer_state().items() if torch.is_tensor(v)}
        files = {"model": self.model.state_dict(), "optimizer": optimizer}
        if self.ema is not None:
            files["ema"] = self.ema.state_dict()
        if self.best_weights is not None:
            files["best"] = self.best_weights
        return files

    def restore(self, position: Mapping[str, Any], tensors: Mapping[str, dict[str, torch.Tensor]]) -> None:
        """Take over what `position` and `tensors` gave.

        Raises:
            RunError: the tensors belong to another model or optimizer; the first that differs is named.
        """
        _check_same_tensors(self.model.state_dict(), tensors["model"])
        self._check_same_optimizer(position)
        if (self.ema is not None) != ("ema" in tensors):
            has, wants = ("has", "none is") if self.ema is None else ("has no", "they are")
            raise RunError(f"the checkpoint {has} averaged weights, and {wants} wanted (train.ema_decay).")
        self.model.load_state_dict(tensors["model"])
        self._restore_optimizer(position, tensors["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(tensors["ema"])
        if self.schedule is not None:
            self.schedule.load_state_dict(position["schedule"])
        self.best_weights = tensors.get("best")
        for name in ("step", "epoch", "batch_in_epoch", "num_seen", "best_value", "best_epoch"):
            setattr(self, name, position[name])
        self.epochs_without_progress = position["epochs_without_progress"]
        self.loss_sum = torch.tensor(position["loss_sum"], dtype=torch.float64)

    def _optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()["state"]
        return {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}

    def _check_same_optimizer(self, position: Mapping[str, Any]) -> None:
        name, groups = type(self.optimizer).__name__, self.optimizer.param_groups
        if position["optimizer"] != name:
            raise RunError(f"the checkpoint is of the optimizer {position['optimizer']}, expected {name}.")
        if len(groups) != len(position["param_groups"]):
            raise RunError(
                f"expected {len(groups)} groups of parameters, the checkpoint has {len(position['param_groups'])}."
            )

    def _restore_optimizer(self, position: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**position["optimizer_scalars"], **tensors}.items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        groups = []
        for group, saved in zip(self.optimizer.state_dict()["param_groups"], position["param_groups"], strict=True):
            # JSON has no tuples; betas is one.
            typed = {k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()}
            groups.append({**group, **typed})
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        # Files hold contiguous tensors; fused updates need state and weights in the same memory format.
        align_layouts(self.optimizer)


def _is_better(value: float, best: float | None, higher_is_better: bool) -> bool:
    # A metric that is not defined (a class without an image in val) is no reason to keep the first epoch's weights.
    if best is None or math.isnan(best):
        return True
    return value > best if higher_is_better else value < best


def _check_same_tensors(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        if name not in found:
            raise RunError(f"the checkpoint has no weight '{name}'; it belongs to another model.")
        if found[name].shape != tensor.shape:
            raise RunError(
                f"weight '{name}': expected shape {tuple(tensor.shape)}, the checkpoint has {tuple(found[name].shape)}."
            )
    extra = sorted(set(found) - set(expected))
    if extra:
        raise RunError(f"the checkpoint has a weight '{extra[0]}' that the model has not.")

"""The loop, as a textbook has it. The command, `train_model` and `train_one_epoch` all run this code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from tellapart.data.loader import Batch, TrainLoader
from tellapart.training.state import TrainState
from tellapart.training.step import check_finite

Step = Callable[[TrainState, Batch], torch.Tensor]


class Plan(Protocol):
    """Decides about the run as a whole; what it decides by is in the state."""

    higher_is_better: bool

    def is_over(self, state: TrainState) -> bool:
        """Return whether the last epoch is done, or progress has ended."""
        ...

    def chosen_value(self, metrics: dict[str, float]) -> float:
        """Return the metric on val that chooses the best weights."""
        ...

    def save_if_due(self, state: TrainState) -> None:
        """Save a checkpoint if it is time; stop here if somebody asked for it."""
        ...


class Recorder(Protocol):
    """Writes down what happens and shows it."""

    def step(self, state: TrainState, loss: torch.Tensor) -> None:
        """Note a finished step; the loss is a device tensor, and reading it here would wait for the device."""
        ...

    def epoch(self, state: TrainState, train_loss: float, metrics: dict[str, float]) -> None:
        """Note a finished epoch with its metrics on val."""
        ...


Validate = Callable[[TrainState], dict[str, float]]


def fit(state: TrainState, loader: TrainLoader, step: Step, validate: Validate, plan: Plan, recorder: Recorder) -> None:
    """Train until the plan is over, from wherever the state stands."""
    while not plan.is_over(state):
        batches = loader.epoch(state.epoch, start=state.batch_in_epoch)
        train_epoch(state, batches, step, recorder, plan.save_if_due)
        check_finite(state)
        train_loss = state.mean_loss()
        metrics = validate(state)
        value = plan.chosen_value(metrics)
        state.end_epoch(value, higher_is_better=plan.higher_is_better, val_loss=metrics["loss"])
        recorder.epoch(state, train_loss, metrics)
        plan.save_if_due(state)


def train_epoch(
    state: TrainState,
    batches: Iterable[Batch],
    step: Step,
    recorder: Recorder | None = None,
    after_step: Callable[[TrainState], None] | None = None,
) -> None:
    """Update the model by every batch of (the rest of) an epoch."""
    state.model.train()
    for batch in batches:
        loss = step(state, batch)
        state.count(loss, len(batch))
        if recorder is not None:
            recorder.step(state, loss)
        if after_step is not None:
            after_step(state)

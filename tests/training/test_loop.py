"""The loop: what is called when, where it goes on, and how the mean loss is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tellapart.data.loader import Batch
from tellapart.errors import NonFiniteLossError
from tellapart.training.loop import fit, train_epoch
from tellapart.training.state import TrainState

SIZES = (4, 4, 1)


class Story:
    """Loader, step, validation, plan and recorder in one, which write down what is asked of them."""

    higher_is_better = True
    num_images, num_batches = sum(SIZES), len(SIZES)

    def __init__(self, epochs: int, losses: list[float] | None = None) -> None:
        self.epochs, self.losses = epochs, losses or [1.0, 2.0, 4.0]
        self.told: list[Any] = []

    def epoch(self, *arguments: Any, **keywords: Any) -> Any:
        # The loader and the recorder both have a method of this name.
        if isinstance(arguments[0], TrainState):
            state, train_loss, metrics = arguments
            self.told.append(("recorded", state.epoch, train_loss, metrics["loss"]))
            return None
        return self._batches(arguments[0], keywords["start"])

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        self.told.append(("epoch", epoch, start))
        for size in SIZES[start:]:
            yield Batch(torch.zeros(size, 2), torch.zeros(size, dtype=torch.int64), torch.arange(size))

    def __call__(self, state: TrainState, batch: Batch) -> torch.Tensor:
        assert state.model.training
        self.told.append(("step", state.step))
        return torch.tensor(self.losses[state.batch_in_epoch])

    def step(self, state: TrainState, loss: torch.Tensor) -> None:
        self.told.append(("noted", state.step, float(loss)))

    def validate(self, state: TrainState) -> dict[str, float]:
        self.told.append(("validate", state.epoch))
        return {"loss": 0.5, "top1": 0.25}

    def is_over(self, state: TrainState) -> bool:
        return state.epoch >= self.epochs

    def chosen_value(self, metrics: dict[str, float]) -> float:
        return metrics["top1"]

    def save_if_due(self, state: TrainState) -> None:
        self.told.append(("save?", state.epoch, state.batch_in_epoch))

    def run(self, state: TrainState) -> None:
        fit(state, self, self, self.validate, self, self)


def make_state() -> TrainState:
    model = nn.Linear(2, 2)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_what_is_called_when() -> None:
    story = Story(epochs=1)
    state = make_state()
    state.model.eval()
    story.run(state)
    mean = (4 * 1.0 + 4 * 2.0 + 1 * 4.0) / 9
    assert story.told == [
        ("epoch", 0, 0),
        *[("step", 0), ("noted", 1, 1.0), ("save?", 0, 1)],
        *[("step", 1), ("noted", 2, 2.0), ("save?", 0, 2)],
        *[("step", 2), ("noted", 3, 4.0), ("save?", 0, 3)],
        ("validate", 0),
        ("recorded", 1, mean, 0.5),
        ("save?", 1, 0),
    ]
    assert (state.best_value, state.best_epoch, state.num_seen) == (0.25, 1, 0)


def test_goes_on_in_the_middle_of_an_epoch() -> None:
    whole, rest = Story(epochs=3), Story(epochs=3)
    whole.run(make_state())
    state = make_state()
    # As a checkpoint after the second batch of the second epoch has it.
    state.epoch, state.batch_in_epoch, state.step, state.num_seen = 1, 2, 5, 8
    state.loss_sum = torch.tensor(4 * 1.0 + 4 * 2.0, dtype=torch.float64)
    rest.run(state)
    assert rest.told[0] == ("epoch", 1, 2)
    assert rest.told[1:] == whole.told[whole.told.index(("save?", 1, 2)) + 1 :]


def test_goes_on_between_the_last_batch_and_validation() -> None:
    whole, rest = Story(epochs=1), Story(epochs=1)
    whole.run(make_state())
    state = make_state()
    state.batch_in_epoch, state.step, state.num_seen = 3, 3, 9
    state.loss_sum = torch.tensor(16.0, dtype=torch.float64)
    rest.run(state)
    assert rest.told == [("epoch", 0, 3), *whole.told[-3:]]


def test_a_plan_that_is_over_does_nothing() -> None:
    story = Story(epochs=2)
    state = make_state()
    state.epoch = 2
    story.run(state)
    assert story.told == []


def test_a_loss_that_is_no_number_ends_before_validation_and_saving() -> None:
    """On a GPU no step looks at its loss, so the epoch does before anything is made of it."""
    story = Story(epochs=2, losses=[1.0, math.nan, 1.0])
    state = make_state()
    with pytest.raises(NonFiniteLossError):
        story.run(state)
    assert state.epoch == 0
    assert not any(what[0] in ("validate", "recorded") for what in story.told)
    assert ("save?", 1, 0) not in story.told


def test_every_image_counts_once_in_the_mean_loss() -> None:
    story = Story(epochs=1, losses=[1.0, 1.0, 10.0])
    state = make_state()
    train_epoch(state, story._batches(0, 0), story)
    assert state.num_seen == 9
    # A mean over batches would be 4.
    assert state.mean_loss() == (4 * 1.0 + 4 * 1.0 + 1 * 10.0) / 9

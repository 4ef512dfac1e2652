"""TrainState holds everything that can change the next step: what is restored goes on with the same bits."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from tellapart.data.loader import Batch
from tellapart.errors import RunError
from tellapart.optim import EMA, OPTIMIZERS, create_optimizer, create_schedule
from tellapart.training.state import TrainState
from tellapart.training.step import TrainStep


def make_model(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, classes),
    )
    # Channels-last: a state that was loaded from a file is laid out otherwise, which fused updates do not notice.
    return model.to(memory_format=torch.channels_last)


def make_state(optimizer: str = "adamw", schedule: str = "cosine", *, seed: int = 0, ema: bool = False) -> TrainState:
    model = make_model(seed)
    made = create_optimizer(optimizer, model, lr=0.05, weight_decay=0.01)
    plan = create_schedule(schedule, made, total_steps=12, steps_per_epoch=3, patience=0, gamma=0.5)
    return TrainState(model, made, plan, EMA(model, 0.9) if ema else None)


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(6, 3, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.randint(3, (6,), generator=generator), torch.arange(6))


def advance(state: TrainState, steps: int) -> None:
    step = TrainStep(nn.CrossEntropyLoss(), seed=0)
    for _ in range(steps):
        state.model.train()
        state.count(step(state, batch(state.step)), 6)
        if state.batch_in_epoch == 3:
            # A loss on val that falls, rises and stays, so that every schedule and choice has something to do.
            value = (0.5, 0.9, 0.9, 0.7)[state.epoch % 4]
            state.end_epoch(1 - value, higher_is_better=True, val_loss=value)


def through_disk(state: TrainState) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Return what a checkpoint keeps: JSON, and tensors without their memory format."""
    tensors = {
        name: {key: value.detach().clone().contiguous() for key, value in file.items()}
        for name, file in state.tensors().items()
    }
    return json.loads(json.dumps(state.position())), tensors


def same(a: TrainState, b: TrainState) -> None:
    one, other = a.tensors(), b.tensors()
    assert one.keys() == other.keys()
    for name, file in one.items():
        assert file.keys() == other[name].keys()
        for key, value in file.items():
            assert torch.equal(value, other[name][key]), (name, key)
    assert a.position() == b.position()


@pytest.mark.parametrize("schedule", ["one-cycle", "reduce-on-plateau"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_state_goes_on_with_the_same_bits(optimizer: str, schedule: str) -> None:
    straight = make_state(optimizer, schedule, ema=True)
    advance(straight, 11)
    for interrupted_at in (1, 3, 7):
        first = make_state(optimizer, schedule, ema=True)
        advance(first, interrupted_at)
        # Another seed: nothing of what the new state starts with may be left.
        second = make_state(optimizer, schedule, seed=9, ema=True)
        second.restore(*through_disk(first))
        same(first, second)
        advance(second, 11 - interrupted_at)
        same(straight, second)


def test_position_is_plain_json_and_exact() -> None:
    state = make_state()
    state.loss_sum = torch.tensor(0.1 + 0.2, dtype=torch.float64)
    state.best_value = math.nan
    position = json.loads(json.dumps(state.position()))
    assert position["loss_sum"] == 0.1 + 0.2
    assert math.isnan(position["best_value"])


@pytest.mark.parametrize("higher", [True, False])
def test_best_is_the_first_of_equals_and_a_copy(higher: bool) -> None:
    state = make_state()
    values = [0.5, 0.7, 0.7, 0.6] if higher else [0.7, 0.5, 0.5, 0.6]
    kept: list[dict[str, torch.Tensor]] = []
    for value in values:
        advance(state, 1)
        kept.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})
        state.end_epoch(value, higher_is_better=higher, val_loss=1.0)
    assert (state.best_value, state.best_epoch, state.epochs_without_progress) == (values[1], 2, 2)
    assert state.best_weights is not None
    for name, tensor in state.best_weights.items():
        assert torch.equal(tensor, kept[1][name])
    assert not torch.equal(state.best_weights["0.weight"], state.model.state_dict()["0.weight"])


def test_the_averaged_weights_are_what_is_kept() -> None:
    state = make_state(ema=True)
    assert state.ema is not None
    advance(state, 3)
    assert state.best_weights is not None
    assert not torch.equal(state.best_weights["0.weight"], state.model.state_dict()["0.weight"])
    assert torch.equal(state.best_weights["0.weight"], state.ema.state_dict()["0.weight"])


def test_a_value_that_is_not_defined_never_holds_the_place_of_one_that_is() -> None:
    state = make_state()
    for value in (math.nan, math.nan, 0.1, math.nan):
        state.end_epoch(value, higher_is_better=True, val_loss=1.0)
    assert (state.best_value, state.best_epoch, state.epochs_without_progress) == (0.1, 3, 1)


def test_end_epoch_starts_the_next_one_at_nothing() -> None:
    state = make_state()
    advance(state, 2)
    assert state.num_seen == 12
    state.end_epoch(1.0, higher_is_better=True, val_loss=1.0)
    assert (state.epoch, state.step, state.batch_in_epoch, state.num_seen) == (1, 2, 0, 0)
    assert state.mean_loss() == 0.0


def refused(state: TrainState, other: TrainState) -> str:
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with pytest.raises(RunError) as caught:
        state.restore(*through_disk(other))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert state.step == 0
    return str(caught.value)


def test_another_model_is_refused_by_the_name_of_a_weight() -> None:
    state, other = make_state(), make_state()
    advance(other, 1)
    other.model = make_model(classes=4)
    assert "weight '7.weight': expected shape (3, 16), the checkpoint has (4, 16)" in refused(state, other)
    other.model = nn.Sequential(*list(make_model())[:-1])
    assert "no weight '7.weight'" in refused(state, other)
    other.model = nn.Sequential(*make_model(), nn.Linear(3, 3))
    assert "has a weight '8.bias' that the model has not" in refused(state, other)


def test_another_optimizer_schedule_or_average_is_refused() -> None:
    other = make_state("adamw")
    advance(other, 1)
    assert "optimizer AdamW, expected SGD" in refused(make_state("sgd-momentum"), other)
    assert "averaged weights" in refused(make_state(ema=True), other)
    averaged = make_state(ema=True)
    advance(averaged, 1)
    assert "averaged weights" in refused(make_state(), averaged)

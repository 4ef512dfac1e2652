from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tellapart.errors import ConfigError, RunError
from tellapart.optim import TorchSchedule

EPOCHS, PER_EPOCH = 8, 3
TOTAL = EPOCHS * PER_EPOCH
VAL_LOSSES = [1.0, 0.9, 0.95, 0.91, 0.92, 0.5, 0.6, 0.6]

Build = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]

EVERY_STEP: dict[str, Build] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.7, total_steps=TOTAL),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.3, step_size_up=5, mode="triangular2"),
}
EVERY_EPOCH: dict[str, Build] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, EPOCHS),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.MultiStepLR(o, [2, 3])], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.MultiStepLR(o, [2, 3])]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}
ALL = {**EVERY_STEP, **EVERY_EPOCH}


def make_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.4, momentum=0.9)


def plain_loop(name: str) -> list[tuple[float, float]]:
    """What torch's documentation does with the scheduler."""
    optimizer = make_optimizer()
    scheduler, seen = ALL[name](optimizer), []
    for epoch in range(EPOCHS):
        for _ in range(PER_EPOCH):
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            if name in EVERY_STEP:
                scheduler.step()
        if name == "ReduceLROnPlateau":
            scheduler.step(VAL_LOSSES[epoch])  # type: ignore[arg-type]
        elif name in EVERY_EPOCH:
            scheduler.step()
    return seen


def hooked_loop(optimizer: torch.optim.Optimizer, schedule: TorchSchedule, steps: range) -> list[tuple[float, float]]:
    seen = []
    for step in steps:
        schedule.before_step(step)
        seen.append((schedule.lr, optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.after_step(step)
        if (step + 1) % PER_EPOCH == 0:
            schedule.after_epoch(VAL_LOSSES[step // PER_EPOCH])
    return seen


@pytest.mark.parametrize("name", ALL)
def test_the_hooks_do_what_torchs_documentation_does(name: str) -> None:
    optimizer = make_optimizer()
    assert hooked_loop(optimizer, TorchSchedule(ALL[name](optimizer)), range(TOTAL)) == plain_loop(name)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("stop", [1, 7, 15])
def test_a_resumed_scheduler_goes_on_alike(name: str, stop: int) -> None:
    optimizer = make_optimizer()
    schedule = TorchSchedule(ALL[name](optimizer))
    hooked_loop(optimizer, schedule, range(stop))
    state = json.loads(json.dumps(schedule.state_dict(), allow_nan=False))
    saved = copy.deepcopy(optimizer.state_dict())

    optimizer = make_optimizer()
    schedule = TorchSchedule(ALL[name](optimizer))
    optimizer.load_state_dict(saved)
    schedule.load_state_dict(state)
    assert hooked_loop(optimizer, schedule, range(stop, TOTAL)) == plain_loop(name)[stop:]


@pytest.mark.parametrize("name", ALL)
def test_an_epoch_end_right_after_resuming_does_not_warn(name: str) -> None:
    # The last update of the epoch was another process's, so torch has seen none. Warnings are errors here.
    schedule = TorchSchedule(ALL[name](make_optimizer()))
    before = schedule.state_dict()
    schedule.after_step(2)
    schedule.after_epoch(1.0)
    assert schedule.state_dict() != before


def test_one_cycle_may_be_asked_for_more_than_its_steps() -> None:
    optimizer = make_optimizer()
    schedule = TorchSchedule(lr_scheduler.OneCycleLR(optimizer, 0.7, total_steps=4))
    found = hooked_loop(optimizer, schedule, range(7))
    assert found[3:] == [found[3]] * 4


def test_every_step_can_be_asked_for() -> None:
    optimizer = make_optimizer()
    schedule = TorchSchedule(lr_scheduler.ExponentialLR(optimizer, 0.5), every="step")
    assert [lr for lr, _ in hooked_loop(optimizer, schedule, range(3))] == [0.4, 0.2, 0.1]
    with pytest.raises(ConfigError, match="needs a validation loss"):
        TorchSchedule(lr_scheduler.ReduceLROnPlateau(optimizer), every="step")


def test_the_state_of_another_scheduler_is_an_error() -> None:
    states: list[Any] = [TorchSchedule(ALL[n](make_optimizer())) for n in ("StepLR", "OneCycleLR")]
    with pytest.raises(RunError, match="'OneCycleLR' for every step, expected 'StepLR' for every epoch"):
        states[0].load_state_dict(states[1].state_dict())

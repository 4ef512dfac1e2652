from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from tellapart.errors import ConfigError, RunError
from tellapart.optim import SCHEDULES, SETTINGS_USED, ScheduleSettings, create_optimizer, create_schedule, lr_factor

TOTAL, PER_EPOCH = 60, 6
BASE_LRS = (0.5, 0.02)


def two_groups(kind: str = "sgd") -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(2))], "lr": lr} for lr in BASE_LRS]
    return torch.optim.SGD(groups, momentum=0.9) if kind == "sgd" else torch.optim.AdamW(groups)


def lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


PARITY: list[tuple[str, dict[str, Any], bool, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]]] = [
    ("constant", {}, True, lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0)),
    ("step", {"step_epochs": 3, "gamma": 0.3}, False, lambda o: lr_scheduler.StepLR(o, 3, 0.3)),
    ("exponential", {"gamma": 0.8}, False, lambda o: lr_scheduler.ExponentialLR(o, 0.8)),
    ("cosine", {}, True, lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
    ("linear", {"min_factor": 0.1}, True, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, TOTAL)),
    ("constant", {"warmup_steps": 7}, True, lambda o: lr_scheduler.LinearLR(o, 1 / 8, 1.0, 7)),
    (
        "cosine",
        {"warmup_steps": 7},
        True,
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 1 / 8, 1.0, 7), lr_scheduler.CosineAnnealingLR(o, TOTAL - 7)], [7]
        ),
    ),
]


@pytest.mark.parametrize(("name", "options", "is_per_step", "build"), PARITY)
def test_learning_rates_equal_torchs(
    name: str, options: dict[str, Any], is_per_step: bool, build: Callable[..., lr_scheduler.LRScheduler]
) -> None:
    mine, theirs = two_groups(), two_groups()
    schedule = create_schedule(name, mine, total_steps=TOTAL, steps_per_epoch=PER_EPOCH, **options)
    scheduler = build(theirs)
    for step in range(TOTAL):
        schedule.before_step(step)
        assert lrs(mine) == pytest.approx(lrs(theirs), rel=1e-9, abs=1e-15), step
        assert schedule.lr == lrs(mine)[0]
        theirs.step()
        if is_per_step or (step + 1) % PER_EPOCH == 0:
            scheduler.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("total", [1, 2, 7, TOTAL])
@pytest.mark.parametrize("pct_start", [0.3, 0.45, 1.0])
def test_one_cycle_equals_torchs(kind: str, total: int, pct_start: float) -> None:
    mine, theirs = two_groups(kind), two_groups(kind)
    schedule = create_schedule("one-cycle", mine, total_steps=total, steps_per_epoch=1, pct_start=pct_start)
    try:
        scheduler = lr_scheduler.OneCycleLR(theirs, list(BASE_LRS), total_steps=total, pct_start=pct_start)
    except ZeroDivisionError:
        pytest.skip("torch divides by zero where the first phase is one step long")
    for step in range(total):
        schedule.before_step(step)
        assert lrs(mine) == pytest.approx(lrs(theirs), rel=1e-9), step
        for one, other in zip(mine.param_groups, theirs.param_groups, strict=True):
            key = "momentum" if kind == "sgd" else "betas"
            assert one[key] == pytest.approx(other[key], rel=1e-9), step
        theirs.step()
        if step + 1 < total:
            scheduler.step()


def test_one_cycle_by_hand() -> None:
    optimizer = two_groups()
    schedule = create_schedule("one-cycle", optimizer, total_steps=11, steps_per_epoch=1, pct_start=6 / 11)
    found = []
    for step in (0, 5, 10):
        schedule.before_step(step)
        found.append((schedule.lr, optimizer.param_groups[0]["momentum"]))
    assert found[0] == pytest.approx((0.5 / 25, 0.95))
    assert found[1] == pytest.approx((0.5, 0.85))
    assert found[2] == pytest.approx((0.5 / 25 / 1e4, 0.95))


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "adam", "muon"])
def test_one_cycle_moves_the_momentum_there_is(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = create_optimizer(name, model, lr=0.1)
    create_schedule("one-cycle", optimizer, total_steps=10, steps_per_epoch=1).before_step(0)
    for group in optimizer.param_groups:
        assert group.get("momentum", 0) in ((0,) if name == "sgd" else (0, 0.95))
        assert name not in ("adam", "muon") or group["betas"] == (0.95, 0.999)
    fixed = create_optimizer(name, model, lr=0.1)
    create_schedule("one-cycle", fixed, total_steps=10, steps_per_epoch=1, cycle_momentum=False).before_step(0)
    assert all(group.get("momentum", 0) in (0, 0.9) for group in fixed.param_groups)


@settings(max_examples=30, deadline=None)
@given(
    losses=st.lists(st.sampled_from([1.0, 0.99995, 0.9998, 0.9, 0.5, 2.0, math.nan, math.inf]), max_size=30),
    patience=st.integers(0, 3),
    min_factor=st.sampled_from([0.0, 0.2]),
)
def test_plateau_equals_torchs(losses: list[float], patience: int, min_factor: float) -> None:
    mine, theirs = two_groups(), two_groups()
    options: dict[str, Any] = {"gamma": 0.5, "patience": patience, "min_factor": min_factor}
    schedule = create_schedule("reduce-on-plateau", mine, total_steps=TOTAL, steps_per_epoch=1, **options)
    lowest = [lr * min_factor for lr in BASE_LRS]
    scheduler = lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=patience, min_lr=lowest, eps=0)
    for step, loss in enumerate(losses):
        schedule.before_step(step)
        assert lrs(mine) == pytest.approx(lrs(theirs), rel=1e-9)
        schedule.after_step(step)
        schedule.after_epoch(loss)
        scheduler.step(loss)
        # A schedule made anew from the stored state goes on alike.
        state = json.loads(json.dumps(schedule.state_dict(), allow_nan=False))
        schedule = create_schedule("reduce-on-plateau", mine, total_steps=TOTAL, steps_per_epoch=1, **options)
        schedule.load_state_dict(state)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("is_schedule_first", [True, False])
def test_a_resumed_run_ends_with_the_same_bits(name: str, is_schedule_first: bool) -> None:
    def build(lr: float = 0.3) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weights = nn.Parameter(torch.linspace(-1, 1, 8))
        return weights, torch.optim.AdamW([{"params": [weights], "name": "decay"}], lr=lr)

    def run(weights: nn.Parameter, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> list[float]:
        seen = []
        for step in steps:
            schedule.before_step(step)
            seen.append(schedule.lr)
            weights.grad = torch.sin(weights.detach() * (step + 1))
            optimizer.step()
            schedule.after_step(step)
            if (step + 1) % PER_EPOCH == 0:
                schedule.after_epoch(1.0)
        return seen

    options: dict[str, Any] = {"total_steps": TOTAL, "steps_per_epoch": PER_EPOCH, "patience": 1, "step_epochs": 2}
    options["warmup_steps"] = 0 if name == "one-cycle" else 9
    straight, optimizer = build()
    expected = run(straight, optimizer, create_schedule(name, optimizer, **options), range(TOTAL))

    for stop in (5, 31, 48):
        first, optimizer = build()
        schedule = create_schedule(name, optimizer, **options)
        run(first, optimizer, schedule, range(stop))
        saved, state = copy.deepcopy(optimizer.state_dict()), json.loads(json.dumps(schedule.state_dict()))

        second, optimizer = build(lr=123.0)  # What the state dict says counts.
        second.data.copy_(first.data)
        schedule = create_schedule(name, optimizer, **options) if is_schedule_first else None
        optimizer.load_state_dict(saved)
        schedule = schedule or create_schedule(name, optimizer, **options)
        schedule.load_state_dict(state)
        assert run(second, optimizer, schedule, range(stop, TOTAL)) == expected[stop:]
        assert torch.equal(second, straight)


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 50), per_epoch=st.integers(1, 9), step=st.integers(0, 60), min_factor=st.floats(0, 1))
def test_factors_stay_between_0_and_1(name: str, total: int, per_epoch: int, step: int, min_factor: float) -> None:
    options = ScheduleSettings(total_steps=total, steps_per_epoch=per_epoch, min_factor=min_factor)
    factor = lr_factor(name, step, options)
    assert 0.0 <= factor <= 1.0 + 1e-12
    if "min_factor" in SETTINGS_USED[name]:
        assert factor >= min_factor - 1e-12


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one-cycle"])
def test_warmup_rises_in_a_line_and_ends(name: str) -> None:
    options = ScheduleSettings(total_steps=20, steps_per_epoch=100, warmup_steps=4)
    assert [lr_factor(name, step, options) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    only_warmup = ScheduleSettings(total_steps=4, steps_per_epoch=1, warmup_steps=4, gamma=1.0)
    assert lr_factor(name, 3, only_warmup) == pytest.approx(0.8)


def test_settings_used_names_every_schedule_and_real_settings() -> None:
    assert SETTINGS_USED.keys() == SCHEDULES.keys()
    assert set().union(*SETTINGS_USED.values()) <= set(ScheduleSettings.__dataclass_fields__)


@pytest.mark.parametrize("name", SCHEDULES)
def test_settings_not_used_change_nothing(name: str) -> None:
    base: dict[str, Any] = {"total_steps": 12, "steps_per_epoch": 3}
    others: dict[str, Any] = {"min_factor": 0.5, "step_epochs": 2, "gamma": 0.9, "pct_start": 0.6, "div_factor": 3.0}
    changes = {key: value for key, value in others.items() if key not in SETTINGS_USED[name]}
    for step in range(12):
        one, other = ScheduleSettings(**base), ScheduleSettings(**base, **changes)
        assert lr_factor(name, step, one) == lr_factor(name, step, other)


def test_a_tensor_learning_rate_keeps_its_identity() -> None:
    lr = torch.tensor(0.5)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], lr=lr, capturable=False, foreach=False)
    create_schedule("linear", optimizer, total_steps=4, steps_per_epoch=1).before_step(2)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.25


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "cosin"}, "Did you mean 'cosine'"),
        ({"total_steps": 0}, "total_steps: expected at least 1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: expected at least 1"),
        ({"warmup_steps": 61}, "warmup_steps: expected at most 60"),
        ({"name": "one-cycle", "warmup_steps": 1}, "warmup of its own"),
        ({"min_factor": 1.5}, "min_factor: expected 0 to 1"),
        ({"gamma": -0.1}, "gamma: expected 0 to 1"),
        ({"name": "reduce-on-plateau", "gamma": 1.0}, "expects less than 1"),
        ({"div_factor": 0.0}, "div_factor: expected more than 0"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], match: str) -> None:
    arguments = {"name": "cosine", "optimizer": two_groups(), "total_steps": TOTAL, "steps_per_epoch": 1, **changes}
    with pytest.raises(ConfigError, match=match):
        create_schedule(**arguments)


def test_the_state_of_another_schedule_is_an_error() -> None:
    cosine, linear = (create_schedule(n, two_groups(), total_steps=9, steps_per_epoch=1) for n in ("cosine", "linear"))
    with pytest.raises(RunError, match="holds schedule 'linear', expected 'cosine'"):
        cosine.load_state_dict(linear.state_dict())

"""Learning-rate schedules: functions of the step, so that a checkpoint holds no schedule and a resumed run no drift.

The learning rate of update `step` is the group's base learning rate times `lr_factor(name, step, settings)`. Only
reduce-on-plateau depends on what happened before, and only it has a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tellapart.errors import ConfigError, RunError, unknown_name

# torch.optim.lr_scheduler.OneCycleLR's base_momentum and max_momentum, after Smith 2018 (see `one_cycle`).
ONE_CYCLE_MOMENTUM = (0.85, 0.95)

# torch.optim.lr_scheduler.ReduceLROnPlateau's threshold: progress is a validation loss lower by this share.
PLATEAU_THRESHOLD = 1e-4


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """What a schedule is a function of, besides the step; see `create_schedule`."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    min_factor: float = 0.0
    step_epochs: int = 30
    gamma: float = 0.1
    patience: int = 10
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    cycle_momentum: bool = True


def warmup(step: int, settings: ScheduleSettings) -> float:
    """Return the linear rise over the first `warmup_steps` updates: (step + 1) / (warmup_steps + 1), then 1.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2, "gradual warmup".

    >>> [warmup(step, ScheduleSettings(total_steps=9, steps_per_epoch=3, warmup_steps=3)) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / (settings.warmup_steps + 1))


def constant(step: int, settings: ScheduleSettings) -> float:
    """Return 1."""
    return 1.0


def step_decay(step: int, settings: ScheduleSettings) -> float:
    """Return gamma ** (epoch // step_epochs), at least `min_factor`: torch's StepLR.

    >>> [round(step_decay(step, ScheduleSettings(total_steps=90, steps_per_epoch=1)), 9) for step in (0, 29, 30, 60)]
    [1.0, 1.0, 0.1, 0.01]
    """
    epoch = step // settings.steps_per_epoch
    return max(settings.min_factor, settings.gamma ** (epoch // settings.step_epochs))


def exponential(step: int, settings: ScheduleSettings) -> float:
    """Return gamma ** epoch, at least `min_factor`: torch's ExponentialLR."""
    return max(settings.min_factor, settings.gamma ** (step // settings.steps_per_epoch))


def cosine(step: int, settings: ScheduleSettings) -> float:
    """Return half a cosine from 1, at the end of the warmup, to `min_factor` at `total_steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.

    >>> [round(cosine(step, ScheduleSettings(total_steps=4, steps_per_epoch=2)), 4) for step in range(4)]
    [1.0, 0.8536, 0.5, 0.1464]
    """
    return settings.min_factor + (1 - settings.min_factor) * (1 + math.cos(math.pi * _progress(step, settings))) / 2


def linear(step: int, settings: ScheduleSettings) -> float:
    """Return a straight line from 1, at the end of the warmup, to `min_factor` at `total_steps`.

    >>> [linear(step, ScheduleSettings(total_steps=4, steps_per_epoch=2)) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return 1 - (1 - settings.min_factor) * _progress(step, settings)


def one_cycle(step: int, settings: ScheduleSettings) -> float:
    """Return a cosine rise from 1 / div_factor to 1 over the share `pct_start`, then a cosine fall to
    1 / (div_factor * final_div_factor) at the last step: torch's OneCycleLR with its two phases.

    Source: Smith and Topin 2018, "Super-convergence", section 3; the cosine is torch's and fastai's.
    """
    first = 1 / settings.div_factor
    return _two_phases(step, settings, first, 1.0, first / settings.final_div_factor)


def one_cycle_momentum(step: int, settings: ScheduleSettings) -> float:
    """Return the momentum that goes with `one_cycle`: 0.95, 0.85 where the learning rate peaks, 0.95.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: part 1", section 4.3.
    """
    low, high = ONE_CYCLE_MOMENTUM
    return _two_phases(step, settings, high, low, high)


def _progress(step: int, settings: ScheduleSettings) -> float:
    num_steps = settings.total_steps - settings.warmup_steps
    return min(1.0, max(0, step - settings.warmup_steps) / num_steps) if num_steps else 0.0


def _two_phases(step: int, settings: ScheduleSettings, start: float, middle: float, end: float) -> float:
    turn, last = settings.pct_start * settings.total_steps - 1, settings.total_steps - 1
    if step <= turn:
        return _anneal(start, middle, step / turn if turn else 1.0)
    # torch starts the second phase from `turn`, which need not be a whole step.
    return _anneal(middle, end, min(1.0, (step - turn) / (last - turn)))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


SCHEDULES: dict[str, Callable[[int, ScheduleSettings], float]] = {
    "constant": constant,
    "step": step_decay,
    "exponential": exponential,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "linear": linear,
    # Until the validation loss stops falling; `Schedule.after_epoch` does the rest.
    "reduce-on-plateau": constant,
}

# The settings that each schedule makes use of, so that a caller can name those that it would not.
SETTINGS_USED: dict[str, frozenset[str]] = {
    "constant": frozenset({"warmup_steps"}),
    "step": frozenset({"warmup_steps", "min_factor", "step_epochs", "gamma"}),
    "exponential": frozenset({"warmup_steps", "min_factor", "gamma"}),
    "cosine": frozenset({"warmup_steps", "min_factor"}),
    "one-cycle": frozenset({"pct_start", "div_factor", "final_div_factor", "cycle_momentum"}),
    "linear": frozenset({"warmup_steps", "min_factor"}),
    "reduce-on-plateau": frozenset({"warmup_steps", "min_factor", "gamma", "patience"}),
}


def lr_factor(name: str, step: int, settings: ScheduleSettings) -> float:
    """Return the learning rate of the 0-based update `step`, warmup included, over the base learning rate.

    >>> lr_factor("linear", 1, ScheduleSettings(total_steps=4, steps_per_epoch=2))
    0.75
    """
    return warmup(step, settings) * SCHEDULES[name](step, settings)


class Schedule:
    """Sets the learning rate of an optimizer before each update, from the number of the update alone.

    Each group's base learning rate is its `initial_lr`, which is stored in the group when the schedule is created and
    which the optimizer's state dict carries. A group that has one already, because its state was loaded, keeps it: the
    `lr` beside it is that of some step.
    """

    def __init__(self, name: str, optimizer: torch.optim.Optimizer, settings: ScheduleSettings) -> None:
        self.name = name
        self.settings = settings
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self._base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self._best = math.inf
        self._num_bad_epochs = 0
        self._reduction = 1.0

    @property
    def lr(self) -> float:
        """The learning rate of the first group now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def before_step(self, step: int) -> None:
        """Set the learning rates (and for one-cycle the momentum) of the 0-based update `step`."""
        factor = lr_factor(self.name, step, self.settings) * self._reduction
        for group, base_lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            _set_lr(group, group.get("initial_lr", base_lr) * factor)
        if self.name == "one-cycle" and self.settings.cycle_momentum:
            momentum = one_cycle_momentum(step, self.settings)
            for group in self.optimizer.param_groups:
                _set_momentum(group, momentum)

    def after_step(self, step: int) -> None:
        """Do nothing: what `TorchSchedule` needs and a function of the step does not."""

    def after_epoch(self, val_loss: float) -> None:
        """For reduce-on-plateau, multiply the learning rate by gamma once more than `patience` epochs brought no
        progress (torch's ReduceLROnPlateau in mode "min", without its eps); otherwise do nothing.

        Args:
            val_loss: the same on all ranks.
        """
        if self.name != "reduce-on-plateau":
            return
        # A validation loss that is not a number is below nothing, so it counts as no progress.
        if val_loss < self._best * (1 - PLATEAU_THRESHOLD):
            self._best, self._num_bad_epochs = float(val_loss), 0
        else:
            self._num_bad_epochs += 1
        if self._num_bad_epochs > self.settings.patience:
            self._reduction = max(self._reduction * self.settings.gamma, self.settings.min_factor)
            self._num_bad_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the step does not tell, as plain data for JSON."""
        return {
            "name": self.name,
            "best": None if math.isinf(self._best) else self._best,
            "num_bad_epochs": self._num_bad_epochs,
            "reduction": self._reduction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            RunError: it is the state of another schedule.
        """
        if state.get("name") != self.name:
            raise RunError(f"the checkpoint holds schedule '{state.get('name')}', expected '{self.name}'.")
        self._best = math.inf if state["best"] is None else state["best"]
        self._num_bad_epochs = state["num_bad_epochs"]
        self._reduction = state["reduction"]


def create_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    min_factor: float = 0.0,
    step_epochs: int = 30,
    gamma: float = 0.1,
    patience: int = 10,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = True,
) -> Schedule:
    """Return the schedule of this name over the optimizer's groups. `SETTINGS_USED` says which settings it uses.

    Args:
        name: a key of `SCHEDULES`.
        total_steps: updates of the whole run, at least 1.
        steps_per_epoch: updates of an epoch, at least 1.
        warmup_steps: updates over which the learning rate rises linearly, from 0 to `total_steps`.
        min_factor: lowest learning rate over the base one, in [0, 1].
        step_epochs: epochs between two reductions of "step", at least 1.
        gamma: factor of a reduction, in [0, 1]: of "step" every `step_epochs` epochs, of "exponential" every epoch,
            of "reduce-on-plateau" every time that the validation loss has stopped falling.
        patience: epochs without progress that "reduce-on-plateau" waits for, at least 0.
        pct_start, div_factor, final_div_factor, cycle_momentum: see `one_cycle`, where the base learning rate is the
            peak. The momentum moves in SGD and Muon, the first beta in Adam, AdamW and Muon; SGD that has no momentum
            gets none.

    Raises:
        ConfigError: an unknown name, values out of range, or `warmup_steps` with one-cycle, which has its own.
    """
    settings = ScheduleSettings(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=warmup_steps,
        min_factor=min_factor,
        step_epochs=step_epochs,
        gamma=gamma,
        patience=patience,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )
    problems = [] if name in SCHEDULES else [unknown_name("schedule", name, SCHEDULES)]
    problems += _problems(name, settings)
    if problems:
        raise ConfigError(problems)
    return Schedule(name, optimizer, settings)


def _problems(name: str, settings: ScheduleSettings) -> list[str]:
    at_least = {"total_steps": 1, "steps_per_epoch": 1, "step_epochs": 1, "patience": 0, "warmup_steps": 0}
    problems = [
        f"{key}: expected at least {low}, found {getattr(settings, key)}"
        for key, low in at_least.items()
        if getattr(settings, key) < low
    ]
    problems += [
        f"{key}: expected 0 to 1, found {getattr(settings, key):g}"
        for key in ("min_factor", "gamma", "pct_start")
        if not 0 <= getattr(settings, key) <= 1
    ]
    problems += [
        f"{key}: expected more than 0, found {getattr(settings, key):g}"
        for key in ("div_factor", "final_div_factor")
        if not getattr(settings, key) > 0
    ]
    if settings.warmup_steps > settings.total_steps >= 1:
        problems.append(f"warmup_steps: expected at most {settings.total_steps} (all), found {settings.warmup_steps}")
    if name == "one-cycle" and settings.warmup_steps:
        problems.append("warmup_steps: 'one-cycle' has a warmup of its own, set by pct_start; expected 0")
    if name == "reduce-on-plateau" and settings.gamma == 1:
        problems.append("gamma: 'reduce-on-plateau' expects less than 1; 'constant' never reduces")
    return problems


def _set_lr(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)  # A compiled step reads the tensor; another object would be compiled anew.
    else:
        group["lr"] = lr


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if group.get("momentum"):
        group["momentum"] = momentum
    if "betas" in group and group["betas"][0]:
        group["betas"] = (momentum, group["betas"][1])

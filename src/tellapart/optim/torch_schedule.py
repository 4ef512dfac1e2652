"""A user's own torch.optim.lr_scheduler object, driven at the same places as our schedules."""

from __future__ import annotations

import json
from typing import Any, Literal

from torch.optim import lr_scheduler

from tellapart.errors import ConfigError, RunError


class TorchSchedule:
    """Drives a torch scheduler with the hooks of `Schedule`.

    OneCycleLR and CyclicLR, which count updates, advance after each update. All others count epochs and advance after
    each epoch, ReduceLROnPlateau on the validation loss. CosineAnnealingWarmRestarts, SequentialLR and the like can
    count either; they are taken to count epochs unless `every` says "step".

    To resume, build optimizer and scheduler as before, then load the states of both: torch keeps the current learning
    rate in the optimizer.

    Args:
        scheduler: a scheduler that has not been stepped.
        every: "step" or "epoch", where the default is wrong.

    Raises:
        ConfigError: ReduceLROnPlateau is to advance every step.
    """

    def __init__(self, scheduler: lr_scheduler.LRScheduler, *, every: Literal["step", "epoch"] | None = None) -> None:
        self.scheduler = scheduler
        counts_updates = isinstance(scheduler, lr_scheduler.OneCycleLR | lr_scheduler.CyclicLR)
        self.every = every or ("step" if counts_updates else "epoch")
        if self.every == "step" and isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                ["every: ReduceLROnPlateau needs a validation loss, which an epoch has and a step has not"]
            )

    @property
    def lr(self) -> float:
        """The learning rate of the first group now."""
        return float(self.scheduler.optimizer.param_groups[0]["lr"])

    def before_step(self, step: int) -> None:
        """Do nothing: torch schedulers set the first learning rate when made, the next ones after an update."""

    def after_step(self, step: int) -> None:
        """Advance a scheduler that counts updates; call it after the optimizer's step."""
        if self.every == "step":
            self._advance()

    def after_epoch(self, val_loss: float) -> None:
        """Advance a scheduler that counts epochs; call it after the epoch's validation."""
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self._note_update()
            self.scheduler.step(val_loss)
        elif self.every == "epoch":
            self._advance()

    def _advance(self) -> None:
        # OneCycleLR has a value for each of its steps, and ends the run with an error if asked for more.
        is_over = (
            isinstance(self.scheduler, lr_scheduler.OneCycleLR)
            and self.scheduler.last_epoch + 1 >= self.scheduler.total_steps
        )
        if not is_over:
            self._note_update()
            self.scheduler.step()

    def _note_update(self) -> None:
        # torch warns if it has seen no update. Our hooks come after one, though perhaps one of a process that has
        # ended, where the run goes on from a checkpoint.
        self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Return what moves in the scheduler, as plain data for JSON."""
        return {"class": type(self.scheduler).__name__, "every": self.every, "state": _state(self.scheduler)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            RunError: it is the state of a scheduler of another class.
        """
        mine = {"class": type(self.scheduler).__name__, "every": self.every}
        if {key: state.get(key) for key in mine} != mine:
            raise RunError(
                f"the checkpoint holds scheduler '{state.get('class')}' for every {state.get('every')}, expected "
                f"'{mine['class']}' for every {mine['every']}."
            )
        _load(self.scheduler, state["state"])


def _state(scheduler: Any) -> dict[str, Any]:
    """Return the attributes that are the same after a round through JSON, also of schedulers inside this one.

    Others (functions, a Counter of milestones, an infinite best value) come from the scheduler's constructor and do
    not move, so the user's new object has them.
    """
    state = {key: value for key, value in scheduler.state_dict().items() if _survives_json(value)}
    state.pop("_schedulers", None)
    inner = getattr(scheduler, "_schedulers", None)
    return state if inner is None else {**state, "_schedulers": [_state(one) for one in inner]}


def _load(scheduler: Any, state: dict[str, Any]) -> None:
    for one, inner_state in zip(getattr(scheduler, "_schedulers", []), state.get("_schedulers", []), strict=True):
        _load(one, inner_state)
    moved = {key: value for key, value in state.items() if key != "_schedulers"}
    scheduler.load_state_dict({**scheduler.state_dict(), **moved})


def _survives_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False

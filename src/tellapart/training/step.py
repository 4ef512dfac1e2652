"""One optimizer update: forward, loss, backward, update. Nothing in it waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from tellapart import hardware, seeding
from tellapart.data.loader import Batch
from tellapart.errors import DataError, NonFiniteLossError
from tellapart.optim.losses import Loss
from tellapart.training.state import TrainState

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Prepare = Callable[[Batch, int, int], tuple[torch.Tensor, torch.Tensor]]

_KEPT = "the last checkpoint is kept."
_ADVICE = "Try a lower --optim.lr, --optim.clip-norm 1, or --compute.precision float32."


def as_is(batch: Batch, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch's images and targets unchanged: for loaders that give the network's input already."""
    return batch.images, batch.targets


@dataclass(frozen=True)
class TrainStep:
    """How a batch becomes an update.

    `prepare` gives the network's input and targets for a batch, its epoch and its number. With `seed`, dropout and the
    like are a function of (seed, step); without, torch's global generator is left to the caller. `accumulation_steps`
    parts are computed one after the other and make one update.
    """

    criterion: Criterion
    prepare: Prepare = as_is
    seed: int | None = None
    precision: str = "float32"
    accumulation_steps: int = 1
    clip_norm: float = 0.0

    def __call__(self, state: TrainState, batch: Batch) -> torch.Tensor:
        """Update the model by one batch and return its mean loss, a tensor on the device.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; nothing was updated.
        """
        if state.schedule is not None:
            state.schedule.before_step(state.step)
        inputs, targets = self.prepare(batch, state.epoch, state.batch_in_epoch)
        loss = self._backward(state, inputs, targets)
        self._stop_if_not_finite(state, loss)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(state.model.parameters(), self.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.schedule is not None:
            state.schedule.after_step(state.step)
        if state.ema is not None:
            state.ema.update(state.step)
        return loss

    def _backward(self, state: TrainState, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Leave the gradient of the batch's mean loss in the parameters, and return that loss."""
        num_parts = self.num_parts(inputs)
        total_weight = weight_of(self.criterion, targets)
        loss = torch.zeros((), device=inputs.device)
        parts = zip(inputs.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
        for number, (part_inputs, part_targets) in enumerate(parts):
            if self.seed is not None:
                torch.manual_seed(seeding.derive(self.seed, "step", state.step, number))
            with hardware.autocast(inputs.device, self.precision), _one_image_explained():
                outputs = state.model(part_inputs)
            if num_parts == 1:  # The mean itself: a sum divided again can differ from it in the last bit.
                part_loss = self.criterion(outputs, part_targets)
            else:
                part_loss = loss_sum(self.criterion, outputs, part_targets) / total_weight
            part_loss.backward()
            loss = loss + part_loss.detach()
        return loss

    def num_parts(self, inputs: torch.Tensor) -> int:
        """Return in how many parts a batch is computed; batch norm needs two images in each."""
        return max(1, min(self.accumulation_steps, len(inputs) // 2))

    def _stop_if_not_finite(self, state: TrainState, loss: torch.Tensor) -> None:
        # On the CPU looking costs nothing. A GPU would have to be waited for, so there `check_finite` looks at the
        # epoch's sum before anything is saved: what is stored is good either way.
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise not_finite(state, float(loss))


@contextmanager
def _one_image_explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataError(
            "batch norm cannot learn from a batch of one image: expected at least two. Use a larger "
            "--train.batch-size; with a DataLoader of your own, drop_last=True."
        ) from error


def check_finite(state: TrainState) -> None:
    """Raise NonFiniteLossError if a loss of this epoch was not finite; called before a checkpoint is written."""
    total = float(state.loss_sum)
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"the loss became {total} in epoch {state.epoch + 1}, at step {state.step} or before; training stopped, "
            f"and {_KEPT} {_ADVICE}"
        )


def not_finite(state: TrainState, loss: float) -> NonFiniteLossError:
    """Return the error for the loss of the update to come, which is NaN or infinite."""
    return NonFiniteLossError(
        f"the loss became {loss} at step {state.step + 1} (epoch {state.epoch + 1}, batch {state.batch_in_epoch + 1}); "
        f"training stopped before the update, and {_KEPT} {_ADVICE}"
    )


def weight_of(criterion: Criterion, targets: torch.Tensor) -> torch.Tensor | float:
    """Return what a batch's sum of losses is divided by: the loss's own word for ours, else the number of images."""
    return criterion.weight(targets) if isinstance(criterion, Loss) else float(len(targets))


def loss_sum(criterion: Criterion, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of the losses over images, for our losses and for any that returns a mean."""
    if isinstance(criterion, Loss):
        return criterion(outputs, targets, reduction="sum")
    return criterion(outputs, targets) * len(targets)

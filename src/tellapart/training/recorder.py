"""What a run writes down and shows while it trains: the history's lines, the speed, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from tellapart.data.loader import Batch, TrainLoader
from tellapart.training.history import History
from tellapart.training.loop import Validate
from tellapart.training.progress import EpochReport, Progress, StepReport
from tellapart.training.state import TrainState

_SHOW_INTERVAL_S = 0.2


class TimedLoader:
    """A loader that measures how long the loop waits for its batches."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader
        self.num_images, self.num_batches = loader.num_images, loader.num_batches
        self.waited_s = 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the loader's batches."""
        batches = self.loader.epoch(epoch, start)
        while True:
            asked_at = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - asked_at
            if batch is None:
                return
            yield batch


class RunRecorder:
    """Writes history.jsonl and feeds the display.

    Losses are kept as device tensors and read when an epoch ends or a checkpoint is due, when the loop has to wait for
    the device anyway.
    """

    def __init__(
        self, history: History, progress: Progress, loader: TimedLoader, *, num_epochs: int, num_val: int, interval: int
    ) -> None:
        self.history, self.progress, self.loader = history, progress, loader
        self.num_epochs, self.num_val, self.interval = num_epochs, num_val, interval
        self._pending: list[tuple[dict[str, Any], torch.Tensor]] = []
        self._started_at = self._epoch_at = time.perf_counter()
        self._first_step: int | None = None
        self._steps_before_epoch = 0
        self._shown_at = 0.0
        self._validation_s = 0.0

    def step(self, state: TrainState, loss: torch.Tensor) -> None:
        """Note a finished step; its loss is read later."""
        if self._first_step is None:
            self._first_step = state.step - 1
            self._steps_before_epoch = state.batch_in_epoch - 1
        if state.step % self.interval == 0:
            line = {"kind": "step", "step": state.step, "epoch": state.epoch + 1, "lr": self._lr(state)}
            self._pending.append((line, loss))
        now = time.perf_counter()
        if now - self._shown_at >= _SHOW_INTERVAL_S:
            self._shown_at = now
            self.progress.step(self._step_report(state, loss, now))

    def _step_report(self, state: TrainState, loss: torch.Tensor, now: float) -> StepReport:
        elapsed_s = max(now - self._epoch_at, 1e-9)
        batches = state.batch_in_epoch - self._steps_before_epoch
        return StepReport(
            epoch=state.epoch + 1,
            num_epochs=self.num_epochs,
            batch=state.batch_in_epoch,
            num_batches=self.loader.num_batches,
            # Reading a loss waits for the device; only the CPU has it at hand.
            loss=float(loss) if loss.device.type == "cpu" else None,
            images_per_s=batches * self.loader.num_images / self.loader.num_batches / elapsed_s,
            wait_share=min(1.0, self.loader.waited_s / elapsed_s),
            left_s=self._left_s(state, now),
        )

    def _left_s(self, state: TrainState, now: float) -> float:
        total = self.num_epochs * self.loader.num_batches
        done = state.step - (self._first_step or 0)
        return (now - self._started_at) / max(done, 1) * (total - state.step)

    def epoch(self, state: TrainState, train_loss: float, metrics: dict[str, float]) -> None:
        """Write the epoch's line and show it; `state` has moved on to the next epoch already."""
        now = time.perf_counter()
        self._write_pending()
        elapsed_s = max(now - self._epoch_at, 1e-9)
        batches = self.loader.num_batches - self._steps_before_epoch
        images_per_s = (
            batches * self.loader.num_images / self.loader.num_batches / max(elapsed_s - self._validation_s, 1e-9)
        )
        wait_share = min(1.0, self.loader.waited_s / elapsed_s)
        self.history.append(
            {
                "kind": "epoch",
                "epoch": state.epoch,
                "step": state.step,
                "lr": self._lr(state),
                "train/loss": train_loss,
                **{f"val/{name}": value for name, value in metrics.items()},
                "seconds": round(elapsed_s, 3),
                "images_per_s": round(images_per_s, 1),
                "wait_share": round(wait_share, 4),
            }
        )
        self.progress.epoch(
            EpochReport(
                epoch=state.epoch,
                num_epochs=self.num_epochs,
                train_loss=train_loss,
                metrics=metrics,
                num_val=self.num_val,
                images_per_s=images_per_s,
                wait_share=wait_share,
                left_s=self._left_s(state, now),
            )
        )
        self._epoch_at, self.loader.waited_s, self._steps_before_epoch, self._validation_s = now, 0.0, 0, 0.0

    def timed(self, validate: Validate) -> Validate:
        """Return `validate`, measured: the time it takes is no training time."""

        def measured(state: TrainState) -> dict[str, float]:
            started_at = time.perf_counter()
            metrics = validate(state)
            self._validation_s = time.perf_counter() - started_at
            return metrics

        return measured

    def sync(self) -> int:
        """Put every line on the disk and return the history's length in bytes."""
        self._write_pending()
        return self.history.sync()

    def _write_pending(self) -> None:
        for line, loss in self._pending:
            self.history.append({**line, "train/loss": float(loss)})
        self._pending.clear()

    @staticmethod
    def _lr(state: TrainState) -> float:
        return float(state.optimizer.param_groups[0]["lr"])

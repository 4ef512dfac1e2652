"""When a run saves, when it stops, and what it chooses the best weights by."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tellapart.config import TrainConfig
from tellapart.errors import Interrupted
from tellapart.training.checkpoint import save_checkpoint
from tellapart.training.recorder import RunRecorder
from tellapart.training.state import TrainState
from tellapart.training.step import check_finite


class StopRequest:
    """Somebody asked the run to stop: the first signal is remembered, the second ends the process at once."""

    def __init__(self) -> None:
        self.name = ""
        self._pid = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listen to SIGINT and SIGTERM while the block runs; elsewhere than in the main thread, to nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # A loader's worker: Ctrl-C reaches it as well, and it ends with this process.
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        # Not `print`: the signal may have come in the middle of one, and a stream cannot be entered twice.
        os.write(2, f"\n{self.name}: finishing the step and saving; once more ends at once.\n".encode())


class RunPlan:
    """The plan of a run in a folder.

    Args:
        config: epochs, patience, interval of checkpoints.
        folder: where checkpoints go.
        recorder: told before each save, so that history and checkpoint agree.
        metric: the metric on val that chooses.
        higher_is_better: its direction.
        stop: set when somebody asks the run to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        recorder: RunRecorder,
        *,
        metric: str,
        higher_is_better: bool,
        stop: StopRequest,
    ) -> None:
        self.config, self.folder, self.recorder = config, folder, recorder
        self.metric, self.higher_is_better = metric, higher_is_better
        self.stop = stop
        self._saved_at = time.monotonic()

    def is_over(self, state: TrainState) -> bool:
        """Return whether the last epoch is done, or val made no progress for too long."""
        patience = self.config.early_stopping_epochs
        return state.epoch >= self.config.epochs or bool(patience and state.epochs_without_progress >= patience)

    def chosen_value(self, metrics: dict[str, float]) -> float:
        """Return the metric on val that chooses the best weights."""
        return metrics[self.metric]

    def save_if_due(self, state: TrainState) -> None:
        """Save when the interval has passed, at the end, and when asked to stop.

        Raises:
            Interrupted: after saving, if somebody asked the run to stop.
            NonFiniteLossError: instead of saving, if a loss of this epoch was not finite.
        """
        is_end = state.batch_in_epoch == 0 and self.is_over(state)
        is_time = time.monotonic() - self._saved_at >= self.config.checkpoint_interval_s
        if not (is_end or is_time or self.stop.name):
            return
        check_finite(state)
        save_checkpoint(self.folder, state, {"history_bytes": self.recorder.sync()})
        self._saved_at = time.monotonic()
        if self.stop.name and not is_end:
            raise Interrupted(f"stopped by {self.stop.name} at step {state.step}; everything is saved.")

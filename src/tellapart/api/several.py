"""Several runs in one folder, trained one after another: what the folds of a data set and the seeds of a run share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from tellapart import config as configs
from tellapart import hardware
from tellapart.api.prepare import Prepared, same_bits
from tellapart.api.run import Run, write_json
from tellapart.config import RunConfig, get, options, override
from tellapart.data.splits import Split
from tellapart.errors import Interrupted, NonFiniteLossError, RunError
from tellapart.evaluation.metrics import Estimate, format_accuracy
from tellapart.training.progress import EpochReport, Progress, StepReport


class TrainOne(Protocol):
    """What trains one of the runs. `api.train` has it, and imports the modules that use it."""

    def __call__(self, prepared: Prepared, path: Path, display: Progress, started_at: float, *, is_new: bool) -> Run:
        """Train a new run, or go on with one, to its end."""
        ...


@dataclass(frozen=True)
class Member:
    """One of the runs: how it is called, the folder it is in, and the config that it begins with."""

    title: str
    folder: Path
    config: RunConfig


class TitledProgress(Progress):
    """Names the run on what it passes on to another display, and leaves out what was `said` before.

    Attributes:
        heard: what was said before the first step. Runs on the same images all say the same there.
    """

    def __init__(self, display: Progress, title: str, said: Sequence[str] = ()) -> None:
        self.display, self.title, self.said = display, title, frozenset(said)
        self.heard: list[str] = []
        self._is_reading = True

    def say(self, text: str) -> None:
        """Show a sentence, the title before it."""
        if self._is_reading:
            self.heard.append(text)
        if text not in self.said:
            self.display.say(f"{self.title}: {text}")

    def step(self, report: StepReport) -> None:
        """Show where the epoch stands."""
        self._is_reading = False
        self.display.step(replace(report, title=self.title))

    def epoch(self, report: EpochReport) -> None:
        """Show how an epoch ended."""
        self._is_reading = False
        self.display.epoch(replace(report, title=self.title))

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar, with both titles."""
        with self.display.task(f"{self.title}: {title}", total) as advance:
            yield advance


def with_precision(prepared: Prepared) -> Prepared:
    """Return the config with the precision that is found now, so that all runs compute in the same one."""
    compute = prepared.config.compute
    precision = hardware.choose_precision(hardware.choose_device(compute.device), compute.precision)
    return replace(prepared, config=replace(prepared.config, compute=replace(compute, precision=precision)))


@contextmanager
def begun(path: Path, config: RunConfig, first: Path) -> Iterator[None]:
    """Store the config of the whole, but leave nothing behind where not even the first run could begin."""
    if (path / "config.json").exists():
        yield
        return
    is_made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", configs.to_dict(config))
    try:
        yield
    except BaseException:
        if not first.exists():
            (path / "config.json").unlink()
            if is_made:
                path.rmdir()
        raise


def train_member(
    prepared: Prepared,
    path: Path,
    member: Member,
    display: TitledProgress,
    train_one: TrainOne,
    store_split: Callable[[Member], None],
) -> Run:
    """Train one of the runs in `path` to its end, from where it stands.

    Args:
        prepared: the source, and the config of the whole: where its images are read may differ from when it began.
        path: the folder of all runs.
        member: which run.
        display: where to say how it goes.
        train_one: trains a run, or goes on with it.
        store_split: stores the division of a run that is new, where that is not left to the run itself.
    """
    run = Run(member.folder)
    if run.result is not None:
        display.say("has ended before")
        return run
    is_new = not (member.folder / "config.json").exists()
    if is_new:
        config = member.config
        store_split(member)
    else:
        config = override(run.config, {name: get(prepared.config, name) for name in options() if same_bits(name)})
    try:
        return train_one(replace(prepared, config=config), member.folder, display, perf_counter(), is_new=is_new)
    except Interrupted as error:
        # Either would do, and only the folder of all goes on to the runs that follow.
        raise Interrupted(f"{display.title}: {error}".replace(str(member.folder), str(path))) from None
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"{display.title}: {error}") from error


def require_same_images(prepared: Prepared, first: Split, path: Path, what: str) -> None:
    """Raise a RunError if the source no longer has the images that the first run divided."""
    if list(first.paths) != prepared.source.paths:
        raise RunError(
            f"{path}: the images of {prepared.source.name} changed since the first {what} began. To go on, put them "
            "back as they were; or start a new run."
        )


def spread(found: Sequence[Mapping[str, float | None] | None]) -> dict[str, float | None]:
    """Return mean and standard deviation (of a sample) over the runs in which a metric is defined.

    >>> spread([{"value": 1.0}, {"value": 3.0}, {"value": None}, None])
    {'mean': 2.0, 'std': 1.4142135623730951}
    """
    values = [each["value"] for each in found if each is not None and each["value"] is not None]
    return {
        "mean": float(np.mean(values)) if values else None,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def estimate_in_words(found: Estimate, headline: str, n: int) -> str:
    """Return a headline metric with its interval and n.

    >>> estimate_in_words(Estimate(0.5, 0.25, 0.75), "mse", 1200)
    'mse 0.5000 (0.2500 to 0.7500, n = 1,200)'
    """
    if headline == "top1":
        return f"accuracy {format_accuracy(found, n)}"
    return f"{headline} {found.value:.4f} ({found.low:.4f} to {found.high:.4f}, n = {n:,})"


def number(value: float | None) -> float:
    """Return a number of result.json, which has None for what is not defined, as NaN."""
    return math.nan if value is None else value

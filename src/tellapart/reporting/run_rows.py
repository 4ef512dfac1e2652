"""Runs as the rows of a table: what each came to, which may stand side by side, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tellapart.evaluation.metrics import HEADLINE, HIGHER_IS_BETTER, Estimate

# Fields that say where a run reads and computes, or how much it writes down, and that change no number of it; and those
# of a division that comes out the same.
_CHANGES_NOTHING = frozenset(
    {
        "data.source",
        "data.data_dir",
        "data.cache_dir",
        "data.cache_gib",
        "data.in_memory",
        "data.num_workers",
        "data.worker_timeout_s",
        "data.split",
        "data.split_seed",
        "train.checkpoint_interval_s",
        "train.log_interval_steps",
        "train.eval_batch_size",
        "train.report",
    }
)


@dataclass(frozen=True)
class RunRow:
    """A run, or a folder of the runs of several folds or seeds, in a line.

    Attributes:
        name: its path below the folder that was gathered, with slashes.
        path: its folder.
        state: "ended", "unfinished" or "damaged"; `why` says why it has not ended or what is damaged.
        kind: "run", "folds" or "seeds".
        data: what it was trained on, in a word; `source` in full.
        headline: the metric that stands for the run, a value of `HEADLINE`.
        settings: every field of its config by its dotted name.
        metrics: on val, or for folds on the test parts of all; `n` images of `num_given`.
        test: the same on test, from the last look at it; empty where nobody looked.
        looks: how often test was looked at.
        curve: the headline on val after each epoch, NaN where it was not defined.
        division: equal for runs that were judged on the same images; "" where that is not known.
        spread: for folds and seeds, mean, std and perhaps low and high of the headline over the members.
        written_at: when it last wrote, ISO 8601 in UTC.
    """

    name: str
    path: Path
    state: str = "ended"
    why: str = ""
    kind: str = "run"
    data: str = ""
    source: str = ""
    model: str = ""
    recipe: str = ""
    headline: str = "top1"
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    best_epoch: int | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    n: int = 0
    num_given: int = 0
    test: Mapping[str, Estimate] = field(default_factory=dict)
    n_test: int = 0
    looks: int = 0
    num_params: int | None = None
    seconds: float | None = None
    written_at: str = ""
    curve: tuple[float, ...] = ()
    division: str = ""
    has_report: bool = False
    spread: Mapping[str, float | None] = field(default_factory=dict)
    members: tuple[RunRow, ...] = ()

    @property
    def value(self) -> Estimate | None:
        """The headline on val."""
        return self.metrics.get(self.headline)

    @property
    def epochs_planned(self) -> int:
        """How many epochs its config asks for."""
        return int(self.settings.get("train.epochs", 0))


@dataclass(frozen=True)
class Group:
    """Runs whose numbers may stand side by side: same data, same val and test images; the best on val first."""

    data: str
    headline: str
    division: str
    rows: tuple[RunRow, ...]

    @property
    def n(self) -> int:
        """How many images of val were judged."""
        return self.rows[0].n


def grouped(rows: Sequence[RunRow]) -> list[Group]:
    """Return the single runs that have ended in groups that may be compared, the largest first.

    Runs whose division is not known stand alone: nothing says that their numbers are of the same images.
    """
    found: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        if row.state == "ended" and row.kind == "run":
            division = row.division or f"unknown: {row.name}"
            found.setdefault((row.data, row.headline, division, str(row.n)), []).append(row)
    groups = [Group(key[0], key[1], key[2], tuple(ranked(members))) for key, members in found.items()]
    return sorted(groups, key=lambda group: (-len(group.rows), group.data, group.rows[0].name))


def ranked(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return rows in the order of their headline on val, the best first, those without one last."""

    def key(row: RunRow) -> tuple[bool, float, str]:
        value = row.value.value if row.value is not None else float("nan")
        is_known = value == value
        sign = -1.0 if HIGHER_IS_BETTER[row.headline] else 1.0
        return (not is_known, sign * value if is_known else 0.0, row.name)

    return sorted(rows, key=key)


def differing(rows: Sequence[RunRow]) -> dict[str, list[Any]]:
    """Return the fields of the configs that differ between runs, each with its value in every run.

    Fields that change no number, such as where downloaded data lie, are left out.
    """
    if len(rows) < 2:
        return {}
    names = [name for name in rows[0].settings if name not in _CHANGES_NOTHING]
    values = {name: [row.settings.get(name) for row in rows] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def headline_of(metrics: Mapping[str, Any], default: str = "top1") -> str:
    """Return the metric of `metrics` that stands for a run."""
    return next((name for name in HEADLINE.values() if name in metrics), default)

"""Seeds: the same training several times on one division, and how much its result varies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.api.evaluate import Evaluation, evaluate
from tellapart.api.looks import looks_in_words
from tellapart.api.prepare import Prepared
from tellapart.api.run import Run, write_json
from tellapart.api.several import (
    Member,
    TitledProgress,
    TrainOne,
    begun,
    estimate_in_words,
    number,
    require_same_images,
    train_member,
    with_precision,
)
from tellapart.config import RunConfig
from tellapart.errors import RunError
from tellapart.evaluation.metrics import HEADLINE, Estimate, metrics_json
from tellapart.evaluation.spread import spread_over_runs
from tellapart.training.progress import Progress, make_progress


@dataclass(frozen=True)
class SeedsRun(Run):
    """The runs of all seeds, by the folder that holds them. It has a division, which is theirs, and no model."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, those that have not begun included."""
        return seeds_of(self.config)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the seeds that have begun, in order."""
        paths = (seed_path(self.path, seed) for seed in self.seeds)
        return tuple(Run(path) for path in paths if (path / "config.json").exists())


def is_seeds(config: RunConfig) -> bool:
    """Return whether a config asks for the runs of several seeds, one after another."""
    return config.seeds > 0


def seeds_of(config: RunConfig) -> tuple[int, ...]:
    """Return the seeds that a config asks for: `seeds` of them, from `seed` on."""
    return tuple(range(config.seed, config.seed + config.seeds))


def seed_path(path: Path, seed: int) -> Path:
    """Return the folder of a seed's run."""
    return path / f"seed-{seed}"


def train_seeds(prepared: Prepared, path: Path, display: Progress, train_one: TrainOne) -> SeedsRun:
    """Train the run of every seed that has not ended, and write how their results vary.

    Each seed is a whole run in `path/seed-K`, whose config alone makes it again: its `data.split_seed` names the seed
    that divided the images for all. `path/split.parquet` is their division, `path/seeds.json` has the seeds that have
    ended, and `path/result.json` the final result, on val. Test is not looked at.

    Args:
        prepared: the source, and a config with `seeds`.
        path: the folder, new, or of seeds that were interrupted.
        display: where to say how it goes.
        train_one: trains or resumes the run of one seed.

    Raises:
        DataError: the images cannot be read, or divided.
        RunError: the images changed since the first seed began.
        Interrupted: a signal asked it to stop; the seeds that ended are kept, and the one it was in can go on.
    """
    prepared = with_precision(prepared)
    seeds = seeds_of(prepared.config)
    first, done, said = seed_path(path, seeds[0]), list[dict[str, Any]](), list[str]()
    for place, seed in enumerate(seeds, start=1):
        member = _member(prepared, path, seed, place)
        shown = TitledProgress(display, member.title, said)
        with begun(path, prepared.config, first):
            run = train_member(prepared, path, member, shown, train_one, partial(_store_split, prepared, path))
        if not (path / "split.parquet").exists():
            Run(first).split.save(path / "split.parquet")
        said = said or [text for text in shown.heard if run.path == first]
        done.append(_entry(run, seed))
        write_json(path / "seeds.json", {"seeds": len(seeds), "done": done})
    result = {"run": str(path), **over_seeds(done), "seconds": round(sum(each["seconds"] or 0 for each in done), 3)}
    write_json(path / "result.json", result)
    for text in in_words(result, HEADLINE[prepared.config.data.task]):
        display.say(text)
    return SeedsRun(path)


def _member(prepared: Prepared, path: Path, seed: int, place: int) -> Member:
    whole = prepared.config
    split_seed = whole.data.split_seed if whole.data.split_seed >= 0 else whole.seed
    config = replace(whole, seed=seed, seeds=0, data=replace(whole.data, split_seed=split_seed))
    return Member(f"seed {seed} ({place} of {whole.seeds})", seed_path(path, seed), config)


def _store_split(prepared: Prepared, path: Path, member: Member) -> None:
    """Store the division of the first seed's run for a later one, so that images which changed since are found."""
    first = seed_path(path, prepared.config.seed)
    if member.folder == first or (member.folder / "split.parquet").exists():
        return
    split = Run(first).split
    require_same_images(prepared, split, path, "seed")
    member.folder.mkdir(exist_ok=True)
    split.save(member.folder / "split.parquet")


def _entry(run: Run, seed: int) -> dict[str, Any]:
    result = run.result or {}
    kept = ("run", "split", "n", "num_given", "metrics", "best_epoch", "seconds")
    return {"seed": seed, **{name: result.get(name) for name in kept}}


def over_seeds(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the runs of several seeds say together of one split.

    `metrics` has the mean of each metric, with the means of the runs' own ends: what these images can tell of it, if
    anything too wide, because the runs do not err on the same images. `over_seeds` has the same mean with the standard
    deviation over the seeds and the interval in which the mean of all seeds lies: how the training varies on these
    images. Both intervals are for 95%; neither contains the other.

    Args:
        done: one a seed: seed, split, n, num_given and metrics, as in the result of a run.
    """
    names = done[0]["metrics"]
    columns = {name: [each["metrics"].get(name) or {} for each in done] for name in names}
    return {
        "split": done[0]["split"],
        "seeds": len(done),
        "n": done[0]["n"],
        "num_given": done[0]["num_given"],
        "metrics": metrics_json({name: _mean_estimate(column) for name, column in columns.items()}),
        "over_seeds": {
            name: spread_over_runs([each.get("value") for each in column], name).as_dict()
            for name, column in columns.items()
        },
        "per_seed": list(done),
    }


def _mean_estimate(column: Sequence[Mapping[str, float | None]]) -> Estimate:
    return Estimate(*(float(np.mean([number(each.get(key)) for each in column])) for key in ("value", "low", "high")))


def in_words(result: Mapping[str, Any], headline: str) -> list[str]:
    """Return the result of all seeds in two sentences: how the training varies, and what the images can tell."""
    over, name = result["over_seeds"][headline], "accuracy" if headline == "top1" else headline
    mean, std, low, high = (number(over[key]) for key in ("mean", "std", "low", "high"))
    head = f"over {result['seeds']} seeds: {name} on {result['split']}"
    if headline == "top1":
        text = f"{head} {mean:.1%}, standard deviation {100 * std:.1f}, "
        between = f"the mean lies between {100 * low:.1f} and {100 * high:.1f}"
    else:
        text = f"{head} {mean:.4f}, standard deviation {std:.4f}, "
        between = f"the mean lies between {low:.4f} and {high:.4f}"
    if not std > 0:
        between = "the same for all, so these images cannot show how the seeds differ"
    one = result["per_seed"][0]
    own = Estimate(*(number(one["metrics"][headline][key]) for key in ("value", "low", "high")))
    return [
        text + between,
        f"  That is how training varies on these {result['n']:,} images. What the images can tell of the next ones is "
        f"each run's own interval, such as that of seed {one['seed']}: {estimate_in_words(own, headline, one['n'])}.",
    ]


@dataclass(frozen=True)
class SeedsEvaluation:
    """What the runs of several seeds say of one split: each run's evaluation, and `summary`, see `over_seeds`."""

    evaluations: tuple[Evaluation, ...]
    summary: dict[str, Any]

    def details(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        return self.summary

    def lines(self, width: int = 80) -> list[str]:
        """Return what `evaluate` prints: a line a seed, and the result of all, no line longer than `width`."""
        headline = HEADLINE[self.evaluations[0].predictions.task]
        each = [
            f"  seed {entry['seed']}: {estimate_in_words(found.metrics[headline], headline, found.n)}"
            for entry, found in zip(self.summary["per_seed"], self.evaluations, strict=True)
        ]
        texts = in_words(self.summary, headline)
        if self.summary["split"] == "test" and (
            again := looks_in_words(max((e.looks for e in self.evaluations), key=len))
        ):
            texts.append(again)
        words = [textwrap.wrap(text, width, subsequent_indent="  ") for text in texts]
        return [*each, *(line for lines in words for line in lines)]


def evaluate_seeds(
    run: SeedsRun, split: str | None = "val", *, progress: bool | Progress = True, **arguments: Any
) -> SeedsEvaluation:
    """Evaluate the run of every seed on a split, each look recorded in its own run, and return a `SeedsEvaluation`.

    Args:
        run: the seeds' run.
        split: "val", "test" or "train".
        progress: whether to show a progress bar.
        arguments: what else `tellapart.evaluate` takes.

    Raises:
        RunError: not every seed's run has ended.
        DataError: as `tellapart.evaluate`.
    """
    missing = [seed for seed in run.seeds if Run(seed_path(run.path, seed)).result is None]
    if missing:
        raise RunError(
            f"{run.path}: {len(missing)} of {len(run.seeds)} seeds have not ended, such as seed {missing[0]}. "
            f"Go on with: tellapart train --resume {run.path}"
        )
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    found = []
    for place, (seed, each) in enumerate(zip(run.seeds, run.runs, strict=True), start=1):
        shown = TitledProgress(display, f"seed {seed} ({place} of {len(run.seeds)})")
        found.append(evaluate(each, split, progress=shown, **arguments))
    done = [
        {
            "seed": seed,
            "run": str(each.path),
            "split": evaluation.split,
            "n": evaluation.n,
            "num_given": evaluation.num_given,
            "metrics": metrics_json(evaluation.metrics),
        }
        for seed, each, evaluation in zip(run.seeds, run.runs, found, strict=True)
    ]
    return SeedsEvaluation(tuple(found), {"run": str(run.path), **over_seeds(done)})

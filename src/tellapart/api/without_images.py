"""What `evaluate` was asked for, and its answers that need no images: of tables, and of the runs of folds and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tellapart.api.evaluation import Evaluation, make_evaluation
from tellapart.api.robustness import selective_results
from tellapart.api.run import Run
from tellapart.errors import RunError
from tellapart.evaluation.predictions import Predictions
from tellapart.exporting.classifier import Classifier
from tellapart.training.progress import Progress


@dataclass(frozen=True)
class Asked:
    """What is to be measured beside the metrics; see `evaluate`."""

    tta: str = "none"
    corruptions: bool = False
    limit: int = 0
    selective: bool = False
    ood: Any = None

    def in_words(self, split: str | None, data: Any) -> list[str]:
        """Return the options that only a run with its images can answer."""
        options = {
            "--split": split,
            "--data": data is not None,
            "--tta": self.tta != "none",
            "--corruptions": self.corruptions,
            "--ood": self.ood is not None,
        }
        return [name for name, value in options.items() if value]

    def require_sense(self, classifier: Classifier) -> None:
        """Refuse, before anything is computed, what has no meaning for the task.

        Raises:
            RunError: which option, and why.
        """
        if self.limit and not self.corruptions:
            raise RunError("limit: says of how many images corruptions are measured; it has no effect without them.")
        task = classifier.task
        if self.selective and task != "multiclass":
            raise RunError(
                f"selective prediction: expected one class an image; a {task} classifier has no one probability of "
                "being right. Evaluate it without --selective."
            )
        if self.ood is not None and task == "regression":
            raise RunError(
                "out of distribution: a network that predicts numbers has no scores for it. Leave out --ood."
            )


def evaluate_table(
    path: Path, refused: Sequence[str], *, selective: bool = False, classes: Sequence[str] = ()
) -> Evaluation:
    """Return the metrics of a table of predictions that anything wrote; see `read_table`.

    Args:
        path: the table.
        refused: the options that were given and need a run.
        selective: whether risk against coverage is wanted.
        classes: as in `read_table`.

    Raises:
        RunError: an option needs a run, or the table cannot be read.
    """
    from tellapart.evaluation.foreign import read_table

    if refused:
        raise RunError(f"{path}: is a table of predictions; {', '.join(refused)} needs a run and its images.")
    return _of_table(read_table(path, classes), path.name, selective)


def evaluate_several(
    run: Run, split: str | None, data: Any, asked: Asked, *, device: str, progress: Progress
) -> Any | None:
    """Return what the runs of several seeds or folds in a folder say together, or None for a run of its own.

    Of seeds, a `SeedsEvaluation`: each run is evaluated. Of folds, an `Evaluation` of what was said of every image by
    the run that was tested on it.

    Raises:
        RunError: not all of the runs have ended, or folds are asked for what they have not stored.
    """
    from tellapart.api.folds import FoldsRun, is_folds
    from tellapart.api.seeds import SeedsRun, evaluate_seeds, is_seeds

    if not (run.path / "config.json").is_file() or (run.path / "bundle").is_dir():
        return None
    if is_seeds(run.config):
        wanted = {name: value for name, value in asdict(asked).items() if value != getattr(Asked(), name)}
        return evaluate_seeds(SeedsRun(run.path), split or "val", data=data, device=device, progress=progress, **wanted)
    if not is_folds(run.config):
        return None
    folds = FoldsRun(run.path)
    if refused := asked.in_words(None if split == "test" else split, data):
        raise RunError(
            f"{run.path}: holds the runs of {len(folds.runs)} folds. What they say together is of the images that each "
            f"was tested on; {', '.join(refused)} needs one of them, such as {folds.runs[0].path}."
        )
    if run.result is None:
        raise RunError(f"{run.path}: not all folds have ended. Go on with: tellapart train --resume {run.path}")
    return _of_table(folds.predictions, f"the test parts of {len(folds.runs)} folds", asked.selective, run.config.seed)


def _of_table(predictions: Predictions, name: str, selective: bool, seed: int = 0) -> Evaluation:
    evaluation = replace(make_evaluation("table", predictions, seed), data=name)
    if not selective:
        return evaluation
    return replace(evaluation, selective=selective_results(predictions, None, is_val=False, seed=seed))

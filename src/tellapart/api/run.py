"""A run folder: what is in it, and what can be asked of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tellapart import config as configs
from tellapart.config import RunConfig
from tellapart.data.splits import Split
from tellapart.errors import RunError
from tellapart.training.history import read_history

if TYPE_CHECKING:
    from tellapart.api.evaluate import Evaluation
    from tellapart.exporting.classifier import Classifier, Prediction


@dataclass(frozen=True)
class Run:
    """A run by its folder; everything is read from there when it is asked for.

    Raises:
        RunError: from its properties, where the folder does not hold what they need.
    """

    path: Path

    @cached_property
    def config(self) -> RunConfig:
        """The resolved config."""
        file = self.path / "config.json"
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path}: expected a run folder; config.json: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise RunError(f"{file}: damaged ({error}).") from None
        return configs.load(text, str(file))

    @cached_property
    def split(self) -> Split:
        """The stored division of the images."""
        return Split.load(self.path / "split.parquet")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl: one a step interval ("kind": "step") and one an epoch ("kind": "epoch")."""
        return read_history(self.path / "history.jsonl")

    @property
    def result(self) -> dict[str, Any] | None:
        """What `train --json` prints, or None while the run has not ended."""
        file = self.path / "result.json"
        try:
            return dict(json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{file}: damaged ({error}). Remove it and resume the run, to have it made again.") from None

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics on val with their intervals; empty while the run has not ended."""
        return self.result["metrics"] if self.result else {}

    @property
    def bundle(self) -> Path:
        """The folder to ship."""
        return self.path / "bundle"

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier."""
        from tellapart.api.load import load

        return load(self.path)

    def predict(self, images: Any) -> list[Prediction]:
        """Return a prediction for each image; see `Classifier.predict`."""
        return self.classifier.predict(images)

    def evaluate(self, split: str | None = None, **arguments: Any) -> Evaluation:
        """Return the metrics on a split, by default val; see `tellapart.evaluate`."""
        from tellapart.api.evaluate import evaluate

        return evaluate(self.path, split, **arguments)


def new_run_path(config: RunConfig, source_name: str, wanted: str | os.PathLike[str] | None) -> Path:
    """Return the folder for a new run: the wanted one, or `runs/DATE-DATA-MODEL`, with a number if that is taken.

    Raises:
        RunError: the wanted folder holds something already, or cannot be made.
    """
    if wanted is not None:
        path = Path(wanted)
        if path.is_file() or (path.is_dir() and any(not inner.name.startswith(".tmp-") for inner in path.iterdir())):
            hint = " To go on with that run: --resume." if (path / "config.json").exists() else ""
            raise RunError(f"{path}: expected a new or empty folder for the run, found one in use.{hint}")
        _require_writable(path)
        return path
    words = f"{source_name}-{config.model.name}".replace(":", "-").replace(os.sep, "-")
    name = f"{date.today().isoformat()}-{words}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    _require_writable(path)
    return path


def _require_writable(path: Path) -> None:
    """Find out before all images are read whether the folder can be made."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is no folder" if not place.is_dir() else "may not be written to"
        raise RunError(f"{path}: the run's folder cannot be made, because {place} {what}. Put it elsewhere with --run.")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name, sync it, and rename it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

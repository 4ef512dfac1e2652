"""`load`: from a run or a bundle to a classifier that can be asked."""

from __future__ import annotations

import os
from pathlib import Path

from tellapart import hardware
from tellapart.api.run import Run
from tellapart.errors import RunError
from tellapart.exporting.bundle import load_bundle
from tellapart.exporting.classifier import Classifier


def load(path: str | os.PathLike[str] | Run, *, device: str = "cpu", calibrated: bool = True) -> Classifier:
    """Return the classifier in a run or bundle folder. Its hashes are checked; nothing in it is executed.

    Args:
        path: a run, its folder, or a bundle's folder.
        device: where to compute: cpu, cuda, mps or auto.
        calibrated: whether its probabilities are made honest by the temperature that was fitted on val; if not, they
            are those that the network gives. What is predicted is the same.

    Raises:
        RunError: there is no bundle, or it is damaged.
    """
    folder = path.path if isinstance(path, Run) else Path(path)
    if not folder.is_dir():
        raise RunError(
            f"{folder}: expected the folder of a run or a bundle, found {'a file' if folder.exists() else 'nothing'}."
        )
    if (folder / "bundle").is_dir():
        folder = folder / "bundle"
    elif members := _members(folder):
        names = ", ".join(str(member) for member in members)
        what = members[0].name.split("-")[0]
        raise RunError(f"{folder}: holds the runs of {len(members)} {what}s and no model of its own. Name one: {names}")
    elif (folder / "checkpoints").exists() or (folder / "split.parquet").exists():
        raise RunError(
            f"{folder}: this run has not ended, so it has no bundle yet. Go on with: tellapart train --resume {folder}"
        )
    classifier = load_bundle(folder, hardware.choose_device(device))
    if not calibrated:
        classifier.module.remove_calibration()
    return classifier


def _members(folder: Path) -> list[Path]:
    """Return the folders of the runs of folds or seeds in a folder, in the order of their numbers."""
    found = [file.parent for kind in ("fold", "seed") for file in folder.glob(f"{kind}-*/config.json")]
    return sorted(found, key=lambda member: (len(member.name), member.name))

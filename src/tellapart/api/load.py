"""`load`: from a run or a bundle to a classifier that can be asked."""

from __future__ import annotations

import os
from pathlib import Path

from tellapart import hardware
from tellapart.api.run import Run
from tellapart.errors import RunError
from tellapart.exporting.bundle import load_bundle
from tellapart.exporting.classifier import Classifier


def load(path: str | os.PathLike[str] | Run, *, device: str = "cpu") -> Classifier:
    """Return the classifier in a run or bundle folder. Its hashes are checked; nothing in it is executed.

    Args:
        path: a run, its folder, or a bundle's folder.
        device: where to compute: cpu, cuda, mps or auto.

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
    elif (folder / "checkpoints").exists() or (folder / "split.parquet").exists():
        raise RunError(
            f"{folder}: this run has not ended, so it has no bundle yet. Go on with: tellapart train --resume {folder}"
        )
    elif folds := sorted(folder.glob("fold-*/config.json"), key=lambda file: (len(str(file)), file)):
        names = ", ".join(str(file.parent) for file in folds)
        raise RunError(f"{folder}: holds the runs of {len(folds)} folds and no model of its own. Name one: {names}")
    return load_bundle(folder, hardware.choose_device(device))

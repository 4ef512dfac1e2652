"""Tellapart: from labelled images to a trained, honestly judged, shippable classifier.

The names below are resolved when they are first used, so that `import tellapart` is quick and does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch's OpenMP threads wait for each other by spinning. On a machine that does something else as well, a thread that
# lost its core is then waited for by threads that burn theirs: a training step took 25 times as long (docs/LOG.md).
# libgomp reads this once, when torch is loaded; whoever has set it keeps their value.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tensors of megabytes get large pages of memory: normalising a batch at 224 px took a fifth of the time (docs/LOG.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from tellapart.api.check import Checked, check
    from tellapart.api.compare import Comparison, compare
    from tellapart.api.evaluate import Evaluation, evaluate
    from tellapart.api.explain import Explained, explain
    from tellapart.api.load import load
    from tellapart.api.pack import Packed, pack
    from tellapart.api.report import report
    from tellapart.api.run import Run
    from tellapart.api.seeds import SeedsRun
    from tellapart.api.train import train
    from tellapart.config import RunConfig
    from tellapart.data.dataset import ArrayDataset, make_loaders
    from tellapart.errors import TellapartError
    from tellapart.exporting.classifier import Classifier, Prediction
    from tellapart.models import conv_output_size, create_model, summary
    from tellapart.training.plain import train_model, train_one_epoch, validate

_HOMES = {
    "ArrayDataset": "tellapart.data.dataset",
    "Classifier": "tellapart.exporting.classifier",
    "Checked": "tellapart.api.check",
    "Comparison": "tellapart.api.compare",
    "Evaluation": "tellapart.api.evaluate",
    "Explained": "tellapart.api.explain",
    "Packed": "tellapart.api.pack",
    "Prediction": "tellapart.exporting.classifier",
    "Run": "tellapart.api.run",
    "RunConfig": "tellapart.config",
    "SeedsRun": "tellapart.api.seeds",
    "TellapartError": "tellapart.errors",
    "check": "tellapart.api.check",
    "compare": "tellapart.api.compare",
    "conv_output_size": "tellapart.models",
    "create_model": "tellapart.models",
    "evaluate": "tellapart.api.evaluate",
    "explain": "tellapart.api.explain",
    "load": "tellapart.api.load",
    "make_loaders": "tellapart.data.dataset",
    "pack": "tellapart.api.pack",
    "report": "tellapart.api.report",
    "summary": "tellapart.models",
    "train": "tellapart.api.train",
    "train_model": "tellapart.training.plain",
    "train_one_epoch": "tellapart.training.plain",
    "validate": "tellapart.training.plain",
}
_ROOMS = (
    "data",
    "models",
    "optim",
    "recipes",
    "training",
    "evaluation",
    "auditing",
    "exporting",
    "reporting",
    "config",
    "errors",
    "seeding",
)

__all__ = [
    "ArrayDataset",
    "Checked",
    "Classifier",
    "Comparison",
    "Evaluation",
    "Explained",
    "Packed",
    "Prediction",
    "Run",
    "RunConfig",
    "SeedsRun",
    "TellapartError",
    "__version__",
    "check",
    "compare",
    "conv_output_size",
    "create_model",
    "evaluate",
    "explain",
    "load",
    "make_loaders",
    "pack",
    "report",
    "summary",
    "train",
    "train_model",
    "train_one_epoch",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"tellapart.{name}")
    raise AttributeError(f"module 'tellapart' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]

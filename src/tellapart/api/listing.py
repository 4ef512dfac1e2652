"""`ls`: the tables, with the first line of what each entry says of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tellapart.data.augment import AUGMENTATIONS
from tellapart.data.sources import DATASETS
from tellapart.errors import ConfigError, unknown_name
from tellapart.evaluation.metrics import metrics_json
from tellapart.models import MODELS, model_description
from tellapart.optim import LOSSES, OPTIMIZERS, SCHEDULES
from tellapart.recipes import RECIPES
from tellapart.reporting.run_rows import RunRow

_MIXES = {
    "mixup": "Blend each image and target with another of the batch.",
    "cutmix": "Paste a rectangle of another image of the batch, and blend the targets by area.",
}
_SCHEDULES = {
    "constant": "The same learning rate throughout.",
    "step": "Times gamma every step-epochs epochs.",
    "exponential": "Times gamma every epoch.",
    "cosine": "Half a cosine from the learning rate to min-factor of it.",
    "one-cycle": "Up to the learning rate and down to nearly nothing, the momentum against it.",
    "linear": "A straight line from the learning rate to min-factor of it.",
    "reduce-on-plateau": "Times gamma when the loss on val has not fallen for patience epochs.",
}
_EXTERNAL = {
    "timm:NAME": "Any model of timm, such as timm:convnext_tiny; needs the extra [timm].",
    "torchvision:NAME": "Any classification model of torchvision, such as torchvision:resnet50.",
}


def listing(kind: str) -> dict[str, str]:
    """Return name and one line for every entry of a table.

    Raises:
        ConfigError: there is no table of that kind.

    >>> "cross-entropy" in listing("losses")
    True
    """
    tables = {
        "models": {**{name: model_description(name) for name in MODELS}, **_EXTERNAL},
        "datasets": dict(DATASETS),
        "recipes": _first_lines(RECIPES),
        "optimizers": _first_lines(OPTIMIZERS),
        "schedules": {name: _SCHEDULES[name] for name in SCHEDULES},
        "losses": _first_lines(LOSSES),
        "augmentations": {**_first_lines(AUGMENTATIONS), **_MIXES},
    }
    if kind not in tables:
        raise ConfigError([unknown_name("table", kind, tables)])
    return tables[kind]


def runs_listing(rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Return runs, as `api.overview.gather_runs` finds them, in plain data for JSON.

    Runs with an equal "division" that is not null were judged on the same images; only they may be compared.
    """
    return [_run_entry(row) for row in rows]


def _run_entry(row: RunRow) -> dict[str, Any]:
    val = {"n": row.n, "num_given": row.num_given, "metrics": metrics_json(row.metrics)} if row.metrics else None
    test = {"n": row.n_test, "metrics": metrics_json(row.test)} if row.test else None
    spread = {name: value if value is None or math.isfinite(value) else None for name, value in row.spread.items()}
    return {
        "name": row.name,
        "path": str(row.path),
        "state": row.state,
        "why": row.why,
        "kind": row.kind,
        "data": row.source,
        "model": row.model,
        "recipe": row.recipe,
        "seed": row.settings.get("seed"),
        "epochs": row.epochs,
        "best_epoch": row.best_epoch,
        "headline": row.headline,
        # What folds say together was measured on their test parts, and seeds on val.
        "together" if row.kind != "run" else "val": val,
        "test": test,
        "looks_at_test": row.looks,
        "num_parameters": row.num_params,
        "seconds": row.seconds,
        "written_at": row.written_at,
        "division": row.division or None,
        "spread": spread,
        "members": [_run_entry(member) for member in row.members],
    }


def _first_lines(table: object) -> dict[str, str]:
    assert isinstance(table, dict)
    return {name: (entry.__doc__ or "").strip().splitlines()[0] for name, entry in table.items()}

"""Runs made up for the tests of the report: any task, any names, no training."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from tellapart.config import RunConfig, override
from tellapart.data.decode import pixel_hash
from tellapart.data.preprocess import Preprocess
from tellapart.data.sources import ArraySource, Source
from tellapart.data.splits import Split
from tellapart.evaluation.metrics import evaluate_predictions
from tellapart.evaluation.predictions import Predictions
from tellapart.exporting.classifier import Classifier
from tellapart.exporting.module import ClassifierModule
from tellapart.hardware import choose_device
from tellapart.models import create_model
from tellapart.reporting.facts import RunFacts

SIDE = 8
NAMES = ("cat", "dog", "frog")
WEIGHTS = "a" * 64


def made_source(task: str, names: tuple[str, ...], n: int, seed: int = 0) -> Source:
    """Return `n` images of noise with targets of the task; every class has some."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    if task == "multiclass":
        return ArraySource(images, np.arange(n) % len(names), names)
    if task == "multilabel":
        targets = (rng.random((n, len(names))) < 0.4).astype(np.int64)
        targets[: len(names)] = np.eye(len(names), dtype=np.int64)
        return ArraySource(images, targets, names)
    return ArraySource(images, rng.normal(3.0, 2.0, n))


def made_split(source: Source, splits: list[str]) -> Split:
    """Return the division of a source, with the hashes of its pixels."""
    assert source.images is not None
    hashes = tuple(pixel_hash(image.transpose(2, 0, 1)) for image in source.images)
    labels = tuple(source.label_name(row) for row in range(len(source)))
    return Split(tuple(source.paths), labels, tuple(splits), hashes)


def made_predictions(source: Source, rows: np.ndarray, *, skill: float = 0.7, seed: int = 1) -> Predictions:
    """Return what a network of some skill, a share from 0.5 to 1, says of the rows."""
    rng = np.random.default_rng(seed)
    targets, num_outputs = source.targets[rows], source.num_outputs
    if source.task == "regression":
        outputs = targets + rng.normal(0, 1.5 * (1 - skill), targets.shape)
    elif source.task == "multilabel":
        outputs = np.clip(targets * skill + rng.random(targets.shape) * (1 - skill), 0, 1)
    else:
        outputs = calibrated_outputs(targets, num_outputs, skill, rng)
    return Predictions(
        task=source.task,
        classes=source.classes,
        indices=rows,
        paths=[source.paths[row] for row in rows],
        targets=targets,
        outputs=outputs.astype(np.float32),
        num_given=len(rows),
    )


def calibrated_outputs(targets: np.ndarray, num_classes: int, skill: float, rng: np.random.Generator) -> np.ndarray:
    """Return probabilities that are true by the way they are made: each class is the target as often as it says."""
    n = len(targets)
    top = 1 - 2 * (1 - skill) * rng.random(n)
    rest = rng.dirichlet(np.full(num_classes - 1, 0.5), n) * (1 - top)[:, None]
    outputs = np.column_stack([top, rest])
    drawn = (outputs.cumsum(axis=1) > rng.random(n)[:, None]).argmax(axis=1)
    # The column that was drawn and that of the target change places.
    rows = np.arange(n)
    at_target, at_drawn = outputs[rows, targets].copy(), outputs[rows, drawn].copy()
    outputs[rows, drawn], outputs[rows, targets] = at_target, at_drawn
    return outputs


def made_history(num_epochs: int, task: str = "multiclass", *, steps_per_epoch: int = 4) -> list[dict[str, Any]]:
    """Return the lines of a training that goes well and has nearly ended to improve."""
    lines: list[dict[str, Any]] = []
    for epoch in range(1, num_epochs + 1):
        left = 0.9 ** (5 * epoch / num_epochs)
        for step in range((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1):
            lines.append({"kind": "step", "step": step, "epoch": epoch, "lr": 0.01 * left, "train/loss": left + 0.2})
        chosen = {"multiclass": {"val/top1": 0.7}, "multilabel": {"val/map": 0.6}, "regression": {"val/mse": left + 1}}
        lines.append(
            {
                "kind": "epoch",
                "epoch": epoch,
                "step": epoch * steps_per_epoch,
                "lr": 0.01 * left,
                "train/loss": left + 0.1,
                "val/loss": left + 0.2,
                **chosen[task],
                "images_per_s": 1000.0 + epoch,
                "wait_share": 0.02,
            }
        )
    return lines


def made_facts(
    task: str = "multiclass",
    names: tuple[str, ...] = NAMES,
    *,
    n: int = 240,
    skill: float = 0.7,
    num_epochs: int = 3,
    with_test: bool = True,
    paths: tuple[str, ...] = (),
    **changes: Any,
) -> RunFacts:
    """Return a run on `n` images of which half are train and a quarter each val and test; `changes` are fields of it.

    `paths` rename the last images.
    """
    return replace(_made(task, names, n, skill, num_epochs, with_test, paths), **changes)


@lru_cache
def _made(
    task: str, names: tuple[str, ...], n: int, skill: float, num_epochs: int, with_test: bool, paths: tuple[str, ...]
) -> RunFacts:
    source = made_source(task, names, n)
    if paths:
        source.paths[-len(paths) :] = paths
    splits = ["train"] * (n // 2) + ["val"] * (n // 4) + (["test"] * (n - n // 2 - n // 4))
    split = made_split(source, splits)
    tables = {
        name: made_predictions(source, split.rows(name), skill=skill)
        for name in (("val", "test") if with_test else ("val",))
    }
    config = override(
        RunConfig(),
        {"data.source": "<arrays>", "data.task": task, "model.name": "mlp", "train.epochs": num_epochs},
    )
    config = replace(config, preprocess=replace(config.preprocess, size_px=SIDE, resize_px=SIDE))
    network = create_model("mlp", num_classes=source.num_outputs, in_channels=3, size_px=SIDE)
    module = ClassifierModule(Preprocess(SIDE, [0.5] * 3, [0.5] * 3), network, task).eval()
    return RunFacts(
        name="made-up",
        path="runs/made-up",
        config=config,
        split=split,
        source=source,
        classifier=Classifier(module, source.classes, {"files": {"model.safetensors": WEIGHTS}}, choose_device("cpu")),
        predictions=tables,
        metrics={name: evaluate_predictions(table) for name, table in tables.items()},
        history=made_history(num_epochs, task),
        result={"best_epoch": max(1, num_epochs - 1), "epochs": num_epochs, "seconds": 12.5},
        environment={"command": ["tellapart", "train"], "versions": {"torch": "2.15.0"}, "platform": "Linux"},
        looks=[look("val"), *([look("test")] if with_test else [])],
    )


def look(split: str, weights: str = WEIGHTS, **more: Any) -> dict[str, Any]:
    """Return a line of evaluations.jsonl."""
    return {"at": "2026-11-23T10:00:00+00:00", "weights": weights, "split": split, "n": 60, "metrics": {}, **more}


def made_share(value: float, half: float = 0.02) -> dict[str, float]:
    """Return a share with its interval, as the files of an evaluation have it."""
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def made_robustness(**changes: Any) -> dict[str, Any]:
    """Return a robustness.json of two corruptions: one takes all that is right at its strongest, one takes nothing."""
    accuracies = {"gaussian-noise": (0.9, 0.8, 0.6, 0.3, 0.0), "jpeg": (0.9, 0.9, 0.92, 0.9, 0.9)}
    kinds = {
        name: {
            "strengths": [{"strength": k, **made_share(value)} for k, value in enumerate(values, start=1)],
            "mean": made_share(sum(values) / 5),
        }
        for name, values in accuracies.items()
    }
    about = {"split": "test", "data": None, "tta": "none", "weights": WEIGHTS, "n": 60, "num_given": 60}
    how = {"is_drawn": False, "parameters": "CIFAR-10-C", "side_px": SIDE, "seed": 0, "source": "a paper"}
    return {**about, **how, "clean": made_share(0.9), "mean": made_share(0.712), "corruptions": kinds, **changes}


def made_ood(**changes: Any) -> dict[str, Any]:
    """Return an ood.json of three scores that notice most of what is not known."""
    scores = {
        name: {"auroc": made_share(0.9 + place / 100), "fpr95": made_share(0.25, 0.1), "threshold": 0.5}
        for place, name in enumerate(("max_softmax", "max_logit", "energy"))
    }
    about = {"split": "test", "data": "insects", "tta": "none", "weights": WEIGHTS, "known": "test", "n": 40}
    counts = {"num_given": 40, "num_known": 60, "num_trained_on": 0, "unreadable": {}}
    return {**about, **counts, "scores": scores, **changes}

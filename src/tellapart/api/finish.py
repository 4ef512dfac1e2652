"""How a run ends: the chosen weights calibrated and judged on val, the bundle, the result, the report."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.api.environment import versions
from tellapart.api.evaluate import Evaluation, judge, record, stacked
from tellapart.api.job import Job
from tellapart.api.pages import say_where
from tellapart.api.run import Run, write_json
from tellapart.api.several import TitledProgress
from tellapart.evaluation.calibration import fit_temperature
from tellapart.evaluation.metrics import metrics_json
from tellapart.evaluation.thresholds import choose_thresholds
from tellapart.exporting.bundle import read_info, save_bundle
from tellapart.exporting.classifier import Classifier
from tellapart.reporting.sparklines import is_ascii_only
from tellapart.reporting.terminal import calibration_lines, headline_lines, training_summary
from tellapart.training.progress import Progress


def finish(job: Job, run: Run, display: Progress, started_at: float) -> Run:
    """Calibrate and judge the chosen weights on val, write the bundle, mark the run as ended, and show what it is.

    All of it is a function of the last checkpoint: a run that is killed in here does it again when it is resumed, and
    ends with the same bits.
    """
    config, data = job.config, job.data
    weights = job.state.best_weights if config.train.select == "best" else job.state.weights_to_ship()
    assert weights is not None, "a run has at least one epoch"
    job.state.model.load_state_dict(weights)
    # In the memory format that a loaded bundle computes in: `evaluate` is to find this number to the last bit.
    module = job.module.eval().to(memory_format=torch.channels_last)
    classifier = Classifier(module, data.source.classes, {}, job.device)
    targets = data.source.targets[data.split.rows("val")]
    outputs = calibrate(job, classifier, targets)
    evaluation = judge(classifier, data.split, "val", targets, outputs, config.seed)
    save_bundle(run.bundle, module, describe(job, evaluation))
    record(run, evaluation)
    result = {
        "run": str(run.path),
        "split": "val",
        "n": evaluation.n,
        "num_given": evaluation.num_given,
        "metrics": metrics_json(evaluation.metrics),
        "temperature": classifier.temperature,
        "uncalibrated": metrics_json(evaluation.uncalibrated),
        "best_epoch": job.state.best_epoch,
        "epochs": job.state.epoch,
        "seconds": round(time.perf_counter() - started_at, 3),
    }
    write_json(run.path / "result.json", result)
    for line in _summary(run, evaluation, display):
        display.say(line)
    if config.train.report == "yes":
        _write_report(job, run, classifier, evaluation, display)
    return run


@torch.inference_mode()
def calibrate(job: Job, classifier: Classifier, targets: np.ndarray) -> np.ndarray:
    """Fit the temperature and the thresholds on val, set them in the classifier, and return its outputs there.

    Args:
        job: what was trained.
        classifier: with the chosen weights.
        targets: of val, in the order of its rows, as in `Predictions`.

    Returns:
        Calibrated outputs, float32 `(N, K)`, with the bits that `evaluate` gets from the stored bundle.
    """
    module, task = classifier.module, classifier.task
    images = (image for batch in job.batches("val") for image in batch.images)
    logits = [classifier.logits(batch) for batch in stacked(images)]
    if job.config.train.calibration == "temperature":
        module.calibrate(fit_temperature(torch.cat(logits).cpu().numpy(), targets, task))
    # From the logits of the same batches: the network need not look at the images again.
    outputs = torch.cat([module.from_logits(part).cpu() for part in logits]).numpy()
    if task == "multilabel":
        module.calibrate(classifier.temperature, choose_thresholds(outputs, targets))
    return outputs


def describe(job: Job, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the bundle's config.json tells beside the preprocessing, the calibration and the hashes."""
    config, data = job.config, job.data
    before = evaluation.uncalibrated
    after = {name: evaluation.metrics[name] for name in before if name in evaluation.metrics}
    return {
        "model": {
            "name": config.model.name,
            "num_classes": data.source.num_outputs,
            "in_channels": data.source.num_channels,
            "size_px": config.preprocess.size_px,
        },
        "classes": list(data.source.classes),
        "data": {
            "name": data.source.name,
            "num_train": len(data.split.rows("train")),
            "epochs": job.state.epoch,
            "best_epoch": job.state.best_epoch,
            "seed": config.seed,
            "recipe": config.recipe,
        },
        "val": {
            "n": evaluation.n,
            "num_given": evaluation.num_given,
            "metrics": metrics_json(evaluation.metrics),
        },
        "calibration": {
            "method": config.train.calibration,
            "fitted_on": "val",
            "before": metrics_json(before),
            "after": metrics_json(after),
        },
        "versions": versions(),
        "license": None,
    }


def _summary(run: Run, evaluation: Evaluation, display: Progress) -> list[str]:
    predictions, metrics, before = evaluation.predictions, evaluation.metrics, evaluation.uncalibrated
    if isinstance(display, TitledProgress):
        # One run of several: its curves and mistakes are in its report.
        told = calibration_lines(metrics, before, temperature=predictions.temperature)
        return [*headline_lines(predictions, metrics, split="val"), *told]
    return training_summary(
        run.history, predictions, metrics, uncalibrated=before, ascii_only=is_ascii_only(sys.stdout)
    )


def write_overview(run: Run, display: Progress) -> None:
    """Write the page of several runs that have all ended, if their config asks for it."""
    from tellapart.api.report import report

    if run.config.train.report == "yes":
        say_where(run, display, lambda: report(run))


def _write_report(job: Job, run: Run, classifier: Classifier, evaluation: Evaluation, display: Progress) -> None:
    from tellapart.api.report import write_report

    def write() -> Path:
        shipped = replace(classifier, info=read_info(run.bundle))
        return write_report(run, source=job.data.source, classifier=shipped, metrics={"val": evaluation.metrics})

    say_where(run, display, write)

"""`train`: from labelled images to a run folder with an honestly judged classifier in it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tellapart import config as configs
from tellapart import hardware
from tellapart.api.environment import environment
from tellapart.api.finish import finish, write_overview
from tellapart.api.folds import FoldsRun, is_folds, train_folds
from tellapart.api.job import Job
from tellapart.api.opening import open_data
from tellapart.api.prepare import Prepared, differences, prepare, same_bits, storable_name
from tellapart.api.reading import read_data
from tellapart.api.run import Run, new_run_path, write_json
from tellapart.api.seeds import SeedsRun, is_seeds, train_seeds
from tellapart.config import RunConfig, override
from tellapart.errors import ConfigError, Interrupted, MissingError, RunError
from tellapart.evaluation.metrics import HEADLINE, HIGHER_IS_BETTER
from tellapart.training.checkpoint import checkpoints, load_newest
from tellapart.training.history import History
from tellapart.training.loop import fit
from tellapart.training.plan import RunPlan, StopRequest
from tellapart.training.progress import Progress, make_progress
from tellapart.training.recorder import RunRecorder
from tellapart.training.step import TrainStep


def train(
    data: Any = None,
    *,
    recipe: str = "auto",
    model: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | None = None,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
) -> Run:
    """Train a classifier and return its run; everything it made is in the run's folder.

    Args:
        data: a data set's name, a folder, a Parquet or npz file, a pair (images, targets), or a Dataset; by default
            "digits". A resumed run knows its own, unless it was given as arrays or a Dataset.
        recipe: a name from `tellapart ls recipes`; "auto" goes by size and number of the images.
        model: a name from `tellapart ls models`, `timm:NAME` or `torchvision:NAME`.
        epochs: passes over the training images.
        batch_size: images an update sees.
        seed: the one seed of the run.
        seeds: train so many times, with `seed`, the next one and so on, on one division; the run is then a `SeedsRun`.
        run: its folder, new or empty; by default `runs/DATE-DATA-MODEL`.
        resume: go on with the run in `run`, or do nothing if it has ended.
        device: auto, cpu, cuda, mps.
        precision: auto, float32, bf16.
        options: any other field of the config by its dotted name, such as {"optim.lr": 0.01}.
        progress: True shows a live line or plain lines, False nothing; or a display of one's own.

    Raises:
        ConfigError: everything that is wrong with the arguments, together.
        DataError: images that cannot be read or divided.
        RunError: the run's folder is in use, or cannot be resumed.
        NonFiniteLossError: the loss became NaN or infinite; the last checkpoint is kept.
        Interrupted: a signal asked the run to stop; it is saved and can be resumed.
    """
    started_at = time.perf_counter()
    named = {
        "model.name": model,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "seed": seed,
        "seeds": seeds,
        "compute.device": device,
        "compute.precision": precision,
    }
    changes = {**{name: value for name, value in named.items() if value is not None}, **(options or {})}
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    _refuse_several_processes()
    hardware.keep_freed_memory()
    try:
        if resume:
            asked = changes if recipe == "auto" else {**changes, "recipe": recipe}
            return _resume(data, run, asked, display, started_at)
        prepared = prepare("digits" if data is None else data, recipe, changes)
        path = new_run_path(prepared.config, prepared.source.name, run)
        display.say(f"recipe {prepared.config.recipe}: {in_words(prepared.config)}")
        if is_small_for_photographs(prepared):
            display.say(
                "note: these are few photographs to learn from nothing. Pretrained weights usually do much better, "
                "where there is a network: --model timm:resnet18 --model.pretrained true"
            )
        return _train_all(prepared, path, display, started_at, is_new=True)
    finally:
        display.close()


def in_words(config: RunConfig) -> str:
    """Return a config's main choices in a line."""
    train = config.train
    return (
        f"{config.model.name} at {config.preprocess.size_px} px, {train.epochs} epochs, "
        f"batch size {train.batch_size}, {config.optim.name} with lr {config.optim.lr:g}, {config.schedule.name}"
    )


def is_small_for_photographs(prepared: Prepared) -> bool:
    """Return whether the images are large and few, and the weights start from nothing."""
    config = prepared.config
    return not config.model.pretrained and config.preprocess.size_px > 64 and len(prepared.source) < 5000


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MissingError("several processes cannot train one model yet. Start `tellapart train` without torchrun.")


def _resume(
    data: Any, path: str | os.PathLike[str] | None, changes: Mapping[str, Any], display: Progress, started_at: float
) -> Run:
    if path is None:
        raise ConfigError(["run: which run to resume? Give its folder."])
    run = Run(Path(path))
    if is_folds(run.config) or is_seeds(run.config):
        run = FoldsRun(run.path) if is_folds(run.config) else SeedsRun(run.path)
    other = differences(run.config, changes)
    settings = run.config.data
    if data is not None and storable_name(data) != settings.source:
        other.append(f"data: the run has {settings.source}, this command names {storable_name(data)}")
    if other:
        raise ConfigError([*other, "a run keeps its config; resume without these, or start a new run"])
    if run.result is not None:
        display.say(f"{run.path}: this run has ended; there is nothing left to do.")
        return run
    if settings.source == "<arrays>" and data is None:
        raise RunError(f"{run.path}: this run was trained on arrays; give them again as `data`.")
    source = open_data(data if settings.source == "<arrays>" else settings.source, settings)
    config = override(run.config, {name: changes[name] for name in changes if same_bits(name)})
    return _train_all(Prepared(source, config), run.path, display, started_at, is_new=False)


def _train_all(prepared: Prepared, path: Path, display: Progress, started_at: float, *, is_new: bool) -> Run:
    """Train the run, or the runs of all folds or seeds."""
    if not (is_folds(prepared.config) or is_seeds(prepared.config)):
        return _train(prepared, path, display, started_at, is_new=is_new)
    train_several = train_folds if is_folds(prepared.config) else train_seeds
    run = train_several(prepared, path, display, _train)
    write_overview(run, display)
    return run


def _train(prepared: Prepared, path: Path, display: Progress, started_at: float, *, is_new: bool) -> Run:
    device = hardware.choose_device(prepared.config.compute.device)
    precision = hardware.choose_precision(device, prepared.config.compute.precision)
    # Stored as found, so that the run goes on in the same precision wherever it is resumed.
    config = replace(prepared.config, compute=replace(prepared.config.compute, precision=precision))
    run = Run(path)
    has_split = (path / "split.parquet").exists()
    data = read_data(prepared.source, config, device, display, run.split if has_split else None)
    job = Job.make(config, data, device)
    if is_new:
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", configs.to_dict(config))
        write_json(path / "environment.json", environment())
        if data.errors:
            write_json(path / "unreadable.json", data.errors)
        write_json(path / "findings.json", {"findings": data.findings})
    if not has_split:
        data.split.save(path / "split.parquet")
    _fit(job, path, display)
    return finish(job, run, display, started_at)


def _fit(job: Job, path: Path, display: Progress) -> None:
    """Train from the newest checkpoint, or from the start, to the end."""
    config, state, folder = job.config, job.state, path / "checkpoints"
    history_bytes = 0
    if checkpoints(folder):
        extra, warnings = load_newest(folder, state)
        history_bytes = extra["history_bytes"]
        for warning in warnings:
            display.say(f"warning: {warning}")
        display.say(f"resuming at epoch {state.epoch + 1}, batch {state.batch_in_epoch + 1}")
    task = job.data.source.task
    recorder = RunRecorder(
        History(path / "history.jsonl", history_bytes),
        display,
        job.loader,
        num_epochs=config.train.epochs,
        num_val=len(job.data.split.rows("val")),
        interval=config.train.log_interval_steps,
    )
    metric = HEADLINE[task]
    stop = StopRequest()
    plan = RunPlan(config.train, folder, recorder, metric=metric, higher_is_better=HIGHER_IS_BETTER[metric], stop=stop)
    step = TrainStep(
        job.criterion,
        job.prepare,
        seed=config.seed,
        precision=config.compute.precision,
        accumulation_steps=config.train.accumulation_steps,
        clip_norm=config.optim.clip_norm,
    )
    with torch.random.fork_rng(devices=[]), stop.listening():
        try:
            fit(state, job.loader, step, recorder.timed(job.validate), plan, recorder)
        except Interrupted as error:
            raise Interrupted(f"{error} Go on with: tellapart train --resume {path}") from None
        finally:
            recorder.history.close()

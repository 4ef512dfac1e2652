"""A run that was interrupted, at whatever moment, ends with the bits of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.api.run import Run
from tellapart.errors import Interrupted, TellapartError
from tellapart.evaluation.predictions import Predictions
from tellapart.training import plan
from tellapart.training.checkpoint import checkpoints, read_checkpoint
from tellapart.training.progress import Progress
from tellapart.training.step import TrainStep

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 8, 8), dtype=np.uint8)
LABELS = np.arange(60) % 3
# Something to learn: the images of class 2 are brighter.
IMAGES[LABELS == 2] //= 2
TIMING = {"seconds", "images_per_s", "wait_share"}
BASE: dict[str, Any] = {
    "model.name": "cnn",
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.checkpoint_interval_s": 0,
    "train.log_interval_steps": 1,
    "augment.transforms": "flip-crop",
    "augment.pad_px": 1,
    # A page about a run is no part of what it computes.
    "train.report": "no",
}

# No checkpoint but the last is due: how often a run saves is no part of what it computes.
RARELY = {"train.checkpoint_interval_s": 3600}


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing in the code under test may catch it."""


class Said(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def train(run: Path, options: dict[str, Any], *, resume: bool = False, said: Said | None = None) -> Run:
    chosen = {} if resume else {**BASE, **options}
    return tellapart.train((IMAGES, LABELS), run=run, options=chosen, resume=resume, progress=said or False)


@contextmanager
def dies_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Let the `number`-th step from now on end the process, as far as a test can."""
    original, count = TrainStep.__call__, [0]

    def call(self: TrainStep, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            raise KilledError
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", call)
        yield


def facts(run: Run) -> dict[str, Any]:
    """Return everything about a run that must not depend on interruptions."""
    description, tensors = read_checkpoint(checkpoints(run.path / "checkpoints")[-1])
    predictions = Predictions.load(run.path / "predictions" / "val.parquet")
    assert run.result is not None
    return {
        "weights": (run.bundle / "model.safetensors").read_bytes(),
        "history": [{key: value for key, value in line.items() if key not in TIMING} for line in run.history],
        "split": run.split,
        "metrics": run.result["metrics"],
        "calibration": (run.result["temperature"], run.result["uncalibrated"], predictions.temperature),
        "best": (run.result["best_epoch"], run.result["epochs"]),
        "state": description["state"],
        "checkpoint": {
            (name, key): value.numpy().tobytes() for name, file in tensors.items() for key, value in file.items()
        },
        "probabilities": (predictions.paths, predictions.outputs.tobytes()),
    }


def assert_same(found: Run, expected: Run) -> None:
    one, other = facts(found), facts(expected)
    assert [name for name in other if one[name] != other[name]] == []


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, one-cycle": {},
    "sgd-nesterov": {"optim.name": "sgd-nesterov", "schedule.name": "cosine", "schedule.warmup_epochs": 1},
    "muon": {"optim.name": "muon", "optim.lr": 0.01},
    "ema": {"train.ema_decay": 0.9},
    "accumulation": {"train.accumulation_steps": 2, "optim.clip_norm": 1.0},
    "mixup": {"augment.transforms": "flip-crop,mixup,cutmix"},
    "reduce-on-plateau": {
        "schedule.name": "reduce-on-plateau",
        "schedule.patience": 0,
        "schedule.gamma": 0.5,
        "optim.name": "sgd-momentum",
        "optim.lr": 0.1,
    },
    "early stopping": {"train.early_stopping_epochs": 1, "train.epochs": 8, "optim.lr": 0.05},
    "class weights, last": {"loss.class_weights": "balanced", "train.select": "last"},
    "no workers": {"data.in_memory": "no", "data.num_workers": 0},
    "two workers": {"data.in_memory": "no", "data.num_workers": 2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_three_times_it_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = VARIANTS[name]
    expected = train(tmp_path / "whole", {**options, **RARELY})
    # Before the first checkpoint; in the middle of an epoch; at the first step of another one.
    for number, dies_at in enumerate((1, 3, 3)):
        with dies_at_step(monkeypatch, dies_at), pytest.raises(KilledError):
            train(tmp_path / "killed", options, resume=number > 0)
    said = Said()
    found = train(tmp_path / "killed", options, resume=True, said=said)
    assert_same(found, expected)
    assert any("resuming at epoch 2, batch 2" in text for text in said.texts)
    assert not any("warning" in text for text in said.texts)
    # What these two are about did happen, on what was remembered across the last kill.
    if name == "early stopping":
        assert found.result is not None
        assert found.result["epochs"] == 2
    if name == "reduce-on-plateau":
        assert [line["lr"] for line in found.history if line["kind"] == "epoch"] == [0.1, 0.1, 0.05]


@pytest.mark.parametrize("dies_at", range(1, 10))
def test_killed_at_any_step_with_a_checkpoint_now_and_then(
    dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run
) -> None:
    """What was done after the checkpoint is done again, and history has it once."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 1.0
        return now[0]

    options = {**VARIANTS["ema"], "train.checkpoint_interval_s": 4}
    with monkeypatch.context() as patch:
        patch.setattr(plan, "time", SimpleNamespace(monotonic=monotonic))
        with dies_at_step(monkeypatch, dies_at), pytest.raises(KilledError):
            train(tmp_path / "killed", options)
    assert_same(train(tmp_path / "killed", options, resume=True), whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted."""
    return train(tmp_path_factory.mktemp("runs") / "whole", {**VARIANTS["ema"], **RARELY})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Run,
    capfd: pytest.CaptureFixture[str],
) -> None:
    original, count = TrainStep.__call__, [0]

    def call(self: TrainStep, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 5:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    options = {**VARIANTS["ema"], **RARELY}
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", call)
        with pytest.raises(Interrupted) as caught:
            train(tmp_path / "run", options)
    assert f"stopped by {number.name} at step 5" in str(caught.value)
    assert f"tellapart train --resume {tmp_path / 'run'}" in str(caught.value)
    assert f"{number.name}: finishing the step" in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    said = Said()
    assert_same(train(tmp_path / "run", options, resume=True, said=said), whole)
    assert any("resuming at epoch 2, batch 3" in text for text in said.texts)


def test_a_second_signal_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: TrainStep, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("the second signal was not heard")

    monkeypatch.setattr(TrainStep, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", {})


@pytest.mark.parametrize(
    "moment",
    [
        "fit_temperature",
        "judge",
        "save_bundle",
        "describe",
        "record",
        "write_json",
        "inside the bundle",
        "renaming the bundle",
    ],
)
def test_killed_between_the_last_step_and_the_end(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run
) -> None:
    from tellapart.api import finish as module
    from tellapart.exporting import bundle

    original_write, original_rename = module.write_json, Path.rename

    def die(*arguments: Any, **keywords: Any) -> None:
        raise KilledError

    def die_at_result(path: Path, data: Any) -> None:
        if path.name == "result.json":
            raise KilledError
        original_write(path, data)

    def die_at_bundle(path: Path, target: Path) -> Path:
        if target.name == "bundle":
            raise KilledError
        return original_rename(path, target)

    with monkeypatch.context() as patch:
        if moment == "inside the bundle":
            patch.setattr(bundle, "model_card", die)
        elif moment == "renaming the bundle":
            patch.setattr(Path, "rename", die_at_bundle)
        else:
            patch.setattr(module, moment, die_at_result if moment == "write_json" else die)
        with pytest.raises(KilledError):
            train(tmp_path / "run", {**VARIANTS["ema"], **RARELY})
    assert Run(tmp_path / "run").result is None
    found = train(tmp_path / "run", VARIANTS["ema"], resume=True)
    assert_same(found, whole)
    assert tellapart.load(found).predict(IMAGES[0]) == tellapart.load(whole).predict(IMAGES[0])
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_an_ended_run_does_nothing_and_says_so(whole: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    said = Said()
    again = train(whole.path, {}, resume=True, said=said)
    assert again.result == whole.result
    assert any("this run has ended; there is nothing left to do" in text for text in said.texts)
    assert {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")} == before


def test_a_damaged_checkpoint_costs_steps_but_no_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run
) -> None:
    with dies_at_step(monkeypatch, 6), pytest.raises(KilledError):
        train(tmp_path / "run", VARIANTS["ema"])
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    said = Said()
    found = train(tmp_path / "run", {}, resume=True, said=said)
    warnings = [text for text in said.texts if text.startswith("warning: ")]
    assert len(warnings) == 1
    assert newest.name in warnings[0]
    assert_same(found, whole)


def test_killed_twice_without_a_line_of_history_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of history that the second process notes must be that of the file it has cut."""
    options = {"train.log_interval_steps": 2}
    expected = train(tmp_path / "whole", options)
    # The third step of an epoch is not logged; dying in the fifth leaves a line after the checkpoint of the third.
    with monkeypatch.context() as patch:
        patch.setattr(plan.RunPlan, "save_if_due", save_only_at(2))
        with dies_at_step(monkeypatch, 6), pytest.raises(KilledError):
            train(tmp_path / "run", options)
    with dies_at_step(monkeypatch, 2), pytest.raises(KilledError):
        train(tmp_path / "run", options, resume=True)
    assert_same(train(tmp_path / "run", options, resume=True), expected)


def save_only_at(step: int) -> Any:
    original = plan.RunPlan.save_if_due

    def save_if_due(self: plan.RunPlan, state: Any) -> None:
        if state.step == step:
            original(self, state)

    return save_if_due


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    source = Path(tellapart.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "tellapart", "train", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, so that a signal can reach it and its workers as Ctrl-C in a terminal does.
        start_new_session=True,
    )


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str], newer_than: Path | None) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = checkpoints(folder)
        if found and found[-1] != newer_than:
            return
        time.sleep(0.005)
    pytest.fail(f"no checkpoint in time: {process.communicate()}")


# Long enough to be interrupted on any machine, saving often enough to be seen.
DIGITS = ("--epochs", "6", "--seed", "5", "--model", "mlp", "--train.checkpoint-interval-s", "0.1")


@pytest.fixture(scope="module")
def whole_digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("digits") / "whole"
    return tellapart.train("digits", model="mlp", epochs=6, seed=5, run=folder, progress=False)


def test_the_command_killed_then_stopped_by_ctrl_c_then_resumed(tmp_path: Path, whole_digits: Run) -> None:
    """Ctrl-C reaches the workers of the loader as well, which must neither die of it nor answer it."""
    folder = tmp_path / "run" / "checkpoints"
    workers = ("--data.in-memory", "no", "--data.num-workers", "2")
    process = command(tmp_path, "digits", *DIGITS, *workers, "--run", "run")
    wait_for_checkpoint(folder, process, None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(TellapartError, match="has not ended"):
        tellapart.load(tmp_path / "run")

    process = command(tmp_path, "--resume", "run", "--json")
    wait_for_checkpoint(folder, process, checkpoints(folder)[-1])
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == ""
    assert "resuming at epoch" in err
    assert err.count("SIGINT: finishing the step and saving") == 1
    assert "Traceback" not in err
    assert "everything is saved. Go on with: tellapart train --resume run" in err

    found = tellapart.train(run=tmp_path / "run", resume=True, progress=False)
    assert found.metrics == whole_digits.metrics
    assert_same(found, whole_digits)

"""Seeds: one division, runs that their own configs make again, and what their results say of training and of images."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.api.evaluate import looks_at
from tellapart.api.run import Run
from tellapart.api.seeds import SeedsRun, evaluate_seeds, in_words
from tellapart.cli import main
from tellapart.config import DataConfig
from tellapart.data.sources import open_source
from tellapart.data.splits import make_split
from tellapart.errors import ConfigError, Interrupted, NonFiniteLossError, RunError
from tellapart.evaluation.spread import spread_over_runs
from tellapart.training.progress import EpochReport, Progress

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
# Something to learn: each class has a brightness of its own.
IMAGES = (RNG.integers(0, 64, (60, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)


class Said(Progress):
    """Keeps what it is told, and does something at a chosen sentence or epoch."""

    def __init__(self, at: str = "", then: Callable[[], None] = lambda: None) -> None:
        self.texts: list[str] = []
        self.epochs: list[EpochReport] = []
        self.at, self.then = at, then

    def say(self, text: str) -> None:
        self.texts.append(text)
        if self.at and text.startswith(self.at):
            self.then()

    def epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)
        if self.at == f"{report.title} epoch {report.epoch}":
            self.then()


def train(path: Path, data: Any = None, *, seeds: int | None = 2, epochs: int = 1, **options: Any) -> Run:
    progress, resume = options.pop("progress", False), options.pop("resume", False)
    seed = options.pop("seed", None)
    chosen: dict[str, Any] = {"train.batch_size": 16, "optim.lr": 0.003, "train.report": "no"}
    chosen |= {name.replace("__", "."): value for name, value in options.items()}
    data = (IMAGES, LABELS) if data is None else data
    return tellapart.train(
        data,
        model="mlp",
        epochs=epochs,
        seed=seed,
        seeds=seeds,
        run=path,
        resume=resume,
        options=chosen,
        progress=progress,
    )


def finished(run: Run) -> dict[str, Any]:
    assert run.result is not None
    return run.result


def weights(run: Run) -> bytes:
    return (run.bundle / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> SeedsRun:
    run = train(tmp_path_factory.mktemp("runs") / "mine", seeds=3, seed=7, epochs=2)
    assert isinstance(run, SeedsRun)
    return run


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_a_folder_of_whole_runs_on_one_division(seeds: SeedsRun) -> None:
    names = {path.name for path in seeds.path.iterdir()}
    assert names == {"config.json", "split.parquet", "seed-7", "seed-8", "seed-9", "seeds.json", "result.json"}
    assert seeds.seeds == (7, 8, 9)
    assert [run.path.name for run in seeds.runs] == ["seed-7", "seed-8", "seed-9"]
    for number, run in zip((7, 8, 9), seeds.runs, strict=True):
        assert (run.config.seed, run.config.seeds, run.config.data.split_seed) == (number, 0, 7)
        assert run.split == seeds.split
        assert len(run.predict([IMAGES[0]])) == 1
        assert not looks_at(run, "test")
    assert len({weights(run) for run in seeds.runs}) == 3


def test_a_seed_is_the_run_that_its_config_makes_alone(seeds: SeedsRun, tmp_path: Path) -> None:
    for name in ("seed-7", "seed-8"):
        (tmp_path / name).mkdir()
        shutil.copy(seeds.path / name / "config.json", tmp_path / name)
        alone = tellapart.train((IMAGES, LABELS), run=tmp_path / name, resume=True, progress=False)
        assert not isinstance(alone, SeedsRun)
        assert weights(alone) == weights(Run(seeds.path / name))
        assert alone.split == seeds.split


def test_the_same_by_its_options(seeds: SeedsRun, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", seeds=None, seed=9, epochs=2, data__split_seed=7)
    assert alone.config == seeds.runs[2].config
    assert weights(alone) == weights(seeds.runs[2])
    # The seed of the division is the one that it would have had by itself.
    assert train(tmp_path / "first", seeds=None, seed=7).split == seeds.split
    assert train(tmp_path / "other", seeds=None, seed=9).split != seeds.split


def test_the_numbers_by_hand(seeds: SeedsRun) -> None:
    result = finished(seeds)
    values = [finished(run)["metrics"]["top1"]["value"] for run in seeds.runs]
    mean = sum(values) / 3
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    assert (result["split"], result["seeds"], result["n"], result["num_given"]) == ("val", 3, 6, 6)
    found = result["over_seeds"]["top1"]
    assert (found["mean"], found["std"]) == pytest.approx((mean, std))
    # Student's t for two degrees of freedom, from a printed table.
    assert found["low"] == pytest.approx(max(0.0, mean - 4.3027 * std / math.sqrt(3)), abs=1e-4)
    assert found["high"] == pytest.approx(min(1.0, mean + 4.3027 * std / math.sqrt(3)), abs=1e-4)
    ends = [finished(run)["metrics"]["top1"]["low"] for run in seeds.runs]
    assert seeds.metrics["top1"]["value"] == pytest.approx(mean)
    assert seeds.metrics["top1"]["low"] == pytest.approx(sum(ends) / 3)
    assert [each["seed"] for each in result["per_seed"]] == [7, 8, 9]
    assert json.loads((seeds.path / "seeds.json").read_text()) == {"seeds": 3, "done": result["per_seed"]}


def test_what_is_said_names_the_seed_and_no_image_twice(tmp_path: Path) -> None:
    display = Said()
    run = train(tmp_path / "mine", epochs=2, progress=display)
    titles = [f"seed {seed} ({place} of 2)" for place, seed in ((1, 0), (2, 1))]
    assert [(report.title, report.epoch) for report in display.epochs] == [(t, e) for t in titles for e in (1, 2)]
    recipe, *texts, first, second = display.texts
    assert recipe.startswith("recipe ")
    assert all(text.startswith(("seed 0 (1 of 2): ", "seed 1 (2 of 2): ")) for text in texts)
    assert sum("60 images" in text for text in texts) == 1
    assert sum("accuracy on val" in text for text in texts) == 2
    assert [first, second] == in_words(finished(run), "top1")


def test_the_sentences_tell_the_two_chances_apart() -> None:
    estimate = {"value": 0.9167, "low": 0.867, "high": 0.949}
    per_seed = [{"seed": 3, "n": 180, "metrics": {"top1": estimate}}]
    over = {"mean": 0.912, "std": 0.003, "low": 0.908, "high": 0.916}
    result = {"seeds": 5, "split": "val", "n": 180, "over_seeds": {"top1": over}, "per_seed": per_seed}
    first, second = in_words(result, "top1")
    assert first == ("over 5 seeds: accuracy on val 91.2%, standard deviation 0.3, the mean lies between 90.8 and 91.6")
    assert "how training varies on these 180 images" in second
    assert "that of seed 3: accuracy 91.7% (86.7 to 94.9, n = 180)" in second
    result["over_seeds"] = {"top1": {**over, "std": 0.0}}
    assert in_words(result, "top1")[0].endswith("the same for all, so these images cannot show how the seeds differ")


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks_have_their_own_number(tmp_path: Path, task: str) -> None:
    targets = LABELS[:, None].astype(np.float32) if task == "regression" else np.eye(3, dtype=np.float32)[LABELS]
    display = Said()
    run = train(tmp_path / "mine", (IMAGES, targets), data__task=task, progress=display)
    headline = {"regression": "mse", "multilabel": "map"}[task]
    values = [finished(each)["metrics"][headline]["value"] for each in SeedsRun(run.path).runs]
    found = finished(run)["over_seeds"][headline]
    assert found == spread_over_runs(values, headline).as_dict()
    assert display.texts[-2].startswith(f"over 2 seeds: {headline} on val {found['mean']:.4f}")


# --- interrupted and resumed -----------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def stop() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> SeedsRun:
    run = train(tmp_path_factory.mktemp("two") / "mine")
    assert isinstance(run, SeedsRun)
    return run


def assert_same(run: Run, expected: SeedsRun) -> None:
    assert isinstance(run, SeedsRun)
    for name in ("metrics", "over_seeds"):
        assert finished(run)[name] == finished(expected)[name]
    assert [weights(each) for each in run.runs] == [weights(each) for each in expected.runs]
    assert run.split == expected.split


@pytest.mark.parametrize(
    "at",
    [
        "seed 0 (1 of 2) epoch 1",
        "seed 0 (1 of 2): accuracy on val",
        "seed 1 (2 of 2) epoch 1",
        "seed 1 (2 of 2): accuracy on val",
        "over 2 seeds",
    ],
)
def test_killed_anywhere_the_same_command_goes_on(two: SeedsRun, tmp_path: Path, at: str) -> None:
    path = tmp_path / "mine"
    with pytest.raises(RuntimeError, match="killed"):
        train(path, progress=Said(at, stop))
    ended = [seed for seed in (0, 1) if Run(path / f"seed-{seed}").result]
    before = [snapshot(path / f"seed-{seed}") for seed in ended]
    assert_same(train(path, resume=True), two)
    assert [snapshot(path / f"seed-{seed}") for seed in ended] == before


@pytest.mark.parametrize("name", ["config.json", "split.parquet", "seeds.json", "result.json"])
@pytest.mark.parametrize("number", [1, 2])
def test_killed_before_any_file_is_in_place(
    two: SeedsRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path, original, count = tmp_path / "mine", Path.replace, [0]

    def dies(self: Path, target: Path) -> Path:
        count[0] += Path(target).name == name
        if Path(target).name == name and count[0] == number:
            raise RuntimeError("killed")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(path)
    is_there = (path / "config.json").exists()
    assert_same(train(path, resume=is_there), two)


def test_a_signal_names_the_folder_of_all_seeds(two: SeedsRun, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    display = Said("seed 1 (2 of 2) epoch 1", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as found:
        train(path, epochs=3, progress=display)
    assert str(found.value).startswith("seed 1 (2 of 2): ")
    assert str(found.value).endswith(f"Go on with: tellapart train --resume {path}")
    assert finished(train(path, epochs=3, resume=True))["seeds"] == 2


def test_the_command_killed_and_resumed(tmp_path: Path) -> None:
    arguments = ["digits", "--seeds", "2", "--epochs", "3", "--model", "mlp", "--train.report", "no"]
    arguments += ["--train.checkpoint-interval-s", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(tellapart.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tellapart", "train", *arguments, "--run", "killed"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None and not (tmp_path / "killed/seed-1/config.json").exists():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    run = tellapart.train(run=tmp_path / "killed", resume=True, progress=False)
    whole = tellapart.train(
        model="mlp", epochs=3, seeds=2, run=tmp_path / "whole", options={"train.report": "no"}, progress=False
    )
    assert isinstance(whole, SeedsRun)
    assert_same(run, whole)


def test_what_has_ended_is_not_done_again(seeds: SeedsRun) -> None:
    before, display = snapshot(seeds.path), Said()
    run = tellapart.train((IMAGES, LABELS), run=seeds.path, resume=True, progress=display)
    assert isinstance(run, SeedsRun)
    assert display.texts == [f"{seeds.path}: this run has ended; there is nothing left to do."]
    assert snapshot(seeds.path) == before


def test_other_images_on_resume_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    with pytest.raises(RuntimeError):
        train(path, progress=Said("seed 0 (1 of 2): accuracy", stop))
    with pytest.raises(RunError, match=r"images of .* changed since the first seed began"):
        train(path, (IMAGES[:50], LABELS[:50]), resume=True)
    changed = IMAGES.copy()
    changed[7] += 1
    with pytest.raises(RunError, match="the images changed since the run began: 1 with other pixels"):
        train(path, (changed, LABELS), resume=True)


def test_another_number_on_resume_is_an_error(seeds: SeedsRun) -> None:
    with pytest.raises(ConfigError, match=r"seeds: the run has 3, this command asks for 4"):
        train(seeds.path, seeds=4, seed=7, epochs=2, resume=True)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, r"seeds: expected 0 \(train once\) or at least 2"),
        ({"data__folds": 3}, "seeds, data.folds: give one of them. A seed shows how training varies"),
        ({"seed": 2**63 - 2, "seeds": 3}, "seeds: the last of 3 seeds"),
        ({"seeds": -1}, "seeds: expected at least 0"),
    ],
)
def test_settings_are_refused_before_anything_is_read(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "mine", data=tmp_path / "no data", **options)
    assert not (tmp_path / "mine").exists()


def test_seeds_of_one_fold(tmp_path: Path) -> None:
    run = train(tmp_path / "mine", data__folds=3, data__fold=2)
    assert isinstance(run, SeedsRun)
    assert [len(each.split.rows("test")) for each in run.runs] == [20, 20]


def test_nothing_is_left_behind_where_the_first_could_not_begin(tmp_path: Path) -> None:
    with pytest.raises(tellapart.TellapartError):
        train(tmp_path / "mine", (IMAGES[:3], LABELS[:3]))
    assert not (tmp_path / "mine").exists()


def test_a_loss_that_is_no_number_names_the_seed(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"^seed 0 \(1 of 2\): "):
        train(tmp_path / "mine", epochs=3, optim__lr=1e30, schedule__name="constant")


def test_the_folder_of_seeds_has_no_model(seeds: SeedsRun) -> None:
    names = ", ".join(str(run.path) for run in seeds.runs)
    for ask in (lambda: tellapart.load(seeds.path), lambda: seeds.classifier):
        with pytest.raises(RunError) as found:
            ask()
        assert str(found.value).endswith(f"holds the runs of 3 seeds and no model of its own. Name one: {names}")


# --- the seed of the division ----------------------------------------------------------------------------------------


def test_the_division_is_drawn_by_its_own_seed() -> None:
    source = open_source((IMAGES, LABELS))
    hashes = [f"{i * 7919:032x}" for i in range(60)]
    for config in (DataConfig(), DataConfig(folds=3, fold=1)):
        divided = {
            (seed, split_seed): make_split(source, hashes, replace(config, split_seed=split_seed), seed)
            for seed in (0, 1)
            for split_seed in (-1, 0, 1)
        }
        assert divided[0, -1] == divided[0, 0] == divided[1, 0]
        assert divided[1, -1] == divided[0, 1] == divided[1, 1]
        assert divided[0, -1] != divided[1, -1]


def test_a_seed_that_divides_nothing_is_refused(seeds: SeedsRun, make_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.split_seed: has no effect with data\.split, which"):
        train(seeds.path.parent / "new", data__split=str(seeds.path), data__split_seed=3)
    whole = make_folder({f"{part}/{name}": 3 for part in ("train", "val", "test") for name in ("ant", "bee")})
    with pytest.raises(ConfigError, match=r"data\.split_seed: has no effect because nothing is left to draw"):
        train(seeds.path.parent / "new", whole, data__split_seed=3)


def test_the_division_of_seeds_can_be_given_to_another_run(seeds: SeedsRun, tmp_path: Path) -> None:
    other = train(tmp_path / "other", seeds=None, seed=3, data__split=str(seeds.path))
    assert other.split == seeds.split


# --- evaluated -------------------------------------------------------------------------------------------------------


def test_every_seed_is_evaluated_and_its_look_recorded(
    two: SeedsRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two.path, tmp_path / "mine")
    run = SeedsRun(tmp_path / "mine")
    display = Said()
    found = evaluate_seeds(run, "test", data=(IMAGES, LABELS), progress=display)
    values = [evaluation.metrics["top1"].value for evaluation in found.evaluations]
    summary = found.details()
    assert (summary["split"], summary["seeds"], summary["n"]) == ("test", 2, 6)
    assert summary["over_seeds"]["top1"] == spread_over_runs(values).as_dict()
    assert [len(looks_at(each, "test")) for each in run.runs] == [1, 1]
    lines = found.lines()
    assert [line.split(":")[0] for line in lines[:2]] == ["  seed 0", "  seed 1"]
    assert lines[2].startswith("over 2 seeds: accuracy on test ")
    assert max(map(len, lines)) <= 80
    assert main.run(["evaluate", str(run.path)]) == 1
    assert "was trained on arrays" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "mine/seed-1")
    with pytest.raises(RunError, match=r"1 of 2 seeds have not ended, such as seed 1\. Go on with: .* --resume"):
        evaluate_seeds(run, "test", data=(IMAGES, LABELS), progress=False)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_says_what_next(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = make_folder({"ant": 12, "bee": 12}), tmp_path / "mine"
    options = ["--seeds", "2", "--epochs", "1", "--model", "mlp", "--preprocess.size-px", "8", "--train.report", "no"]
    assert main.run(["train", str(data), "--run", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert f"tellapart evaluate {path} --split test" in out
    assert f"tellapart compare {path / 'seed-0'} {path / 'seed-1'}" in out
    assert main.run(["evaluate", str(path), "--split", "test"]) == 0
    assert "over 2 seeds: accuracy on test" in capsys.readouterr().out
    assert main.run(["evaluate", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == 2
    assert main.run(["train", "--resume", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["seeds"] == 2
    assert main.run(["predict", str(path), str(data / "ant/000.png")]) == 1
    assert f"Name one: {path / 'seed-0'}, {path / 'seed-1'}" in capsys.readouterr().err

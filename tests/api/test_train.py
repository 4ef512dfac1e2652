"""`train`: what it leaves behind, what its numbers are, and what it refuses before it leaves anything behind."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tellapart
from tellapart.api.run import Run
from tellapart.data.sources.arrays import ArraySource
from tellapart.errors import ConfigError, DataError, MissingError, NonFiniteLossError, RunError
from tellapart.evaluation.intervals import wilson
from tellapart.training.checkpoint import checkpoints
from tellapart.training.progress import Progress

MakeFolder = Callable[..., Path]
RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
# Something to learn: each class has a brightness of its own.
IMAGES = (RNG.integers(0, 64, (60, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)
TIMING = {"seconds", "images_per_s", "wait_share"}


class Said(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def train(run: Path, data: Any = None, *, epochs: int = 2, model: str | None = "cnn", **options: Any) -> Run:
    chosen = {"train.batch_size": 16, **{name.replace("__", "."): value for name, value in options.items()}}
    data = (IMAGES, LABELS) if data is None else data
    return tellapart.train(data, model=model, epochs=epochs, run=run, options=chosen, progress=False)


def weights(run: Run) -> bytes:
    return (run.bundle / "model.safetensors").read_bytes()


def history(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMING} for line in run.history]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("runs") / "mine", epochs=6, train__log_interval_steps=2, optim__lr=0.003)


def test_what_a_run_leaves_behind(run: Run) -> None:
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    checkpoint = "checkpoints/epoch-0006-batch-00000"
    assert files == {
        "config.json",
        "environment.json",
        "evaluations.jsonl",
        "findings.json",
        "history.jsonl",
        "report.html",
        "result.json",
        "split.parquet",
        "predictions/val.parquet",
        *(f"bundle/{name}" for name in ("README.md", "config.json", "model.safetensors")),
        *(f"{checkpoint}/{name}" for name in ("model.safetensors", "optimizer.safetensors", "state.json")),
        f"checkpoints/best-epoch-{run.result['best_epoch']:04d}.safetensors" if run.result else "",
    }


def test_the_result_has_the_promised_shape(run: Run) -> None:
    result = run.result
    assert result is not None
    assert result["run"] == str(run.path)
    assert result["split"] == "val"
    assert result["n"] == result["num_given"] == len(run.split.rows("val")) == 6
    assert result["seconds"] > 0
    assert {"top1", "balanced_accuracy", "nll", "brier"} <= set(result["metrics"])
    assert set(result["uncalibrated"]) == {"nll", "brier", "ece", "ece_classwise"}
    assert result["temperature"] == run.classifier.temperature
    for estimate in (*result["metrics"].values(), *result["uncalibrated"].values()):
        assert set(estimate) == {"value", "low", "high"}
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert run.metrics == result["metrics"]


def test_the_number_is_that_of_the_stored_predictions_by_hand(run: Run) -> None:
    table = pq.ParquetFile(run.path / "predictions" / "val.parquet").read().to_pydict()
    # Every image of the split exactly once, by index and by path.
    rows = run.split.rows("val")
    assert table["index"] == rows.tolist()
    assert table["path"] == [run.split.paths[row] for row in rows]
    assert table["target"] == LABELS[rows].tolist()
    hits = [
        int(np.argmax(probs)) == target for probs, target in zip(table["probabilities"], table["target"], strict=True)
    ]
    top1 = run.metrics["top1"]
    assert top1["value"] == sum(hits) / len(hits)
    assert (top1["low"], top1["high"]) == pytest.approx(wilson(sum(hits), len(hits)))
    nll = -np.mean([math.log(p[t]) for p, t in zip(table["probabilities"], table["target"], strict=True)])
    assert run.metrics["nll"]["value"] == pytest.approx(nll, rel=1e-6)


def test_the_shipped_classifier_gives_the_stored_probabilities(run: Run) -> None:
    table = pq.ParquetFile(run.path / "predictions" / "val.parquet").read().to_pydict()
    predictions = run.predict([IMAGES[row] for row in table["index"]])
    found = np.array([list(prediction.probs.values()) for prediction in predictions])
    np.testing.assert_allclose(found, np.array(table["probabilities"]), rtol=1e-5, atol=1e-6)


def test_the_best_epoch_is_what_history_says(run: Run) -> None:
    epochs = [line for line in run.history if line["kind"] == "epoch"]
    values = [line["val/top1"] for line in epochs]
    assert run.result is not None
    assert run.result["best_epoch"] == values.index(max(values)) + 1
    assert run.metrics["top1"]["value"] == max(values)
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6]
    # 48 images in batches of 16, a line every second step.
    steps = [line for line in run.history if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(2, 19, 2))
    assert all(line["train/loss"] > 0 and line["lr"] > 0 for line in steps)


def test_it_learns(run: Run) -> None:
    epochs = [line for line in run.history if line["kind"] == "epoch"]
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]
    assert run.metrics["top1"]["value"] > 0.6


def test_equal_configs_give_equal_bits_whatever_the_global_generators(tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = train(tmp_path / "1")
    torch.manual_seed(2)
    np.random.seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    second = train(tmp_path / "2")
    # The caller's own draws go on as if nothing had been trained in between.
    assert torch.equal(torch.rand(3), expected)
    assert weights(first) == weights(second)
    assert history(first) == history(second)
    assert weights(train(tmp_path / "3", seed=1)) != weights(first)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_who_reads_the_images_changes_no_bit(workers: int, tmp_path: Path) -> None:
    augment = {"augment__transforms": "flip-crop", "augment__pad_px": 1}
    memory = train(tmp_path / "memory", data__in_memory="yes", **augment)
    read = train(tmp_path / "workers", data__in_memory="no", data__num_workers=workers, **augment)
    assert weights(read) == weights(memory)
    assert history(read) == history(memory)
    assert read.metrics == memory.metrics


@pytest.mark.parametrize("select", ["best", "last"])
def test_which_weights_are_shipped(select: str, tmp_path: Path) -> None:
    # A learning rate that spoils what the first epochs learned.
    run = train(tmp_path / "run", epochs=5, train__select=select, optim__lr=0.05, schedule__name="constant")
    values = [line["val/top1"] for line in run.history if line["kind"] == "epoch"]
    assert run.metrics["top1"]["value"] == (max(values) if select == "best" else values[-1])


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_was_chosen_by_is_what_is_shipped(decay: float, tmp_path: Path) -> None:
    """With averaged weights too: those are validated, chosen and shipped, and not the ones that were just trained."""
    run = train(tmp_path / "run", epochs=4, train__ema_decay=decay, train__calibration="none")
    assert run.result is not None
    epochs = {line["epoch"]: line for line in run.history if line["kind"] == "epoch"}
    assert run.metrics["nll"]["value"] == pytest.approx(epochs[run.result["best_epoch"]]["val/nll"], rel=1e-4)


def parts() -> list[str]:
    return ["train"] * 40 + ["val"] * 10 + ["test"] * 10


def test_no_test_label_or_pixel_has_any_influence(tmp_path: Path) -> None:
    """Whatever is done to the test images, training and its number on val are the same to the bit."""
    changed_labels, changed_images = LABELS.copy(), IMAGES.copy()
    changed_labels[50:] = (changed_labels[50:] + 1) % 3
    changed_images[50:] = 255 - changed_images[50:]
    runs = [
        train(tmp_path / "0", ArraySource(IMAGES, LABELS, parts=parts()), loss__class_weights="balanced"),
        train(tmp_path / "1", ArraySource(IMAGES, changed_labels, parts=parts()), loss__class_weights="balanced"),
        train(tmp_path / "2", ArraySource(changed_images, LABELS, parts=parts()), loss__class_weights="balanced"),
    ]
    for other in runs[1:]:
        assert weights(other) == weights(runs[0])
        assert history(other) == history(runs[0])
        assert other.metrics == runs[0].metrics
    assert not (runs[0].path / "predictions" / "test.parquet").exists()


def test_a_class_that_is_missing_in_val_shifts_nothing(tmp_path: Path) -> None:
    """Val has no image of the first class, so labels counted within val would be off by one."""
    images = np.concatenate([IMAGES[:40], IMAGES[50:]])
    labels = np.concatenate([LABELS[:40], LABELS[50:]])
    order = ["train"] * 40 + ["val" if label else "train" for label in labels[40:]]
    source = ArraySource(images, labels, classes=["ant", "bee", "cat"], parts=order)
    said = Said()
    run = tellapart.train(
        source, model="cnn", epochs=12, run=tmp_path / "run", progress=said, options={"train.batch_size": 8}
    )
    assert run.metrics["top1"]["value"] == 1.0
    assert any("1 of 3 classes has no image in val: ant" in text for text in said.texts)
    table = pq.ParquetFile(run.path / "predictions" / "val.parquet").read().to_pydict()
    assert set(table["class"]) == {"bee", "cat"}
    assert all(len(probs) == 3 for probs in table["probabilities"])


def test_multilabel_end_to_end(tmp_path: Path) -> None:
    targets = np.stack([LABELS == 0, LABELS > 0], axis=1).astype(np.int64)
    run = train(tmp_path / "run", (IMAGES, targets), epochs=8)
    assert {"map", "f1_macro", "f1_micro", "exact_match"} <= set(run.metrics)
    assert run.config.loss.name == "binary-cross-entropy"
    assert run.metrics["map"]["value"] > 0.8
    prediction = run.predict(IMAGES[0])[0]
    assert set(prediction.probs) == {"0", "1"}
    assert run.evaluate("val", data=(IMAGES, targets), progress=False).as_dict()["metrics"] == run.metrics


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_regression_end_to_end(num_outputs: int, tmp_path: Path) -> None:
    """The network learns standardised numbers; what it says and how it is judged are in the numbers' own unit."""
    value = IMAGES.reshape(60, -1).mean(1) * 10.0 + 5000.0
    targets = np.stack([value, -value / 3], axis=1)[:, :num_outputs].astype(np.float32)
    run = train(tmp_path / "run", (IMAGES, targets), epochs=20, optim__lr=0.01)
    assert {"mse", "mae", "rmse", "r2"} <= set(run.metrics)
    assert run.config.loss.name == "mean-squared-error"
    assert run.metrics["r2"]["value"] > 0.3
    predictions = run.predict(IMAGES)
    found = np.array([list(prediction.probs.values()) for prediction in predictions])
    assert found.shape == targets.shape
    rows = run.split.rows("val")
    assert run.metrics["mse"]["value"] == pytest.approx(((found[rows] - targets[rows]) ** 2).mean(), rel=1e-4)
    epochs = [line for line in run.history if line["kind"] == "epoch"]
    assert run.metrics["mse"]["value"] == pytest.approx(min(line["val/mse"] for line in epochs), rel=1e-4)
    assert run.evaluate("val", data=(IMAGES, targets), progress=False).as_dict()["metrics"] == run.metrics


def spoil(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:40])


def test_a_bad_image_stops_before_the_run_folder_is_made(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"ant": 8, "bee": 8})
    spoil(folder, "bee/003.png")
    spoil(folder, "ant/001.png")
    with pytest.raises(DataError, match="2 of 16 images are cut short and cannot be read") as caught:
        train(tmp_path / "runs" / "run", folder, model="mlp")
    assert "bee/003.png: truncated PNG" in str(caught.value)
    assert "ant/001.png: truncated PNG" in str(caught.value)
    assert "--data.bad-images skip" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_skipped_images_are_counted_in_num_given(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"train/ant": 6, "train/bee": 6, "val/ant": 4, "val/bee": 5})
    spoil(folder, "val/bee/003.png")
    spoil(folder, "train/ant/001.png")
    run = train(tmp_path / "run", folder, model="mlp", data__bad_images="skip", data__test_fraction=0)
    assert run.result is not None
    assert (run.result["n"], run.result["num_given"]) == (8, 9)
    assert run.split.num_given("train") == 12
    assert len(run.split.rows("train")) == 11
    evaluation = tellapart.evaluate(run, progress=False)
    assert (evaluation.n, evaluation.num_given) == (8, 9)
    assert "val/bee/003.png" not in evaluation.predictions.paths


def test_nothing_readable_is_an_error_even_if_bad_images_are_skipped(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"ant": 2, "bee": 2})
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 4 images can be read"):
        train(tmp_path / "run", folder, data__bad_images="skip")


def test_a_folder_in_use_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"found one in use\. To go on with that run: --resume"):
        train(run.path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="expected a new or empty folder"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(RunError, match="expected a new or empty folder"):
        train(tmp_path / "notes.txt")


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert train(tmp_path / "run", epochs=1, model="mlp").result is not None


def test_a_run_without_a_name_gets_a_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(2):
        found = tellapart.train((IMAGES, LABELS), model="mlp", epochs=1, progress=False)
        names.append(str(found.path))
    today = date.today().isoformat()
    assert names == [f"runs/{today}-arrays-mlp", f"runs/{today}-arrays-mlp-2"]


class TestResume:
    """What `resume` refuses; that it goes on with the same bits is in tests/e2e/test_resume.py."""

    @pytest.fixture
    def stopped(self, tmp_path: Path) -> Path:
        """A run that has everything but its end."""
        found = train(tmp_path / "run", epochs=1, model="mlp")
        (found.path / "result.json").unlink()
        return found.path

    def resume(self, run: Path, data: Any = (IMAGES, LABELS), **arguments: Any) -> Run:
        return tellapart.train(data, run=run, resume=True, progress=False, **arguments)

    def test_the_same_options_may_be_given_again(self, stopped: Path) -> None:
        assert self.resume(stopped, epochs=1, model="mlp", options={"train.batch-size": "16"}).result is not None

    def test_a_differing_option_is_named(self, stopped: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            self.resume(stopped, epochs=7, options={"optim.lr": 0.5, "train.batch_size": 16})
        problems = "\n".join(caught.value.problems)
        assert "train.epochs: the run has 1, this command asks for 7" in problems
        assert "optim.lr" in problems
        assert "batch_size" not in problems

    def test_an_unknown_option_is_named(self, stopped: Path) -> None:
        with pytest.raises(ConfigError, match=r"Did you mean 'optim\.lr'"):
            self.resume(stopped, options={"lr": 1})

    def test_no_run_there(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="expected a run folder"):
            self.resume(tmp_path / "nothing")
        with pytest.raises(ConfigError, match="which run"):
            tellapart.train(resume=True, progress=False)

    def test_arrays_have_to_be_given_again(self, stopped: Path) -> None:
        with pytest.raises(RunError, match="trained on arrays"):
            tellapart.train(run=stopped, resume=True, progress=False)

    def test_other_images_are_refused(self, stopped: Path) -> None:
        images, labels = IMAGES.copy(), LABELS.copy()
        images[7, 0, 0] ^= 1
        with pytest.raises(RunError, match=r"1 with other pixels than before \(arrays/0007\)"):
            self.resume(stopped, (images, LABELS))
        with pytest.raises(RunError, match=r"3 no longer there"):
            self.resume(stopped, (IMAGES[:57], LABELS[:57]))
        labels[5], labels[7] = labels[7], labels[5]
        with pytest.raises(RunError, match=r"2 with another label than before \(arrays/0005, arrays/0007\)"):
            self.resume(stopped, (IMAGES, labels))

    def test_a_damaged_result_is_named(self, stopped: Path) -> None:
        for content in (b"{", b"\xff", b"[1]"):
            (stopped / "result.json").write_bytes(content)
            with pytest.raises(RunError, match=r"result\.json: damaged"):
                self.resume(stopped)

    def test_a_config_that_is_no_text_is_named(self, stopped: Path) -> None:
        (stopped / "config.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(RunError, match=r"config\.json: damaged"):
            self.resume(stopped)


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optim__name": "sgd", "optim__lr": 1e12, "schedule__name": "constant"}
    with pytest.raises(NonFiniteLossError, match=r"at step (\d+) \(epoch \d+, batch \d+\)") as caught:
        train(tmp_path / "run", train__checkpoint_interval_s=0, epochs=9, loss__name="mean-squared-error", **options)
    match = re.search(r"at step (\d+)", str(caught.value))
    assert match
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    position = json.loads((newest / "state.json").read_text())["state"]
    assert position["step"] == int(match[1]) - 1
    assert math.isfinite(position["loss_sum"])
    assert Run(tmp_path / "run").result is None


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingError, match="several processes"):
        train(tmp_path / "run")


def test_progress_can_be_silent_or_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "1", epochs=1, model="mlp")
    assert capsys.readouterr() == ("", "")
    tellapart.train((IMAGES, LABELS), model="mlp", epochs=1, run=tmp_path / "2")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("arrays: 60 images, 3 classes: train 48  val 6  test 6") for line in lines)
    assert any(
        re.match(r"epoch 1/1  loss \d\.\d{4}  val \d+\.\d% \(\d+\.\d to \d+\.\d, n = 6\)", line) for line in lines
    )
    assert any(re.fullmatch(r"accuracy on val: \d+\.\d% \(\d+\.\d to \d+\.\d, n = 6\)", line) for line in lines)
    assert lines[-1] == f"report: {tmp_path / '2' / 'report.html'}"


def test_the_stored_config_is_whole_and_loads_back(run: Run) -> None:
    config = run.config
    assert config.loss.name == "cross-entropy"
    assert config.data.task == "multiclass"
    assert config.data.source == "<arrays>"
    assert config.preprocess.size_px == config.preprocess.resize_px == 8
    assert config.compute.precision in ("float32", "bf16")
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["train"]["epochs"] == 6


def test_normalisation_is_that_of_the_training_images(run: Run) -> None:
    pixels = IMAGES[run.split.rows("train")] / 255.0
    preprocessing = json.loads((run.bundle / "config.json").read_text())["preprocessing"]
    assert preprocessing["mean"] == pytest.approx([pixels.mean()], rel=1e-6)
    assert preprocessing["std"] == pytest.approx([pixels.std()], rel=1e-5)


def test_the_bundle_says_where_it_comes_from(run: Run) -> None:
    info = json.loads((run.bundle / "config.json").read_text())
    assert info["model"] == {"name": "cnn", "num_classes": 3, "in_channels": 1, "size_px": 8}
    assert info["classes"] == ["0", "1", "2"]
    assert info["val"]["metrics"] == run.metrics
    assert info["data"]["num_train"] == 48
    assert run.classifier.info["val"]["n"] == 6


def test_a_place_that_cannot_be_written_to_is_found_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tellapart.api.train.read_data", lambda *arguments: pytest.fail("images were read"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=rf"{tmp_path / 'file'} is no folder"):
        train(tmp_path / "file" / "run")
    monkeypatch.setattr("os.access", lambda *arguments: False)
    for run in (tmp_path / "run", None):
        with pytest.raises(RunError, match=r"may not be written to\. Put it elsewhere with --run"):
            tellapart.train((IMAGES, LABELS), run=run, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_works_in_another_thread(tmp_path: Path) -> None:
    """There, signals cannot be listened to; the run is the same."""
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(train, tmp_path / "thread", epochs=1).result()
    assert weights(run) == weights(train(tmp_path / "main", epochs=1))


def test_one_image_a_batch_where_batch_norm_needs_two(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"batch of one image"):
        train(tmp_path / "run", (IMAGES[:12], LABELS[:12]), model="resnet18", train__batch_size=1)

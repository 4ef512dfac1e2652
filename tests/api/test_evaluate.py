"""`evaluate`: the same number as `train` printed, every image once, and an error where it would be another number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import tellapart
from tellapart.api.evaluate import aligned_targets, looks_at, record
from tellapart.api.run import Run
from tellapart.data.loader import Batch
from tellapart.data.sources.arrays import ArraySource
from tellapart.errors import DataError, RunError
from tellapart.evaluation.evaluator import run_model
from tellapart.optim import create_loss

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
IMAGES = (RNG.integers(0, 64, (60, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)
COUNTS = {"ant": 12, "bee": 12, "cat": 12}


def train(run: Path, data: Any, **options: Any) -> Run:
    chosen = {"train.batch_size": 8, **{name.replace("__", "."): value for name, value in options.items()}}
    return tellapart.train(data, model="cnn", epochs=2, run=run, options=chosen, progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """A folder with images and a run over them; tests get a copy."""
    root = tmp_path_factory.mktemp("trained")
    folder = write_images(root / "images", COUNTS)
    train(root / "run", folder)
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copytree(trained / "images", tmp_path / "images")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "images")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return Run(tmp_path / "run")


def evaluate(run: Run, split: str = "val", **arguments: Any) -> tellapart.Evaluation:
    return tellapart.evaluate(run, split, progress=False, **arguments)


def test_val_is_what_train_printed(run: Run) -> None:
    assert run.result is not None
    before = (run.path / "predictions" / "val.parquet").read_bytes()
    evaluation = evaluate(run)
    assert evaluation.as_dict() == {key: run.result[key] for key in ("split", "n", "num_given", "metrics")}
    assert (run.path / "predictions" / "val.parquet").read_bytes() == before


@pytest.mark.parametrize(
    "options", [{"compute__channels_last": False}, {"train__ema_decay": 0.5}, {"data__in_memory": "no"}]
)
def test_val_is_what_train_printed_whatever_the_options(options: dict[str, Any], tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS), **options)
    assert evaluate(run, data=(IMAGES, LABELS)).as_dict()["metrics"] == run.metrics


def test_the_shape_is_the_promised_one(run: Run) -> None:
    found = evaluate(run, "test").as_dict()
    assert list(found) == ["split", "n", "num_given", "metrics"]
    assert found["split"] == "test"
    assert found["n"] == found["num_given"] == len(run.split.rows("test")) == 4
    assert set(found["metrics"]["top1"]) == {"value", "low", "high"}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_image_of_the_split_exactly_once(run: Run, split: str) -> None:
    evaluation = evaluate(run, split)
    table = pq.ParquetFile(run.path / "predictions" / f"{split}.parquet").read().to_pydict()
    expected = sorted(p for p, s in zip(run.split.paths, run.split.splits, strict=True) if s == split)
    assert sorted(table["path"]) == expected
    assert table["class"] == [path.split("/")[0] for path in table["path"]]
    hits = sum(guess == name for guess, name in zip(table["predicted"], table["class"], strict=True))
    assert evaluation.metrics["top1"].value == hits / len(expected)
    assert evaluation.n == len(expected)


def test_the_splits_divide_the_images(run: Run) -> None:
    rows = [set(run.split.rows(split).tolist()) for split in ("train", "val", "test")]
    assert set.union(*rows) == set(range(36))
    assert sum(map(len, rows)) == 36


def test_a_look_at_test_is_recorded(run: Run) -> None:
    assert looks_at(run, "test") == []
    evaluation = evaluate(run, "test")
    evaluate(run, "test")
    lines = [json.loads(text) for text in (run.path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["val", "test", "test"]
    assert {key: lines[1][key] for key in evaluation.as_dict()} == evaluation.as_dict()
    assert len(lines[1]["weights"]) == 64
    assert lines[1]["at"].endswith("+00:00")
    assert looks_at(run, "test") == lines[1:]


def test_a_record_torn_by_a_kill_loses_neither_the_next_nor_the_ones_before(run: Run) -> None:
    evaluation = evaluate(run, "test")
    path = run.path / "evaluations.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert looks_at(run, "test") == []
    record(run, evaluation)
    assert len(looks_at(run, "test")) == 1
    assert len(looks_at(run, "val")) == 1


def test_evaluating_leaves_the_weights_and_history_alone(run: Run) -> None:
    names = ("bundle/model.safetensors", "history.jsonl", "split.parquet", "result.json", "config.json")
    before = {name: (run.path / name).read_bytes() for name in names}
    evaluate(run, "test")
    assert {name: (run.path / name).read_bytes() for name in names} == before


def path_in(run: Run, split: str) -> Path:
    return Path(run.config.data.source) / run.split.paths[run.split.rows(split)[0]]


def test_a_missing_image_is_named(run: Run) -> None:
    gone = path_in(run, "test")
    gone.unlink()
    with pytest.raises(DataError, match="1 of 4 images of the split are no longer there") as caught:
        evaluate(run, "test")
    assert f"{gone.parent.name}/{gone.name}" in str(caught.value)
    # The other split has all of its images.
    evaluate(run)


def test_changed_pixels_are_named(run: Run) -> None:
    changed = path_in(run, "val")
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    with pytest.raises(DataError, match=rf"{changed.parent.name}/{changed.name}: its pixels are not those"):
        evaluate(run)
    assert [line["split"] for line in looks_at(run, "val")] == ["val"], "nothing but training's own look is recorded"


def test_the_same_pixels_in_another_file_are_the_same_image(run: Run) -> None:
    path = path_in(run, "val")
    Image.open(path).save(path, compress_level=0)
    assert evaluate(run).as_dict()["metrics"] == run.metrics


def test_an_image_that_broke_is_named(run: Run) -> None:
    path = path_in(run, "val")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"{path.name}: could be read when the split was made, and cannot now"):
        evaluate(run)


def test_images_and_classes_that_came_later_do_not_matter(run: Run, write_images: Callable[..., Path]) -> None:
    write_images(Path(run.config.data.source), {"aardvark": 3, "zebra": 2})
    shutil.copy(path_in(run, "val"), Path(run.config.data.source) / "ant" / "new.png")
    assert evaluate(run).as_dict()["metrics"] == run.metrics


def test_a_label_that_changed_is_named(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS))
    row = int(run.split.rows("val")[1])
    labels = LABELS.copy()
    labels[row] = (labels[row] + 1) % 3
    with pytest.raises(DataError, match=rf"arrays/{row:04}: its label is '\d', and was '\d'"):
        evaluate(run, data=(IMAGES, labels))


def test_arrays_have_to_be_given_again(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS))
    with pytest.raises(RunError, match="trained on arrays"):
        evaluate(run)


def test_no_such_split_and_none_held_out(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS), data__test_fraction=0)
    with pytest.raises(RunError, match="Did you mean 'test'"):
        evaluate(run, "tset")
    with pytest.raises(RunError, match=r"has no test images. None were held out for it"):
        evaluate(run, "test", data=(IMAGES, LABELS))


def test_what_is_no_run_is_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunError, match="found nothing"):
        tellapart.evaluate(tmp_path / "nowhere", progress=False)
    with pytest.raises(RunError):
        tellapart.evaluate(run.bundle, progress=False)


def test_classes_are_matched_by_name(run: Run) -> None:
    """Another order of classes in the source, and one of them missing, change no target."""
    classifier = tellapart.load(run)
    assert classifier.classes == ("ant", "bee", "cat")
    names = ["cat", "ant", "cat", "ant"]
    source = ArraySource(IMAGES[:4], np.array(names), classes=["cat", "wasp", "ant"])
    assert aligned_targets(source, classifier, np.array([0, 1, 3])).tolist() == [2, 0, 0]
    strange = ArraySource(IMAGES[:4], np.array(["cat", "wasp", "cat", "ant"]))
    assert aligned_targets(strange, classifier, np.array([0, 2, 3])).tolist() == [2, 2, 0]
    with pytest.raises(DataError, match="does not know the class 'wasp'"):
        aligned_targets(strange, classifier, np.array([0, 1]))


def test_labels_of_a_multilabel_table_are_matched_by_name(tmp_path: Path) -> None:
    targets = np.eye(3, dtype=np.int64)[LABELS]
    run = train(tmp_path / "run", ArraySource(IMAGES, targets, classes=["a", "b", "c"]))
    turned = ArraySource(IMAGES, targets[:, ::-1], classes=["c", "b", "a"])
    found = aligned_targets(turned, tellapart.load(run), np.arange(60))
    np.testing.assert_array_equal(found, targets)
    assert found.dtype == np.float32
    fewer = ArraySource(IMAGES, targets[:, :0:-1], classes=["c", "b"])
    np.testing.assert_array_equal(aligned_targets(fewer, tellapart.load(run), np.arange(60)), targets * [0, 1, 1])


def test_run_evaluate_is_evaluate(run: Run) -> None:
    assert run.evaluate(progress=False).as_dict() == evaluate(run).as_dict()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.25, 1.0, 4.0])])
def test_the_loss_does_not_depend_on_the_batches(batch_size: int, class_weights: torch.Tensor | None) -> None:
    """With class weights, the mean of batches' means would be another number for every size of batches."""
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 2, 1, 2, 0, 1, 1, 0, 2])
    parts = zip(inputs.split(batch_size), labels.split(batch_size), torch.arange(10).split(batch_size), strict=True)
    criterion = create_loss("cross-entropy", class_weights=class_weights)
    cpu = torch.device("cpu")
    found = run_model(torch.nn.Identity(), (Batch(*part) for part in parts), criterion=criterion, device=cpu)
    expected = torch.nn.functional.cross_entropy(inputs, labels, weight=class_weights)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(found.logits, inputs)
    assert found.indices.tolist() == list(range(10))

"""Compare: from stored tables alone; what differs is said, and other images are refused with the reasons."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.api import compare as module
from tellapart.api.compare import compare
from tellapart.api.evaluate import evaluate
from tellapart.api.folds import FoldsRun
from tellapart.api.run import Run
from tellapart.api.seeds import SeedsRun, evaluate_seeds
from tellapart.cli import main
from tellapart.data.splits import Split
from tellapart.errors import RunError
from tellapart.evaluation.paired import mcnemar
from tellapart.evaluation.predictions import Predictions

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
# Something to learn, but not in one epoch.
IMAGES = (RNG.integers(0, 150, (120, 8, 8)) + 40 * LABELS[:, None, None]).astype(np.uint8)
DATA = (IMAGES, LABELS)


def train(path: Path, data: Any = None, *, seeds: int | None = None, epochs: int = 1, **options: Any) -> Run:
    chosen: dict[str, Any] = {"train.batch_size": 16, "optim.lr": 0.003, "train.report": "no"}
    if "data__split" not in options:
        chosen["data.val_fraction"] = 0.3
    chosen |= {name.replace("__", "."): value for name, value in options.items()}
    data = DATA if data is None else data
    return tellapart.train(data, model="mlp", epochs=epochs, seeds=seeds, run=path, options=chosen, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of seeds on one division, of which the second learns more, and folds of both kinds."""
    path = tmp_path_factory.mktemp("runs")
    train(path / "few", seeds=2)
    train(path / "many", seeds=3, epochs=12, data__split=str(path / "few"))
    train(path / "folds", data__folds=2, data__val_fraction=0.1)
    return path


@pytest.fixture
def runs(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    shutil.copytree(folder, tmp_path / "runs")
    return tmp_path / "runs"


def look_at_test(*paths: Path) -> None:
    for path in paths:
        evaluate(path, "test", data=DATA, progress=False)


# --- two runs --------------------------------------------------------------------------------------------------------


def test_what_a_comparison_says(folder: Path) -> None:
    paths = folder / "few/seed-0", folder / "many/seed-1"
    found = compare(*paths)
    tables = [Predictions.load(path / "predictions/val.parquet") for path in paths]
    hits = [table.outputs.argmax(axis=1) == table.targets for table in tables]
    assert (found.split, found.task, found.n) == ("val", "multiclass", 36)
    assert [(run.label, run.path, run.kind) for run in found.runs] == [
        ("A", str(paths[0]), "run"),
        ("B", str(paths[1]), "run"),
    ]
    for run, path in zip(found.runs, paths, strict=True):
        known = Run(path).metrics
        assert set(run.metrics) == {"top1", "nll", "ece"}
        for name, estimate in run.metrics.items():
            assert (estimate.value, estimate.low) == pytest.approx((known[name]["value"], known[name]["low"]))
    (pair,) = found.pairs
    assert pair.found.counts == mcnemar(*hits)
    assert pair.found.differences["top1"].value == pytest.approx(hits[1].mean() - hits[0].mean())
    assert pair.better == "B"
    assert pair.sentence.startswith("B is better than A by ")
    assert pair.sentence.endswith(": more than chance.")


def test_no_image_is_read_and_nothing_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellapart.exporting.bundle.load_bundle", lambda *_: pytest.fail("a second pass"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    compare(folder / "few/seed-0", folder / "few/seed-1")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_only_the_fields_that_differ_are_shown(folder: Path) -> None:
    found = compare(folder / "few/seed-0", folder / "many/seed-1")
    assert found.config == {
        "seed": (0, 1),
        "data.val_fraction": (0.3, 0.1),
        "data.split": ("", str(folder / "few")),
        "train.epochs": (1, 12),
    }
    assert compare(folder / "few/seed-0", folder / "few/seed-1").config == {"seed": (0, 1)}


def test_a_run_against_itself(folder: Path) -> None:
    found = compare(folder / "few/seed-0", folder / "few/seed-0")
    (pair,) = found.pairs
    assert (pair.better, pair.found.is_same) == (None, True)
    assert "A and B say the same of every image, to the last bit." in str(found)
    assert found.config == {}


def test_several_are_compared_with_the_first_and_adjusted(folder: Path) -> None:
    paths = [folder / name for name in ("few/seed-0", "few/seed-1", "many/seed-0", "many/seed-1")]
    found = compare(*paths)
    assert [(pair.first.label, pair.second.label) for pair in found.pairs] == [("A", "B"), ("A", "C"), ("A", "D")]
    own = [pair.found.p for pair in found.pairs]
    assert [pair.p for pair in found.pairs] == pytest.approx(module.holm(own))
    assert max(pair.p / pair.found.p for pair in found.pairs) > 1
    assert "among 3 comparisons, by Holm" in str(found)
    assert "each run is compared with the first" in " ".join(str(found).split())


def test_a_run_object_is_as_good_as_its_folder(folder: Path) -> None:
    named = compare(Run(folder / "few/seed-0"), str(folder / "few/seed-1"))
    assert named.as_dict() == compare(folder / "few/seed-0", folder / "few/seed-1").as_dict()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks(tmp_path: Path, task: str) -> None:
    targets = LABELS[:, None].astype(np.float32) if task == "regression" else np.eye(3, dtype=np.float32)[LABELS]
    train(tmp_path / "runs", (IMAGES, targets), seeds=2, data__task=task)
    found = compare(tmp_path / "runs/seed-0", tmp_path / "runs/seed-1")
    metric = {"multilabel": "map", "regression": "mse"}[task]
    assert found.as_dict()["metric"] == metric
    assert found.pairs[0].found.counts is None
    values = [Run(tmp_path / f"runs/seed-{seed}").metrics[metric]["value"] for seed in (0, 1)]
    assert found.pairs[0].found.differences[metric].value == pytest.approx(values[1] - values[0], rel=1e-4)
    assert f" in {metric} (" in found.pairs[0].sentence or "more than chance" not in found.pairs[0].sentence


# --- which split -----------------------------------------------------------------------------------------------------


def test_test_is_compared_where_all_have_looked(runs: Path) -> None:
    pair = runs / "few/seed-0", runs / "few/seed-1"
    look_at_test(pair[0])
    assert compare(*pair).split == "val"
    with pytest.raises(RunError, match=r"B \(.*seed-1\): no predictions on test yet. Make them: tellapart evaluate "):
        compare(*pair, split="test")
    look_at_test(pair[1], pair[1])
    found = compare(*pair)
    assert (found.split, found.n) == ("test", 12)
    said = " ".join(str(found).split())
    assert "whoever chooses a run by this comparison has used up test" in said
    assert "test of B was looked at 2 times" in said
    assert "val chose the weights" not in said
    assert "val chose the weights" in " ".join(str(compare(*pair, split="val")).split())


def test_what_has_no_predictions(runs: Path, tmp_path: Path) -> None:
    path = runs / "few/seed-0"
    with pytest.raises(RunError, match="expected two runs or more, found 1"):
        compare(path)
    with pytest.raises(RunError, match="unknown split 'train'"):
        compare(path, path, split="train")
    with pytest.raises(RunError, match="found nothing"):
        compare(path, tmp_path / "absent")
    with pytest.raises(RunError, match=r"this is a bundle, which has no predictions. Name the run"):
        compare(path, path / "bundle")
    with pytest.raises(RunError, match="expected a run folder"):
        compare(path, tmp_path)
    (runs / "few/seed-1/result.json").unlink()
    (runs / "few/seed-1/predictions/val.parquet").unlink()
    with pytest.raises(RunError, match=r"has not ended. Go on with: tellapart train --resume .*seed-1"):
        compare(path, runs / "few/seed-1")
    none = train(tmp_path / "none", data__test_fraction=0).path
    with pytest.raises(RunError, match="has no test images"):
        compare(none, none, split="test")


# --- refused ---------------------------------------------------------------------------------------------------------


def test_another_division_is_refused_with_a_way_out(runs: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "other", data__split_seed=5).path
    with pytest.raises(RunError) as caught:
        compare(runs / "few/seed-0", other)
    said = str(caught.value)
    mine, its = (set(Predictions.load(path / "predictions/val.parquet").paths) for path in (runs / "few/seed-0", other))
    assert f"{len(mine - its)} images only in A ({runs / 'few/seed-0'}): " in said
    assert f"{len(its - mine)} images only in B ({other}): " in said
    assert f"{len(mine & its)} images in both" in said
    assert "train one with --data.split and the folder of the other" in said


def test_changed_pixels_and_labels_are_named(folder: Path, tmp_path: Path) -> None:
    first = folder / "few/seed-0"
    path = Predictions.load(first / "predictions/val.parquet").paths[3]
    row = list(Run(first).split.paths).index(path)
    images, labels = IMAGES.copy(), LABELS.copy()
    images[row] += 1
    repainted = train(tmp_path / "repainted", (images, LABELS), data__split=str(folder / "few")).path
    with pytest.raises(RunError, match=rf"1 image with other pixels under the same path: {path}"):
        compare(first, repainted)
    labels[row] = (labels[row] + 1) % 3
    relabelled = train(tmp_path / "relabelled", (IMAGES, labels), data__split=str(folder / "few")).path
    expected = rf"1 image with another label: {path} \('{LABELS[row]}' in A .*, '{labels[row]}' in B"
    with pytest.raises(RunError, match=expected):
        compare(first, relabelled)


def test_other_classes_are_named_and_another_order_is_none(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = make_folder({"ant": 12, "bee": 12})
    first = train(tmp_path / "first", data, preprocess__size_px=8).path
    shutil.copytree(first, tmp_path / "second")
    table = Predictions.load(first / "predictions/val.parquet")
    from dataclasses import replace

    turned = replace(table, classes=("bee", "ant"), targets=1 - table.targets, outputs=table.outputs[:, ::-1].copy())
    turned.save(tmp_path / "second/predictions/val.parquet")
    assert compare(first, tmp_path / "second").pairs[0].found.is_same
    replace(table, classes=("ant", "wasp")).save(tmp_path / "second/predictions/val.parquet")
    with pytest.raises(RunError) as caught:
        compare(first, tmp_path / "second")
    assert "classes only in A" in str(caught.value)
    assert ": wasp" in str(caught.value)
    assert "--data.split" not in str(caught.value)


def test_predictions_of_other_weights_or_divisions_are_refused(runs: Path) -> None:
    pair = runs / "few/seed-0", runs / "few/seed-1"
    file = pair[1] / "bundle/model.safetensors"
    before = file.read_bytes()
    file.write_bytes(before + b" ")
    with pytest.raises(RunError, match=r"the weights changed after the predictions on val were made. Make them again"):
        compare(*pair)
    file.write_bytes(before)
    compare(*pair)
    split = Run(pair[1]).split
    place = int(split.rows("val")[0])
    parts = [*split.splits[:place], "train", *split.splits[place + 1 :]]
    Split(split.paths, split.classes, tuple(parts), split.pixel_hashes).save(pair[1] / "split.parquet")
    with pytest.raises(RunError, match=r"split\.parquet"):
        compare(*pair)


# --- seeds, folds and files ------------------------------------------------------------------------------------------


def test_seeds_are_compared_by_their_means(folder: Path) -> None:
    found = compare(folder / "few", folder / "many")
    sides = [SeedsRun(folder / name) for name in ("few", "many")]
    means = [side.metrics["top1"]["value"] for side in sides]
    (pair,) = found.pairs
    assert [run.metrics["top1"].value for run in found.runs] == pytest.approx(means)
    assert [run.spread.num_runs for run in found.runs if run.spread] == [2, 3]
    assert pair.found.differences["top1"].value == pytest.approx(means[1] - means[0])
    assert pair.found.seeds is not None
    assert pair.found.seeds.difference == pytest.approx(means[1] - means[0])
    assert "over images" in pair.sentence
    assert "Welch's test over the seeds" in pair.sentence
    assert found.as_dict()["pairs"][0]["over_seeds"]["value"] == pytest.approx(means[1] - means[0])


def test_seeds_on_test(runs: Path) -> None:
    with pytest.raises(RunError, match=r"no predictions of .*few/seed-0 on test yet. Make them: tellapart evaluate"):
        compare(runs / "few", runs / "many", split="test")
    for name in ("few", "many"):
        evaluate_seeds(SeedsRun(runs / name), "test", data=DATA, progress=False)
    assert compare(runs / "few", runs / "many").split == "test"


def test_one_training_has_no_spread(folder: Path) -> None:
    with pytest.raises(RunError, match=r"A .* has several seeds and B .* is one training.*such as .*few/seed-0"):
        compare(folder / "few", folder / "many/seed-0")


def test_folds_are_compared_on_all_images(runs: Path, folder: Path) -> None:
    shutil.copytree(runs / "folds", runs / "again")
    found = compare(runs / "folds", runs / "again")
    assert (found.split, found.n) == ("all", 120)
    assert found.pairs[0].found.is_same
    assert FoldsRun(runs / "folds").predictions.paths == list(Run(runs / "few/seed-0").split.paths)
    with pytest.raises(RunError, match=r"folds, whose tables are of what each tested on. Take --split test"):
        compare(runs / "folds", runs / "again", split="val")
    shutil.copy(runs / "few/seed-0/predictions/val.parquet", runs / "val.parquet")
    with pytest.raises(RunError, match="84 images only in A"):
        compare(runs / "folds", runs / "val.parquet")
    with pytest.raises(RunError, match=r"A .* has folds, .* and B .* is one run, judged on some.*such as .*fold-1"):
        compare(runs / "folds", runs / "few/seed-0")


def write_csv(path: Path, table: Predictions, *, names: bool = True) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(["path"] if names else ["index"]), "class", *(f"prob_{name}" for name in table.classes)])
        for row in range(len(table)):
            image = table.paths[row] if names else table.indices[row]
            writer.writerow([image, table.classes[table.targets[row]], *map(float, table.outputs[row])])
    return path


@pytest.mark.parametrize("names", [True, False])
def test_a_table_of_another_tool(folder: Path, tmp_path: Path, names: bool) -> None:
    table = Predictions.load(folder / "many/seed-0/predictions/val.parquet")
    file = write_csv(tmp_path / "theirs.csv", table, names=names)
    found = compare(folder / "few/seed-0", file)
    expected = compare(folder / "few/seed-0", folder / "many/seed-0")
    assert found.runs[1].kind == "file"
    assert found.pairs[0].found.counts == expected.pairs[0].found.counts
    assert found.config == {}
    assert "images are known by their paths alone" in " ".join(str(found).split())


def test_beside_a_table_the_split_is_the_one_of_its_images(runs: Path, tmp_path: Path) -> None:
    run = runs / "few/seed-0"
    look_at_test(run)
    for split in ("val", "test"):
        table = Predictions.load(run / f"predictions/{split}.parquet")
        found = compare(run, write_csv(tmp_path / f"{split}.csv", table))
        assert (found.split, found.pairs[0].found.is_same) == (split, True)


def test_a_table_of_other_images_is_told_what_it_needs(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text("class,0,1,2\n0,0.5,0.25,0.25\n1,0.5,0.25,0.25\n")
    with pytest.raises(RunError, match="A table in a file needs a column path that names the images as the run does"):
        compare(folder / "few/seed-0", file)


# --- on the screen ---------------------------------------------------------------------------------------------------


def test_json_has_every_number_and_no_nan(folder: Path) -> None:
    found = compare(folder / "few/seed-0", folder / "few/seed-1", folder / "many/seed-2").as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    pair = found["pairs"][1]
    assert (pair["first"], pair["second"], pair["test"]) == ("A", "C", "mcnemar")
    assert sum(pair["counts"].values()) == found["n"] == 36
    assert pair["p_adjusted"] >= pair["p"]
    assert set(pair["differences"]["top1"]) == {"value", "low", "high"}


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main.run(["compare", "few/seed-0", "many/seed-1", "few/seed-1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("val (n = 36)\n")
    assert "\nwhat differs in their configs\n" in out
    assert "\nB - A\n" in out
    assert "McNemar's exact test" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main.run(["compare", "few", "many", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["test"] == "welch"
    with pytest.raises(SystemExit) as caught:
        main.run(["compare", "few/seed-0"])
    assert caught.value.code == 2
    assert "expected two runs or more, found 'few/seed-0' alone" in capsys.readouterr().err
    assert main.run(["compare", "few/seed-0", "folds/fold-1"]) == 1
    assert "cannot be compared" in capsys.readouterr().err

"""`evaluate` on other data and tables, and what it measures on request; what is noted, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tellapart
from tellapart.api.evaluate import looks_at, record
from tellapart.api.looks import all_looks, fingerprint, looks_in_words
from tellapart.api.run import Run
from tellapart.data.splits import Split
from tellapart.errors import ConfigError, DataError, RunError
from tellapart.evaluation.corruptions import CORRUPTIONS, corrupt
from tellapart.evaluation.predictions import Predictions

COUNTS = {"ant": 12, "bee": 12, "cat": 12}
SPLIT_FILES = ("predictions/val.parquet", "split.parquet", "result.json", "history.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    """A folder with images and a run over them; tests get a copy."""
    root = tmp_path_factory.mktemp("trained")
    folder = write_images(root / "images", COUNTS)
    options = {"train.batch_size": 8, "train.report": "no"}
    tellapart.train(folder, model="cnn", epochs=1, run=root / "run", options=options, progress=False)
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copytree(trained / "images", tmp_path / "images")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "images")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return Run(tmp_path / "run")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """New images of two of the classes, none of them in the run."""
    rng = np.random.default_rng(99)
    for name in ("bee", "ant"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for place in range(5):
            pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "other" / name / f"{place}.png")
    return tmp_path / "other"


def evaluate(run: Run | Path | str, split: str | None = None, **arguments: Any) -> tellapart.Evaluation:
    return tellapart.evaluate(run, split, progress=False, **arguments)


def words(evaluation: tellapart.Evaluation) -> str:
    """Return what is printed, whatever the ends of the lines."""
    return " ".join(" ".join(evaluation.lines()).split())


# other data


def test_other_data_is_matched_by_name_and_stored_beside(run: Run, other: Path) -> None:
    before = {name: (run.path / name).read_bytes() for name in SPLIT_FILES}
    found = evaluate(run, data=other)
    assert {name: (run.path / name).read_bytes() for name in SPLIT_FILES} == before
    assert (found.n, found.num_given, found.data, found.split) == (10, 10, "other", "data-other")
    table = Predictions.load(run.path / "predictions" / "data-other.parquet")
    assert table.classes == ("ant", "bee", "cat")
    assert [table.classes[k] for k in table.targets] == [path.split("/")[0] for path in table.paths]
    predicted = tellapart.load(run).predict([other / path for path in table.paths])
    assert [table.classes[k] for k in table.predicted()] == [each.label for each in predicted]
    np.testing.assert_allclose(table.outputs.max(axis=1), [each.prob for each in predicted], rtol=1e-4)
    assert found.overlap is None
    look = all_looks(run)[-1]
    assert (look["data"], look["n"]) == ("other", 10)
    assert looks_at(run, "test") == []


def test_images_that_the_run_has_seen_are_counted(run: Run, other: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for place, row in enumerate(run.split.rows(split)[:count]):
            path = run.split.paths[row]
            target = other / path.split("/")[0] / f"{split}{place}.png"
            target.parent.mkdir(exist_ok=True)
            # The same pixels in another file.
            Image.open(Path(run.config.data.source) / path).save(target, compress_level=0)
    found = evaluate(run, data=other)
    assert found.overlap is not None
    assert (found.overlap.num_trained_on, found.overlap.num_chosen_by, found.overlap.num_new) == (3, 2, 11)
    said = words(found)
    assert "3 of these 16 images are among those that the run was trained on, and 2 are in its val" in said
    assert "n = 11)" in said
    everything = evaluate(run, data=Path(run.config.data.source))
    assert everything.overlap is not None
    assert everything.overlap.num_trained_on == len(run.split.rows("train"))


def test_unreadable_images_of_other_data_are_counted_and_named(run: Run, other: Path) -> None:
    (other / "ant" / "3.png").write_bytes(b"nonsense")
    found = evaluate(run, data=other)
    assert (found.n, found.num_given) == (9, 10)
    assert list(found.unreadable) == ["ant/3.png"]
    lines = found.lines()
    assert lines[0].endswith("n = 9 of 10 given)")
    assert any(line.startswith("  ant/3.png: ") for line in lines)
    assert Predictions.load(run.path / "predictions" / "data-other.parquet").num_given == 10
    for path in other.rglob("*.png"):
        path.write_bytes(b"nonsense")
    with pytest.raises(RunError, match="none that could be read of 10 given"):
        evaluate(run, data=other)


def test_classes_that_the_run_does_not_know(run: Run, other: Path) -> None:
    (other / "bee").rename(other / "Bee")
    (other / "wasp").mkdir()
    shutil.copy(other / "ant" / "0.png", other / "wasp")
    with pytest.raises(DataError) as caught:
        evaluate(run, data=other)
    assert "does not know the classes 'Bee', 'wasp'. Did you mean 'bee' by 'Bee'?" in str(caught.value)
    assert "It knows: ant, bee, cat." in str(caught.value)
    assert not (run.path / "predictions" / "data-other.parquet").exists()


def test_a_part_of_other_data(run: Run, other: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no part of its own called test. It is not divided; without --split all"):
        evaluate(run, "test", data=other)
    shutil.copytree(other, tmp_path / "parts" / "train")
    shutil.copytree(other, tmp_path / "parts" / "test")
    (tmp_path / "parts" / "test" / "ant" / "0.png").unlink()
    found = evaluate(run, "test", data=tmp_path / "parts")
    assert (found.n, found.data) == (9, "parts (test)")
    assert looks_at(run, "test") == []
    assert evaluate(run, data=tmp_path / "parts").n == 19
    with pytest.raises(DataError, match=r"called val. It has: train \(10 images\), test \(9 images\)"):
        evaluate(run, "val", data=tmp_path / "parts")


def test_other_data_of_one_class(run: Run, other: Path) -> None:
    shutil.rmtree(other / "ant")
    found = evaluate(run, data=other)
    assert found.n == 5
    assert {found.predictions.classes[k] for k in found.predictions.targets} == {"bee"}
    (other / "bee").rename(other / "wasp")
    with pytest.raises(DataError):
        evaluate(run, data=other)


def test_other_labels_than_the_runs(run: Run) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises((DataError, ConfigError)):
        evaluate(run, data=(images, np.eye(4)[:, :3]))
    with pytest.raises(DataError, match="there is no such file or folder"):
        evaluate(run, data="./nowhere")


# test-time augmentation


def test_views_are_stored_beside_and_recorded(run: Run) -> None:
    before = (run.path / "predictions" / "val.parquet").read_bytes()
    one, several = evaluate(run), evaluate(run, tta="flip")
    assert (run.path / "predictions" / "val.parquet").read_bytes() == before
    assert not np.array_equal(one.predictions.outputs, several.predictions.outputs)
    stored = Predictions.load(run.path / "predictions" / "val-flip.parquet")
    np.testing.assert_array_equal(stored.outputs, several.predictions.outputs)
    looks = looks_at(run, "val")
    assert [look.get("tta") for look in looks][-2:] == [None, "flip"]
    assert several.as_dict()["tta"] == "flip"
    assert "--tta flip" in "\n".join(several.lines())
    with pytest.raises(ConfigError, match="Did you mean 'flip'"):
        evaluate(run, tta="flp")


# looks at test


def test_a_look_with_other_weights_is_told(run: Run) -> None:
    assert "looked at" not in "\n".join(evaluate(run, "test").lines())
    again = evaluate(run, "test")
    assert "test was looked at 2 times, always with the same weights" in "\n".join(again.lines())
    lines = (run.path / "evaluations.jsonl").read_text().splitlines()
    changed = json.loads(lines[-1]) | {"weights": "0" * 64}
    (run.path / "evaluations.jsonl").write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
    said = words(evaluate(run, "test"))
    assert "test was looked at 3 times, with 2 different weights" in said
    assert len(evaluate(run, "test", tta="flip").looks) == 4
    assert "looked at" not in "\n".join(evaluate(run).lines())
    look = all_looks(run)[0]
    assert look["temperature"] == tellapart.load(run).temperature
    assert looks_in_words([]) == looks_in_words([look]) == ""


# an edited division


@pytest.mark.parametrize("field", ["splits", "classes", "paths", "pixel_hashes"])
def test_an_edited_division_is_refused(run: Run, field: str) -> None:
    stored = run.split
    row = int(stored.rows("test")[0])
    values = list(getattr(stored, field))
    values[row] = {"splits": "train", "classes": "bee" if values[row] != "bee" else "ant"}.get(field, values[row][::-1])
    edited = Split(**{**{name: getattr(stored, name) for name in stored.__dataclass_fields__}, field: tuple(values)})
    edited.save(run.path / "split.parquet")
    with pytest.raises(RunError, match="not the division that the run was trained with") as caught:
        evaluate(Run(run.path), "test")
    if field == "splits":
        counts = {name: len(stored.rows(name)) for name in ("train", "test")}
        assert f"train had {counts['train']} images and has {counts['train'] + 1}" in str(caught.value)
        assert f"test had {counts['test']} images and has {counts['test'] - 1}" in str(caught.value)
    assert [look["split"] for look in all_looks(run)] == ["val"]


def test_a_division_that_was_written_again_is_the_same(run: Run) -> None:
    before = (run.path / "split.parquet").read_bytes()
    stored = run.split
    stored.save(run.path / "other.csv")
    Split.load(run.path / "other.csv").save(run.path / "split.parquet")
    assert fingerprint(Run(run.path).split) == fingerprint(stored)
    evaluate(Run(run.path))
    (run.path / "split.parquet").write_bytes(before)


def test_a_run_of_before_fingerprints_passes(run: Run) -> None:
    path = run.path / "evaluations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "division"}) + "\n" for line in lines))
    evaluate(run)
    path.unlink()
    evaluate(run)


# corruptions


def test_corruptions_are_what_the_classifier_says_of_corrupted_images(run: Run) -> None:
    found = evaluate(run, corruptions=True).robustness
    assert found is not None
    assert json.loads((run.path / "robustness.json").read_text()) == found
    assert (found["n"], found["split"], found["is_drawn"]) == (len(run.split.rows("val")), "val", False)
    assert list(found["corruptions"]) == list(CORRUPTIONS)
    classifier, rows = tellapart.load(run), run.split.rows("val")
    images = [classifier.reduce(Path(run.config.data.source) / run.split.paths[row]) for row in rows]
    import torch

    for name in ("shot-noise", "contrast"):
        changed = corrupt(torch.stack(images), name, 5, indices=rows, seed=run.config.seed)
        labels = [classifier.classes[k] for k in classifier.outputs(changed).argmax(1)]
        share = np.mean([label == run.split.classes[row] for label, row in zip(labels, rows, strict=True)])
        assert found["corruptions"][name]["strengths"][4]["value"] == pytest.approx(share)
    values = [each["value"] for kind in found["corruptions"].values() for each in kind["strengths"]]
    assert found["mean"]["value"] == pytest.approx(np.mean(values))
    assert found["mean"]["low"] <= found["mean"]["value"] <= found["mean"]["high"]
    assert found == evaluate(run, corruptions=True).robustness


def test_corruptions_of_a_drawn_subset(run: Run) -> None:
    found = evaluate(run, "train", corruptions=True, limit=5)
    assert found.robustness is not None
    assert (found.robustness["n"], found.robustness["is_drawn"]) == (5, True)
    assert found.n == len(run.split.rows("train"))
    assert f"(n = 5, drawn from {found.n})" in "\n".join(found.lines())
    with pytest.raises(RunError, match="no effect without them"):
        evaluate(run, limit=5)
    with pytest.raises(RunError, match="or 0 for all, found -1"):
        evaluate(run, corruptions=True, limit=-1)


# selective answers


def test_selective_answers_are_chosen_on_val_and_judged_elsewhere(run: Run) -> None:
    found = evaluate(run, "test", selective=True).selective
    assert found is not None
    assert found["chosen_on_val"]["n"] == len(run.split.rows("val"))
    assert found["chosen_on_val"]["confidence"] is None
    assert "judged" not in found
    assert not found["is_judged_on_what_chose"]
    said = words(evaluate(run, selective=True))
    assert "val cannot support a confidence for 99% accuracy: 4 images are too few" in said
    assert [look["split"] for look in all_looks(run)] == ["val", "test", "val"], "val was there already"


def test_selective_takes_val_again_where_the_weights_changed(run: Run) -> None:
    lines = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    (run.path / "evaluations.jsonl").write_text(json.dumps(lines[0] | {"weights": "0" * 64}) + "\n")
    evaluate(run, "test", selective=True)
    assert [look["split"] for look in all_looks(run)] == ["val", "val", "test"]
    evaluate(run, "test", selective=True, tta="flip")
    assert [look["split"] for look in all_looks(run)][3:] == ["val", "test"]


# out of distribution


def test_the_unknown_needs_no_labels(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "odd" / "deep").mkdir(parents=True)
    for place in range(6):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "odd" / f"{place}.png")
    (tmp_path / "odd" / "deep" / "x.png").write_bytes(b"nonsense")
    seen = run.split.paths[run.split.rows("train")[0]]
    shutil.copy(Path(run.config.data.source) / seen, tmp_path / "odd" / "deep" / "seen.png")
    found = evaluate(run, ood=tmp_path / "odd")
    assert found.ood is not None
    assert json.loads((run.path / "ood.json").read_text()) == found.ood
    assert (found.ood["n"], found.ood["num_given"], found.ood["num_known"]) == (7, 8, found.n)
    assert found.ood["num_trained_on"] == 1
    assert list(found.ood["unreadable"]) == ["deep/x.png"]
    assert list(found.ood["scores"]) == ["max_softmax", "max_logit", "energy"]
    said = "\n".join(found.lines())
    assert "AUROC" in said
    assert "warning: 1 of the images of odd are among those that the run was trained on" in said


def test_the_unknown_may_be_any_data_and_its_test_part(run: Run) -> None:
    found = evaluate(run, ood="digits")
    assert found.ood is not None
    assert found.ood["n"] == 1797
    images = np.zeros((6, 9, 9, 3), np.uint8)
    assert evaluate(run, ood=(images, np.arange(6) % 2)).ood is not None


# everything as JSON and as text


def test_json_has_everything(run: Run, other: Path) -> None:
    found = evaluate(run, "test", corruptions=True, selective=True, ood=other)
    told = found.details()
    json.dumps(told, allow_nan=False)
    assert list(told)[:4] == ["split", "n", "num_given", "metrics"]
    for key in ("per_class", "confusion_matrix", "temperature", "robustness", "selective", "ood", "looks", "classes"):
        assert told[key] is not None, key
    assert np.sum(told["confusion_matrix"]) == found.n
    assert np.trace(told["confusion_matrix"]) / found.n == found.metrics["top1"].value
    if found.predictions.temperature != 1:
        assert set(told["uncalibrated"]) >= {"nll", "ece"}
    assert all(len(line) <= 80 for line in found.lines(80)), [line for line in found.lines(80) if len(line) > 80]
    assert all(line == line.rstrip() for line in found.lines(80))
    assert "\x1b" not in "\n".join(found.lines())


# tables


def write_table(predictions: Predictions, path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", *predictions.classes])
        for place, row in enumerate(predictions.outputs):
            writer.writerow([predictions.paths[place], predictions.classes[predictions.targets[place]], *row])
    return path


def test_a_table_gives_the_numbers_of_its_run(run: Run, tmp_path: Path) -> None:
    own = evaluate(run, "train")
    looks = len(all_looks(run))
    found = evaluate(write_table(own.predictions, tmp_path / "theirs.csv"))
    assert {name: found.metrics[name] for name in ("top1", "f1_macro", "kappa")} == {
        name: own.metrics[name] for name in ("top1", "f1_macro", "kappa")
    }
    assert found.lines()[0].startswith("accuracy on theirs.csv: ")
    assert evaluate(run.path / "predictions" / "train.parquet").metrics == own.metrics
    assert len(all_looks(run)) == looks
    curve = evaluate(tmp_path / "theirs.csv", selective=True)
    assert curve.selective is not None
    assert "No confidence was chosen" in " ".join(curve.lines())
    with pytest.raises(RunError, match=r"is a table of predictions; --split, --tta, --ood needs a run"):
        evaluate(tmp_path / "theirs.csv", "test", tta="flip", ood=tmp_path)


def test_what_is_neither_run_nor_table(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(RunError, match=r"a file that ends in .csv, .tsv, .parquet"):
        evaluate(tmp_path / "photo.jpg")
    with pytest.raises(RunError, match=r"expected a table of predictions .*, found no such file"):
        evaluate(tmp_path / "nowhere.csv")
    with pytest.raises(RunError, match="is a bundle"):
        evaluate(run.bundle)


# tasks without classes


def test_numbers_have_no_corruptions_and_no_choosing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    values = images.mean((1, 2))[:, None].astype(np.float32)
    options = {"data.task": "regression", "train.report": "no"}
    numbers = tellapart.train(
        (images, values), model="cnn", epochs=1, run=tmp_path / "n", options=options, progress=False
    )
    for wanted, why in (("corruptions", "accuracy"), ("selective", "probability"), ("ood", "predicts numbers")):
        with pytest.raises(RunError, match=why):
            asked: dict[str, Any] = {wanted: tmp_path if wanted == "ood" else True}
            evaluate(numbers, data=(images, values), **asked)
    told = evaluate(numbers, data=(images, values))
    assert told.data == "", "the same arrays again are the run's own"
    assert told.details()["confusion_matrix"] is None
    assert told.lines()[0].startswith("mse on val: ")
    more = evaluate(numbers, data=(images[::-1].copy(), values[::-1].copy()))
    assert more.data == "arrays"
    assert more.overlap is not None
    with pytest.raises(DataError, match=r"has 2 numbers an image, but the run predicts 1"):
        evaluate(numbers, data=(images[:20], np.repeat(values[:20], 2, axis=1)))


def test_labels_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    targets = rng.integers(0, 2, (40, 3))
    options = {"train.report": "no"}
    run = tellapart.train((images, targets), model="cnn", epochs=1, run=tmp_path / "m", options=options, progress=False)
    found = evaluate(run, data=(images, targets), ood=images_folder(tmp_path))
    assert found.ood is not None
    assert list(found.ood["scores"]) == ["max_logit"]
    assert found.details()["thresholds"] == list(tellapart.load(run).thresholds)
    with pytest.raises(RunError, match="multilabel"):
        evaluate(run, data=(images, targets), corruptions=True)
    with pytest.raises(RunError, match="multilabel"):
        evaluate(run, data=(images, targets), selective=True)


def images_folder(root: Path) -> Path:
    (root / "pictures").mkdir()
    for place in range(3):
        Image.new("L", (8, 8), 80 * place).save(root / "pictures" / f"{place}.png")
    return root / "pictures"


def test_a_record_of_other_data_survives_a_name_that_is_no_file_name(run: Run) -> None:
    evaluation = evaluate(run)
    from dataclasses import replace

    record(run, replace(evaluation, split="data-a-b", data="a/b"))
    assert all_looks(run)[-1]["data"] == "a/b"


# folds and seeds


def test_folds_and_seeds_answer_together(tmp_path: Path, image_folder: Path) -> None:
    options = {"train.report": "no", "data.folds": 2}
    folds = tellapart.train(image_folder, model="cnn", epochs=1, run=tmp_path / "f", options=options, progress=False)
    found = evaluate(folds.path)
    assert found.n == 12
    assert found.lines()[0].startswith("accuracy on the test parts of 2 folds: ")
    assert folds.result is not None
    assert found.as_dict()["metrics"]["top1"] == folds.result["metrics"]["top1"]
    with pytest.raises(RunError, match=r"--corruptions needs one of them, such as .*fold-1"):
        evaluate(folds.path, corruptions=True)
    options = {"train.report": "no", "seeds": 2}
    seeds = tellapart.train(image_folder, model="cnn", epochs=1, run=tmp_path / "s", options=options, progress=False)
    told: Any = evaluate(seeds.path, "test")
    assert told.details()["seeds"] == 2
    assert "over 2 seeds" in " ".join(told.lines())
    assert [len(looks_at(Run(path), "test")) for path in sorted(seeds.path.glob("seed-*"))] == [1, 1]

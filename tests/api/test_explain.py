"""`explain`: the prediction that `predict` gives, honest neighbours, and a sentence for whatever cannot be said."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tellapart
from tellapart.api import training_images
from tellapart.api.asked_images import rank_mistakes
from tellapart.api.explain import Explained, explain
from tellapart.api.run import Run
from tellapart.data.sources.arrays import ArraySource
from tellapart.errors import DataError, MissingError, RunError
from tellapart.evaluation.embeddings import Embedder, find_head
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting.explanation import Explanation, Unreadable

pytest.importorskip("captum", reason="captum is not installed")

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
IMAGES = (RNG.integers(0, 64, (60, 12, 12)) + 64 * LABELS[:, None, None]).astype(np.uint8)
OPTIONS: dict[str, Any] = {"train.batch_size": 8, "preprocess.size_px": 16, "train.report": "no"}


def train(run: Path, data: Any, model: str = "cnn", epochs: int = 2) -> Run:
    return tellapart.train(data, model=model, epochs=epochs, run=run, options=OPTIONS, progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("trained")
    write_images(root / "images", {"ant": 12, "bee": 12, "cat": 12}, ((20, 24), (16, 16)))
    train(root / "run", root / "images")
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of a run over a copy of its folder of images."""
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copytree(trained / "images", tmp_path / "images")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["source"] = str(tmp_path / "images")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return Run(tmp_path / "run")


def look(run: Any, images: Any = (), **arguments: Any) -> Explained:
    return explain(run, images, progress=False, **arguments)


def one(run: Any, images: Any = (), **arguments: Any) -> Explanation:
    (found,) = look(run, images, **arguments).images
    assert isinstance(found, Explanation)
    return found


def path_of(run: Run, row: int) -> Path:
    return Path(run.config.data.source) / run.split.paths[row]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_prediction_is_that_of_predict_and_the_picture_what_the_network_sees(run: Run) -> None:
    row = int(run.split.rows("val")[0])
    found = one(run, path_of(run, row))
    (expected,) = run.predict(path_of(run, row))
    assert found.prediction == expected
    assert found.predicted == (expected.label,)
    assert found.path == str(path_of(run, row))
    assert found.truth == run.split.classes[row]  # known by its pixels
    assert found.is_right == (found.truth == expected.label)
    preprocess = run.classifier.module.preprocess
    assert found.picture.shape == (3, 16, 16)
    reduced = run.classifier.reduce(path_of(run, row)).numpy()
    margin = (preprocess.resize_px - 16) // 2
    np.testing.assert_array_equal(found.picture, reduced[:, margin : margin + 16, margin : margin + 16])
    assert [heat.role for heat in found.heats] == ["predicted"] + ["true"] * (not found.is_right)
    assert found.heats[0].heat.shape == (16, 16)


def test_neighbours_are_the_nearest_of_the_training_images(run: Run) -> None:
    rows = run.split.rows("train")
    network = run.classifier.module.network
    embed = Embedder(network, find_head(network, 3, 3, 16))

    def features(row: int) -> np.ndarray:
        reduced = run.classifier.reduce(path_of(run, row))[None]
        (found,) = embed(training_images.network_inputs(run.classifier, reduced))
        return found / np.linalg.norm(found)

    bank = np.stack([features(row) for row in rows.tolist()])
    query = int(run.split.rows("val")[1])
    expected = bank @ features(query)
    found = one(run, path_of(run, query), neighbours=4)
    order = np.argsort(-expected, kind="stable")[:4]
    np.testing.assert_allclose([n.similarity for n in found.neighbours], expected[order], atol=1e-5)
    assert [n.path for n in found.neighbours] == [run.split.paths[row] for row in rows[order]]
    assert [n.label for n in found.neighbours] == [run.split.classes[row] for row in rows[order]]
    assert len(one(run, path_of(run, query), neighbours=999).neighbours) == len(rows)
    assert one(run, path_of(run, query), neighbours=0).neighbours == ()


def test_an_image_that_was_trained_on_says_so_and_is_not_its_own_neighbour(run: Run, tmp_path: Path) -> None:
    row = int(run.split.rows("train")[0])
    elsewhere = tmp_path / "renamed.bmp"
    Image.open(path_of(run, row)).save(elsewhere)
    found = one(run, elsewhere)
    assert found.trained_on == (run.split.paths[row],)
    assert "This very image was trained on" in found.remarks()[0]
    assert row not in [n.row for n in found.neighbours]
    assert len(found.neighbours) == 6
    other = one(run, path_of(run, int(run.split.rows("val")[0])))
    assert other.trained_on == ()


def test_an_unknown_image_has_no_label(run: Run) -> None:
    found = one(run, RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8))
    assert (found.path, found.truth, found.is_right) == ("image 0", None, None)
    assert [heat.role for heat in found.heats] == ["predicted"]


def test_features_are_kept_in_the_run_and_used_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run.path)
    first = one(run, IMAGES[0])
    after = files(run.path)
    assert set(after) - set(before) == {"embeddings/train.safetensors"}
    assert all(after[name] == content for name, content in before.items())

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("the training images were read again")

    monkeypatch.setattr(training_images, "read_chunks", forbidden)
    assert one(run, IMAGES[0]).neighbours == first.neighbours


@pytest.mark.parametrize("damage", ["flip", "cut", "stale"])
def test_features_that_do_not_hold_are_made_again(run: Run, damage: str) -> None:
    first = one(run, IMAGES[0])
    path = run.path / "embeddings" / "train.safetensors"
    whole = path.read_bytes()
    if damage == "stale":  # as of other weights
        from tellapart.evaluation.embeddings import Bank

        Bank(np.arange(3), np.zeros((3, 2), np.float16)).save(path, "other")
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "flip" else whole[:100])
    assert one(run, IMAGES[0]).neighbours == first.neighbours
    assert path.read_bytes() == whole


def test_data_that_is_gone_leaves_the_rest(run: Run) -> None:
    shutil.move(run.config.data.source, f"{run.config.data.source}-away")
    result = look(run, IMAGES[0])
    (found,) = result.images
    assert isinstance(found, Explanation)
    assert found.neighbours == ()
    assert found.heats
    assert "own images cannot be read" in result.notes[0]
    assert "So there are no neighbours" in result.notes[0]
    with pytest.raises(DataError, match="its own images cannot be read"):
        look(run, index=[0])

    shutil.move(f"{run.config.data.source}-away", run.config.data.source)
    kept = one(run, IMAGES[0]).neighbours
    shutil.move(run.config.data.source, f"{run.config.data.source}-away")
    result = look(run, IMAGES[0])
    assert "Those of an earlier look are named" in result.notes[0]
    assert result.explanations[0].neighbours == kept


def test_training_images_that_changed_or_went_are_left_out_and_counted(run: Run) -> None:
    gone, changed = run.split.rows("train")[:2].tolist()
    path_of(run, gone).unlink()
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path_of(run, changed))
    result = look(run, IMAGES[0], neighbours=99)
    assert "2 of 28 training images are gone or changed" in " ".join(result.notes)
    assert not {gone, changed} & {n.row for n in result.explanations[0].neighbours}
    assert len(result.explanations[0].neighbours) == 26
    assert not (run.path / "embeddings").exists()  # it is not whole


def test_a_run_that_may_not_be_written_to_is_explained(run: Run) -> None:
    (run.path / "embeddings").write_text("in the way")
    assert len(one(run, IMAGES[0]).neighbours) == 6
    assert (run.path / "embeddings").read_text() == "in the way"


def test_unreadable_images_are_said_and_the_others_go_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = path_of(run, 0)
    result = look(run, [tmp_path / "bad.png", good, tmp_path / "none.png", "a\0b.png", b"", IMAGES[:1].astype(float)])
    kinds = [type(each) for each in result.images]
    assert kinds == [Unreadable, Explanation, Unreadable, Unreadable, Unreadable, Unreadable]
    assert result.num_unreadable == 5
    assert "No such file" in str(result)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["images"][0]["error"]


def test_folders_and_what_is_no_image(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.png"):
        Image.fromarray(IMAGES[0]).save(folder / name)
    (folder / "note.txt").write_text("no image")
    assert [each.path for each in look(run, folder).images] == [str(folder / "b.png"), str(folder / "deep/a.png")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no images there"):
        look(run, tmp_path / "empty")
    with pytest.raises(DataError, match="found int"):
        look(run, 3)
    assert look(run, []).images == ()


def test_mistakes_the_most_confident_first(run: Run) -> None:
    table = Predictions.load(run.path / "predictions" / "val.parquet")
    wrong = np.flatnonzero(table.predicted() != table.targets)
    assert len(wrong)
    result = look(run, split="val")
    expected = sorted(wrong, key=lambda place: -table.outputs[place].max())
    assert [each.path for each in result.images] == [table.paths[place] for place in expected[:10]]
    assert not any(each.is_right for each in result.explanations)
    assert all(len(each.heats) == 2 for each in result.explanations)
    assert len(look(run, mistakes=1).images) == 1
    if len(wrong) < 10:
        assert f"among {len(table)} images of val" in " ".join(result.notes)


def test_stored_predictions_of_other_weights_are_said(run: Run) -> None:
    path = run.path / "predictions" / "val.parquet"
    table = Predictions.load(path)
    turned = table.outputs[:, [1, 2, 0]]
    replace(table, outputs=turned).save(path)
    assert "made with other weights" in " ".join(look(run, mistakes=4).notes)


def test_ranks_of_mistakes_by_hand() -> None:
    base: dict[str, Any] = {"paths": list("abc"), "indices": np.arange(3), "num_given": 3}
    outputs = np.array([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8]], np.float32)
    one_of = Predictions("multiclass", ("x", "y"), targets=np.array([1, 1, 0]), outputs=outputs, **base)
    assert rank_mistakes(one_of).tolist() == [2, 0]
    targets = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    several = Predictions("multilabel", ("x", "y"), targets=targets, outputs=outputs, **base)
    assert rank_mistakes(several).tolist() == [1, 2]
    values = np.array([[1.0, 100.0], [2.0, 100.0], [3.0, 130.0]], np.float32)
    guessed = np.array([[1.0, 100.0], [2.0, 104.0], [2.0, 130.0]], np.float32)
    numbers = Predictions("regression", (), targets=values, outputs=guessed, **base)
    assert rank_mistakes(numbers).tolist() == [2, 1]


def test_rows_of_the_division(run: Run) -> None:
    result = look(run, index=[5, 0])
    assert [each.path for each in result.explanations] == [run.split.paths[5], run.split.paths[0]]
    assert [each.truth for each in result.explanations] == [run.split.classes[5], run.split.classes[0]]
    with pytest.raises(RunError, match="--index 36: its division has the rows 0 to 35"):
        look(run, index=[36])
    path_of(run, 5).unlink()
    (found,) = look(run, index=[5]).images
    assert isinstance(found, Unreadable)


def test_wrong_names(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"unknown class 'bea'\. Did you mean 'bee'"):
        look(run, IMAGES[0], class_name="bea")
    with pytest.raises(RunError, match=r"Did you mean 'features\.4'"):
        look(run, IMAGES[0], layer="features.44")
    with pytest.raises(RunError, match="Did you mean 'test'"):
        look(run, split="tset")
    with pytest.raises(RunError, match=r"tellapart evaluate .* --split test"):
        look(run, split="test")
    with pytest.raises(DataError, match="neighbours: expected 0 or more"):
        look(run, IMAGES[0], neighbours=-1)
    with pytest.raises(DataError, match="mistakes: expected at least 1"):
        look(run, mistakes=0)
    with pytest.raises(DataError, match="1,001 images at once"):
        look(run, [IMAGES[0]] * 1001)
    for name in ("page.png", "no/where.html"):
        with pytest.raises(DataError, match="--out"):
            look(run, IMAGES[0], out=tmp_path / name)


def test_a_class_and_a_layer_that_are_asked_for(run: Run) -> None:
    found = one(run, IMAGES[0], class_name="cat", layer="features.2")
    (heat,) = found.heats
    assert (heat.name, heat.role, heat.layer.name, heat.grid.shape) == ("cat", "asked", "features.2", (8, 8))


def test_a_bundle_alone_has_no_neighbours(run: Run) -> None:
    result = look(run.bundle, IMAGES[0])
    assert result.explanations[0].neighbours == ()
    assert result.explanations[0].heats
    assert "a bundle does not know" in result.notes[0]
    assert not (run.bundle / "embeddings").exists()
    with pytest.raises(RunError, match="a bundle knows no images of its own"):
        look(run.bundle, split="val")


def test_without_captum_it_is_said_before_anything_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingError, match=r"tellapart\[explain\]"):
        look(run, IMAGES[0])
    assert not (run.path / "embeddings").exists()


def test_the_page_is_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = look(run, [path_of(run, 0), tmp_path / "bad.png"], out=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert result.page == tmp_path / "page.html"
    assert text.count("data:image/webp") == 1 + len(result.explanations[0].heats) + 6
    assert "bad.png: cannot be read" in text
    assert not list(tmp_path.glob(".page*"))


def test_arrays_are_given_again(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS))
    result = look(run, IMAGES[0])
    assert "trained on arrays" in result.notes[0]
    found = one(run, IMAGES[0], data=(IMAGES, LABELS))
    assert found.truth == str(LABELS[0])
    assert len(found.neighbours) == 6
    assert found.picture.shape == (1, 16, 16)  # grey
    with pytest.raises(DataError):
        look(run, IMAGES[0], data=tmp_path / "nowhere")


def test_a_network_without_maps_has_neighbours_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS), model="mlp")
    monkeypatch.setitem(sys.modules, "captum.attr", None)  # which it does not need
    result = look(run, IMAGES[0], data=(IMAGES, LABELS), out=tmp_path / "page.html")
    assert result.layer is None
    assert "has no spatial map" in result.notes[0]
    assert result.explanations[0].heats == ()
    assert len(result.explanations[0].neighbours) == 6
    with pytest.raises(RunError, match="None of this network does"):
        look(run, IMAGES[0], data=(IMAGES, LABELS), layer="layers.0")


def test_numbers(tmp_path: Path) -> None:
    values = np.stack([LABELS * 1.5, IMAGES.mean((1, 2))], axis=1)
    run = train(tmp_path / "run", (IMAGES, values), epochs=1)
    found = one(run, IMAGES[7], data=(IMAGES, values))
    assert [(heat.name, heat.role) for heat in found.heats] == [("0", "value"), ("1", "value")]
    assert found.predicted == ()
    assert found.is_right is None
    assert found.truth is not None
    described = found.as_dict()
    assert described["prob"] is None
    assert len(described["values"]) == 2
    json.dumps(described, allow_nan=False)
    (heat,) = one(run, IMAGES[7], data=(IMAGES, values), class_name="1").heats
    assert heat.name == "1"
    assert look(run, mistakes=3, data=(IMAGES, values), out=tmp_path / "page.html").images


def test_several_labels(tmp_path: Path) -> None:
    targets = np.stack([LABELS == 0, LABELS == 1, LABELS != 1], axis=1).astype(np.int64)
    data = ArraySource(IMAGES, targets, classes=["a", "b", "c"])
    run = train(tmp_path / "run", data)
    result = look(run, index=list(range(12)), data=data)
    thresholds = run.classifier.thresholds or (0.5,) * 3
    for found in result.explanations:
        expected = {n for n, least in zip("abc", thresholds, strict=True) if found.prediction.probs[n] > least}
        assert set(found.predicted) == expected
        assert found.prediction.label == "|".join(sorted(expected))
        roles = {heat.name: heat.role for heat in found.heats}
        assert found.truth is not None
        true = set(found.truth.split("|")) - {""}
        assert {name for name, role in roles.items() if role == "predicted"} == expected
        assert {name for name, role in roles.items() if role == "true"} >= true - expected - set(roles)
        assert ("likeliest" in roles.values()) == (not expected)
        assert found.is_right == (expected == true)

"""The table of predictions: it comes back with the same bits, and a wrong or damaged one is refused with a reason."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import RunError
from tellapart.evaluation.predictions import TASKS, Predictions


def make(task: str, n: int = 7, num_classes: int = 3, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    outputs = rng.random((n, num_classes)).astype(np.float32)
    targets: Any = (rng.random((n, num_classes)) < 0.5).astype(np.float32)
    if task == "multiclass":
        outputs /= outputs.sum(axis=1, keepdims=True)
        targets = rng.integers(0, num_classes, n)
    elif task == "regression":
        outputs, targets = outputs * 1e20 - 5, rng.normal(size=(n, num_classes)).astype(np.float32)
    indices = rng.permutation(3 * n)[:n].astype(np.int64)
    classes = tuple(f"class {k}" for k in range(num_classes))
    return Predictions(task, classes, indices, [f"a/{i}.png" for i in indices], targets, outputs, num_given=n + 2)


def assert_same_bits(a: Predictions, b: Predictions) -> None:
    assert (a.task, a.classes, a.paths, a.num_given) == (b.task, b.classes, b.paths, b.num_given)
    for name in ("indices", "targets", "outputs"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [0, 1, 7, 3000])
def test_round_trip_keeps_every_bit(task: str, n: int, tmp_path: Path) -> None:
    predictions = make(task, n)
    predictions.save(tmp_path / "new folder" / "val.parquet")
    assert_same_bits(Predictions.load(tmp_path / "new folder" / "val.parquet"), predictions)


def test_round_trip_of_awkward_floats(tmp_path: Path) -> None:
    values = np.array([[-0.0, 1e-45], [np.finfo(np.float32).max, 0.1]], np.float32)
    predictions = replace(make("regression", 2, 2), outputs=values, targets=-values, classes=())
    predictions.save(tmp_path / "x.parquet")
    assert_same_bits(Predictions.load(tmp_path / "x.parquet"), predictions)


# All of Unicode, and the surrogates by which Python stands for bytes of a name that are not valid UTF-8.
names = st.text(
    st.one_of(st.characters(), st.characters(categories=["Cs"], min_codepoint=0xDC80, max_codepoint=0xDCFF)), max_size=8
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(paths=st.lists(names, min_size=3, max_size=3), classes=st.lists(names, min_size=2, max_size=2, unique=True))
def test_any_name_that_a_file_system_gives_comes_back(
    paths: list[str], classes: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("names") / "x.parquet"
    for task in ("multiclass", "multilabel"):
        predictions = replace(make(task, 3, 2), paths=paths, classes=tuple(classes))
        predictions.save(path)
        assert_same_bits(Predictions.load(path), predictions)


def test_a_path_that_is_not_unicode_is_readable_in_the_file(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = tmp_path / "not utf-8 \udce9"
    predictions = replace(make("multiclass", 1), paths=["caf\udce9.png"])
    predictions.save(folder / "x.parquet")
    assert_same_bits(Predictions.load(folder / "x.parquet"), predictions)
    with (folder / "x.parquet").open("rb") as file:
        assert pq.read_table(file)["path"].to_pylist() == [r"caf\udce9.png"]


def test_columns_say_what_happened(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    outputs = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    table = {"indices": np.array([4, 2]), "paths": ["x.png", "y.png"], "outputs": outputs, "num_given": 3}
    Predictions(task="multiclass", classes=("cat", "dog"), targets=np.array([0, 1]), **table).save(
        tmp_path / "c.parquet"
    )
    read = pq.read_table(tmp_path / "c.parquet")
    assert read.drop_columns("path_raw").to_pylist() == [
        {"index": 4, "path": "x.png", "class": "cat", "target": 0}
        | {"predicted": "dog", "prob": 0.75, "probabilities": [0.25, 0.75]},
        {"index": 2, "path": "y.png", "class": "dog", "target": 1}
        | {"predicted": "cat", "prob": 0.5, "probabilities": [0.5, 0.5]},
    ]
    about = json.loads((read.schema.metadata or {})[b"tellapart.predictions"])
    assert (about["task"], about["classes"], about["num_given"]) == ("multiclass", ["cat", "dog"], 3)

    targets = np.array([[1, 1], [0, 0]], np.float32)
    Predictions(task="multilabel", classes=("cat", "dog"), targets=targets, **table).save(tmp_path / "l.parquet")
    read = pq.read_table(tmp_path / "l.parquet")
    assert read["class"].to_pylist() == [["cat", "dog"], []]
    assert read["predicted"].to_pylist() == [["dog"], []]
    assert read["prob"].to_pylist() == [None, None]

    Predictions(task="regression", classes=(), targets=targets, **table).save(tmp_path / "r.parquet")
    read = pq.read_table(tmp_path / "r.parquet")
    assert read["class"].to_pylist() == read["predicted"].to_pylist() == [None, None]
    assert read["values"].to_pylist() == outputs.tolist()


def test_temperature_and_thresholds_are_kept_and_signed(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    calibrated = replace(make("multilabel"), temperature=1.7, thresholds=(0.25, 1 / 3, 0.0))
    calibrated.save(path)
    found = Predictions.load(path)
    assert_same_bits(found, calibrated)
    assert (found.temperature, found.thresholds) == (1.7, (0.25, 1 / 3, 0.0))
    assert (found.sorted_by_index().temperature, found.sorted_by_index().thresholds) == (1.7, (0.25, 1 / 3, 0.0))
    table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {})[b"tellapart.predictions"])
    for key, value in {"temperature": 1.0, "thresholds": [0.25, 0.3, 0.0]}.items():
        metadata = {b"tellapart.predictions": json.dumps({**about, key: value}).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(RunError, match="changed after they were written"):
            Predictions.load(path)
    for key in ("temperature", "thresholds"):
        metadata = {b"tellapart.predictions": json.dumps({k: v for k, v in about.items() if k != key}).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(RunError, match=r"no sound `tellapart\.predictions`"):
            Predictions.load(path)


def test_a_temperature_that_is_not_known_is_null_in_the_file(tmp_path: Path) -> None:
    replace(A, temperature=math.nan).save(tmp_path / "x.parquet")
    assert math.isnan(Predictions.load(tmp_path / "x.parquet").temperature)


def test_a_file_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    """Its SHA-256 is over what it had then: no temperature, no thresholds."""
    import hashlib

    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    A.save(path)
    table = pq.read_table(path)
    about = {"format": 1, "task": A.task, "classes": list(A.classes), "num_given": A.num_given}
    digest = hashlib.sha256(json.dumps([about, A.paths]).encode())
    for array in (A.indices, A.targets, A.outputs):
        digest.update(array.tobytes())

    def write(about: dict[str, Any]) -> None:
        metadata = {b"tellapart.predictions": json.dumps(about).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)

    write({**about, "sha256": digest.hexdigest()})
    found = Predictions.load(path)
    assert_same_bits(found, A)
    assert (found.temperature, found.thresholds) == (1.0, ())
    write({**about, "num_given": 99, "sha256": digest.hexdigest()})
    with pytest.raises(RunError, match="changed after they were written"):
        Predictions.load(path)
    write({**about, "format": 3, "sha256": digest.hexdigest()})
    with pytest.raises(RunError, match="expected format 1 to 2, found 3"):
        Predictions.load(path)


def test_thresholds_decide_what_is_predicted() -> None:
    outputs = np.array([[0.3, 0.5, 0.9], [0.25, 0.75, 0.95]], np.float32)
    table = replace(make("multilabel", 2), outputs=outputs, thresholds=(0.25, 0.5, 0.9))
    # 0.9 is no float32: the nearest is above it. What is compared is what is stored.
    assert table.predicted().tolist() == [[True, False, bool(np.float32(0.9) > 0.9)], [False, True, True]]


@pytest.mark.parametrize("task", TASKS)
def test_the_table_before_the_temperature(task: str) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (7, 3))
    of = {
        "multiclass": lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True),
        "multilabel": lambda z: 1 / (1 + np.exp(-z)),
        "regression": lambda z: z,
    }[task]
    thresholds = (0.3, 0.5, 0.8) if task == "multilabel" else ()
    scaled = logits if task == "regression" else logits / 2.5
    table = replace(make(task), outputs=of(scaled).astype(np.float32), temperature=2.5, thresholds=thresholds)
    before = table.uncalibrated()
    before.check()
    np.testing.assert_allclose(before.outputs, of(logits), rtol=1e-4, atol=1e-6)
    if task == "regression":
        assert before is table
    else:
        assert before.temperature == 1.0
        assert np.array_equal(before.predicted(), table.predicted())
        assert before.uncalibrated() is before
    unknown = replace(table, temperature=math.nan)
    assert unknown.uncalibrated() is unknown


def changed(predictions: Predictions, field: str, position: Any, value: Any) -> Predictions:
    array = getattr(predictions, field).copy()
    array[position] = value
    return replace(predictions, **{field: array})


A = make("multiclass")
L = make("multilabel")
R = make("regression")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            changed(A, "outputs", (2, 0), np.nan),
            f"outputs: expected finite numbers, found others for image {A.indices[2]}",
        ),
        (changed(A, "outputs", 1, 0.5), f"sum to 1 within 0.001, found other sums for image {A.indices[1]}"),
        (changed(A, "outputs", 1, [1.5, -0.5, 0]), f"from 0 to 1, found others for image {A.indices[1]}"),
        (changed(A, "targets", 3, 3), f"targets: expected 0 to 2, found others for image {A.indices[3]}"),
        (changed(A, "targets", 3, -1), f"targets: expected 0 to 2, found others for image {A.indices[3]}"),
        (changed(A, "indices", 0, A.indices[1]), f"every image once, found {A.indices[1]} more than once"),
        (replace(A, classes=("a", "b", "a")), "every name once, found 'a' more than once"),
        (replace(A, classes=("a", "b")), "one column for each of 2 classes, found 3"),
        (replace(A, num_given=6), "num_given: expected at least the 7 images in the table, found 6"),
        (replace(A, paths=["x"]), "paths: expected 7, one an index, found 1"),
        (replace(A, task="multi-class"), "unknown task 'multi-class'. Did you mean 'multiclass'?"),
        (replace(A, temperature=0.0), "temperature: expected a finite number above 0, found 0.0"),
        (replace(A, temperature=math.inf), "temperature: expected a finite number above 0, found inf"),
        (replace(A, thresholds=(0.5,) * 3), "thresholds: expected 0, found 3"),
        (replace(L, thresholds=(0.5,)), "thresholds: expected 3, found 1"),
        (replace(L, thresholds=(0.5, 1.5, math.nan)), "thresholds: expected numbers from 0 to 1, found 1.5, nan"),
        (replace(A, outputs=A.outputs.astype(np.float64)), "outputs: expected float32 (7, 3), found float64 (7, 3)"),
        (replace(A, outputs=A.outputs[:, 0]), "outputs: expected two axes (N, K), found (7,)"),
        (replace(A, targets=L.targets), "targets: expected int64 (7,), found float32 (7, 3)"),
        (changed(L, "targets", (0, 0), 0.5), f"targets: expected 0 or 1, found others for image {L.indices[0]}"),
        (changed(L, "outputs", (0, 0), 1.01), f"from 0 to 1, found others for image {L.indices[0]}"),
        (
            changed(R, "targets", (0, 0), np.inf),
            f"targets: expected finite numbers, found others for image {R.indices[0]}",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_wrong(wrong: Predictions, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        wrong.check()
    with pytest.raises(RunError, match=re.escape(message)):
        wrong.save(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_everything_wrong_is_said_at_once() -> None:
    wrong = changed(changed(replace(A, num_given=0), "outputs", (2, 0), np.nan), "targets", 3, 9)
    with pytest.raises(RunError) as caught:
        wrong.check("val.parquet")
    assert str(caught.value).startswith("val.parquet: ")
    assert str(caught.value).count("\n  - ") == 4  # num_given, finite, targets, sums


def test_rounding_of_probabilities_is_forgiven() -> None:
    changed(A, "outputs", 0, [np.nextafter(np.float32(1), np.float32(2)), 0, 0]).check()
    changed(A, "outputs", 0, [0.9995, 0, 0]).check()


def save_changed(path: Path, column: str, values: Any) -> None:
    """Write the table of `A` with one column changed, as another tool would."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    A.save(path)
    table = pq.read_table(path)
    position = table.column_names.index(column)
    table = table.remove_column(position)
    if values is not None:
        table = table.add_column(position, column, pa.array(values) if isinstance(values, list) else values)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("target", [0] * 7, "changed after they were written"),
        ("path", ["other.png"] * 7, "changed after they were written"),
        ("index", [None, *range(6)], "column index: expected a value in every row, found 1 nulls"),
        ("index", [0.5] * 7, "column index: expected int64, found double"),
        ("probabilities", [[1.0, 0.0, 0.0]] * 7, "column probabilities: expected fixed_size_list"),
        ("target", None, "column target: expected int64, found no such column"),
    ],
)
def test_a_file_changed_by_another_tool_is_refused(column: str, values: Any, message: str, tmp_path: Path) -> None:
    save_changed(tmp_path / "x.parquet", column, values)
    with pytest.raises(RunError, match=re.escape(message)):
        Predictions.load(tmp_path / "x.parquet")


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    flat = A.outputs.ravel().copy()
    flat[4] = np.nan
    save_changed(tmp_path / "x.parquet", "probabilities", pa.FixedSizeListArray.from_arrays(pa.array(flat), 3))
    with pytest.raises(RunError, match=f"expected finite numbers, found others for image {A.indices[1]}"):
        Predictions.load(tmp_path / "x.parquet")


def test_not_ours_and_not_there(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(RunError, match="found no file"):
        Predictions.load(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_text("index,path\n")
    with pytest.raises(RunError, match="found one that cannot be read"):
        Predictions.load(tmp_path / "x.parquet")
    pq.write_table(pa.table({"index": [1]}), tmp_path / "x.parquet")
    with pytest.raises(RunError, match=r"no sound `tellapart\.predictions`"):
        Predictions.load(tmp_path / "x.parquet")


def test_no_flipped_bit_and_no_lost_end_passes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    A.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position, bit in zip(rng.integers(0, len(whole), 300), rng.integers(0, 8, 300), strict=True):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            loaded = Predictions.load(path)
        except RunError:
            refused += 1
        else:
            # Statistics and the columns for the reader carry nothing that is loaded.
            assert_same_bits(loaded, A)
    assert refused > 100
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="cannot be read"):
            Predictions.load(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    A.save(path)

    def fail(table: object, file: Any, **options: object) -> None:
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        replace(A, num_given=99).save(path)
    monkeypatch.undo()
    assert_same_bits(Predictions.load(path), A)
    assert list(tmp_path.iterdir()) == [path]


def test_predicted_takes_the_lowest_index_of_a_tie_and_more_than_half() -> None:
    outputs = np.array([[0.25, 0.375, 0.375], [0.5, 0.75, 0.0]], np.float32)
    assert replace(make("multiclass", 2), outputs=outputs).predicted().tolist() == [1, 1]
    assert replace(make("multilabel", 2), outputs=outputs).predicted().tolist() == [[False] * 3, [False, True, False]]
    with pytest.raises(RunError, match="found regression"):
        make("regression").predicted()


def test_sorted_by_index_moves_whole_rows() -> None:
    ordered = A.sorted_by_index()
    assert np.array_equal(ordered.indices, np.sort(A.indices))
    for i, index in enumerate(ordered.indices):
        row = int(np.flatnonzero(A.indices == index)[0])
        assert ordered.paths[i] == A.paths[row] == f"a/{index}.png"
        assert ordered.targets[i] == A.targets[row]
        assert np.array_equal(ordered.outputs[i], A.outputs[row])

"""Tables that anything wrote: every way to write the same predictions, and every way to get them wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tellapart.errors import RunError
from tellapart.evaluation.foreign import is_table, read_table
from tellapart.evaluation.predictions import Predictions

NAMES = ["ant", "bee", "Große Biene"]
PROBS = [[0.5, 0.25, 0.25], [0.125, 0.625, 0.25], [0.0, 0.0, 1.0], [0.25, 0.5, 0.25]]
TRUE = ["ant", "bee", "Große Biene", "ant"]
PATHS = ["a.png", "b,c.png", "d\ne.png", 'f"g.png']


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    path.write_bytes(text.getvalue().encode("utf-8-sig" if delimiter == ";" else "utf-8"))
    return path


def plain(path: Path, probs: Sequence[Sequence[Any]] = PROBS, true: Sequence[Any] = TRUE, **options: Any) -> Path:
    rows = [[name, *row] for name, row in zip(true, probs, strict=True)]
    return write(path, ["class", *NAMES[: len(probs[0])]], rows, **options)


def assert_same(found: Predictions, names: Sequence[str] = NAMES) -> None:
    assert found.task == "multiclass"
    assert list(found.classes) == list(names)
    assert [found.classes[k] for k in found.targets] == TRUE
    columns = [NAMES.index(name) for name in names]
    np.testing.assert_array_equal(found.outputs, np.array(PROBS, np.float32)[:, columns])
    assert found.num_given == len(found) == 4
    found.check()


def test_text_with_a_column_a_class(tmp_path: Path) -> None:
    found = read_table(plain(tmp_path / "t.csv"))
    assert_same(found)
    assert found.paths == ["row 2", "row 3", "row 4", "row 5"]
    assert found.indices.tolist() == [0, 1, 2, 3]
    assert_same(read_table(plain(tmp_path / "t.tsv", delimiter="\t")))
    assert_same(read_table(plain(tmp_path / "tabs.csv", delimiter="\t")))


def test_what_a_spreadsheet_of_another_country_writes(tmp_path: Path) -> None:
    commas = [[str(p).replace(".", ",") for p in row] for row in PROBS]
    assert_same(read_table(plain(tmp_path / "t.csv", commas, delimiter=";")))


def test_columns_in_any_order_with_others_between(tmp_path: Path) -> None:
    header = ["Great", "prob_Große Biene", "PATH", "prob_bee", "Label", "predicted", "prob_ant", "loss", "index"]
    images = enumerate(zip(PROBS, PATHS, TRUE, strict=True))
    rows = [[1, row[2], path, row[1], name, "bee", row[0], 0.3, 7 * k] for k, (row, path, name) in images]
    found = read_table(write(tmp_path / "t.csv", header, rows))
    assert_same(found, ["Große Biene", "bee", "ant"])
    assert found.paths == PATHS
    assert found.indices.tolist() == [0, 7, 14, 21]


@pytest.mark.parametrize(("start", "between", "end"), [("[", ", ", "]"), ("[", "  ", " ]"), ("", ";", "")])
def test_text_with_a_column_of_lists(tmp_path: Path, start: str, between: str, end: str) -> None:
    rows = [[name, start + between.join(map(str, row)) + end] for name, row in zip(TRUE, PROBS, strict=True)]
    path = write(tmp_path / "t.csv", ["label", "probabilities"], rows)
    turned = read_table(path, ["ant", "bee", "Große Biene"])
    assert_same(turned)
    # "Große Biene" comes before "ant" in the order of the alphabet, capitals first.
    assert read_table(path).classes == ("Große Biene", "ant", "bee")


def test_parquet_with_columns_and_with_lists(tmp_path: Path) -> None:
    columns = {name: np.array(PROBS)[:, k] for k, name in enumerate(NAMES)}
    pq.write_table(pa.table({"class": TRUE, **columns, "path": PATHS}), tmp_path / "t.parquet")
    assert_same(read_table(tmp_path / "t.parquet"))
    pq.write_table(pa.table({"target": TRUE, "probabilities": PROBS}), tmp_path / "l.parquet")
    assert_same(read_table(tmp_path / "l.parquet", NAMES))


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    probs = np.full((12, 12), 1 / 12)
    columns = {f"prob_{k}": probs[:, k] for k in range(12)}
    for labels in (list(range(12)), [float(k) for k in range(12)]):
        pq.write_table(pa.table({"label": labels, **columns}), tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet").targets.tolist() == list(range(12))
    pq.write_table(pa.table({"label": list(range(12)), "probabilities": probs.tolist()}), tmp_path / "l.parquet")
    assert read_table(tmp_path / "l.parquet").classes == tuple(map(str, range(12))), "2 before 10"


def test_our_own_table_comes_back_whole(tmp_path: Path) -> None:
    outputs = np.array(PROBS, np.float32)
    own = Predictions("multiclass", tuple(NAMES), np.arange(4), PATHS, np.array([0, 1, 2, 0]), outputs, 6, 1.5)
    own.save(tmp_path / "val.parquet")
    found = read_table(tmp_path / "val.parquet")
    assert (found.num_given, found.temperature, found.paths) == (6, 1.5, PATHS)
    np.testing.assert_array_equal(found.outputs, outputs)


def test_our_own_table_as_a_program_writes_it_to_text(tmp_path: Path) -> None:
    outputs = np.array(PROBS, np.float32)
    own = Predictions("multiclass", tuple(NAMES), np.arange(4), PATHS, np.array([0, 1, 2, 0]), outputs, 4)
    own.save(tmp_path / "val.parquet")
    columns = pq.read_table(tmp_path / "val.parquet").to_pydict()
    rows = list(zip(*columns.values(), strict=True))
    assert_same(read_table(write(tmp_path / "val.csv", list(columns), rows), NAMES))


def error_of(path: Path, classes: Sequence[str] = ()) -> str:
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(RunError) as caught:
        read_table(path, classes)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (100, "look like percentages: divide them by 100"),
        (-3, "look like logits: take the softmax"),
        (7, "look like logits or counts"),
        (0.99, "look rounded: write them with at least 5 decimals"),
        (0.5, "labels that do not exclude each other"),
    ],
)
def test_sums_that_are_not_one(tmp_path: Path, factor: float, says: str) -> None:
    error = error_of(plain(tmp_path / "t.csv", (np.array(PROBS) * factor).tolist()))
    assert f"row 2: the probabilities of the 3 classes sum to {factor:g}, expected 1 (4 of 4 rows do not fit)" in error
    assert says in error
    assert "Columns taken as classes: ant, bee, Große Biene" in error


def test_one_row_among_many_is_named_as_a_spreadsheet_numbers_it(tmp_path: Path) -> None:
    probs = [list(row) for row in PROBS]
    probs[2] = [0.1, 0.1, 0.1]
    assert "row 4: the probabilities of the 3 classes sum to 0.3, expected 1 (1 of 4 rows" in error_of(
        plain(tmp_path / "t.csv", probs)
    )
    columns = {name: np.array(probs)[:, k] for k, name in enumerate(NAMES)}
    pq.write_table(pa.table({"class": TRUE, **columns}), tmp_path / "t.parquet")
    assert "row 3: the probabilities" in error_of(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("cell", "says"),
    [("nan", "found nan"), ("inf", "found inf"), ("", "found nothing"), ("much", "found 'much'")],
)
def test_cells_that_are_no_probability(tmp_path: Path, cell: str, says: str) -> None:
    probs: list[list[Any]] = [list(row) for row in PROBS]
    probs[1][1] = cell
    error = error_of(plain(tmp_path / "t.csv", probs))
    assert "row 3, column" in error
    assert "bee" in error
    assert says in error


def test_unknown_true_classes(tmp_path: Path) -> None:
    error = error_of(plain(tmp_path / "t.csv", true=["ant", "bea", "wasp", "ant"]))
    assert "row 3 (and 1 rows more): the true class is 'bea'" in error
    assert "Did you mean 'bee'?" in error
    assert "of: ant, bee, Große Biene" in error
    assert "row 5, column class: expected the true class, found nothing" in error_of(
        plain(tmp_path / "t.csv", true=["ant", "bee", "ant", " "])
    )


def test_missing_columns_name_the_nearest(tmp_path: Path) -> None:
    rows = [[name, *row] for name, row in zip(TRUE, PROBS, strict=True)]
    error = error_of(write(tmp_path / "t.csv", ["labels", *NAMES], rows))
    assert "called class, label or target; found: labels, ant, bee, Große Biene. Is it 'labels'?" in error
    error = error_of(write(tmp_path / "t.csv", ["class", "prob"], [["ant", 0.5], ["bee", 0.5]]))
    assert (
        "a column of probabilities for each class, named as the class or prob_CLASS (true classes: ant, bee)" in error
    )


def test_lists_whose_classes_are_not_known(tmp_path: Path) -> None:
    rows = [["ant", "[0.5, 0.5, 0]"], ["bee", "[0.5, 0.5, 0]"]]
    path = write(tmp_path / "t.csv", ["class", "probabilities"], rows)
    assert "has 3 probabilities an image, but 2 true classes are in the table (ant, bee)" in error_of(path)
    assert "--classes A,B,C" in error_of(path)
    assert "(a, b)" in error_of(path, ["a", "b"])
    rows[1][1] = "[0.5, 0.5]"
    assert "row 3, column probs: expected 3 probabilities" in error_of(write(path, ["class", "probs"], rows))
    rows[1][1] = "[0.5, x, 0]"
    assert "row 3" in error_of(write(path, ["class", "probabilities"], rows))


@pytest.mark.parametrize("column", ["path", "index"])
def test_images_that_stand_there_twice(tmp_path: Path, column: str) -> None:
    rows = [[name, key, *row] for name, key, row in zip(TRUE, [1, 2, 3, 2], PROBS, strict=True)]
    error = error_of(write(tmp_path / "t.csv", ["class", column, *NAMES], rows))
    assert f"rows 3 and 5: both have '2' in column {column}" in error


def test_what_is_no_table(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "none.csv")
    (tmp_path / "t.txt").write_text("class")
    assert "ends in .csv, .tsv, .parquet" in error_of(tmp_path / "t.txt")
    (tmp_path / "t.csv").write_text("")
    assert "an empty file" in error_of(tmp_path / "t.csv")
    assert "found none below the header" in error_of(write(tmp_path / "t.csv", ["class", "a", "b"], []))
    (tmp_path / "t.csv").write_text("class,a,b\nx,1\n")
    assert "row 2: expected 3 cells, as in the header, found 2" in error_of(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("class,a,a\nx,1,0\n")
    assert "found 'a' more than once" in error_of(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"class,\xff\n")
    assert "UTF-8" in error_of(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense PAR1")
    assert "cannot be read as a Parquet file" in error_of(tmp_path / "t.parquet")


def test_what_may_be_a_table(tmp_path: Path) -> None:
    (tmp_path / "run.csv").mkdir()
    assert not is_table(tmp_path / "run.csv")
    assert is_table("a.CSV")
    assert is_table(Path("a.parquet"))
    assert not is_table("runs/mine")
    assert not is_table(3)

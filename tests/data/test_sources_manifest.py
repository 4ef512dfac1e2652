"""Tables that name image files: formats, columns, labels, parts, groups, times, repeated rows and missing files."""

from __future__ import annotations

import json
import pickle
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.data.sources import ColumnNames, open_source
from tellapart.data.sources.tables.columns import UnrelatedTableError
from tellapart.data.sources.tables.manifest import ManifestSource
from tellapart.data.unreadable import ImageError
from tellapart.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("error")


def grow(root: Path, *files: str) -> Path:
    """Make files that hold their own names."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    return root


def table(root: Path, text: str | bytes, name: str = "m.csv", files: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = grow(root, *files) / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def labels(source: Any) -> dict[str, str]:
    return {path: source.label_name(row) for row, path in enumerate(source.paths)}


CELLS = {"file_name": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]}


# --- the kinds of tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "file_name,label\na.jpg,cat\nb.jpg,dog\n"),
        ("m.tsv", "file_name\tlabel\na.jpg\tcat\nb.jpg\tdog\n"),
        ("semicolons.csv", "file_name;label\na.jpg;cat\nb.jpg;dog"),
        ("tabs.csv", "file_name\tlabel\r\na.jpg\tcat\r\nb.jpg\tdog\r\n"),
        ("bom.csv", b"\xef\xbb\xbffile_name,label\r\na.jpg,cat\r\nb.jpg,dog\r\n"),
        ("utf16.csv", "file_name,label\na.jpg,cat\nb.jpg,dog\n".encode("utf-16")),
        ("quotes.csv", '"file_name","label"\n"a.jpg","cat"\n"b.jpg","dog"\n'),
        ("blanks.csv", "\n file_name , label\n\na.jpg, cat\nb.jpg ,dog \n\n"),
        ("M.CSV", "file_name,label\na.jpg,cat\nb.jpg,dog\n"),
        ("m.jsonl", '{"file_name": "a.jpg", "label": "cat"}\n{"file_name": "b.jpg", "label": "dog"}'),
        ("m.ndjson", '\ufeff{"file_name": "a.jpg", "label": "cat"}\r\n\r\n{"label": "dog", "file_name": "b.jpg"}\r\n'),
    ],
)
def test_every_kind_of_text_gives_the_same(tmp_path: Path, name: str, text: str | bytes) -> None:
    source = open_source(table(tmp_path, text, name))
    assert isinstance(source, ManifestSource)
    assert (source.name, source.classes, source.parts) == (name, ("cat", "dog"), ["", ""])
    assert labels(source) == {"a.jpg": "cat", "b.jpg": "dog"}
    assert source.read(1) == b"b.jpg"
    assert "columns: image 'file_name', label 'label'." in source.notes


def test_parquet_with_paths(tmp_path: Path) -> None:
    pq.write_table(pa.table(CELLS), grow(tmp_path, "a.jpg", "b.jpg") / "m.parquet")
    source = open_source(tmp_path / "m.parquet")
    assert isinstance(source, ManifestSource)
    assert labels(source) == {"a.jpg": "cat", "b.jpg": "dog"}


def test_a_folder_of_parquet_files_with_paths(tmp_path: Path) -> None:
    grow(tmp_path, "data/a.jpg", "b.jpg", "data/c.jpg")
    pq.write_table(pa.table(CELLS), tmp_path / "data" / "train-0.parquet")
    pq.write_table(pa.table({"file_name": ["c.jpg"], "label": ["cat"]}), tmp_path / "data" / "test-0.parquet")
    source = open_source(tmp_path / "data")
    assert dict(zip(source.paths, source.parts, strict=True)) == {"a.jpg": "train", "b.jpg": "train", "c.jpg": "test"}
    assert "files that are not there, and so cannot be read: 1 of 3: b.jpg." in source.notes


def test_cells_with_line_breaks_and_commas(tmp_path: Path) -> None:
    text = 'path,caption,label\na.jpg,"one,\ntwo ""three""",cat\nb.jpg,,dog\n'
    assert labels(open_source(table(tmp_path, text))) == {"a.jpg": "cat", "b.jpg": "dog"}


def test_a_table_that_is_not_utf_8_is_read_and_noted(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nhäuser.jpg,groß\nb.jpg,klein\n".encode("cp1252"), files=("häuser.jpg", "b.jpg"))
    source = open_source(path)
    assert labels(source) == {"häuser.jpg": "groß", "b.jpg": "klein"}
    assert "the table is not UTF-8; it was read as cp1252. If accents look wrong, save it as UTF-8." in source.notes
    path.write_bytes(b"path,label\na.jpg,x\x81\nb.jpg,y\n")
    grow(tmp_path, "a.jpg")
    assert any("latin-1" in note for note in open_source(path).notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "is empty. Expected a line of column names"),
        ("m.csv", "path,label\n", "expected images, found no rows"),
        ("m.csv", "a.jpg,cat\nb.jpg,dog\n", "its first line is data, not names: it has 'a.jpg'. Add a first line"),
        ("m.csv", "path\na.jpg\n", "has one column, 'path'"),
        ("m.csv", "path,label\na.jpg,cat,3\n", r"cannot be read as CSV: .*Expected 2 columns, got 3"),
        ("m.csv", "path,path\na.jpg,cat\n", "two columns are called 'path'"),
        ("m.csv", 'path,label\na.jpg,"cat\nb.jpg,dog\n', r"row 2: a quote \(\"\) is opened and never closed"),
        ("m.jsonl", "", "cannot be read as JSON Lines: Empty JSON"),
        ("m.jsonl", '[{"path": "a.jpg", "label": 1}]', "is one JSON list. Expected JSON Lines"),
        ("m.jsonl", b'{"path": "a.jpg", "label": "\xe9"}', "is not UTF-8"),
        ("m.jsonl", '{"path": "a.jpg", "label": 1}\n{"path": "b.jpg", "label": "x"}', "changed from number to string"),
        ("m.jsonl", '{"path": "a.jpg", "label": {"x": 1}}', "must hold whole numbers, strings, floats or lists"),
        ("m.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(table(tmp_path, text, name))


# --- columns -------------------------------------------------------------------------------------------------------


def test_columns_are_guessed_and_said(tmp_path: Path) -> None:
    text = "file_name,species,set,patient_id\na.jpg,cat,Train,7\nb.jpg,dog,VALID,8\n"
    source = open_source(table(tmp_path, text))
    assert source.notes == [
        "columns: image 'file_name', label 'species', split 'set', group 'patient_id'.",
        "images of one 'patient_id' are kept on one side.",
    ]
    assert (source.parts, source.groups, source.times) == (["train", "val"], ["7", "8"], None)


def test_the_image_column_is_the_one_whose_cells_are_files(tmp_path: Path) -> None:
    source = open_source(
        table(tmp_path, "image,where,kind\n17,a.jpg,cat\n18,b.jpg,dog\n"), columns=ColumnNames(label="kind")
    )
    assert source.paths == ["a.jpg", "b.jpg"]


def test_a_label_column_of_an_unknown_name_is_the_one_that_repeats(tmp_path: Path) -> None:
    files = tuple(f"{number}.jpg" for number in range(6))
    rows = "".join(f"{file},comment {file},{'ab'[number % 2]}\n" for number, file in enumerate(files))
    assert open_source(table(tmp_path, f"path,remark,plumage\n{rows}", files=files)).classes == ("a", "b")


def test_the_user_names_columns(tmp_path: Path) -> None:
    text = "label,one,two,part_of_study,visit,day\nx,a.jpg,cat,train,1,2024-01-02\ny,b.jpg,dog,test,1,2023-01-02\n"
    names = ColumnNames(image="one", label="two", split="part_of_study", group="visit", time="day")
    source = open_source(table(tmp_path, text), columns=names)
    assert labels(source) == {"a.jpg": "cat", "b.jpg": "dog"}
    assert (source.parts, source.groups) == (["train", "test"], ["1", "1"])
    assert source.times is not None
    assert source.times[0] > source.times[1]


@pytest.mark.parametrize("role", ["image", "label", "split", "group", "time"])
def test_a_named_column_that_is_not_there(tmp_path: Path, role: str) -> None:
    with pytest.raises(
        DataError, match=rf"unknown column 'lable'. Did you mean 'label'\? .* \(asked for as {role}_column"
    ):
        open_source(table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n"), columns=ColumnNames(**{role: "lable"}))


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("alpha,beta\n1,2\n3,4\n", {}, "expected a column of images .* found alpha: string, beta: string"),
        ("path,x,y\na.jpg,1,2\nb.jpg,3,4\n", {"label": "path"}, "expected a column of images"),
        ("path,remark,x\na.jpg,one,2\nb.jpg,two,4\n", {}, "expected a column of labels .* Name it with label_column"),
        ("path,label\na.jpg,x\nb.jpg,y\n", {"image": "label", "label": "label"}, "cannot hold both"),
    ],
)
def test_columns_that_cannot_be_told(tmp_path: Path, text: str, names: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(table(tmp_path, text), columns=ColumnNames(**names))


def test_a_column_called_set_that_names_no_parts_is_no_split(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "path,label,set\na.jpg,x,red\nb.jpg,y,blue\n"))
    assert source.parts == ["", ""]
    assert "the column 'set' names no parts (train, val, test), so it was not taken for the split." in source.notes


# --- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "task", "expected"),
    [
        (["10", "9"], "multiclass", ["10", "9"]),
        (["007", "7"], "multiclass", ["007", "7"]),
        (["0.5", "1.5"], "regression", ["0.5", "1.5"]),
        (["1e3", "-2"], "regression", ["1000", "-2"]),
        (['"0,5"', '"1,5"'], "regression", ["0.5", "1.5"]),
        (["NA", "null"], "multiclass", ["NA", "null"]),
        (["1", "x"], "multiclass", ["1", "x"]),
        (["99999999999999999999", "1"], "multiclass", ["99999999999999999999", "1"]),
    ],
)
def test_what_cells_of_text_mean(tmp_path: Path, cells: list[str], task: str, expected: list[str]) -> None:
    source = open_source(table(tmp_path, f"path,label\na.jpg,{cells[0]}\nb.jpg,{cells[1]}\n"))
    assert (source.task, [source.label_name(row) for row in (0, 1)]) == (task, expected)


def test_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "path,label\na.jpg,10\nb.jpg,9\n"))
    assert source.classes == ("9", "10")


def test_the_task_decides_what_decimals_and_whole_numbers_are(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\na.jpg,1.5\nb.jpg,2\n")
    assert open_source(path, task="multiclass").classes == ("1.5", "2")
    path = table(tmp_path, "path,label\na.jpg,10\nb.jpg,9\n")
    assert open_source(path, task="regression").targets.tolist() == [[10.0], [9.0]]
    path = table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n")
    with pytest.raises(ConfigError, match="the class name 'x' is no number"):
        open_source(path, task="regression")


def test_many_whole_numbers_are_pointed_out(tmp_path: Path) -> None:
    files = tuple(f"{number}.jpg" for number in range(60))
    source = open_source(table(tmp_path, "path,age\n" + "".join(f"{n}.jpg,{n}\n" for n in range(60)), files=files))
    assert any(
        "60 labels are whole numbers of 60 values" in note and "task=regression" in note for note in source.notes
    )


def test_several_labels_in_a_cell(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\na.jpg,wet; warm\nb.jpg,\nc.jpg,warm;\n", files=("a.jpg", "b.jpg", "c.jpg"))
    source = open_source(path, columns=ColumnNames(separator=";"))
    assert (source.task, source.classes) == ("multilabel", ("warm", "wet"))
    assert source.targets.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert "images without any label: 1; each counts as one of none of the classes." in source.notes


def test_cells_that_look_like_several_labels_are_pointed_out(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "path,label\na.jpg,wet|warm\nb.jpg,warm\n"))
    assert source.classes == ("warm", "wet|warm")
    assert any("label_separator='|' makes them several" in note for note in source.notes)


@pytest.mark.parametrize(
    ("cells", "task", "classes", "targets"),
    [
        ([["x", "y"], []], "multilabel", ("x", "y"), [[1, 1], [0, 0]]),
        ([[3], [3, 10]], "multilabel", ("3", "10"), [[1, 0], [1, 1]]),
        ([[0, 0, 1], [1, 1, 0]], "multilabel", ("0", "1", "2"), [[0, 0, 1], [1, 1, 0]]),
        ([[0.5, 2.0], [1.5, 3.0]], "regression", (), [[0.5, 2.0], [1.5, 3.0]]),
        ([[0.5], [1.5]], "regression", (), [[0.5], [1.5]]),
    ],
)
def test_lists_of_labels(
    tmp_path: Path, cells: list[list[Any]], task: str, classes: tuple[str, ...], targets: list[list[float]]
) -> None:
    lines = [json.dumps({"path": path, "label": cell}) for path, cell in zip(("a.jpg", "b.jpg"), cells, strict=True)]
    source = open_source(table(tmp_path, "\n".join(lines), "m.jsonl"))
    assert (source.task, source.classes, source.targets.tolist()) == (task, classes, targets)


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    path = table(tmp_path, '{"path": "a.jpg", "label": [0.5]}\n{"path": "b.jpg", "label": [1, 2]}', "m.jsonl")
    with pytest.raises(DataError, match="the list of target 1 has 2 numbers, that of target 0 has 1"):
        open_source(path)
    path = table(tmp_path, '{"path": "a.jpg", "label": ["x", null]}', "m.jsonl")
    with pytest.raises(DataError, match="a list with a null in it"):
        open_source(path)


def test_several_columns_of_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, "path,scab,rust\na.jpg,0,1\nb.jpg,1,1\n")
    source = open_source(path, columns=ColumnNames(label="scab, rust"))
    assert (source.task, source.classes, source.targets.tolist()) == ("multilabel", ("scab", "rust"), [[0, 1], [1, 1]])
    path = table(tmp_path, "path,x,y\na.jpg,0.5,1\nb.jpg,2,3\n")
    assert open_source(path, columns=ColumnNames(label="x,y")).targets.tolist() == [[0.5, 1.0], [2.0, 3.0]]
    path = table(tmp_path, "path,x,y\na.jpg,0.5,left\nb.jpg,2,right\n")
    with pytest.raises(DataError, match="each must hold numbers, 'y' does not"):
        open_source(path, columns=ColumnNames(label="x,y"))


def test_empty_labels_are_counted_by_their_rows(tmp_path: Path) -> None:
    rows = "".join(f"{number}.jpg,{'x' if number % 2 else ''}\n" for number in range(14))
    with pytest.raises(DataError, match=r"m.csv, rows 2, 4, 6, 8, 10, \.\.\. \(7 in all\): 'label' is null or empty"):
        open_source(table(tmp_path, f"path,label\n{rows}"))
    with pytest.raises(DataError, match="row 2: 'label' is null"):
        open_source(table(tmp_path, '{"path": "a.jpg", "label": 1}\n{"path": "b.jpg"}', "m.jsonl"))
    with pytest.raises(DataError, match=r"m.csv, row 3: 'path' is empty; every row needs an image"):
        open_source(table(tmp_path, "path,label\na.jpg,x\n,y\n"))


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=12))
@settings(max_examples=60)
def test_every_way_to_write_several_labels_means_the_same(tmp_path_factory: Any, cells: list[list[str]]) -> None:
    """A cell with a separator, a list, and one row a label."""
    root = tmp_path_factory.mktemp("several")
    cells = [["a"], *cells]
    files = tuple(f"{number}.jpg" for number in range(len(cells)))
    expected = {file: "|".join(sorted(set(cell))) for file, cell in zip(files, cells, strict=True)}
    rows = "".join(f"{file},{'|'.join(cell)}\n" for file, cell in expected_rows(files, cells))
    assert (
        labels(open_source(table(root, f"path,label\n{rows}", files=files), columns=ColumnNames(separator="|")))
        == expected
    )
    lines = "\n".join(json.dumps({"path": file, "label": cell}) for file, cell in expected_rows(files, cells))
    assert labels(open_source(table(root, lines, "m.jsonl"))) == expected
    rows = "".join(f"{file},{label}\n" for file, cell in reversed(expected_rows(files, cells)) for label in cell)
    long = labels(open_source(table(root, f"path,label\n{rows}"), task="multilabel"))
    assert long == {file: text for file, text in expected.items() if text}


def expected_rows(files: tuple[str, ...], cells: list[list[str]]) -> list[tuple[str, list[str]]]:
    return list(zip(files, cells, strict=True))


# --- parts, groups, times ------------------------------------------------------------------------------------------


def test_every_usual_word_for_a_part(tmp_path: Path) -> None:
    words = {"train": "train", "TRAINING": "train", "val": "val", "Valid": "val", "validation": "val", "dev": "val",
             "test": "test", "Testing": "test", "": ""}  # fmt: skip
    files = tuple(f"{number}.jpg" for number in range(len(words)))
    rows = "".join(f"{file},{'xy'[n % 2]},{word}\n" for n, (file, word) in enumerate(zip(files, words, strict=True)))
    assert open_source(table(tmp_path, f"path,label,split\n{rows}", files=files)).parts == list(words.values())


@pytest.mark.parametrize(
    ("words", "parts"), [(("train", "eval"), ["train", "val"]), (("eval", "val"), ["test", "val"])]
)
def test_eval_is_val_unless_there_is_another_val(tmp_path: Path, words: tuple[str, str], parts: list[str]) -> None:
    text = f"path,label,split\na.jpg,x,{words[0]}\nb.jpg,y,{words[1]}\n"
    assert open_source(table(tmp_path, text)).parts == parts


def test_a_strange_part_is_named_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m.csv, row 3: 'split' is 'holdout', expected train, val, test"):
        open_source(table(tmp_path, "path,label,split\na.jpg,x,train\nb.jpg,y,holdout\n"))


def test_without_a_split_column_the_folders_of_the_files_say_the_parts(tmp_path: Path) -> None:
    path = table(
        tmp_path, "path,label\nimg/train/1.jpg,x\nimg/test/2.jpg,y\n", files=("img/train/1.jpg", "img/test/2.jpg")
    )
    assert open_source(path).parts == ["train", "test"]
    path = table(tmp_path, "path,label\nimg/train/1.jpg,x\nloose/2.jpg,y\n", files=("loose/2.jpg",))
    assert open_source(path).parts == ["", ""]


def test_groups_of_any_type_and_none(tmp_path: Path) -> None:
    lines = '{"path": "a.jpg", "label": "x", "group": 7}\n{"path": "b.jpg", "label": "y", "group": null}'
    assert open_source(table(tmp_path, lines, "m.jsonl")).groups == ["7", ""]
    lines = '{"path": "a.jpg", "label": "x", "group": [7]}\n{"path": "b.jpg", "label": "y", "group": [8]}'
    with pytest.raises(DataError, match="the column 'group' must hold strings or numbers"):
        open_source(table(tmp_path, lines, "m.jsonl"))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("9", "10"),
        ("2023-12-31", "2024-01-01"),
        ("2023-12-31 23:59", "2024-01-01"),
        ("2023:12:31 23:59:59", "2024:01:01 00:00:00"),
        ("2023/2/1", "2023/10/1"),
        ("2024-01-01T01:00:00+02:00", "2024-01-01T00:00:00+00:00"),
        ("20231231", "20240101"),
        ("", "1"),
    ],
)
def test_times_are_ordered_as_texts(tmp_path: Path, earlier: str, later: str) -> None:
    path = table(tmp_path, f"path,label,day\na.jpg,x,{later}\nb.jpg,y,{earlier}\n")
    times = open_source(path, columns=ColumnNames(time="day")).times
    assert times is not None
    assert times[1] < times[0]
    assert open_source(path).times is None, "only where it is asked for"


def test_a_time_without_order_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label,day\na.jpg,x,2023-01-01\nb.jpg,y,last week\n")
    with pytest.raises(DataError, match="row 3: 'day' is 'last week', which cannot be put in order of time"):
        open_source(path, columns=ColumnNames(time="day"))


# --- repeated rows -------------------------------------------------------------------------------------------------


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n./a.jpg,x\n"))
    assert labels(source) == {"a.jpg": "x", "b.jpg": "y"}
    assert "rows that repeat a file with the same label: 1; each file was taken once." in source.notes


def test_a_file_with_two_labels_is_an_error_or_multilabel(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\na.jpg,y\n")
    with pytest.raises(
        DataError, match=r"row 2 and .*row 4 name the same file, a.jpg, with the labels 'x' and 'y'.*task=multi"
    ):
        open_source(path)
    with pytest.raises(DataError, match="with the labels"):
        open_source(path, task="multiclass")
    assert labels(open_source(path, task="multilabel")) == {"a.jpg": "x|y", "b.jpg": "y"}


@pytest.mark.parametrize(
    ("column", "words"), [("split", ("train", "test")), ("group", ("1", "2")), ("time", ("2020", "2021"))]
)
def test_a_file_in_two_parts_groups_or_times_is_an_error(tmp_path: Path, column: str, words: tuple[str, str]) -> None:
    path = table(tmp_path, f"path,label,{column}\na.jpg,x,{words[0]}\nb.jpg,y,{words[0]}\na.jpg,x,{words[1]}\n")
    with pytest.raises(DataError, match=f"row 2 and .*row 4 name the same file, a.jpg, with the {column} '{words[0]}"):
        open_source(path, columns=ColumnNames(time="time" if column == "time" else ""))


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_that_are_missing_are_named_and_unreadable(tmp_path: Path) -> None:
    rows = "".join(f"gone/{number}.jpg,x\n" for number in range(7))
    source = open_source(table(tmp_path, f"path,label\na.jpg,x\nb.jpg,y\n{rows}"))
    assert len(source) == 9
    shown = ", ".join(f"gone/{number}.jpg" for number in range(5))
    assert f"files that are not there, and so cannot be read: 7 of 9: {shown}, ...." in source.notes
    with pytest.raises(ImageError, match="cannot be opened"):
        source.read(2)


def test_many_files_in_one_folder_are_found_by_listing_it(tmp_path: Path) -> None:
    files = tuple(f"img/{number}.jpg" for number in range(120))
    rows = "".join(f"img/{number}.jpg,{number % 2}\n" for number in range(121))
    source = open_source(table(tmp_path, f"path,label\n{rows}", files=files))
    assert "files that are not there, and so cannot be read: 1 of 121: img/120.jpg." in source.notes


def test_where_every_file_is_missing_it_says_where_it_looked(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nx/1.jpg,x\nx/2.jpg,y\n")
    with pytest.raises(
        UnrelatedTableError, match=f"none of its 2 files is there. 'x/1.jpg' was looked for as {tmp_path}/x/1"
    ):
        open_source(path)
    path = table(tmp_path, "path,label\nhttps://example.org/1.jpg,x\nhttps://example.org/2.jpg,y\n")
    with pytest.raises(DataError, match=r"its images are addresses, such as https://example.org/1.jpg, which are not"):
        open_source(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: str(path),
        lambda path: path.as_uri(),
        lambda path: f"./{path.parent.name}//{path.name}",
        lambda path: f"{path.parent.name}\\{path.name}",
        lambda path: f".\\{path.parent.name}\\{path.name}",
        lambda path: unicodedata.normalize("NFD", f"{path.parent.name}/{path.name}"),
        lambda path: f"other machine/deeper/{path.parent.name}/{path.name}",
        lambda path: f"C:\\data\\{path.parent.name}\\{path.name}",
        lambda path: path.stem,
    ],
    ids=["absolute", "address", "dots", "windows", "windows dots", "decomposed", "moved", "drive", "stem"],
)
def test_ways_to_write_a_path(tmp_path: Path, write: Any) -> None:
    root = tmp_path / "a b"
    files = tuple(unicodedata.normalize("NFC", f"bilder größe/{name}.JPG") for name in ("füße 1", "zwei"))
    rows = "".join(f'"{write(grow(root, file) / file)}",{label}\n' for file, label in zip(files, "xy", strict=True))
    source = open_source(table(root, f"path,label\n{rows}", files=()))
    assert [source.read(row) for row in (0, 1)] == [file.encode() for file in files]
    assert [source.label_name(row) for row in (0, 1)] == ["x", "y"]


def test_a_backslash_in_a_file_name_is_kept_where_such_a_file_is_there(tmp_path: Path) -> None:
    root = grow(tmp_path, "odd\\name.jpg", "odd/name.jpg")
    source = open_source(table(root, "path,label\nodd\\name.jpg,x\nodd/name.jpg,y\n"))
    assert source.read(0) == b"odd\\name.jpg"
    assert source.paths == ["odd\\\\name.jpg", "odd/name.jpg"]
    again = open_source(table(root, "path,label\n" + "".join(f"{path},{n}\n" for n, path in enumerate(source.paths))))
    assert again.paths == source.paths, "what a source shows can be written into a table"


def test_paths_from_the_current_folder_are_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path / "work", "img/1.jpg", "img/2.jpg")
    path = table(tmp_path / "lists", "path,label\nimg/1.jpg,x\nimg/2.jpg,y\n", files=())
    monkeypatch.chdir(tmp_path / "work")
    source = open_source(path)
    assert any("found from the current folder" in note for note in source.notes)
    monkeypatch.chdir(tmp_path)
    assert source.read(0) == b"img/1.jpg"
    grow(tmp_path / "lists", "img/1.jpg")
    monkeypatch.chdir(tmp_path / "work")
    assert open_source(path).read(0) == b"img/1.jpg"
    assert open_source(path).paths == ["img/1.jpg", "img/2.jpg"], "the table's own folder goes first"


def test_names_without_endings_are_found_where_only_one_file_has_them(tmp_path: Path) -> None:
    source = open_source(
        table(
            tmp_path,
            "image_id,label\none,x\ntwo,y\nsame,x\n",
            files=("p/one.png", "p/two.jpg", "p/same.jpg", "q/same.jpg"),
        )
    )
    assert source.paths == ["p/one.png", "p/two.jpg", "same"]
    assert "files that are not there, and so cannot be read: 1 of 3: same." in source.notes


def test_a_path_no_system_can_have_is_an_unreadable_image(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, f"path,label\na.jpg,x\nb\0.jpg,y\n{'n' * 5000}.jpg,y\n"))
    for row in (1, 2):
        with pytest.raises(ImageError, match="cannot be opened"):
            source.read(row)


def test_a_copy_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path, "path,label,group\na.jpg,x,1\nb.jpg,y,2\n")
    monkeypatch.chdir(tmp_path)
    source = open_source("m.csv")
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.chdir("/")
    assert (copy.read(1), copy.groups, copy.paths) == (b"b.jpg", ["1", "2"], ["a.jpg", "b.jpg"])


def test_a_hundred_thousand_rows_open_fast(tmp_path: Path) -> None:
    count = 100_000
    rows = "".join(f"img/{n % 100:02}/{n:06}.jpg,class{n % 997},p{n // 5}\n" for n in range(count))
    path = table(tmp_path, f"path,label,group\na.jpg,x,p\n{rows}")
    start = time.process_time()
    source = open_source(path)
    assert time.process_time() - start < 4, "a million rows would take over 40 s"
    assert (len(source), len(source.classes)) == (count + 1, 998)
    assert np.bincount(source.targets).max() == 101


# --- folders that hold a table -------------------------------------------------------------------------------------


def test_a_folder_with_metadata(tmp_path: Path) -> None:
    table(tmp_path, "file_name,label\nimg/a.jpg,x\nimg/b.jpg,y\n", "metadata.csv", files=("img/a.jpg", "img/b.jpg"))
    source = open_source(tmp_path)
    assert (source.name, source.paths) == (tmp_path.name, ["img/a.jpg", "img/b.jpg"])
    assert source.notes[0] == "the images are those that metadata.csv names: 2."


def test_tables_in_the_folders_of_parts(tmp_path: Path) -> None:
    table(
        tmp_path / "train",
        '{"file_name": "a.jpg", "label": "x"}\n{"file_name": "b.jpg", "label": "y"}',
        "metadata.jsonl",
    )
    table(tmp_path / "validation", '{"file_name": "a.jpg", "label": "y"}', "metadata.jsonl", files=("a.jpg",))
    source = open_source(tmp_path)
    assert dict(zip(source.paths, source.parts, strict=True)) == {
        "train/a.jpg": "train",
        "train/b.jpg": "train",
        "validation/a.jpg": "val",
    }
    assert source.read(2) == b"a.jpg"


def test_a_table_for_each_part(tmp_path: Path) -> None:
    table(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n", "train.csv")
    table(tmp_path, "path,label\nc.jpg,x\n", "test.csv", files=("c.jpg",))
    assert sorted(zip(open_source(tmp_path).paths, open_source(tmp_path).parts, strict=True)) == [
        ("a.jpg", "train"),
        ("b.jpg", "train"),
        ("c.jpg", "test"),
    ]
    assert open_source(tmp_path / "test.csv", task="multilabel").parts == [""]
    table(tmp_path, "path,when\nc.jpg,x\n", "test.csv", files=("c.jpg",))
    with pytest.raises(
        DataError, match=r"test.csv: expected the column 'label' as in the other files, found path, when"
    ):
        open_source(tmp_path)


def test_class_folders_win_over_a_table_of_something_else(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "labels.csv").write_text("number,word\n0,cat\n1,dog\n")
    source = open_source(tmp_path)
    assert source.paths == ["cat/1.jpg", "dog/2.jpg"]
    assert source.notes[0].startswith("labels.csv was passed over, for it does not describe these images: ")
    with pytest.raises(DataError, match="expected a column of images"):
        open_source(tmp_path, columns=ColumnNames(label="word"))


def test_a_table_wins_over_class_folders_where_it_names_their_files(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "labels.csv").write_text("path,label\ncat/1.jpg,good\ndog/2.jpg,bad\n")
    assert open_source(tmp_path).classes == ("bad", "good")
    (tmp_path / "labels.csv").write_text("path,label,split\ncat/1.jpg,good,train\ndog/2.jpg,bad,odd\n")
    with pytest.raises(DataError, match="'split' is 'odd'"):
        open_source(tmp_path)


def test_images_that_the_table_does_not_name_are_counted(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/2.jpg", "dog/3.jpg")
    (tmp_path / "labels.csv").write_text("path,label\ncat/1.jpg,good\ndog/2.jpg,bad\n")
    assert open_source(tmp_path).notes[0] == (
        "the images are those that labels.csv names: 2, of the 3 images below the folder."
    )


@pytest.mark.parametrize("name", ["labels.parquet", "features.parquet"])
def test_class_folders_win_over_a_parquet_file_of_something_else(tmp_path: Path, name: str) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/2.jpg")
    pq.write_table(pa.table({"x": [0.5, 1.5], "y": [1, 2]}), tmp_path / name)
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert "was passed over" in source.notes[0]


def test_columns_named_for_data_without_columns_are_noted(tmp_path: Path) -> None:
    source = open_source(grow(tmp_path, "cat/1.jpg", "dog/2.jpg"), columns=ColumnNames(label="label"))
    assert source.notes == ["these data have no columns, so the names that were given for columns are not used."]


def test_a_file_named_in_full_and_relative_is_one_file(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, f"path,label\na.jpg,x\nb.jpg,y\n{tmp_path}/a.jpg,x\n"))
    assert source.paths == ["a.jpg", "b.jpg"]


def test_a_table_that_helps_nobody_says_why(tmp_path: Path) -> None:
    grow(tmp_path, "images/1.jpg", "images/2.jpg")
    (tmp_path / "metadata.csv").write_text("path,label\nx.jpg,a\ny.jpg,b\n")
    with pytest.raises(DataError, match="none of its 2 files is there"):
        open_source(tmp_path)


def test_a_table_inside_the_only_folder(tmp_path: Path) -> None:
    table(tmp_path / "unpacked", "file_name,label\na.jpg,x\nb.jpg,y\n", "metadata.csv")
    source = open_source(tmp_path)
    assert source.paths == ["unpacked/a.jpg", "unpacked/b.jpg"]
    assert source.read(0) == b"a.jpg"

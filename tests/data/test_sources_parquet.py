"""Parquet files: columns, class names, parts, shards that differ, paths, and broken rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tellapart.data.decode import decode
from tellapart.data.sources import ColumnNames, open_source
from tellapart.data.sources.shards import holds_shards, part_of_shard
from tellapart.data.sources.tables.parquet import ParquetSource
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path,
    labels: Any,
    *,
    names: Any = None,
    paths: list[str | None] | None = None,
    images: Any = None,
    extra: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
    first: int = 0,
    **options: Any,
) -> Path:
    """Write one shard; image i is a grey PNG of the value `first` + i."""
    count = len(labels)
    if images is None:
        paths = [f"{first + row}.png" for row in range(count)] if paths is None else paths
        rows = [{"bytes": png(first + row), "path": paths[row]} for row in range(count)]
        images = pa.array(rows, STRUCT)
    table = pa.table({"image": images, "label": labels, **(extra or {})})
    features = {"image": {"_type": "Image"}} if features is None else features
    if names is not None:
        features = {**features, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


def values(source: ParquetSource) -> list[int]:
    return [int(decode(source.read(index), 1)[0, 0, 0]) for index in range(len(source))]


# --- one file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"compression": "none", "row_group_size": 2}])
def test_the_hugging_face_layout(tmp_path: Path, options: dict[str, Any]) -> None:
    source = ParquetSource(write(tmp_path / "train.parquet", [1, 0, 1, 2, 0], names=["cat", "dog", "eel"], **options))
    assert source.name == "train.parquet"
    assert source.classes == ("cat", "dog", "eel")
    assert source.targets.tolist() == [1, 0, 1, 2, 0]
    assert source.targets.dtype == np.int64
    assert source.parts == ["train"] * 5
    assert source.paths == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert values(source) == [0, 1, 2, 3, 4]
    assert isinstance(source.read(4), bytes)
    assert source.notes == [], "metadata told both columns, so nothing was guessed"
    assert (source.blocks, source.groups, source.times) == (None, None, None)


def test_a_class_without_images_keeps_its_number(tmp_path: Path) -> None:
    source = ParquetSource(write(tmp_path / "a.parquet", [0, 2], names=["a", "b", "c"]))
    assert source.classes == ("a", "b", "c")
    assert source.label_name(1) == "c"


def test_names_given_by_number_as_a_dict(tmp_path: Path) -> None:
    names = {str(number): f"n{number}" for number in (10, 2, 1, 0, 3, 4, 5, 6, 7, 8, 9)}
    assert ParquetSource(write(tmp_path / "a.parquet", [10, 2], names=names)).label_name(0) == "n10"


@pytest.mark.parametrize(
    "labels",
    [
        ["dog", "cat", "dog"],
        pa.array(["dog", "cat", "dog"], pa.large_string()),
        pa.array(["dog", "cat", "dog"]).dictionary_encode(),
    ],
    ids=["string", "large", "dictionary"],
)
def test_string_labels_are_class_names(tmp_path: Path, labels: Any) -> None:
    source = ParquetSource(write(tmp_path / "a.parquet", labels))
    assert source.classes == ("cat", "dog")
    assert source.targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint16()])
def test_numbers_without_names_are_named_after_themselves(tmp_path: Path, kind: pa.DataType) -> None:
    source = ParquetSource(write(tmp_path / "a.parquet", pa.array([10, 2, 10], kind), features={}))
    assert source.classes == ("2", "10")
    assert source.targets.tolist() == [1, 0, 1]


def test_float_labels_are_regression(tmp_path: Path) -> None:
    source = ParquetSource(write(tmp_path / "a.parquet", [0.5, 1.5]))
    assert (source.task, source.targets.tolist()) == ("regression", [[0.5], [1.5]])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_plain_column_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    images = pa.array([png(5), png(6)], kind)
    path = write(tmp_path / "a.parquet", ["x", "y"], images=images, features={})
    source = ParquetSource(path)
    assert values(source) == [5, 6]
    assert source.paths == ["a.parquet#0", "a.parquet#1"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "img": pa.array([{"bytes": png(1)}, {"bytes": png(2)}]), "Category": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ParquetSource(tmp_path / "a.parquet").label_name(1) == "b"


def test_of_several_label_columns_the_fine_one_is_taken_and_noted(tmp_path: Path) -> None:
    features = {
        "img": {"_type": "Image"},
        "coarse_label": {"_type": "ClassLabel", "names": ["c", "d"]},
        "fine_label": {"_type": "ClassLabel", "names": ["x", "y", "z"]},
    }
    images = pa.array([{"bytes": png(1), "path": None}] * 3, STRUCT)
    table = pa.table({"img": images, "coarse_label": [0, 1, 1], "fine_label": [2, 1, 0]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    source = ParquetSource(tmp_path / "a.parquet")
    assert source.classes == ("x", "y", "z")
    assert source.notes == [
        "of the columns coarse_label, fine_label that could hold the labels, 'fine_label' was taken."
    ]
    coarse = open_source(tmp_path / "a.parquet", columns=ColumnNames(label="coarse_label"))
    assert (coarse.classes, coarse.notes) == (("c", "d"), [])


@pytest.mark.parametrize("metadata", [b"not json", b"[]", b'{"info": null}', b'{"info": {"features": 3}}'])
def test_metadata_of_another_form_is_passed_over(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": [png(1), png(2)], "label": ["a", "b"]}).replace_schema_metadata(
        {"huggingface": metadata}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert ParquetSource(tmp_path / "a.parquet").classes == ("a", "b")


@pytest.mark.parametrize(
    "feature",
    [
        [{"_type": "ClassLabel", "names": ["wet", "warm"]}],
        {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["wet", "warm"]}},
        {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["wet", "warm"]}},
    ],
)
@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32())])
def test_lists_of_numbered_classes_are_multilabel(tmp_path: Path, feature: Any, kind: pa.DataType) -> None:
    cells = pa.array([[0, 1], [], [1]], kind)
    source = ParquetSource(
        write(tmp_path / "a.parquet", cells, features={"image": {"_type": "Image"}, "label": feature})
    )
    assert (source.task, source.classes) == ("multilabel", ("wet", "warm"))
    assert source.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_lists_of_names_and_of_numbers(tmp_path: Path) -> None:
    source = ParquetSource(write(tmp_path / "a.parquet", [["b", "a"], ["b"]]))
    assert (source.task, source.classes, source.targets.tolist()) == ("multilabel", ("a", "b"), [[1, 1], [0, 1]])
    source = ParquetSource(write(tmp_path / "a.parquet", pa.array([[0.5, 1], [2, 3]], pa.list_(pa.float32(), 2))))
    assert (source.task, source.targets.tolist()) == ("regression", [[0.5, 1.0], [2.0, 3.0]])


def test_lists_are_brought_together_by_name_over_shards(tmp_path: Path) -> None:
    for number, names in enumerate((["a", "b"], ["b", "c"])):
        features = {"image": {"_type": "Image"}, "label": [{"_type": "ClassLabel", "names": names}]}
        write(tmp_path / f"train-{number}.parquet", [[0], [0, 1]], features=features, first=5 * number)
    source = ParquetSource(tmp_path)
    assert [source.label_name(row) for row in range(4)] == ["a", "a|b", "b", "b|c"]


def test_columns_that_divide(tmp_path: Path) -> None:
    extra = {"split": ["train", "test", None], "patient_id": [7, 7, None], "day": pa.array([3, 2, 1], pa.date32())}
    path = write(tmp_path / "a.parquet", [0, 1, 0], names=["a", "b"], extra=extra)
    source = open_source(path, columns=ColumnNames(time="day"))
    assert source.parts == ["train", "test", ""]
    assert source.groups == ["7", "7", ""]
    assert source.times is not None
    assert sorted(source.times) == source.times[::-1]
    assert source.notes[0] == "columns: image 'image', label 'label', split 'split', group 'patient_id', time 'day'."
    with pytest.raises(DataError, match=r"unknown column 'dya'\. Did you mean 'day'"):
        open_source(path, columns=ColumnNames(time="dya"))


def test_a_row_with_a_path_and_no_bytes_is_read_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "b.png").write_bytes(png(9))
    rows = [{"bytes": png(1), "path": "a"}, {"bytes": None, "path": "img/b.png"}, {"bytes": None, "path": "c"}, None]
    source = ParquetSource(write(tmp_path / "a.parquet", [0, 1, 0, 1], names=["a", "b"], images=pa.array(rows, STRUCT)))
    assert source.read(1) == png(9)
    assert "rows without the bytes of an image: 3 of 4." in source.notes
    with pytest.raises(ImageError, match="the file cannot be opened"):
        source.read(2)
    with pytest.raises(ImageError, match="the row holds no image"):
        source.read(3)


def test_where_no_row_has_an_image_it_is_an_error(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": None, "path": "/far/away/1.png"}, {"bytes": None, "path": None}], STRUCT)
    with pytest.raises(DataError, match=r"none of its 2 rows holds the bytes of an image.* '/far/away/1.png'"):
        ParquetSource(write(tmp_path / "a.parquet", [0, 1], names=["a", "b"], images=rows))


# --- folders of shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "data", "data/default"])
def test_shards_in_parts(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    for number, name in enumerate(
        ("test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002", "validation-0")
    ):
        write(folder / f"{name}.parquet", [0, 1], names=["a", "b"], first=10 * number)
    assert holds_shards(tmp_path)
    source = ParquetSource(tmp_path)
    assert source.parts == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert values(source) == [10, 11, 20, 21, 30, 31, 0, 1]


def test_parts_by_the_names_of_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / part / "0000.parquet", [0, 1], names=["a", "b"])
    assert ParquetSource(tmp_path).parts == ["train", "train", "test", "test"]


def test_the_words_that_say_a_part() -> None:
    names = ["train-00000-of-00001", "my_train_v2", "test", "val", "validation-1", "dev.0", "latest", "trainer", "0001"]
    assert [part_of_shard(f"{name}.parquet") for name in names] == [
        "train",
        "train",
        "test",
        "val",
        "val",
        "val",
        "",
        "",
        "",
    ]
    assert part_of_shard("train/test-0.parquet") == "test"


def test_files_without_a_part_among_others_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1], names=["a", "b"])
    write(tmp_path / "extra.parquet", [0, 1], names=["a", "b"], first=5)
    source = ParquetSource(tmp_path)
    assert source.parts == ["train", "train", "", ""]
    assert source.notes == ["the names of these files say no part (train, val, test): extra.parquet."]


def test_classes_are_matched_by_name_over_shards(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1, 1], names=["a", "b"])
    write(tmp_path / "train-1.parquet", [0, 1, 2], names=["b", "c", "a"], first=10)
    source = ParquetSource(tmp_path)
    assert source.classes == ("a", "b", "c")
    assert [source.label_name(index) for index in range(6)] == ["a", "b", "b", "b", "c", "a"]
    assert source.notes == ["the files list different class names; they were brought together by name."]


def test_string_labels_are_brought_together_over_shards(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", ["b", "c"])
    write(tmp_path / "train-1.parquet", ["a", "b"], first=5)
    source = ParquetSource(tmp_path)
    assert source.classes == ("a", "b", "c")
    assert [source.label_name(index) for index in range(4)] == ["b", "c", "a", "b"]


def test_a_shard_without_names_takes_those_of_the_others(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1], names=["a", "b"])
    write(tmp_path / "train-1.parquet", [1, 0], first=5)
    assert [ParquetSource(tmp_path).label_name(index) for index in range(4)] == ["a", "b", "b", "a"]
    write(tmp_path / "train-1.parquet", [1, 2], first=5)
    with pytest.raises(DataError, match=r"train-1.parquet, row 1: the label is 2, expected 0 to 1"):
        ParquetSource(tmp_path)


def test_an_empty_shard_is_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1], names=["a", "b"])
    write(tmp_path / "train-1.parquet", pa.array([], pa.int64()), names=["a", "b"])
    write(tmp_path / "train-2.parquet", [1], names=["a", "b"], first=7)
    assert values(ParquetSource(tmp_path)) == [0, 1, 7]


def test_reading_finds_the_row_in_every_shard_and_row_group(tmp_path: Path) -> None:
    for shard in range(3):
        labels = [row % 2 for row in range(40 + shard)]
        write(tmp_path / f"train-{shard}.parquet", labels, names=["a", "b"], first=50 * shard, row_group_size=7)
    source = ParquetSource(tmp_path)
    assert values(source) == [50 * shard + row for shard in range(3) for row in range(40 + shard)]
    assert source.targets.tolist() == [row % 2 for shard in range(3) for row in range(40 + shard)]


def test_a_folder_of_images_with_a_stray_table_stays_a_folder_of_images(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "features.parquet", [0, 1])
    (tmp_path / "cat" / "1.jpg").touch()
    assert not holds_shards(tmp_path)
    assert not holds_shards(tmp_path / "nothing")


# --- paths ---------------------------------------------------------------------------------------------------------


def test_paths_repeated_between_parts_get_the_part_in_front(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / f"{part}-0.parquet", [0, 1], names=["a", "b"], paths=["0.png", "1.png"])
    assert ParquetSource(tmp_path).paths == ["train/0.png", "train/1.png", "test/0.png", "test/1.png"]


def test_paths_that_are_null_or_repeated_are_replaced_by_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1, 0, 1], names=["a", "b"], paths=["x.png", None, "y.png", "x.png"])
    source = ParquetSource(tmp_path)
    assert source.paths == ["train-0.parquet#0", "train-0.parquet#1", "train/y.png", "train-0.parquet#3"]


def test_paths_all_null(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [0, 1], names=["a", "b"], paths=[None, None])
    assert ParquetSource(tmp_path).paths == ["a.parquet#0", "a.parquet#1"]


# --- what is broken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 5], {"names": ["a", "b"]}, r"a.parquet, row 1: the label is 5, expected 0 to 1 for 2 classes\.$"),
        ([0, -1], {"names": ["a", "b"]}, "row 1: the label is -1, .* -1 marks unlabelled images"),
        ([0, None], {"names": ["a", "b"]}, "a.parquet, row 1: 'label' is null"),
        (["a", "b", None], {}, "row 2: 'label' is null"),
        ([0, 0], {"names": ["a"]}, "at least two classes"),
        ([0, 0], {}, "at least two classes"),
        (pa.array([], pa.int64()), {}, "expected images, found no rows"),
        ([{"a": 1}, {"a": 2}], {}, "must hold whole numbers, strings, floats or lists of those, found struct"),
        ([[0], [1, None]], {}, "has a list with a null in it"),
        ([[0], [5]], {"names": ["a", "b"]}, r"row 1: the label is 5, expected 0 to 1"),
        (pa.array([2**63, 1], pa.uint64()), {}, "holds numbers that are too large"),
        (["a", "b"], {"names": ["a", "b"]}, "labels with class names must be whole numbers"),
        ([0.5, float("nan")], {}, "target 1 is nan"),
        ([0, 1], {"images": pa.array(["a.jpg", "b.jpg"])}, "must hold the bytes of image files, found string"),
        ([0, 1], {"images": pa.array([0.5, 1.5]), "features": {}}, "expected a column of images .* image: double"),
    ],
)
def test_what_cannot_be_used_is_named_with_file_and_row(
    tmp_path: Path, labels: Any, options: dict[str, Any], message: str
) -> None:
    write(tmp_path / "a.parquet", labels, **options)
    with pytest.raises(DataError, match=message):
        ParquetSource(tmp_path / "a.parquet")


def test_a_row_in_a_later_row_group_is_counted_from_the_start_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [0, 1, 0, 1, None, 0], names=["a", "b"], row_group_size=2)
    with pytest.raises(DataError, match="row 4: 'label' is null"):
        ParquetSource(tmp_path)


def test_without_a_column_of_labels_the_error_lists_what_there_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(1)], "caption": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"expected a column of labels .* found image: binary, caption: string"):
        ParquetSource(tmp_path)


def test_shards_must_agree_on_columns_and_kinds(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1])
    pq.write_table(pa.table({"image": [png(1)], "klass": [1]}), tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet: expected the column 'label' .* found image, klass"):
        ParquetSource(tmp_path)
    write(tmp_path / "train-1.parquet", ["a", "b"])
    with pytest.raises(DataError, match="the labels are int64 in one file and text in another"):
        ParquetSource(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "whole.parquet", [0, 1], names=["a", "b"], write_page_checksum=True).read_bytes()
    path = tmp_path / "broken" / "a.parquet"
    path.parent.mkdir()
    flipped = bytearray(raw)
    flipped[raw.index(b"IHDR") + 8] ^= 1
    for damaged in (b"", b"PAR1", raw[:-10], raw[: len(raw) // 2], b"text" * 100, bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
            ParquetSource(path)
    path.unlink()
    with pytest.raises(DataError, match=r"expected \.parquet files, found none"):
        ParquetSource(path.parent)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="../shared/data/cifar10 is not here")
def test_cifar10_in_full() -> None:
    source = ParquetSource(CIFAR10)
    assert (source.name, len(source)) == ("cifar10", 60_000)
    assert source.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(source.targets).tolist() == [6000] * 10
    assert (source.parts.count("train"), source.parts.count("test")) == (50_000, 10_000)
    assert len(set(source.paths)) == 60_000
    for index in (0, 1, 49_999, 50_000, 59_999):
        assert decode(source.read(index), 3).shape == (3, 32, 32)
        assert source.label_name(index) in source.paths[index]

"""Train, val and test: drawn by content and class, the same every time, and no image on two sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tellapart.config import DataConfig
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import scan
from tellapart.data.sources import FolderSource, Source
from tellapart.data.splits import SPLITS, Split, apportion, leaked_rows, make_split
from tellapart.errors import DataError, RunError

DEFAULT = DataConfig()


class Labelled(Source):
    """A source of labels alone."""

    def read(self, index: int) -> bytes:
        raise NotImplementedError


def source_of(
    labels: Sequence[int], *, parts: list[str] | None = None, classes: Sequence[str] = ("ant", "bee", "cat")
) -> Source:
    paths = [f"{index}.png" for index in range(len(labels))]
    return Labelled("insects", classes=classes, paths=paths, targets=np.array(labels, dtype=np.int64), parts=parts)


def hashes_of(count: int) -> list[str]:
    return [f"{index * 7919:032x}" for index in range(count)]


def split_of(
    labels: Sequence[int],
    hashes: Sequence[str] | None = None,
    parts: list[str] | None = None,
    config: DataConfig = DEFAULT,
    seed: int = 0,
) -> Split:
    return make_split(source_of(labels, parts=parts), hashes or hashes_of(len(labels)), config, seed)


def counts_of(split: Split) -> dict[str, int]:
    return {name: split.num_given(name) for name in SPLITS}


# --- apportion -------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 500), max_size=20), st.integers(0, 5000))
def test_apportion_keeps_its_bounds_and_ends(counts: dict[int, int], total: int) -> None:
    quotas = apportion(counts, total)
    assert quotas.keys() == counts.keys()
    assert all(0 <= quotas[label] <= count - 1 for label, count in counts.items())
    assert sum(quotas.values()) == min(total, sum(counts.values()) - len(counts))


@given(st.lists(st.integers(2, 500), min_size=1, max_size=12), st.floats(0.01, 0.5))
def test_apportion_is_in_proportion(sizes: list[int], fraction: float) -> None:
    counts, whole = dict(enumerate(sizes)), sum(sizes)
    total = round(fraction * whole)
    quotas = apportion(counts, total)
    ideal = {label: total * count / whole for label, count in counts.items()}
    if all(quota <= counts[label] - 2 for label, quota in ideal.items()):
        assert all(abs(quotas[label] - ideal[label]) < 1 for label in counts)
    by_size = sorted(counts, key=lambda label: counts[label])
    for small, large in pairwise(by_size):
        assert quotas[small] <= quotas[large] or counts[small] == counts[large]


def test_apportion_by_hand() -> None:
    # 8 of 81: 4.94, 2.96 and 0.1; the two largest remainders get the two that are missing.
    assert apportion({0: 50, 1: 30, 2: 1}, 8) == {0: 5, 1: 3, 2: 0}
    assert apportion({0: 2, 1: 100}, 60) == {0: 1, 1: 59}
    assert apportion({0: 1, 1: 1}, 5) == {0: 0, 1: 0}
    assert apportion({}, 5) == {}


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_the_usual_division() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20
    split = split_of(labels)
    assert counts_of(split) == {"train": 80, "val": 10, "test": 10}
    for name, expected in (("val", [5, 3, 2]), ("test", [5, 3, 2]), ("train", [40, 24, 16])):
        assert np.bincount(np.array(labels)[split.rows(name)], minlength=3).tolist() == expected
    assert split.paths == tuple(f"{index}.png" for index in range(100))
    assert split.classes == ("ant",) * 50 + ("bee",) * 30 + ("cat",) * 20


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.0), (0.05, 0.3), (0.001, 0.001), (0.5, 0.4)])
def test_fractions_are_of_all_images(val: float, test: float) -> None:
    split = split_of([0, 1] * 200, config=DataConfig(val_fraction=val, test_fraction=test))
    assert split.num_given("val") == max(1, round(400 * val))
    assert split.num_given("test") == (max(1, round(400 * test)) if test else 0)


def test_a_division_is_a_function_of_seed_and_pixels() -> None:
    labels = [0, 1] * 100
    base = split_of(labels)
    assert split_of(labels) == base
    assert split_of(labels, seed=1).splits != base.splits
    # In another order, under other names: each image stays where it was.
    order = np.random.default_rng(0).permutation(200)
    hashes = np.array(base.pixel_hashes)
    shuffled = split_of(np.array(labels)[order].tolist(), hashes[order].tolist())
    assert shuffled.splits == tuple(np.array(base.splits)[order])


@pytest.mark.parametrize("added", [1, 20, 200])
def test_images_added_later_move_few_of_the_others(added: int) -> None:
    labels = [index % 3 for index in range(1000 + added)]
    before = split_of(labels[:1000])
    after = split_of(labels, hashes_of(1000 + added))
    moved = sum(one != two for one, two in zip(before.splits, after.splits[:1000], strict=True))
    assert moved <= added * 0.2 + 2


def test_who_is_held_out_looks_random() -> None:
    # 60 images, 12 of them held out, 300 seeds: each image is held out 60 times, give or take 7.
    times = Counter()
    for seed in range(300):
        split = split_of([0] * 60, seed=seed, config=DataConfig(val_fraction=0.1, test_fraction=0.1))
        times.update(np.concatenate([split.rows("val"), split.rows("test")]).tolist())
    assert len(times) == 60
    assert 30 <= min(times.values()) <= max(times.values()) <= 90


# --- the same pixels -------------------------------------------------------------------------------------------------

HASHES = st.lists(st.sampled_from(["", *(f"{number:02x}" for number in range(12))]), min_size=2, max_size=40)


@given(HASHES, st.randoms(use_true_random=False), st.integers(0, 3), st.floats(0.01, 0.45), st.floats(0, 0.45))
def test_what_every_division_promises(hashes: list[str], random: Random, seed: int, val: float, test: float) -> None:
    labels = [random.randint(0, 2) for _ in hashes]
    config = DataConfig(val_fraction=val, test_fraction=test)
    readable = [(label, found) for label, found in zip(labels, hashes, strict=True) if found]
    distinct = {label: {found for other, found in readable if other == label} for label in set(labels)}
    shared = len({found for _, found in readable}) < sum(map(len, distinct.values()))
    try:
        split = split_of(labels, hashes, config=config, seed=seed)
    except DataError as error:
        if "no training images" in str(error):
            assert any(not images for images in distinct.values())
        else:
            assert "too few images" in str(error)
            assert shared or sum(len(images) - 1 for images in distinct.values()) == 0
        return
    assert all(distinct.values())
    assert len(split.rows("val")) >= 1
    side: dict[str, set[str]] = {}
    for row, (found, name) in enumerate(zip(split.pixel_hashes, split.splits, strict=True)):
        assert name in SPLITS
        side.setdefault(found or f"row {row}", set()).add(name)
        assert found or name == "train", "nobody is evaluated on what cannot be read"
    assert all(len(names) == 1 for names in side.values())
    trained = {labels[row] for row in split.rows("train")}
    assert trained == set(labels)
    assert not any(len(rows) for rows in leaked_rows(split).values())
    for name, fraction in (("val", val), ("test", test)):
        held_out = {split.pixel_hashes[row] for row in split.rows(name)}
        assert len(held_out) <= max(1, round(fraction * len({found for _, found in readable})))
        assert fraction or not held_out


def test_copies_stay_together_across_classes() -> None:
    hashes = hashes_of(40)
    hashes[25:30] = hashes[0:5]  # the same pixels, labelled ant and bee
    for seed in range(20):
        split = split_of([0] * 20 + [1] * 20, hashes, seed=seed)
        assert split.splits[25:30] == split.splits[0:5]


def test_copies_count_as_one_image() -> None:
    # Class 0 is one picture fifty times: it cannot be divided, and does not make val larger.
    hashes = ["aa"] * 50 + hashes_of(51)[1:]
    split = split_of([0] * 50 + [1] * 50, hashes)
    assert set(split.splits[:50]) == {"train"}
    assert split.num_given("val") == split.num_given("test") == 5


def test_files_with_the_same_pixels_stay_together(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    root = write_images(tmp_path, {"ant": 10, "bee": 10})
    for number in range(10):
        picture = Image.open(root / "ant" / f"{number:03}.png")
        picture.save(root / "ant" / f"copy{number}.bmp")
        if number < 3:
            picture.save(root / "bee" / f"wrong{number}.png", compress_level=0)
    source = FolderSource(root)
    hashes = scan(source, Preprocess(8, [0.0] * 3, [1.0] * 3), keep=False).pixel_hashes
    for seed in range(5):
        split = make_split(source, hashes, DEFAULT, seed)
        side = dict(zip(split.paths, split.splits, strict=True))
        for number in range(10):
            assert side[f"ant/{number:03}.png"] == side[f"ant/copy{number}.bmp"]
            assert number >= 3 or side[f"ant/{number:03}.png"] == side[f"bee/wrong{number}.png"]
        assert not any(len(rows) for rows in leaked_rows(split).values())


# --- few images ------------------------------------------------------------------------------------------------------


def test_a_class_of_one_image_is_trained_on() -> None:
    for seed in range(10):
        split = split_of([0] * 10 + [1], seed=seed)
        assert split.splits[10] == "train"
        assert counts_of(split) == {"train": 9, "val": 1, "test": 1}


def test_two_images_of_two_classes_cannot_be_divided() -> None:
    with pytest.raises(DataError, match=r"insects: too few images to hold any out for val: 2 that can be read"):
        split_of([0, 1])


def test_copies_of_one_image_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="too few images to hold any out"):
        split_of([0, 0, 0, 1, 1], ["aa", "aa", "aa", "bb", "bb"])


@pytest.mark.parametrize(
    ("labels", "expected"), [([0, 0, 1], (2, 1, 0)), ([0, 0, 1, 1], (2, 1, 1)), ([0] * 3, (1, 1, 1))]
)
def test_val_goes_before_test_where_images_are_few(labels: list[int], expected: tuple[int, int, int]) -> None:
    for seed in range(10):
        assert tuple(counts_of(split_of(labels, seed=seed)).values()) == expected


def test_a_class_of_two_with_one_unreadable_keeps_the_other() -> None:
    config = DataConfig(val_fraction=0.45, test_fraction=0.0)
    for seed in range(20):
        split = split_of([0, 0, 1, 1, 1], ["", "aa", "bb", "cc", "dd"], config=config, seed=seed)
        assert split.splits[:2] == ("train", "train")
        assert split.num_given("val") == 2


def test_unreadable_images_are_given_but_not_used() -> None:
    hashes = hashes_of(100)
    hashes[3] = hashes[50] = hashes[98] = ""
    parts = ["train"] * 90 + ["test"] * 10
    split = split_of([0, 1] * 50, hashes, parts)
    assert split.num_given("test") == 10
    assert len(split.rows("test")) == 9
    assert 98 not in split.rows("test")
    assert split.num_given("train") - len(split.rows("train")) == 2
    assert split.splits[3] == split.splits[50] == "train"


# --- parts that the source has ---------------------------------------------------------------------------------------


def test_own_parts_are_respected() -> None:
    parts = ["train"] * 20 + ["val"] * 6 + ["test"] * 4
    assert split_of([0, 1] * 15, parts=parts).splits == tuple(parts)


def test_val_is_never_drawn_from_test() -> None:
    parts = ["train"] * 60 + ["test"] * 40
    split = split_of([0, 1] * 50, parts=parts)
    assert split.splits[60:] == ("test",) * 40
    assert counts_of(split) == {"train": 54, "val": 6, "test": 40}


def test_test_is_drawn_from_train_where_there_is_none() -> None:
    parts = ["val"] * 10 + [""] * 90
    split = split_of([0, 1] * 50, parts=parts)
    assert split.splits[:10] == ("val",) * 10
    assert counts_of(split) == {"train": 81, "val": 10, "test": 9}


def test_images_in_two_own_parts_are_reported_as_leaked() -> None:
    hashes = hashes_of(12)
    hashes[8], hashes[11], hashes[10] = hashes[0], hashes[1], ""
    split = split_of([0, 1] * 6, hashes, ["train"] * 8 + ["val"] * 2 + ["test"] * 2)
    assert {name: rows.tolist() for name, rows in leaked_rows(split).items()} == {"val": [8], "test": [11]}


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_is_nowhere_in_train_is_named(part: str) -> None:
    parts = ["train"] * 8 + [part] * 2
    with pytest.raises(DataError, match=rf"the class 'cat' has no training images .*\(it has some in {part}\)"):
        split_of([0, 1] * 4 + [2, 0], parts=parts)


def test_a_class_that_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"the class 'bee' has no training images that can be read\. Add some"):
        split_of([0] * 9 + [1], [*hashes_of(9), ""])


def test_a_class_without_any_image_is_no_error() -> None:
    assert counts_of(split_of([0, 1] * 10))["val"] == 2  # There is no cat.


def test_no_training_images() -> None:
    with pytest.raises(DataError, match="expected training images, found none in its train part"):
        split_of([0, 1] * 5, parts=["val"] * 5 + ["test"] * 5)


def test_a_val_part_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match="none of the 2 images in its val part can be read"):
        split_of([0, 1] * 5, [*hashes_of(8), "", ""], ["train"] * 8 + ["val"] * 2)


# --- other tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_are_divided_without_classes(task: str) -> None:
    targets = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.float32)
    classes = ("ant", "bee", "cat") if task == "multilabel" else ()
    paths = [f"{index}.png" for index in range(50)]
    source = Labelled("insects", classes=classes, paths=paths, targets=targets, task=task)
    split = make_split(source, hashes_of(50), DEFAULT, 0)
    assert counts_of(split) == {"train": 40, "val": 5, "test": 5}
    assert split.classes == tuple(source.label_name(row) for row in range(50))
    assert make_split(source, hashes_of(50), DEFAULT, 0) == split


def test_two_images_with_numbers_can_be_divided() -> None:
    source = Labelled("n", classes=(), paths=["a", "b"], targets=np.array([[1.0], [2.0]]), task="regression")
    assert counts_of(make_split(source, ["aa", "bb"], DEFAULT, 0)) == {"train": 1, "val": 1, "test": 0}


# --- storing ---------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(SPLITS), st.sampled_from(["", "ab"])), max_size=8))
def test_a_stored_split_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "split.parquet"
    split = Split(*zip(*rows, strict=True)) if rows else Split((), (), (), ())
    split.save(path)
    assert Split.load(path) == split
    assert not path.with_name("split.parquet.tmp").exists()


def test_the_file_is_a_table_for_everyone(tmp_path: Path) -> None:
    split = split_of([0, 1] * 10)
    split.save(tmp_path / "split.parquet")
    table = pq.read_table(tmp_path / "split.parquet")
    assert table.column_names == ["index", "path", "class", "split", "pixel_hash"]
    assert table["index"].to_pylist() == list(range(20))
    assert table["class"].to_pylist() == ["ant", "bee"] * 10
    assert table["pixel_hash"].to_pylist() == hashes_of(20)
    assert Counter(table["split"].to_pylist()) == counts_of(split)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(table: object, where: Path) -> None:
        where.write_bytes(b"half")
        raise OSError("disk full")

    path, split = tmp_path / "split.parquet", split_of([0, 1] * 10)
    split.save(path)
    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        split_of([0, 1] * 20).save(path)
    assert Split.load(path) == split


def test_the_folder_above_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "split=7" / "index=a"
    folder.mkdir(parents=True)
    split = split_of([0, 1] * 10)
    split.save(folder / "split.parquet")
    assert Split.load(folder / "split.parquet") == split


def test_rows_are_in_order_and_empty_ones_too() -> None:
    split = Split(("a", "b", "c", "d"), ("x",) * 4, ("val", "train", "val", "val"), ("1", "2", "", "3"))
    assert split.rows("val").tolist() == [0, 3]
    assert split.rows("test").dtype == np.int64
    assert split.rows("test").shape == (0,)
    assert split.num_given("val") == 3


@pytest.mark.parametrize("content", [None, b"", b"not parquet", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_file_that_is_no_split(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "split.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"split\.parquet: expected the stored split of a run, found"):
        Split.load(path)


def test_a_table_without_the_columns(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"path": ["a"], "split": ["val"]}), tmp_path / "split.parquet")
    with pytest.raises(RunError, match="KeyError: 'class'"):
        Split.load(tmp_path / "split.parquet")

"""k-fold: every image in the test part of exactly one fold, classes even, groups and copies whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.config import DataConfig
from tellapart.data.sources.base import Source
from tellapart.data.splits import UNUSED, Split, leaked_rows, make_split
from tellapart.errors import ConfigError, DataError


class Dealt(Source):
    """A source of labels and groups alone."""

    def __init__(
        self, labels: Sequence[int], groups: Sequence[str] | None = None, parts: list[str] | None = None
    ) -> None:
        paths = [f"{index}.png" for index in range(len(labels))]
        classes = [f"class{label}" for label in range(max(labels) + 1)]
        super().__init__("scans", classes=classes, paths=paths, targets=np.array(labels), parts=parts)
        self.groups = None if groups is None else list(groups)

    def read(self, index: int) -> bytes:
        raise NotImplementedError


def hashes_of(count: int) -> list[str]:
    return [f"{index * 7919:032x}" for index in range(count)]


def all_folds(
    source: Source, num_folds: int = 5, seed: int = 0, hashes: Sequence[str] | None = None, **options: object
) -> list[Split]:
    config = {"val_fraction": 0.1, "folds": num_folds, **options.pop("config", {})}  # pyright: ignore
    return [
        make_split(source, hashes or hashes_of(len(source)), DataConfig(**config, fold=fold), seed, **options)  # pyright: ignore
        for fold in range(1, num_folds + 1)
    ]


def fold_of_rows(splits: list[Split]) -> dict[int, int]:
    """Return the fold that tests each row; a row in two folds is an error."""
    found: dict[int, int] = {}
    for fold, split in enumerate(splits):
        for row in split.rows("test").tolist():
            assert row not in found
            found[row] = fold
    return found


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([*[""] * 6, *"abcdefgh"]),
        st.sampled_from(["", *(f"{number:02x}" for number in range(60))]),
    ),
    min_size=4,
    max_size=70,
)


@given(ROWS, st.integers(2, 6), st.integers(0, 3))
def test_what_folds_promise(rows: list[tuple[int, str, str]], num_folds: int, seed: int) -> None:
    labels, groups, hashes = map(list, zip(*rows, strict=True))
    source = Dealt(labels, groups)
    try:
        splits = all_folds(source, num_folds, seed, hashes)
    except DataError as error:
        known = ("folds need at least", "fall into one fold", "too few images", "no training images")
        assert any(text in str(error) for text in known)
        return
    tested = fold_of_rows(splits)
    assert sorted(tested) == [row for row, found in enumerate(hashes) if found]
    for split in splits:
        sides: dict[str, set[str]] = defaultdict(set)
        for row in range(len(rows)):
            if hashes[row]:
                sides[f"hash {hashes[row]}"].add(split.splits[row])
                if groups[row]:
                    sides[f"group {groups[row]}"].add(split.splits[row])
        assert all(len(names) == 1 for names in sides.values())
        assert {labels[row] for row in split.rows("train")} == set(labels)
        assert len(split.rows("val"))
        assert not any(map(len, leaked_rows(split).values()))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(2, 8))
def test_single_images_lie_evenly(sizes: list[int], num_folds: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    source = Dealt(labels)
    if len(labels) < num_folds:
        with pytest.raises(DataError, match=f"{num_folds} folds need at least {num_folds} different images"):
            all_folds(source, num_folds)
        return
    try:
        splits = all_folds(source, num_folds)
    except DataError as error:
        # Too few to choose by: each class has one image left in some fold.
        assert "too few images to hold any out for val" in str(error)
        assert min(sizes) <= num_folds
        return
    parts = [np.array(labels)[split.rows("test")] for split in splits]
    for one, other in combinations(parts, 2):
        assert abs(len(one) - len(other)) <= 1
        for label in range(len(sizes)):
            assert abs((one == label).sum() - (other == label).sum()) <= 1


def test_val_is_drawn_from_the_rest_with_its_fraction() -> None:
    for split in all_folds(Dealt([0, 1] * 100), 4):
        assert Counter(split.splits) == {"train": 130, "val": 20, "test": 50}
        assert np.bincount(np.arange(200)[split.rows("val")] % 2).tolist() == [10, 10]


def test_folds_are_a_function_of_seed_and_pixels() -> None:
    labels = [0, 1, 2] * 40
    base = all_folds(Dealt(labels))
    assert all_folds(Dealt(labels)) == base
    assert [split.splits for split in all_folds(Dealt(labels), seed=1)] != [split.splits for split in base]
    order = np.random.default_rng(0).permutation(120)
    mixed = all_folds(Dealt(np.array(labels)[order].tolist()), hashes=np.array(hashes_of(120))[order].tolist())
    assert [split.splits for split in mixed] == [tuple(np.array(split.splits)[order]) for split in base]


@pytest.mark.parametrize("added", [1, 10, 100])
def test_images_added_later_move_few_of_the_others(added: int) -> None:
    labels = [index % 3 for index in range(1000 + added)]
    before, after = (fold_of_rows(all_folds(Dealt(labels[:count]))) for count in (1000, 1000 + added))
    moved = sum(before[row] != after[row] for row in before)
    # Each takes a place that another had, which takes another's, in five folds at most.
    assert moved <= 4 * added + 4
    assert moved <= 300


def test_which_fold_looks_random() -> None:
    times = Counter(fold_of_rows(all_folds(Dealt([0] * 20), 4, seed))[7] for seed in range(200))
    assert set(times) == {0, 1, 2, 3}
    assert min(times.values()) >= 25


def test_groups_are_dealt_by_size() -> None:
    sizes = [40, 30, 20, 10, 10, 10, 10, 10, 5, 5]
    groups = [f"g{index}" for index, size in enumerate(sizes) for _ in range(size)]
    counts = [len(split.rows("test")) for split in all_folds(Dealt([0, 1] * 75, groups), 4)]
    assert sum(counts) == 150
    assert max(counts) - min(counts) <= 5


def test_groups_of_one_class_each_fill_all_folds() -> None:
    # 12 groups of 5 images, two a class: three groups a fold, though no class needs the third and the fourth.
    labels = [group // 2 for group in range(12) for _ in range(5)]
    splits = all_folds(Dealt(labels, [f"g{index // 5}" for index in range(60)]), 4)
    assert [len(split.rows("test")) for split in splits] == [15] * 4


def test_a_test_part_of_its_own_is_in_no_fold() -> None:
    said: list[str] = []
    parts = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    splits = all_folds(Dealt([0, 1] * 50, parts=parts), say=said.append)
    assert sorted(fold_of_rows(splits)) == list(range(80))
    assert all(split.splits[80:] == (UNUSED,) * 20 for split in splits)
    assert said[:2] == [
        "note: scans has a test part of its own; its 20 images are in no fold.",
        "note: the 20 images of the val part of scans are dealt into the folds as well.",
    ]


def test_a_class_of_the_unused_part_alone_is_said() -> None:
    said: list[str] = []
    source = Dealt([0, 1] * 20 + [2], parts=["train"] * 40 + ["test"])
    all_folds(source, say=said.append)
    assert "note: no image of the class 'class2' is used; the model will not know it." in said


def test_one_image_of_a_class_cannot_be_both_tested_on_and_learned() -> None:
    with pytest.raises(DataError, match=r"class 'class2' fall into one fold, .* images in 1 of the different images"):
        all_folds(Dealt([0, 1] * 20 + [2]))
    with pytest.raises(DataError, match=r"class 'class1' fall into one fold, .* images in 1 of the groups: add others"):
        all_folds(Dealt([0] * 20 + [1] * 20, [f"g{index // 4}" for index in range(20)] + ["bees"] * 20))


def test_too_few_groups_for_the_folds() -> None:
    with pytest.raises(DataError, match=r"data\.folds: 5 folds need at least 5 groups, found 4\."):
        all_folds(Dealt([0, 1] * 20, [f"g{index // 10}" for index in range(40)]))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_are_dealt_by_number(task: str) -> None:
    source = Dealt([0] * 52)
    source.task, source.targets = task, np.ones((52, 1), dtype=np.float32)
    assert sorted(len(split.rows("test")) for split in all_folds(source)) == [10, 10, 10, 11, 11]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, r"data\.folds: expected 0 \(one run\) or at least 2 parts"),
        ({"folds": 3, "fold": 4}, r"data\.fold: expected at most data\.folds \(3\), found 4"),
        ({"fold": 1}, r"data\.fold: expected at most data\.folds \(0\), found 1"),
        ({"folds": 3}, r"data\.fold: which of the 3 folds is to be the test part\?"),
        ({"folds": 3, "split": "a.csv"}, r"data\.folds: are drawn, and data\.split says where each image goes"),
        ({"folds": 2, "fold": 1, "val_fraction": 0.45}, r"with 2 folds it leaves under a tenth to train on"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_split(Dealt([0, 1] * 10), hashes_of(20), DataConfig(**settings), 0)  # pyright: ignore[reportArgumentType]

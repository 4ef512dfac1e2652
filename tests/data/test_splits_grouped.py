"""Groups and near duplicates: never on two sides, as near to the fractions and to the classes as whole groups go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.config import DataConfig
from tellapart.data.sources.base import Source
from tellapart.data.splits import SPLITS, Split, leaked_groups, leaked_rows, make_split
from tellapart.data.splits.found import search_paths
from tellapart.data.splits.units import make_units
from tellapart.errors import ConfigError, DataError

DEFAULT = DataConfig()
HALF = DataConfig(val_fraction=0.25, test_fraction=0.25)


class Grouped(Source):
    """A source of labels and groups alone."""

    def __init__(
        self,
        labels: Sequence[int],
        groups: Sequence[str] | None = None,
        *,
        paths: Sequence[str] | None = None,
        parts: list[str] | None = None,
    ) -> None:
        paths = list(paths) if paths else [f"{index}.png" for index in range(len(labels))]
        super().__init__("scans", classes=("ant", "bee", "cat"), paths=paths, targets=np.array(labels), parts=parts)
        self.groups = None if groups is None else list(groups)

    def read(self, index: int) -> bytes:
        raise NotImplementedError


def hashes_of(count: int) -> list[str]:
    return [f"{index * 7919:032x}" for index in range(count)]


def divide(source: Source, config: DataConfig = DEFAULT, seed: int = 0, **options: object) -> Split:
    hashes = options.pop("hashes", None) or hashes_of(len(source))
    return make_split(source, hashes, config, seed, **options)  # pyright: ignore[reportArgumentType]


def sides(split: Split, keys: Sequence[object]) -> dict[object, set[str]]:
    """Return the parts in which the readable images of each key lie."""
    found: dict[object, set[str]] = defaultdict(set)
    for key, part, pixels in zip(keys, split.splits, split.pixel_hashes, strict=True):
        if pixels:
            found[key].add(part)
    return found


# --- what must stay together -----------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["", *"abcdefgh"]),
        st.sampled_from(["", *(f"{number:02x}" for number in range(30))]),
        st.integers(-1, 5),
    ),
    min_size=3,
    max_size=60,
)


@given(ROWS, st.integers(0, 3), st.sampled_from([0.05, 0.2, 0.4]), st.sampled_from([0.0, 0.1, 0.4]))
def test_what_every_grouped_division_promises(
    rows: list[tuple[int, str, str, int]], seed: int, val: float, test: float
) -> None:
    labels, groups, hashes, near = map(list, zip(*rows, strict=True))
    source = Grouped(labels, groups)
    config = DataConfig(val_fraction=val, test_fraction=test)
    try:
        split = divide(source, config, seed, hashes=hashes, near_groups=np.array(near, dtype=np.int64))
    except DataError as error:
        assert "no training images" in str(error) or "too few images" in str(error)
        return
    assert set(split.splits) <= set(SPLITS)
    assert all(len(found) == 1 for key, found in sides(split, groups).items() if key)
    assert all(len(found) == 1 for key, found in sides(split, near).items() if key != -1)
    assert all(len(found) == 1 for key, found in sides(split, hashes).items() if key)
    assert {labels[row] for row in split.rows("train")} == set(labels)
    assert len(split.rows("val"))
    assert not any(map(len, leaked_rows(split).values()))
    assert not any(map(len, leaked_groups(split).values()))
    assert split.groups == tuple(groups)


@given(ROWS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    rows: list[tuple[int, str, str, int]], seed: int, random: object
) -> None:
    def parts(order: list[int]) -> dict[int, str] | str:
        labels, groups, hashes, near = map(list, zip(*(rows[row] for row in order), strict=True))
        try:
            found = divide(
                Grouped(labels, groups), HALF, seed, hashes=hashes, near_groups=np.array(near, dtype=np.int64)
            )
        except DataError as error:
            return str(error)
        return dict(zip(order, found.splits, strict=True))

    order = list(range(len(rows)))
    random.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    assert parts(order) == parts(list(range(len(rows))))


def test_copies_pull_their_groups_together() -> None:
    # An image of patient a is also in patient b's folder, and one of b in c's: the three are one.
    groups = ["a"] * 5 + ["b"] * 5 + ["c"] * 5 + [f"other{index}" for index in range(45)]
    hashes = hashes_of(60)
    hashes[5], hashes[10] = hashes[0], hashes[9]
    for seed in range(20):
        split = divide(Grouped([0, 1, 2] * 20, groups), HALF, seed, hashes=hashes)
        assert len(set(split.splits[:15])) == 1


def test_near_duplicates_stay_together_without_groups() -> None:
    near = np.full(60, -1, dtype=np.int64)
    near[[3, 30, 45]] = 7
    found = set()
    for seed in range(30):
        split = divide(Grouped([0, 1, 2] * 20), HALF, seed, near_groups=near)
        assert split.splits[3] == split.splits[30] == split.splits[45]
        found.add(split.splits[3])
        assert set(split.groups) == {""}
    assert found == set(SPLITS)


def test_units_by_hand() -> None:
    rows = np.array([0, 1, 2, 3, 5])
    labels = np.array([0, 1, 0, 2, 2, 0])
    hashes = ["aa", "bb", "aa", "dd", "", "ee"]
    units = make_units(rows, labels, hashes, ["g", "", "", "h", "g", "g"])
    together = [set(np.flatnonzero(units.of_row == unit).tolist()) for unit in range(len(units))]
    named = dict(zip(units.names, together, strict=True))
    assert named == {"group/g": {0, 2, 5}, "bb": {1}, "group/h": {3}}
    assert units.of_row[4] == -1
    place = {name: unit for unit, name in enumerate(units.names)}
    assert units.sizes[place["group/g"]] == 2
    assert units.counts(place["group/g"]) == [(0, 2)]
    assert units.class_counts(np.ones(3, dtype=bool)) == {0: 2, 1: 1, 2: 1}


# --- how well it is met ----------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(1, 6))
def test_fractions_are_met_as_whole_groups_allow(seed: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, 200)
    labels = np.repeat(rng.integers(0, 3, 200), sizes)
    split = divide(Grouped(labels.tolist(), np.repeat([f"g{index}" for index in range(200)], sizes).tolist()), DEFAULT)
    for part in ("val", "test"):
        for label in range(3):
            wanted = 0.1 * (labels == label).sum()
            assert abs((labels[split.rows(part)] == label).sum() - wanted) <= largest + 1
        assert abs(len(split.rows(part)) - 0.1 * len(labels)) <= largest


def test_many_classes_in_each_group_do_not_swell_a_part() -> None:
    rng = np.random.default_rng(0)
    source = Grouped(rng.integers(0, 10, 1800).tolist(), [f"g{group}" for group in rng.integers(0, 100, 1800)])
    source.classes = tuple("abcdefghij")
    counts = [len(divide(source, DEFAULT, seed).rows("test")) for seed in range(10)]
    # Class by class, the last image of each would bring in groups of 18: 194 on average.
    assert abs(np.mean(counts) - 180) <= 6


def test_rare_classes_are_met_where_groups_mix_classes() -> None:
    rng = np.random.default_rng(0)
    # 100 cameras of 20 images; one image in 40 shows a cat.
    labels = np.where(rng.random(2000) < 0.025, 2, rng.integers(0, 2, 2000))
    split = divide(Grouped(labels.tolist(), [f"camera{index // 20}" for index in range(2000)]))
    for part in ("val", "test"):
        assert 180 <= len(split.rows(part)) <= 220
        share = (labels[split.rows(part)] == 2).sum() / (labels == 2).sum()
        assert 0.05 <= share <= 0.15


def test_the_rarest_class_goes_first() -> None:
    # A cat in 3 of 33 groups; by the other class alone, a third of the groups would often hold none.
    labels = [label for group in range(33) for label in ([0] * 10 + [2] * (group < 3))]
    groups = [f"g{group}" for group in range(33) for _ in range(10 + (group < 3))]
    for seed in range(20):
        split = divide(Grouped(labels, groups), DataConfig(val_fraction=0.05, test_fraction=0.33), seed)
        assert 2 in np.array(labels)[split.rows("test")]


def test_a_group_is_taken_while_it_brings_the_part_nearer() -> None:
    # Of 10 images wanted, one group of 6 leaves 4 to go, and two are only 2 too many.
    split = divide(Grouped([0] * 102, [f"g{index // 6}" for index in range(102)]))
    assert Counter(split.splits) == {"train": 78, "val": 12, "test": 12}
    # Of 21 wanted, 15 are nearer than 30.
    split = divide(Grouped([0] * 210, [f"g{index // 15}" for index in range(210)]))
    assert Counter(split.splits) == {"train": 180, "val": 15, "test": 15}


@pytest.mark.parametrize("num_added", [1, 10])
def test_images_added_to_groups_move_few_others(num_added: int) -> None:
    def divided(num_groups: int) -> dict[str, str]:
        groups = [f"patient{index // 5}" for index in range(num_groups * 5)]
        split = divide(Grouped([index // 5 % 3 for index in range(num_groups * 5)], groups))
        return dict(zip(split.paths, split.splits, strict=True))

    before, after = divided(200), divided(200 + num_added)
    moved = sum(before[path] != after[path] for path in before)
    assert moved <= 5 * (4 + num_added)


def test_which_groups_are_held_out_is_drawn_by_the_seed() -> None:
    times = Counter()
    groups = [f"patient{index // 4}" for index in range(120)]
    for seed in range(200):
        split = divide(Grouped([0, 1] * 60, groups), DEFAULT, seed)
        times.update({split.groups[row] for row in split.rows("test")})
    # 3 of 30 groups each time: 20 times each, give or take 4.
    assert len(times) == 30
    assert 6 <= min(times.values()) <= max(times.values()) <= 36


def test_large_groups_are_held_out_too() -> None:
    said: list[str] = []
    split = divide(Grouped([0, 1, 2] * 20, ["a"] * 20 + ["b"] * 20 + ["c"] * 20), say=said.append)
    assert sorted(Counter(split.splits).items()) == [("test", 20), ("train", 20), ("val", 20)]
    assert "groups: 3, of up to 20 images; none is divided." in said
    assert "note: val has 20 different images where 6 were asked for: groups stay whole." in said


def test_two_groups_make_no_test() -> None:
    said: list[str] = []
    split = divide(Grouped([0, 1, 2] * 20, ["a"] * 30 + ["b"] * 30), say=said.append)
    assert Counter(split.splits) == {"train": 30, "val": 30}
    assert "note: there are too few groups to hold any out for test." in said


def test_a_class_of_one_group_stays_in_train() -> None:
    groups = [f"g{index % 10}" for index in range(40)] + ["cats"] * 10
    for seed in range(20):
        split = divide(Grouped([0, 1] * 20 + [2] * 10, groups), HALF, seed)
        assert set(split.splits[40:]) == {"train"}


def test_one_group_a_class_cannot_be_divided() -> None:
    with pytest.raises(DataError, match=r"too few images to hold any out for val: .* pixels, in two groups\."):
        divide(Grouped([0] * 20 + [1] * 20, ["a"] * 20 + ["b"] * 20))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_go_by_size(task: str) -> None:
    source = Grouped([0] * 100, [f"g{index // 4}" for index in range(100)])
    source.task, source.targets = task, np.zeros((100, 3), dtype=np.float32)
    split = divide(source)
    # Groups of 4: 10 is reached within a half of one.
    assert {split.num_given("val"), split.num_given("test")} <= {8, 12}
    assert all(len(found) == 1 for found in sides(split, split.groups).values())


def test_an_unreadable_image_of_a_group_is_evaluated_nowhere() -> None:
    hashes = hashes_of(60)
    hashes[::7] = [""] * len(hashes[::7])
    split = divide(Grouped([0, 1, 2] * 20, [f"g{index // 3}" for index in range(60)]), HALF, hashes=hashes)
    assert {part for part, found in zip(split.splits, hashes, strict=True) if not found} == {"train"}


# --- groups in paths -------------------------------------------------------------------------------------------------


def test_the_first_group_of_the_pattern_or_all_of_it() -> None:
    paths = ["p12/left_1.png", "p12/right_2.png", "x/left_3.png"]
    assert search_paths("p([0-9]+)/", paths) == ["12", "12", ""]
    assert search_paths("left|right", paths) == ["left", "right", "left"]
    # A group that takes no part in the match is none.
    assert search_paths("p12|x/(left)", paths) == ["", "", "left"]


def test_a_pattern_divides_by_what_it_finds() -> None:
    paths = [f"class{index % 3}/p{index // 6:02}_{index}.png" for index in range(90)]
    said: list[str] = []
    split = divide(
        Grouped([0, 1, 2] * 30, paths=paths), DataConfig(group_pattern="p[0-9]+", val_fraction=0.2), say=said.append
    )
    assert split.groups[:7] == ("p00",) * 6 + ("p01",)
    assert all(len(found) == 1 for found in sides(split, split.groups).values())
    assert not any("finds nothing" in text for text in said)


def test_paths_without_a_match_stand_alone() -> None:
    paths = [*(f"p{index // 10}/{index}.png" for index in range(50)), *(f"other{index}.png" for index in range(50))]
    said: list[str] = []
    split = divide(Grouped([0, 1] * 50, paths=paths), DataConfig(group_pattern="^p[0-9]"), say=said.append)
    assert split.groups[49:51] == ("p4", "")
    assert len({split.splits[row] for row in range(50, 100)}) == 3
    assert any("finds nothing in 50 of 100 paths (other0.png, other1.png, other2.png)" in text for text in said)


def test_a_pattern_replaces_a_column_and_says_so() -> None:
    said: list[str] = []
    source = Grouped([0, 1] * 20, ["one"] * 40, paths=[f"p{index // 4}_{index}.png" for index in range(40)])
    split = divide(source, DataConfig(group_pattern="p[0-9]+"), say=said.append)
    assert split.groups[:5] == ("p0",) * 4 + ("p1",)
    assert "note: groups are those of data.group_pattern; the column of groups was not used." in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_pattern": "p([0-9]+"}, r"data\.group_pattern: 'p\(\[0-9\]\+' is no regular expression: missing \)"),
        (
            {"group_pattern": "zzz"},
            r"data\.group_pattern: 'zzz' finds nothing in any of the 40 paths, such as '0\.png'",
        ),
        ({"group_pattern": "x*"}, "finds nothing in any of the 40 paths"),
        ({"group_column": "patient"}, r"data\.group_column: has no effect, because scans is read without a table"),
        ({"group_column": "p", "group_pattern": "[0-9]"}, "give one of them; which one says the group?"),
    ],
)
def test_patterns_and_columns_that_cannot_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        divide(Grouped([0, 1] * 20), DataConfig(**settings))  # pyright: ignore[reportArgumentType]


# --- the user's own parts --------------------------------------------------------------------------------------------


def test_groups_that_own_parts_break_are_reported_and_not_moved() -> None:
    parts = ["train"] * 20 + ["val"] * 6 + ["test"] * 4
    groups = ["a"] * 10 + ["b"] * 10 + ["b"] * 2 + ["c"] * 4 + ["a", "a", "", "d"]
    split = divide(Grouped([0, 1] * 15, groups, parts=parts))
    assert split.splits == tuple(parts)
    leaks = leaked_groups(split)
    assert {name: rows.tolist() for name, rows in leaks["val"].items()} == {"b": [20, 21]}
    assert {name: rows.tolist() for name, rows in leaks["test"].items()} == {"a": [26, 27]}


def test_an_empty_name_is_no_group() -> None:
    split = divide(Grouped([0, 1] * 15, [""] * 30))
    assert leaked_groups(split) == {"val": {}, "test": {}}
    assert Counter(split.splits) == {"train": 24, "val": 3, "test": 3}

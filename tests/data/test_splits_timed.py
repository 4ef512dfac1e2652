"""By time: the newest images become test, the next val; images of one time, one group or equal pixels stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.config import DataConfig
from tellapart.data.sources.base import Source
from tellapart.data.splits import Split, make_split
from tellapart.data.splits.found import rank_times
from tellapart.errors import ConfigError, DataError

BY_COLUMN = DataConfig(time_column="taken")


class Timed(Source):
    """A source of labels and times alone."""

    def __init__(
        self,
        times: Sequence[str] | None,
        *,
        paths: Sequence[str] | None = None,
        parts: list[str] | None = None,
        labels: Sequence[int] | None = None,
        groups: list[str] | None = None,
    ) -> None:
        count = len(paths or times or ())
        targets = np.array(labels) if labels is not None else np.arange(count) % 2
        super().__init__(
            "photos", classes=("ant", "bee"), paths=list(paths or map(str, range(count))), targets=targets, parts=parts
        )
        self.times, self.groups = None if times is None else list(times), groups

    def read(self, index: int) -> bytes:
        raise NotImplementedError


def divide(source: Source, config: DataConfig = BY_COLUMN, **options: object) -> Split:
    hashes = options.pop("hashes", None) or [f"{index * 7919:032x}" for index in range(len(source))]
    return make_split(source, hashes, config, 0, **options)  # pyright: ignore[reportArgumentType]


def ranks_of(times: Sequence[str]) -> tuple[list[int], list[str]]:
    said: list[str] = []
    return rank_times(Timed(times), list(times), np.arange(len(times)), said.append).tolist(), said


# --- what is a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        ["9", "10", "-3", "9.5", "1e3"],
        ["1700000000000000001", "1700000000000000002", "1699999999999999999", "1700000000000000001.5", "1.8e18"],
    ],
)
def test_numbers_compare_as_numbers(times: list[str]) -> None:
    ranks, said = ranks_of(times)
    assert ranks == [1, 3, 0, 2, 4]
    assert said == []


def test_dates_compare_as_instants() -> None:
    times = ["2026-03-01T12:00+02:00", "2026-03-01T11:00Z", "2026-03-01T10:00:00+00:00", "2025-12-31T00:00Z"]
    assert ranks_of(times) == ([1, 2, 1, 0], [])
    assert ranks_of(["2026-03-01", "2026-02-28 23:59", "20260302T00"])[0] == [1, 0, 2]


def test_a_missing_zone_is_said() -> None:
    ranks, said = ranks_of(["2026-03-01T12:00+02:00", "2026-03-01T11:00"])
    assert ranks == [0, 1]
    assert said == ["note: some times name a time zone and some do not; those without are taken as UTC."]


@pytest.mark.parametrize("times", [["2026:03:01", "2026:02:01", "7"], ["nan", "1", "2"], ["b", "a", "c"]])
def test_anything_else_compares_as_text(times: list[str]) -> None:
    ranks, said = ranks_of(times)
    assert ranks == [sorted(times).index(time) for time in times]
    assert said == [
        f"note: times such as '{times[0]}' are neither all numbers nor all ISO dates; they are ordered as text."
    ]


@given(st.lists(st.datetimes(), min_size=1, max_size=20))
def test_iso_dates_are_ordered_as_python_orders_them(times: list) -> None:
    ranks, _ = ranks_of([time.isoformat() for time in times])
    known = sorted(set(times))
    assert ranks == [known.index(time) for time in times]


# --- the cut ---------------------------------------------------------------------------------------------------------


def test_the_newest_are_test_and_the_next_val() -> None:
    order = np.random.default_rng(0).permutation(100)
    said: list[str] = []
    split = divide(Timed([str(time) for time in order]), say=said.append)
    expected = np.where(order >= 90, "test", np.where(order >= 80, "val", "train"))
    assert split.splits == tuple(expected.tolist())
    assert said == ["by time: train 0 to 79, val 80 to 89, test 90 to 99"]


@given(
    st.lists(st.integers(0, 12), min_size=6, max_size=60),
    st.floats(0.01, 0.4),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.randoms(use_true_random=False),
)
def test_what_every_division_by_time_promises(times: list[int], val: float, test: float, random: object) -> None:
    labels = [0] * len(times)
    config = DataConfig(time_column="t", val_fraction=val, test_fraction=test)
    source = Timed(list(map(str, times)), labels=labels)
    if len(set(times)) == 1:
        with pytest.raises(DataError, match="expected images of at least two times to cut between, found one time"):
            divide(source, config)
        return
    split = divide(source, config)
    spans = {name: [times[row] for row in split.rows(name)] for name in ("train", "val", "test")}
    assert max(spans["train"]) < min(spans["val"])
    assert not spans["test"] or max(spans["val"]) < min(spans["test"])
    # Each image where it is wanted, within the images of one time.
    most = max(Counter(times).values())
    if spans["test"]:
        assert abs(len(spans["test"]) - max(1, round(test * len(times)))) <= most
    assert bool(spans["test"]) == (bool(test) and len(set(times)) > 2)


def test_equal_times_stay_together() -> None:
    # Three days of 30, 60 and 10 images: the newest is test, the day before val, though it is half of all.
    split = divide(Timed(["1"] * 30 + ["2"] * 60 + ["3"] * 10))
    assert split.splits == ("train",) * 30 + ("val",) * 60 + ("test",) * 10


def test_the_cut_is_where_the_count_comes_nearest() -> None:
    # Ten are wanted: the last day has 2, and with the day before it would be 32.
    split = divide(Timed(["1"] * 48 + ["2"] * 20 + ["3"] * 30 + ["4"] * 2))
    assert Counter(split.splits) == {"train": 68, "val": 30, "test": 2}


def test_a_time_is_left_for_every_part() -> None:
    # 21 are wanted for test, and the two newest are nearer to that than the newest alone.
    config = DataConfig(time_column="taken", test_fraction=0.4, val_fraction=0.2)
    split = divide(Timed(["1"] * 50 + ["2", "3"], labels=[0] * 52), config)
    assert split.splits == ("train",) * 50 + ("val", "test")


def test_two_times_make_no_test() -> None:
    said: list[str] = []
    split = divide(Timed(["1"] * 30 + ["2"] * 10), say=said.append)
    assert split.splits == ("train",) * 30 + ("val",) * 10
    assert "note: there are too few times to hold any out for test." in said


def test_a_group_goes_where_its_newest_image_goes() -> None:
    times = [str(index) for index in range(100)]
    groups = [""] * 100
    groups[3] = groups[95] = "camera"
    said: list[str] = []
    split = divide(Timed(times, groups=groups), say=said.append)
    assert split.splits[3] == split.splits[95] == "test"
    # Nothing is trained on that is newer than what is tested, or the other way round but for that group.
    assert split.splits[4] == "train"
    assert any("1 images of val and test are no newer than the newest training image" in text for text in said)


def test_copies_stay_together() -> None:
    hashes = [f"{index:02x}" for index in range(50)]
    hashes[0] = hashes[49]
    split = divide(Timed([str(index) for index in range(50)]), hashes=hashes)
    assert split.splits[0] == split.splits[49] == "test"
    # Two of the same pixels are one image: five are test.
    assert split.num_given("test") == 6


def test_a_time_in_the_path() -> None:
    paths = [f"cam/IMG_{20260101 + index}_x.jpg" for index in range(20)]
    config = DataConfig(time_pattern="IMG_(20[0-9]{6})", val_fraction=0.1, test_fraction=0.1)
    said: list[str] = []
    split = divide(Timed(None, paths=paths), config, say=said.append)
    assert split.splits == ("train",) * 16 + ("val",) * 2 + ("test",) * 2
    assert "by time: train 20260101 to 20260116, val 20260117 to 20260118, test 20260119 to 20260120" in said


# --- own parts -------------------------------------------------------------------------------------------------------


def test_only_what_is_drawn_goes_by_time_and_needs_one() -> None:
    times = [str(index) for index in range(20)] + [""] * 5
    split = divide(Timed(times, parts=["train"] * 20 + ["test"] * 5))
    assert split.splits == ("train",) * 18 + ("val",) * 2 + ("test",) * 5


def test_images_without_a_time_are_named() -> None:
    times = [str(index) for index in range(20)]
    times[4], times[9] = "", "  "
    with pytest.raises(DataError, match=r"photos: 2 of 20 images have no time \(4, 9\)"):
        divide(Timed(times))


def test_a_new_class_that_is_only_in_the_newest_is_an_error() -> None:
    with pytest.raises(DataError, match=r"the class 'bee' has no training images .*\(it has some in test\)"):
        divide(Timed([str(index) for index in range(20)], labels=[0] * 19 + [1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_column": "taken", "time_pattern": "[0-9]"}, "give one of them; which one says the time"),
        ({"time_pattern": "(2026"}, "is no regular expression"),
        ({"time_pattern": "zzz"}, "finds nothing in any of the 20 paths"),
        ({"time_column": "taken", "folds": 5, "fold": 1}, r"data\.time_column: does not go with data\.folds"),
        ({"time_column": "taken", "split": "x.csv"}, r"data\.time_column: has no effect with data\.split"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        divide(Timed([str(index) for index in range(20)]), DataConfig(**settings))  # pyright: ignore[reportArgumentType]


def test_a_source_without_columns_has_no_time_column() -> None:
    with pytest.raises(ConfigError, match=r"data\.time_column: has no effect, because photos is read without a table"):
        divide(Timed(None, paths=["a", "b", "c"]))


@pytest.mark.parametrize(("parts", "test"), [(("val", "test"), 0.1), (("val", "train"), 0.0)])
def test_times_that_nobody_reads(parts: tuple[str, str], test: float) -> None:
    source = Timed([str(index) for index in range(20)], parts=["train"] * 10 + [parts[0]] * 5 + [parts[1]] * 5)
    with pytest.raises(ConfigError, match=r"data\.time_column: has no effect, because nothing is left to draw"):
        divide(source, DataConfig(time_column="t", test_fraction=test))

"""A division that was stored, edited, and given to another run; and the file itself, as Parquet and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.config import DataConfig
from tellapart.data.sources.base import Source
from tellapart.data.splits import SPLITS, UNUSED, Split, leaked_rows, make_split, unread_fractions
from tellapart.errors import ConfigError, DataError, RunError


class Labelled(Source):
    """A source of labels alone."""

    def read(self, index: int) -> bytes:
        raise NotImplementedError


def source_of(paths: Sequence[str], labels: Sequence[int] | None = None, parts: list[str] | None = None) -> Source:
    targets = np.arange(len(paths)) % 2 if labels is None else np.array(labels)
    return Labelled("insects", classes=("ant", "bee"), paths=list(paths), targets=targets, parts=parts)


def hashes_of(count: int) -> list[str]:
    return [f"{index * 7919:032x}" for index in range(count)]


PATHS = [f"{('ant', 'bee')[index % 2]}/{index:02}.png" for index in range(20)]
HASHES = hashes_of(20)


def divide(file: Path, paths: Sequence[str] = PATHS, hashes: Sequence[str] = HASHES, **options: object) -> Split:
    source = options.pop("source", None) or source_of(paths)
    return make_split(source, hashes, DataConfig(split=str(file)), 0, **options)  # pyright: ignore


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def drawn() -> Split:
    return make_split(source_of(PATHS), HASHES, DataConfig(val_fraction=0.2, test_fraction=0.2), 3)


# --- the file --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
STORED = st.tuples(TEXT, TEXT, st.sampled_from([*SPLITS, UNUSED]), st.sampled_from(["", "ab"]), TEXT, TEXT)


@given(st.lists(STORED, min_size=1, max_size=8), st.sampled_from([".parquet", ".csv", ".tsv", ".CSV"]))
def test_what_is_saved_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"given{ending}"
    split = Split(*zip(*rows, strict=True))
    split.save(path)
    assert Split.load(path) == split
    assert [file.name for file in path.parent.glob("given*.tmp")] == []


def test_columns_that_say_nothing_are_not_written(tmp_path: Path, drawn: Split) -> None:
    assert drawn.content_hashes == drawn.groups == ("",) * 20
    drawn.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "index,path,class,split,pixel_hash"
    content = [f"{index:x}" for index in range(20)]
    full = make_split(source_of(PATHS), HASHES, DataConfig(), 3, content_hashes=content)
    full.save(tmp_path / "b.tsv")
    assert (tmp_path / "b.tsv").read_text().splitlines()[1].split("\t")[-1] == "0"
    assert Split.load(tmp_path / "b.tsv").content_hashes == tuple(content)


def test_the_table_of_an_older_version_loads(tmp_path: Path) -> None:
    columns = {"index": [0], "path": ["a"], "class": ["x"], "split": ["val"], "pixel_hash": ["ff"]}
    pq.write_table(pa.table(columns), tmp_path / "split.parquet")
    assert Split.load(tmp_path / "split.parquet") == Split(("a",), ("x",), ("val",), ("ff",), ("",), ("",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "an empty file"),
        ("path,split\n", "KeyError: 'class'"),
        ("path,class,split,pixel_hash\na,b,train\n", r"row 2: expected 4 cells \(path, class, split, pixel_hash\), fo"),
        ('path,class,split,pixel_hash\n"a,b,train,1\n', "ValueError"),
        (b"path,class,split,pixel_hash\n\xff\xfe,b,train,1\n", "UnicodeDecodeError"),
    ],
)
def test_text_that_is_no_split(tmp_path: Path, text: str | bytes, found: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=rf"a\.csv: expected the stored split of a run, found .*{found}"):
        Split.load(path)


# --- given as it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["split.parquet", "split.csv", "split.tsv", "a folder"])
def test_a_stored_division_is_used_as_it_is(tmp_path: Path, drawn: Split, name: str) -> None:
    said: list[str] = []
    drawn.save(tmp_path / (name if name != "a folder" else "split.parquet"))
    file = tmp_path if name == "a folder" else tmp_path / name
    assert divide(file, say=said.append) == drawn
    assert said == [f"the division is that of {tmp_path / (name if name != 'a folder' else 'split.parquet')}"]


def test_a_row_is_edited_and_given_back(tmp_path: Path, drawn: Split) -> None:
    # The example of the guide: copy the table to CSV, change a cell, give it to the next run.
    drawn.save(tmp_path / "split.parquet")
    Split.load(tmp_path / "split.parquet").save(tmp_path / "mine.csv")
    row = drawn.rows("train")[0]
    lines = (tmp_path / "mine.csv").read_text().splitlines()
    lines[row + 1] = lines[row + 1].replace("train", "test")
    write(tmp_path / "mine.csv", *lines)
    edited = divide(tmp_path / "mine.csv")
    assert edited.splits[row] == "test"
    assert [part for place, part in enumerate(edited.splits) if place != row] == [
        part for place, part in enumerate(drawn.splits) if place != row
    ]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_two_columns_by_hand_as_spreadsheets_write_them(tmp_path: Path, sign: str, mark: str) -> None:
    rows = [sign.join(pair) for pair in zip(PATHS, ["Train "] * 12 + ["VAL"] * 8, strict=True)]
    split = divide(write(tmp_path / "mine.csv", f"{mark}Path{sign}split", *rows, ""))
    assert split.splits == ("train",) * 12 + ("val",) * 8
    assert split.pixel_hashes == tuple(HASHES)


def test_what_the_file_does_not_name_is_not_used(tmp_path: Path) -> None:
    rows = [f"{path},{'train' if index < 8 else 'val'}" for index, path in enumerate(PATHS[:12])]
    rows.append(f"{PATHS[12]},unused")
    said: list[str] = []
    split = divide(write(tmp_path / "mine.csv", "path,split", *rows), say=said.append)
    assert split.splits == ("train",) * 8 + ("val",) * 4 + (UNUSED,) * 8
    assert "note: 7 images are not named in the file and not used (bee/13.png, ant/14.png, bee/15.png)." in said
    assert [len(split.rows(name)) for name in SPLITS] == [8, 4, 0]
    assert split.num_given(UNUSED) == 8


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    head, *rows = (tmp_path / "a.csv").read_text().splitlines()
    order = np.random.default_rng(0).permutation(20)
    file = write(tmp_path / "b.csv", head, *(rows[place] for place in order))
    assert divide(file) == drawn
    places = np.random.default_rng(1).permutation(20)
    source = source_of([PATHS[place] for place in places], [place % 2 for place in places])
    assert divide(file, hashes=[HASHES[place] for place in places], source=source).splits == tuple(
        drawn.splits[place] for place in places
    )


def test_own_parts_do_not_matter(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    assert divide(tmp_path / "a.csv", source=source_of(PATHS, parts=["test"] * 5 + ["train"] * 15)) == drawn


# --- moved, changed, missing -----------------------------------------------------------------------------------------


def test_moved_images_are_found_by_their_pixels(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    said: list[str] = []
    moved = [path.replace("ant/", "ants/") for path in PATHS]
    split = divide(tmp_path / "a.csv", moved, say=said.append)
    assert split.splits == drawn.splits
    assert split.paths == tuple(moved)
    assert any("10 images lie under another path now and were found by their pixels (ant/00.png" in t for t in said)


def test_paths_that_changed_places_follow_the_pixels(tmp_path: Path, drawn: Split) -> None:
    # Arrays have their row for a path: in another order, every path names another image.
    drawn.save(tmp_path / "a.csv")
    split = divide(tmp_path / "a.csv", hashes=HASHES[::-1])
    assert split.splits == drawn.splits[::-1]


def test_copies_are_each_found_once(tmp_path: Path) -> None:
    rows = [f"{path},{'train' if index < 12 else 'val'},{index % 10:02x}" for index, path in enumerate(PATHS)]
    moved = [f"new/{path}" for path in PATHS]
    split = divide(
        write(tmp_path / "a.csv", "path,split,pixel_hash", *rows), moved, [f"{index % 10:02x}" for index in range(20)]
    )
    assert Counter(split.splits) == {"train": 12, "val": 8}
    # The division leaks: that is reported, not mended.
    assert len(leaked_rows(split)["val"]) == 8


def test_an_image_is_found_once(tmp_path: Path) -> None:
    # The second image lies where the first lay, and the first is gone: its path is not taken for it.
    rows = [f"{path},{'train' if index < 12 else 'val'},{HASHES[index]}" for index, path in enumerate(PATHS)]
    file = write(tmp_path / "a.csv", "path,split,pixel_hash", *rows)
    with pytest.raises(DataError, match=r"1 of the 20 images that it names are not in insects \(ant/00\.png\)"):
        divide(file, [PATHS[0], *PATHS[2:]], HASHES[1:])


def test_a_new_copy_is_not_taken_for_the_image(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    said: list[str] = []
    split = divide(tmp_path / "a.csv", ["a copy.png", *PATHS], [HASHES[4], *HASHES], say=said.append)
    assert split.splits == (UNUSED, *drawn.splits)
    assert any("1 images are not named in the file and not used (a copy.png)" in text for text in said)


def test_changed_pixels_and_labels_are_said(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    said: list[str] = []
    hashes = ["ff", *HASHES[1:]]
    split = divide(tmp_path / "a.csv", hashes=hashes, source=source_of(PATHS, [0, 0] + [0, 1] * 9), say=said.append)
    assert split.splits == drawn.splits
    assert split.classes[1] == "ant"
    assert "note: 1 images have other pixels than when the division was stored (ant/00.png)." in said
    assert "note: 1 images have another label than in the file; the label of the data counts (bee/01.png)." in said


def test_an_unreadable_image_stays_where_it_was_put(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    row = int(drawn.rows("test")[0])
    split = divide(tmp_path / "a.csv", hashes=["" if index == row else found for index, found in enumerate(HASHES)])
    assert split.splits == drawn.splits
    assert split.num_given("test") == len(split.rows("test")) + 1


def test_missing_images_are_an_error(tmp_path: Path, drawn: Split) -> None:
    drawn.save(tmp_path / "a.csv")
    with pytest.raises(
        DataError, match=r"a\.csv: 4 of the 20 images .* not in insects \(ant/16\.png, bee/17\.png, ant/18\.png\)"
    ):
        divide(tmp_path / "a.csv", PATHS[:16], HASHES[:16])


# --- files that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,part", "a,train"], r"expected the columns path and split, found path, part\."),
        (["path,split", "ant/00.png,train", "bee/01.png,tset"], r"found row 3 \(bee/01\.png\): 'tset'\."),
        (["path,split", *(f"{p},x" for p in PATHS[:5])], r"row 2 .*; row 3 .*; row 4 .*: 'x', and 2 more such rows"),
        (["path,split", "ant/00.png,"], r"row 2 \(ant/00\.png\): ''"),
        (["path,split", "a,train", "b,val", "a,test"], r"'a' is named twice, in rows 2 and 4\. Keep one of them"),
        (["path,split", "a,train,b"], "cannot be read as a table: row 2: expected 2 cells"),
        (["path,split", *(f"{path},train" for path in PATHS)], r"mine\.csv names no image for val"),
        (["path,split", *(f"{path},val" for path in PATHS)], "expected training images, found none"),
        (
            ["path,split", *(f"{p},{'val' if 'bee' in p else 'train'}" for p in PATHS)],
            r"class 'bee' has no training images .*\(it has some in val\)",
        ),
        (
            ["path,split", *(f"{p},{'val' if 'bee' in p else 'train'}" for p in PATHS[:15])],
            r"class 'bee' has no training images .*\(it has some in val\)",
        ),
    ],
)
def test_what_a_file_may_get_wrong(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide(write(tmp_path / "mine.csv", *lines))


def test_strange_values_in_parquet_have_their_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": PATHS[:2], "split": ["train", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 \(bee/01\.png\): None"):
        divide(tmp_path / "a.parquet")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv: there is no such file"):
        divide(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match=r"expected a run with a split\.parquet, or such a file\.$"):
        divide(tmp_path)
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "split.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"It is a run of folds; name one, such as .*fold-1\."):
        divide(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as a table"):
        divide(tmp_path / "a.parquet")


def test_stored_groups_are_kept(tmp_path: Path) -> None:
    rows = [f"{p},{'train' if index < 12 else 'val'},g{index // 5}" for index, p in enumerate(PATHS)]
    split = divide(write(tmp_path / "a.csv", "path,split,group", *rows))
    assert split.groups == tuple(f"g{index // 5}" for index in range(20))


def test_fractions_that_draw_nothing(tmp_path: Path) -> None:
    names = ["data.val_fraction", "data.test_fraction", "optim.lr"]
    plain, own = source_of(PATHS), source_of(PATHS, parts=["train"] * 10 + ["val"] * 10)
    assert unread_fractions(plain, DataConfig(), names) == []
    assert unread_fractions(own, DataConfig(), ["optim.lr"]) == []
    (found,) = unread_fractions(own, DataConfig(), names)
    assert found == "data.val_fraction: has no effect, because insects has a val part of its own"
    assert len(unread_fractions(plain, DataConfig(split="a.csv"), names)) == 2
    (found,) = unread_fractions(own, DataConfig(folds=3), names)
    assert found.startswith("data.test_fraction: has no effect with data.folds")
    with pytest.raises(ConfigError, match="2 problems"):
        make_split(plain, HASHES, DataConfig(folds=1, group_pattern="("), 0)

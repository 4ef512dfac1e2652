"""The corrected manifest: what goes, what stays, what is marked; it opens, and nothing is ever overwritten."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tellapart.auditing.audit import Audit, audit
from tellapart.auditing.duplicates import Pair
from tellapart.auditing.findings import LabelSuspect, subject_of
from tellapart.auditing.fix import check_free, correct, label_separator, write_fixed
from tellapart.data.sources import ArraySource, ColumnNames, FolderSource, Source, open_source
from tellapart.data.splits import make_split
from tellapart.data.splits.given import apply_given, read_given
from tellapart.errors import DataError
from tellapart.training.progress import Progress

MakeFolder = Callable[..., Path]


def audited(source: Source, pairs: list[Pair] | None = None, **more: Any) -> Audit:
    found = audit(subject_of(source), Progress().task, compare=False, **more)
    return replace(found, near_pairs=tuple(pairs or ()))


def case(labels: str, parts: str, pictures: str, **more: Any) -> Audit:
    """Return the audit of one image a letter; equal letters in `pictures` are equal pixels, "!" is unreadable."""
    names = {"t": "train", "v": "val", "T": "test", "-": ""}
    images: list[Any] = []
    for letter in pictures:
        picture = np.random.default_rng(ord(letter)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        images.append(b"broken" if letter == "!" else picture)
    source = ArraySource(images, list(labels), parts=[names[letter] for letter in parts])
    return audited(source, **more)


def dropped(found: Audit) -> list[int]:
    return np.flatnonzero(correct(found).is_dropped).tolist()


@pytest.mark.parametrize(
    ("labels", "parts", "pictures", "gone"),
    [
        ("aabb", "tttt", "wxyz", []),
        ("aabb", "tttt", "wwyz", [1]),  # a copy: the first stays
        ("aabb", "----", "wwwz", [1]),  # and of another label, one stays too
        ("aabb", "tTtT", "wwyz", [0]),  # in train and in test: test stays
        ("aabb", "tvtT", "wwyy", [0, 2]),  # in train and in val, or in test
        ("aabb", "vTtt", "wwyz", [0]),  # in val and in test: test stays
        ("aabb", "tvTt", "wwwz", [0, 1]),  # in all three
        ("abab", "tTtt", "wwyz", [0]),  # also where the labels differ
        ("aabb", "TTtt", "wwyz", []),  # test is never changed
        ("aaab", "TTtt", "wwwz", [2]),
        ("abab", "tttt", "wwyz", []),  # nobody knows which label is right
        ("aabb", "tTvt", "!!!z", [0, 1, 2]),  # nothing to train on or to evaluate
    ],
)
def test_which_copy_goes(labels: str, parts: str, pictures: str, gone: list[int]) -> None:
    assert dropped(case(labels, parts, pictures)) == gone


def test_look_alikes_go_from_train_and_stay_together_elsewhere() -> None:
    found = case("aabbab", "tTttvT", "uvwxyz")
    found = replace(found, near_pairs=(Pair(0, 1, 0.9, "flipped"), Pair(2, 3, 0.9, "shifted"), Pair(4, 5, 0.9, "x")))
    fixed = correct(found)
    assert np.flatnonzero(fixed.is_dropped).tolist() == [0, 4]
    assert fixed.issues[0] == "looks like arrays/0001 in test (flipped)"
    assert fixed.groups[2] == fixed.groups[3] != ""
    undivided = replace(case("aabb", "----", "uvwx"), near_pairs=(Pair(0, 1, 0.9, "flipped"),))
    assert dropped(undivided) == []


def test_groups_of_the_source_are_joined_with_those_of_copies() -> None:
    found = case("aaabbb", "tttttt", "uvwxyz")
    subject = replace(found.subject, groups=("p", "p", "", "q", "", ""))
    found = replace(found, subject=subject, near_pairs=(Pair(1, 2, 0.9, "x"), Pair(4, 5, 0.9, "x")))
    groups = correct(found).groups
    assert groups[:4] == ["p", "p", "p", "q"]
    assert groups[4] == groups[5] not in ("", "p", "q")
    assert correct(case("ab", "tt", "xy")).groups == ["", ""]


def test_conflicts_and_doubtful_labels_are_marked_and_keep_their_label() -> None:
    found = case("abab", "tttt", "wwyz", suspects=[LabelSuspect(2, "a", "b", 0.9)])
    fixed = correct(found)
    assert fixed.issues == [
        "same pixels as arrays/0001, which is 'b'",
        "same pixels as arrays/0000, which is 'a'",
        "label doubted: perhaps 'b'",
        "",
    ]
    assert fixed.actions == ["look at its label"] * 3 + [""]


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    root = make_folder({"train/ant": 6, "train/bee": 6, "test/ant": 3, "test/bee": 3})
    (root / "train/ant/leaked.png").write_bytes((root / "test/ant/000.png").read_bytes())
    (root / "train/bee/copy.png").write_bytes((root / "train/bee/000.png").read_bytes())
    (root / "train/bee/broken.png").write_bytes(b"no image")
    (root / "train/ant/Käfer, groß 1.png").write_bytes((root / "train/ant/000.png").read_bytes())
    return root


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("place", ["", "elsewhere"])
def test_the_manifest_of_a_folder_opens_as_what_is_left(photos: Path, ending: str, place: str) -> None:
    folder = photos.parent / place
    folder.mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    source = FolderSource(photos)
    fixed = write_fixed(audited(source), folder / f"clean.{ending}")
    assert (fixed.num_kept, fixed.num_left_out, fixed.num_marked) == (18, 4, 0)
    opened = open_source(str(fixed.manifest))
    found = [(Path(path).name, opened.label_name(row), opened.parts[row]) for row, path in enumerate(opened.paths)]
    gone = {"broken.png", "copy.png", "leaked.png", "Käfer, groß 1.png"}
    assert sorted(found) == sorted(
        (Path(path).name, source.label_name(row), source.parts[row])
        for row, path in enumerate(source.paths)
        if Path(path).name not in gone
    )
    for row in range(len(opened)):
        assert opened.read(row) in before.values()
    assert before == {path: path.read_bytes() for path in photos.rglob("*.png")}
    assert fixed.left_out == folder / f"clean.left-out.{ending}"


def test_what_was_left_out_is_listed_with_its_reason(photos: Path, tmp_path: Path) -> None:
    fixed = write_fixed(audited(FolderSource(photos)), tmp_path / "clean.csv")
    assert fixed.left_out is not None
    reasons = {Path(row["path"]).name: row["issue"] for row in table(fixed.left_out)}
    assert reasons == {
        "broken.png": "unreadable: not an image",
        "copy.png": "same pixels as train/bee/000.png",
        "leaked.png": "same pixels as test/ant/000.png in test",
        "Käfer, groß 1.png": "same pixels as train/ant/000.png",
    }
    assert {row["action"] for row in table(fixed.left_out)} == {"left out"}
    kept = table(fixed.manifest)
    assert list(kept[0]) == ["path", "label", "split", "group", "issue", "action", "content_hash", "pixel_hash"]
    assert all(len(row["content_hash"]) == len(row["pixel_hash"]) == 32 for row in kept)


def test_groups_in_the_manifest_keep_drawn_splits_apart(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = FolderSource(make_folder({"ant": 20, "bee": 20}))
    pairs = [Pair(row, row + 1, 0.9, "shifted") for row in range(0, 40, 2)]
    opened = open_source(str(write_fixed(audited(source, pairs), tmp_path / "clean.csv").manifest))
    assert opened.groups is not None
    from tellapart.config import DataConfig

    split = make_split(opened, [f"{row:032x}" for row in range(len(opened))], DataConfig(val_fraction=0.3), 0)
    sides = {}
    for group, name in zip(opened.groups, split.splits, strict=True):
        assert sides.setdefault(group, name) == name


@pytest.mark.parametrize("parts", ["tttttttTTT", "----------"])
def test_of_images_that_are_no_files_it_is_a_division(parts: str, tmp_path: Path) -> None:
    found = case("ababababab", parts, "aqqqef!hij")
    fixed = write_fixed(found, tmp_path / "clean.csv")
    given = read_given(str(fixed.manifest))
    source = found.subject.source
    splits, _ = apply_given(given, source, found.examination.pixel_hashes, lambda text: None)
    assert [place for place, split in enumerate(splits) if split == "unused"] == [3, 6]
    assert set(splits) == {"train", "val", "test", "unused"}
    if parts[-1] == "T":
        assert splits[7:] == ["test"] * 3
    assert "--data.split" in fixed.advice
    assert fixed.left_out is None


def test_several_labels_and_numbers_come_back_as_they_were(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = FolderSource(make_folder({"a": 3, "b": 3}))
    several = FolderSource(make_folder({"a": 3, "b": 3}))
    several.task, several.classes = "multilabel", ("x|y", "z;", "w")
    several.targets = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    sign = label_separator(several)
    assert sign == ","
    fixed = write_fixed(audited(several), tmp_path / "several.csv")
    opened = open_source(str(fixed.manifest), task="multilabel", columns=ColumnNames(separator=sign))
    order = [opened.classes.index(name) for name in several.classes]
    assert np.array_equal(opened.targets[:, order], several.targets)
    assert "--data.label-separator ," in fixed.advice
    folder.task, folder.classes = "regression", ()
    folder.targets = np.array([[0.1], [1 / 3], [1e-7], [2.0], [-3.5], [1e10]], np.float32)
    fixed = write_fixed(audited(folder), tmp_path / "numbers.csv")
    assert np.array_equal(open_source(str(fixed.manifest), task="regression").targets, folder.targets)


def test_numbers_as_class_names_are_told_to_stay_classes(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = FolderSource(make_folder({"1.5": 3, "2.5": 3}))
    fixed = write_fixed(audited(source), tmp_path / "clean.csv")
    assert fixed.advice.endswith("--data.task multiclass")
    assert open_source(str(fixed.manifest), task="multiclass").classes == ("1.5", "2.5")


def test_file_names_of_any_bytes_come_back(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"ant": 2, "bee": 2})
    for number, name in enumerate((b"latin\xe9.png", b'quote".png', b"comma,.png", b"new\nline.png")):
        target = root / "ant" / name.decode("utf-8", "surrogateescape")
        target.write_bytes((root / "bee" / "000.png").read_bytes() + bytes(number + 1))
    source = FolderSource(root)
    found = audited(source)
    fixed = write_fixed(found, tmp_path / "clean.csv")
    opened = open_source(str(fixed.manifest))
    assert len(opened) == len(source) - 3
    assert all(opened.read(row) for row in range(len(opened)))


def test_nothing_is_overwritten(photos: Path, tmp_path: Path) -> None:
    found = audited(FolderSource(photos))
    for name in ("clean.csv", "clean.left-out.csv"):
        taken = tmp_path / name
        taken.write_text("mine")
        with pytest.raises(DataError, match="nothing is overwritten"):
            write_fixed(found, tmp_path / "clean.csv")
        assert taken.read_text() == "mine"
        taken.unlink()
    (tmp_path / "clean.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is there already"):
        check_free(tmp_path / "clean.csv")


@pytest.mark.parametrize(("name", "says"), [("clean.txt", "ends in .csv"), ("no/where.csv", "there is no folder")])
def test_a_place_that_cannot_be_is_refused_at_once(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        check_free(tmp_path / name)


def test_a_failed_write_leaves_nothing_behind(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    found = audited(FolderSource(photos))
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match="No space left"):
        write_fixed(found, tmp_path / "clean.csv")
    assert not list(tmp_path.glob("*clean*"))


@pytest.mark.parametrize("name", ["clean.parquet", "metadata.csv", "train.csv", "Labels.tsv"])
def test_a_table_that_would_change_what_the_folder_is_is_refused(name: str, photos: Path) -> None:
    source = FolderSource(photos)
    with pytest.raises(DataError, match="would be taken for the labels"):
        check_free(photos / name, source)
    check_free(photos / "clean.csv", source)
    check_free(photos.parent / name, source)

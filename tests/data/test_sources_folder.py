"""Folders of images: the two layouts, what is passed over, links, odd names, order and speed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.decode import decode
from tellapart.data.sources.base import part_of
from tellapart.data.sources.folder import FolderSource
from tellapart.data.sources.tree import ENDINGS, ending, to_path, to_text, walk
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")

ANTS_BEES = Path(__file__).parents[3] / "shared" / "data" / "ants-bees"


def grow(root: Path, *files: str) -> Path:
    """Make empty files; a name that ends in "/" makes a folder."""
    for file in files:
        path = root / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.touch()
    return root


# --- layouts -------------------------------------------------------------------------------------------------------


def test_a_folder_a_class(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path / "pets", "dog/2.jpg", "cat/1.jpg", "dog/1.png"))
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert source.paths == ["cat/1.jpg", "dog/1.png", "dog/2.jpg"]
    assert source.targets.tolist() == [0, 1, 1]
    assert source.parts == ["", "", ""]
    assert source.label_name(2) == "dog"
    assert source.notes == []


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "TESTING"),
        ("training_set", "valid", "test-set"),
        ("train", "dev", "test"),
        ("train", "evaluation", "test"),
        ("train", "val", "eval"),
        ("TrainSet", "valid", "Evaluation"),
    ],
)
def test_parts_are_told_by_their_names(tmp_path: Path, train: str, val: str, test: str) -> None:
    source = FolderSource(grow(tmp_path, *(f"{part}/{label}/1.jpg" for part in (train, val, test) for label in "ab")))
    assert source.classes == ("a", "b")
    assert sorted(zip(source.paths, source.parts, source.targets.tolist(), strict=True)) == sorted(
        (f"{folder}/{label}/1.jpg", part, number)
        for folder, part in ((train, "train"), (val, "val"), (test, "test"))
        for number, label in enumerate("ab")
    )


def test_a_class_that_is_missing_from_a_part_shifts_nothing(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "train/a/1.jpg", "train/c/1.jpg", "val/b/1.jpg", "val/c/1.jpg"))
    assert source.classes == ("a", "b", "c")
    assert dict(zip(source.paths, source.targets.tolist(), strict=True)) == {
        "train/a/1.jpg": 0, "train/c/1.jpg": 2, "val/b/1.jpg": 1, "val/c/1.jpg": 2,
    }  # fmt: skip


def test_train_and_test_alone(tmp_path: Path) -> None:
    source = FolderSource(
        grow(tmp_path / "a", *(f"{part}/{label}/1.jpg" for part in ("train", "test") for label in "xy"))
    )
    assert source.parts == ["test", "test", "train", "train"]
    source = FolderSource(
        grow(tmp_path / "b", *(f"{part}/{label}/1.jpg" for part in ("train", "eval") for label in "xy"))
    )
    assert source.parts == ["val", "val", "train", "train"]


@pytest.mark.parametrize("inner", ["", "train/"])
@pytest.mark.parametrize("wrapping", ["photos/", "photos/photos/", "Meine Fotos (1)/größe/"])
def test_a_folder_that_only_wraps_another_is_entered(tmp_path: Path, wrapping: str, inner: str) -> None:
    source = FolderSource(grow(tmp_path, f"{wrapping}{inner}cat/1.jpg", f"{wrapping}{inner}dog/2/3.jpg", "readme.txt"))
    assert source.classes == ("cat", "dog")
    assert source.paths == [f"{wrapping}{inner}cat/1.jpg", f"{wrapping}{inner}dog/2/3.jpg"]
    assert source.parts == ["train" if inner else ""] * 2
    assert source.read(1) == b""
    assert source.notes[0] == f"the images were looked for in {wrapping}, the only folder that is there."


def test_loose_images_beside_the_only_folder_are_noted(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "preview.jpg", "photos/cat/1.jpg", "photos/dog/2.jpg"))
    assert source.classes == ("cat", "dog")
    assert source.notes[1:] == ["left out 1 image outside of it: preview.jpg."]


@pytest.mark.parametrize(
    "files",
    [["cat/old/1.jpg", "cat/new/2.jpg", "dog/"], ["train/cat/1.jpg"], ["cat/1.jpg", "cat/old/2.jpg", "cat/new/3.jpg"]],
)
def test_a_folder_is_not_entered_where_it_may_be_a_class_or_a_part(tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(DataError, match="found one: 'cat'"):
        FolderSource(grow(tmp_path, *files))


def test_train_alone_is_a_part(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "train/a/1.jpg", "train/b/1.jpg"))
    assert (source.classes, source.parts) == (("a", "b"), ["train", "train"])


def test_a_class_may_be_called_test_or_train_among_others(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "bus/1.jpg", "train/steam/1.jpg", "train/2.jpg", "test/1.jpg"))
    assert source.classes == ("bus", "test", "train")
    assert set(source.parts) == {""}
    assert source.notes == ["found 2 classes named like a part: test, train."]


def test_parts_beside_other_images_are_refused_rather_than_guessed(tmp_path: Path) -> None:
    files = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"]
    with pytest.raises(DataError, match=r"samples/, train/, val/ look like parts"):
        FolderSource(grow(tmp_path / "a", *files, "samples/1.jpg"))
    with pytest.raises(DataError, match=r"test/, val/ look like parts .* expected a train folder"):
        FolderSource(grow(tmp_path / "b", "test/cat/1.jpg", "val/cat/1.jpg"))
    source = FolderSource(grow(tmp_path / "c", *files, "annotations/1.xml", "empty/"))
    assert source.parts == ["train", "train", "val", "val"]


def test_parts_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test/, train/ hold images directly\. Expected a folder a class inside"):
        FolderSource(grow(tmp_path, "train/1.jpg", "train/2.jpg", "test/3.jpg", "labels.csv"))


def test_nested_folders_belong_to_the_class_above_them(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "cat/tabby/old/1.jpg", "cat/2.jpg", "dog/1.jpg"))
    assert source.classes == ("cat", "dog")
    assert source.paths == ["cat/2.jpg", "cat/tabby/old/1.jpg", "dog/1.jpg"]


# --- what is passed over -------------------------------------------------------------------------------------------


def test_endings_count_whatever_their_case(tmp_path: Path) -> None:
    files = [f"a/{number}{end.upper() if number % 2 else end}" for number, end in enumerate(sorted(ENDINGS))]
    source = FolderSource(grow(tmp_path, *files, "b/1.JPG"))
    assert len(source) == len(ENDINGS) + 1
    assert source.notes == []
    assert [ending(name) for name in ("a.JPG", "a", ".jpg", "a.b/c", "a.tar.GZ")] == [".jpg", "", "", "", ".gz"]


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    grow(
        tmp_path,
        "cat/1.jpg",
        "dog/1.jpg",
        "cat/a.txt",
        "cat/b.TXT",
        "dog/c.heic",
        "README",
        "loose.png",
        "bird/",
        "fish/x/",
    )
    assert FolderSource(tmp_path).notes == [
        "left out 1 image outside of any class folder: loose.png.",
        "left out 2 folders without images: bird, fish.",
        "left out 4 files whose endings are not of images (2 .txt, 1 .heic, 1 none): "
        "README, cat/a.txt, cat/b.TXT, ....",
    ]


def test_empty_class_folders_and_loose_images_inside_parts_are_noted(tmp_path: Path) -> None:
    source = FolderSource(
        grow(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/x.jpg", "val/a/1.jpg", "val/b/", "test/")
    )
    assert source.paths == ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"]
    assert source.notes == [
        "left out 1 image outside of any class folder: train/x.jpg.",
        "left out 1 folder without images: val/b.",
    ]


def test_hidden_files_and_litter_are_passed_over_in_silence(tmp_path: Path) -> None:
    grow(
        tmp_path, "a/1.jpg", "b/1.jpg", "a/.DS_Store", "a/._1.jpg", ".git/x.jpg", "a/.thumbs/2.jpg", "__MACOSX/a/1.jpg"
    )
    source = FolderSource(grow(tmp_path, "b/Thumbs.db", "desktop.ini", "@eaDir/1.jpg"))
    assert source.paths == ["a/1.jpg", "b/1.jpg"]
    assert source.notes == []


def test_classes_that_differ_in_case_alone_are_pointed_out(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "train/Cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"))
    assert source.classes == ("Cat", "cat", "dog")
    assert source.notes == ["found 2 class names different in upper and lower case alone: Cat, cat."]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected images in a folder a class, such as root/cats/1.jpg; found no files"),
        (["a/1.txt", "b/2.heic"], r"found 2 files of other kinds \(1 .heic, 1 .txt\)\. Endings that are read: .avif"),
        (["1.jpg", "2.jpg"], "found 2 images, all outside of class folders: 1.jpg, 2.jpg"),
        (["cat/1.jpg", "cat/2.jpg", "dog/"], "at least two classes to tell apart, found one: 'cat'"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from(tmp_path: Path, files: list[str], message: str) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=message):
        FolderSource(grow(tmp_path / "root", *files))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be listed: No such file"):
        FolderSource(tmp_path / "nothing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    grow(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="b: the folder cannot be listed: Permission denied"):
            FolderSource(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


# --- links ---------------------------------------------------------------------------------------------------------


def test_links_to_files_are_followed_and_broken_ones_noted(tmp_path: Path) -> None:
    grow(tmp_path / "real", "1.jpg")
    root = grow(tmp_path / "root", "a/1.jpg", "b/")
    (root / "b/link.jpg").symlink_to(tmp_path / "real/1.jpg")
    (root / "b/broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "b/itself.jpg").symlink_to(root / "b/itself.jpg")
    source = FolderSource(root)
    assert source.paths == ["a/1.jpg", "b/link.jpg"]
    assert source.notes == ["left out 2 links leading nowhere: b/broken.jpg, b/itself.jpg."]


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    grow(tmp_path / "all", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    (tmp_path / "some").mkdir()
    for label in "ab":
        (tmp_path / "some" / label).symlink_to(tmp_path / "all" / label)
    assert FolderSource(tmp_path / "some").paths == ["a/1.jpg", "b/1.jpg"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    grow(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/over").symlink_to(tmp_path / "b")
    (tmp_path / "b/over").symlink_to(tmp_path / "a")
    source = FolderSource(tmp_path)
    assert source.paths == ["a/1.jpg", "b/1.jpg"]
    assert source.notes == ["left out 3 links to folders read already: a/over, a/up, b/over."]


def test_many_links_into_each_other_end_soon(tmp_path: Path) -> None:
    names = [f"class{number}" for number in range(15)]
    grow(tmp_path, *(f"{name}/1.jpg" for name in names))
    for one in names:
        for two in names:
            (tmp_path / one / f"to_{two}").symlink_to(tmp_path / two)
    start = time.perf_counter()
    assert len(FolderSource(tmp_path)) == 15
    assert time.perf_counter() - start < 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    grow(tmp_path, "a/1.jpg", "b/1.jpg")
    os.mkfifo(tmp_path / "a" / "2.jpg")
    assert FolderSource(tmp_path).paths == ["a/1.jpg", "b/1.jpg"]


# --- names, order, reading -----------------------------------------------------------------------------------------


def test_names_with_spaces_accents_and_braces(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "häuser {x}/ein bild.jpg", "猫/1.jpg", "b/note.{txt}"))
    assert source.classes == ("häuser {x}", "猫")
    assert source.paths == ["häuser {x}/ein bild.jpg", "猫/1.jpg"]
    assert source.read(0) == b""


def test_composed_and_decomposed_accents_are_one_class(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "train/caf\u00e9/1.jpg", "val/cafe\u0301/1.jpg", "train/tea/1.jpg"))
    assert source.classes == ("caf\u00e9", "tea")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode on this system")
def test_names_that_are_not_utf_8_are_kept_and_read(tmp_path: Path) -> None:
    for label, content in ((b"caf\xe9", b"one"), (b"b\\xe9", b"two"), (b"c", b"three")):
        folder = os.fsencode(tmp_path) + b"/" + label
        os.mkdir(folder)  # noqa: PTH102 (bytes)
        with open(folder + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 (bytes)
            file.write(content)
    source = FolderSource(tmp_path)
    assert source.classes == ("b\\\\xe9", "c", "caf\\xe9")
    assert len(set(source.paths)) == 3
    for index, path in enumerate(source.paths):
        path.encode("utf-8")
        assert (tmp_path / to_path(path)).read_bytes() == source.read(index)
    assert sorted(source.read(index) for index in range(3)) == [b"one", b"three", b"two"]


@given(st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
@settings(max_examples=300, deadline=None)
def test_every_file_name_has_a_text_that_leads_back(name: str) -> None:
    to_text(name).encode("utf-8")
    assert to_path(to_text(name)) == name


@given(*[st.text(st.sampled_from("\\xe9\udce9"), max_size=8)] * 2)
@settings(max_examples=300, deadline=None)
def test_two_file_names_never_share_a_text(one: str, two: str) -> None:
    assert (to_text(one) == to_text(two)) == (one == two)


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, *(f"{label}/{number}.jpg" for label in ("b", "a", "a b", "a-b") for number in (10, 9, 1)))
    usual = FolderSource(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert FolderSource(tmp_path).paths == usual.paths == sorted(usual.paths)


def test_reading_what_is_gone_or_a_folder_is_an_image_error(tmp_path: Path) -> None:
    source = FolderSource(grow(tmp_path, "a/1.jpg", "b/1.jpg"))
    (tmp_path / "a/1.jpg").unlink()
    with pytest.raises(ImageError, match=r"cannot be opened \(No such file"):
        source.read(0)
    (tmp_path / "a/1.jpg").mkdir()
    with pytest.raises(ImageError, match=r"cannot be opened \(Is a directory"):
        source.read(0)


def test_a_relative_folder_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "pets/a/1.jpg", "pets/b/1.jpg", "elsewhere/")
    Image.new("L", (3, 2), 7).save(tmp_path / "pets/a/1.jpg")
    monkeypatch.chdir(tmp_path)
    source = FolderSource("pets")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert decode(source.read(0), 1).shape == (1, 2, 3)
    assert FolderSource("../pets/.").name == "pets"


def test_many_files_are_listed_fast(tmp_path: Path) -> None:
    for label in "abcd":
        (tmp_path / label).mkdir()
        for number in range(300):
            os.close(os.open(tmp_path / label / f"{number}.jpg", os.O_CREAT | os.O_WRONLY))
    start = time.process_time()
    assert len(FolderSource(tmp_path)) == 1200
    assert time.process_time() - start < 0.4, "100,000 files would take over 30 s"


def test_walk_lists_everything_once(tmp_path: Path) -> None:
    tree = walk(grow(tmp_path, "a/1.jpg", "a/b/2.PNG", "c/", "x.txt"))
    assert tree.images == ["a/1.jpg", "a/b/2.PNG"]
    assert tree.folders == ["a", "a/b", "c"]
    assert tree.others == ["x.txt"]


def test_the_words_for_parts() -> None:
    assert [part_of(name) for name in ("TRAIN", "val_set", "Test Set", "eval", "trains", "", "set", "contest")] == [
        "train", "val", "test", "val", None, None, None, None,
    ]  # fmt: skip


@pytest.mark.skipif(not ANTS_BEES.is_dir(), reason="../shared/data/ants-bees is not here")
def test_ants_and_bees() -> None:
    source = FolderSource(ANTS_BEES)
    assert source.classes == ("ants", "bees")
    assert (source.parts.count("train"), source.parts.count("val"), len(source)) == (174, 102, 276)
    assert decode(source.read(0), 3).shape[0] == 3

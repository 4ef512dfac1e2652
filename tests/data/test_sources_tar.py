"""WebDataset tar shards: samples, labels, indexes, order on disk, and every way in which a tar can be broken."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from tellapart.data.sources import open_source
from tellapart.data.sources.tar import index as indexing
from tellapart.data.sources.tar.headers import Window, members
from tellapart.data.sources.tar.index import Shard, write_index
from tellapart.data.sources.tar.local import LocalFiles
from tellapart.data.sources.tar.shards import expand_braces
from tellapart.data.sources.tar.source import TarSource
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

Files = Mapping[str, bytes | str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tellapart" / "indexes"


def image(number: int) -> bytes:
    """Return what stands for an image here: its bytes are not looked at by a source."""
    return b"\xff\xd8\xff" + bytes([number]) * (number * 37 % 1500)


def write(path: Path, files: Files | list[tuple[str, bytes | str]], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(count: int, first: int = 0, label: str = "cls") -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {}
    for number in range(first, first + count):
        files[f"{number:06d}.jpg"] = image(number)
        files[f"{number:06d}.{label}"] = str(number % 3)
    return files


def with_json(*values: Any) -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {}
    for number, value in enumerate(values):
        files |= {f"{number}.jpg": image(number), f"{number}.json": json.dumps(value)}
    return files


def three_shards(folder: Path) -> Path:
    for shard in range(3):
        write(folder / f"train-{shard:04d}.tar", samples(5, 5 * shard))
    return folder


def contents(source: TarSource) -> list[bytes]:
    return [source.read(index) for index in range(len(source))]


# --- what a shard holds ----------------------------------------------------------------------------------------------


def test_the_samples_of_a_shard(tmp_path: Path) -> None:
    source = TarSource(write(tmp_path / "train-0003.tar", samples(6)))
    assert source.name == "train-0003.tar"
    assert source.paths == [f"train-0003.tar/{number:06d}.jpg" for number in range(6)]
    assert (source.classes, source.task, source.notes) == (("0", "1", "2"), "multiclass", [])
    assert source.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.targets.dtype == np.int64
    assert source.parts == ["train"] * 6
    assert source.groups is None
    assert source.times is None
    assert contents(source) == [image(number) for number in range(6)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_unicode_names_in_every_format(tmp_path: Path, format: int) -> None:
    front = "/".join(["d" * 40] * 3)
    keys = [f"{front}/a", "./b", "ünï/c", "e " * 20 + "é"]
    files: dict[str, bytes | str] = {}
    for number, key in enumerate(keys):
        files |= {f"{key}.jpg": image(number + 1), f"{key}.cls": str(number)}
    source = TarSource(write(tmp_path / "a.tar", files, format=format))
    assert source.paths == [f"a.tar/{front}/a.jpg", "a.tar/b.jpg", "a.tar/ünï/c.jpg", f"a.tar/{keys[3]}.jpg"]
    assert contents(source) == [image(number + 1) for number in range(4)]


def test_names_that_are_not_utf_8_and_names_that_lead_away_become_harmless_text(tmp_path: Path) -> None:
    names = ["caf\udce9", "/etc/passwd", "../../up", "a\\b"]
    files: dict[str, bytes | str] = {}
    for number, name in enumerate(names):
        files |= {f"{name}.jpg": image(number), f"{name}.cls": str(number)}
    source = TarSource(write(tmp_path / "a.tar", files, format=tarfile.GNU_FORMAT))
    assert source.paths == ["a.tar/caf\\xe9.jpg", "a.tar/etc/passwd.jpg", "a.tar/__/__/up.jpg", "a.tar/a\\\\b.jpg"]
    "".join(source.paths).encode()
    assert contents(source) == [image(number) for number in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "cache"]


def test_endings_in_capitals_several_images_and_what_else_lies_in_a_sample(tmp_path: Path) -> None:
    files = {
        "a.seg.png": b"mask",
        "a.JPG": b"first",
        "a.CLS": "0",
        "b.image.webp": b"second",
        "b.cls": "1",
        "b.depth.npy": b"123",
        "README": "of no sample",
        "._a.jpg": "litter",
    }
    source = TarSource(write(tmp_path / "x.tar", files))
    assert source.paths == ["x.tar/a.JPG", "x.tar/b.image.webp"]
    assert contents(source) == [b"first", b"second"]
    assert source.notes == ["1 images were passed over, because their samples have one already: a.seg.png."]


def test_members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    files = samples(4)
    names = sorted(files, key=lambda name: name[::-1])
    source = TarSource(write(tmp_path / "x.tar", {name: files[name] for name in names}))
    assert source.targets.tolist() == [0, 1, 2, 0]


def test_a_key_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    files = [("a.jpg", image(1)), ("a.cls", "0"), ("a.jpg", image(2)), ("a.cls", "1"), ("a.jpg", image(3))]
    source = TarSource(write(tmp_path / "x.tar", files))
    assert source.paths == ["x.tar/a.jpg", "x.tar/a.jpg#2"]
    assert contents(source) == [image(1), image(2)]
    assert source.targets.tolist() == [0, 1]
    assert source.notes == ["left out 1 sample without a label: x.tar/a.jpg#3."]


def test_what_cannot_be_used_is_counted_and_named(tmp_path: Path) -> None:
    files = samples(4)
    files |= {f"no-label-{number}.jpg": image(1) for number in range(5)}
    files |= {
        "no-image.cls": "1",
        "broken.jpg": image(2),
        "broken.json": "{",
        "bytes.jpg": image(2),
        "bytes.cls": b"\xff",
    }
    path = write(tmp_path / "x.tar", files)
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "soft"), (tarfile.LNKTYPE, "hard")):
            link = tarfile.TarInfo(f"{name}.jpg")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    expected = [
        "left out 5 samples without a label: x.tar/no-label-0.jpg, x.tar/no-label-1.jpg, x.tar/no-label-2.jpg, ....",
        "left out 1 sample without an image: x.tar/no-image.",
        "left out 2 samples whose label cannot be read: x.tar/broken.jpg, x.tar/bytes.jpg.",
        "left out 2 samples whose image is a link: x.tar/soft, x.tar/hard.",
    ]
    for _ in range(2):  # the second time from the stored index
        source = TarSource(path)
        assert sorted(source.notes) == sorted(expected)
        assert len(source) == 4


def test_nothing_to_use_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected samples with an image and a label.*found 2 \.jpg, 1 \.npy\. left out"
    ):
        TarSource(write(tmp_path / "x.tar", {"a.jpg": b"", "b.jpg": b"", "b.npy": b""}))
    with pytest.raises(DataError, match="found no samples"):
        TarSource(write(tmp_path / "y.tar", {}))
    with pytest.raises(DataError, match="at least two classes"):
        TarSource(write(tmp_path / "z.tar", {"a.jpg": b"", "a.cls": "1", "b.jpg": b"", "b.cls": "1"}))


# --- labels ----------------------------------------------------------------------------------------------------------


def labelled(path: Path, kind: str, *texts: str) -> TarSource:
    files: dict[str, bytes | str] = {}
    for number, text in enumerate(texts):
        files |= {f"{number:04d}.jpg": image(number % 100), f"{number:04d}.{kind}": text}
    return TarSource(write(path / "x.tar", files))


def test_texts_are_numbers_where_all_of_them_are(tmp_path: Path) -> None:
    assert labelled(tmp_path, "cls", "10", "2\n", " 10").classes == ("2", "10")
    assert labelled(tmp_path, "cls", "dog", "cat").classes == ("cat", "dog")
    assert labelled(tmp_path, "cls", "10", "cat").classes == ("10", "cat")
    assert labelled(tmp_path, "cls", "007", "010").classes == ("007", "010")
    assert labelled(tmp_path, "txt", "ähre", "b").classes == ("b", "ähre")
    source = labelled(tmp_path, "cls", "0.5", "1e1", "-2")
    assert (source.task, source.targets.tolist()) == ("regression", [[0.5], [10.0], [-2.0]])
    assert labelled(tmp_path, "cls", "nan", "inf").classes == ("inf", "nan")
    assert labelled(tmp_path, "cls", "9" * 30, "1").task == "regression"


@pytest.mark.parametrize(
    ("values", "task", "classes", "targets"),
    [
        (({"label": "b"}, {"label": "a"}), "multiclass", ("a", "b"), [1, 0]),
        (({"Class_Name": 4, "id": 1}, {"class-name": 7, "id": 2}), "multiclass", ("4", "7"), [0, 1]),
        ((3, 1), "multiclass", ("1", "3"), [1, 0]),
        (({"label": True}, {"label": False}), "multiclass", ("0", "1"), [1, 0]),
        (({"label": "3"}, {"label": "03"}), "multiclass", ("03", "3"), [1, 0]),
        (({"target": 0.5}, {"target": 2}), "regression", (), [[0.5], [2.0]]),
        (({"labels": ["a", "b"]}, {"labels": []}), "multilabel", ("a", "b"), [[1, 1], [0, 0]]),
        (({"labels": [0, 1, 1]}, {"labels": [1, 0, 0]}), "multilabel", ("0", "1", "2"), [[0, 1, 1], [1, 0, 0]]),
        (({"labels": [7]}, {"labels": [9, 7]}), "multilabel", ("7", "9"), [[1, 0], [1, 1]]),
        (({"y": [0.5, 1.5]}, {"y": [2.5, 3.5]}), "regression", (), [[0.5, 1.5], [2.5, 3.5]]),
        (({"label": None, "cls": "x"}, {"cls": "y"}), "multiclass", ("x", "y"), [0, 1]),
        (({"label": "\ud800"}, {"label": "a"}), "multiclass", ("\\ud800", "a"), [0, 1]),
    ],
)
def test_labels_in_json(tmp_path: Path, values: Any, task: str, classes: Any, targets: Any) -> None:
    source = TarSource(write(tmp_path / "x.tar", with_json(*values)))
    assert (source.task, source.classes, source.targets.tolist()) == (task, classes, targets)


def test_labels_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"some labels are lists, such as \[\"a\"\], and others are not, such as \"a\""):
        TarSource(write(tmp_path / "x.tar", with_json({"label": "a"}, {"label": ["a"]})))
    with pytest.raises(DataError, match="some labels are text and others are numbers, such as 3 and 'a'"):
        TarSource(write(tmp_path / "x.tar", with_json({"label": "a"}, {"label": 3})))


def test_cls_wins_over_json_and_json_over_txt(tmp_path: Path) -> None:
    files = {"a.jpg": b"", "a.txt": "a photo", "a.json": '{"label": "j"}', "a.cls": "c"}
    files |= {"b.jpg": b"", "b.txt": "a photo", "b.json": '{"label": "k"}', "c.jpg": b"", "c.txt": "t"}
    source = TarSource(write(tmp_path / "x.tar", files))
    assert [source.label_name(index) for index in range(3)] == ["c", "k", "t"]


def test_descriptions_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"texts \(\.txt\), and 30 of 30 differ.*'a photo number"):
        labelled(tmp_path, "txt", *(f"a photo number {number}" for number in range(30)))


def test_groups_parts_and_times_in_json(tmp_path: Path) -> None:
    files = with_json(
        {"label": "a", "patient_id": 7, "split": "training", "time": "2024"},
        {"label": "b", "patient_id": 8, "split": "valid"},
        {"label": "b", "split": "eval", "time": "2025"},
    )
    for name in ("x.tar", "test-0.tar"):
        source = TarSource(write(tmp_path / name, files))
        assert source.groups == ["7", "8", ""]
        assert source.times == ["2024", "", "2025"]
        assert source.parts == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "ant\nbee\n\ncat d\n"),
        ("classes.json", '["ant", "bee", "cat d"]'),
        ("classes.json", '{"bee": 1, "cat d": 2, "ant": 0}'),
        ("classes.json", '{"1": "bee", "2": "cat d", "0": "ant"}'),
        ("dataset.json", '{"task": "multiclass", "classes": ["ant", "bee", "cat d"]}'),
    ],
)
def test_classes_named_beside_the_shards(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path / "data" / "x.tar", samples(2))
    (tmp_path / "data" / name).write_text(content)
    for data in (tmp_path / "data", tmp_path / "data" / "x.tar"):
        source = TarSource(data)
        assert source.classes == ("ant", "bee", "cat d")
        assert source.targets.tolist() == [0, 1]


def test_classes_beside_the_shards_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", samples(3))
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DataError, match="label 2 is 2; expected 0 to 1 for 2 classes"):
        TarSource(path)
    (tmp_path / "classes.txt").write_text("2\n0\n1\n9")
    assert [TarSource(path).label_name(row) for row in range(3)] == ["2", "0", "1"]
    (tmp_path / "classes.json").write_text('{"ant": 0, "bee": 2}')
    with pytest.raises(DataError, match=r"classes.json: expected class names: a list"):
        TarSource(path)


def test_numbers_that_are_names_stay_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("1990\n2000\n")
    source = labelled(tmp_path, "cls", "2000", "1990")
    assert (source.classes, source.targets.tolist()) == (("1990", "2000"), [1, 0])


def test_the_task_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", samples(3))
    assert open_source(path, task="regression").targets.tolist() == [[0.0], [1.0], [2.0]]
    assert open_source(path, task="multilabel").targets.tolist() == np.eye(3).tolist()


# --- which shards ----------------------------------------------------------------------------------------------------


def test_braces_as_a_shell_expands_them() -> None:
    assert expand_braces("a-{0008..0011}.tar") == [f"a-{number:04d}.tar" for number in range(8, 12)]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{3..1}") == ["3", "2", "1"]
    assert expand_braces("{0..6..3}") == ["0", "3", "6"]
    assert expand_braces("{train,val}/{0..1}.tar") == ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]
    for wrong in ("{a..c}", "{}", "x{1}", "{0..99999999}", "{0..999}{0..999}"):
        with pytest.raises(DataError, match=r"expected braces|more than 100,000 shards"):
            expand_braces(wrong)


def test_braces_folders_and_patterns_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = three_shards(tmp_path / "s")
    (folder / "._train-0000.tar").write_text("litter")
    monkeypatch.chdir(tmp_path)
    for data in (folder, "s/train-{0000..0002}.tar", "s/train-*.tar", f"file://{folder}/train-000{{0..2}}.tar", "s/"):
        source = open_source(data)
        assert isinstance(source, TarSource)
        assert source.blocks is not None
        assert source.blocks.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert source.paths[5] == "train-0001.tar/000005.jpg"
        assert contents(source) == [image(number) for number in range(15)]


def test_all_missing_shards_are_named_at_once(tmp_path: Path) -> None:
    three_shards(tmp_path)
    (tmp_path / "train-0001.tar").unlink()
    with pytest.raises(DataError, match=r"2 of 4 shards are not there: .*train-0001.tar, .*train-0003.tar\. Put"):
        TarSource(f"{tmp_path}/train-{{0000..0003}}.tar")
    with pytest.raises(DataError, match=r"1 of 1 shards are not there: .*/nothing-\*\.tar"):
        TarSource(f"{tmp_path}/nothing-*.tar")
    (tmp_path / "train-0001.tar").mkdir()
    with pytest.raises(DataError, match=r"train-0001\.tar: expected a file"):
        TarSource(f"{tmp_path}/train-{{0000..0001}}.tar")


def test_parts_by_the_names_of_files_and_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("test/0.tar", "train/0.tar", "validation/0.tar")):
        write(tmp_path / name, samples(2, number))
    source = TarSource(tmp_path)
    assert source.parts == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert source.paths[0] == "train/0.tar/000001.jpg"
    assert TarSource(f"{tmp_path}/{{test,train}}/0.tar").parts == ["test"] * 2 + ["train"] * 2
    assert TarSource(tmp_path / "test" / "0.tar").parts == ["", ""]


def test_an_empty_shard_among_others(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {})
    write(tmp_path / "1.tar", samples(3))
    source = TarSource(tmp_path)
    assert source.blocks is not None
    assert source.blocks.tolist() == [1, 1, 1]
    assert contents(source) == [image(number) for number in range(3)]


def test_samples_sorted_by_class_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellapart.data.sources.tar.source.WINDOW", 50)
    mixed, in_a_row = [str(number % 4) for number in range(60)], [str(number // 15) for number in range(60)]
    assert labelled(tmp_path, "cls", *mixed).notes == []
    assert "lie sorted by class" in labelled(tmp_path, "cls", *in_a_row).notes[0]


# --- parity ----------------------------------------------------------------------------------------------------------


def test_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", exc_type=ImportError)
    with webdataset.ShardWriter(f"{tmp_path}/train-%04d.tar", maxcount=7, verbose=0) as writer:
        for number in range(20):
            writer.write({"__key__": f"k/{number:05d}", "jpg": image(number), "cls": number % 4, "json": {"a": 1}})
    source = TarSource(f"{tmp_path}/train-{{0000..0002}}.tar")
    found = []
    for shard in sorted(tmp_path.glob("*.tar")):
        # Their own opening of files leaves them open.
        with shard.open("rb") as stream:
            opened = [{"url": shard.name, "stream": stream}]
            theirs = webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander(opened))
            found += [(sample["__key__"], sample["jpg"], int(sample["cls"])) for sample in theirs]
    ours = [path.split("/", 1)[1].removesuffix(".jpg") for path in source.paths]
    assert found == list(zip(ours, contents(source), source.targets.tolist(), strict=True))


@given(
    names=st.lists(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=300),
        max_size=6,
        unique=True,
    ),
    sizes=st.lists(st.integers(0, 3000), min_size=6, max_size=6),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    chunk_bytes=st.sampled_from([512, 700, 2**14]),
)
def test_members_are_those_that_tarfile_finds(
    names: list[str], sizes: list[int], format: int, chunk_bytes: int
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, size in zip(names, sizes, strict=False):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    raw = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        expected = [(member.offset_data, member.size) for member in tar.getmembers() if member.isfile()]
    window = Window(lambda offset, size: raw[offset : offset + size], len(raw), chunk_bytes)
    found = list(members(window, "x.tar"))
    assert [(member.offset, member.size) for member in found] == expected
    plain = [name for name in names if not name.endswith("/")]
    assert [member.name for member in found] == plain[: len(found)]


# --- broken tars -----------------------------------------------------------------------------------------------------


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.tar", samples(3))
    raw = path.read_bytes()
    end = len(raw.rstrip(b"\0")) // 512 * 512 + 512
    short = tmp_path / "short.tar"
    for size in [*range(0, end + 1, 128), end - 1]:
        short.write_bytes(raw[:size])
        with pytest.raises(DataError, match=r"short.tar: (is cut off|is empty|ends at byte|is not a tar)"):
            TarSource(short)
    short.write_bytes(raw[: end + 512])
    assert len(TarSource(short)) == 3


def test_a_truncation_says_where(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"x.jpg": bytes(5000), "x.cls": "1"})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(
        DataError, match=r"a.tar: is cut off: 'x.jpg' at byte 0 needs 5,000 bytes, and .* 1,488 bytes on"
    ):
        TarSource(path)


def test_a_flipped_bit_in_a_header_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", samples(9))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"000004.jpg") + 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a.tar: is damaged: the header at byte [\d,]+ is none"):
        TarSource(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(bytes(1024)), "is compressed with gzip"),
        (b"BZh9" + bytes(600), "is compressed with bzip2"),
        (b"(\xb5/\xfd" + bytes(600), "is compressed with zstd"),
        (b"PK\3\4" + bytes(600), "is compressed with zip"),
        (b"<html>not found</html>", "is not a tar file; it starts with '<html>not found</html>'"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(600), "is not a tar file"),
        (b"", "is empty"),
        (b"\xff" * 2000, "is not a tar file"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        TarSource(tmp_path / "a.tar")


def header(name: bytes = b"a.jpg", size: bytes = b"0", kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[257 : 257 + len(magic)], block[148:156] = magic, b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (header(size=b"\x80" + b"\xff" * 11), "is cut off"),
        (header(size=b"\xff" * 12), "is damaged"),
        (header(size=b"99"), "is damaged"),
        (header(kind=b"S"), "sparse member at byte 0"),
        (header(kind=b"L", size=b"77777777777"), "would take"),
        (header(kind=b"L", size=b"7777"), "is cut off in the long name"),
        (header(kind=b"x", size=b"10") + b"zzz".ljust(512, b"\0"), "PAX records at byte 0 are none"),
        (header(kind=b"x", size=b"14") + b"999 path=a\n".ljust(512, b"\0"), "PAX records at byte 0 are none"),
        (header(kind=b"x", size=b"14") + b"12 size=-5\n\n".ljust(512, b"\0"), "PAX records at byte 0"),
        (header(kind=b"x", size=b"31") + b"24 GNU.sparse.major=1.0\n\n".ljust(512, b"\0"), "sparse"),
    ],
)
def test_hostile_headers(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(raw + bytes(1024))
    with pytest.raises(DataError, match=message):
        TarSource(tmp_path / "a.tar")


def test_sizes_in_base_256_and_pax_and_old_headers(tmp_path: Path) -> None:
    label = header(b"a.cls", b"1") + b"5".ljust(512, b"\0")
    big = header(b"a.jpg", b"\x80" + (3).to_bytes(11, "big"), magic=b"") + b"abc".ljust(512, b"\0")
    pax = (
        header(b"x", b"11", b"x") + b"9 size=3\n".ljust(512, b"\0") + header(b"b.jpg", b"0") + b"def".ljust(512, b"\0")
    )
    end = header(b"b.cls", b"1", b"\0") + b"6".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(big + label + pax + end)
    assert contents(TarSource(tmp_path / "a.tar")) == [b"abc", b"def"]


def test_joined_tars_are_refused_rather_than_half_read(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.tar", samples(2)), write(tmp_path / "b.tar", samples(2, 5))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DataError, match=r"goes on behind its end at byte .* joined with cat"):
        TarSource(first)


# --- the index -------------------------------------------------------------------------------------------------------


def forbid_indexing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the shard was indexed again")

    monkeypatch.setattr(indexing, "build_index", fail)


def test_a_shard_is_indexed_once_and_the_users_folder_stays_as_it_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = three_shards(tmp_path / "s")
    first = TarSource(folder)
    assert sorted(path.name for path in folder.iterdir()) == [f"train-000{number}.tar" for number in range(3)]
    assert len([path for path in cache.iterdir() if path.suffix == ".index"]) == len(list(cache.iterdir())) == 3
    forbid_indexing(monkeypatch)
    again = TarSource(folder)
    assert (again.paths, again.targets.tolist(), contents(again)) == (
        first.paths,
        first.targets.tolist(),
        contents(first),
    )


def test_an_index_beside_the_shard_is_used(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "s" / "x.tar", samples(4))
    assert write_index(path) == tmp_path / "s" / "x.tar.index"
    assert sorted(entry.name for entry in (tmp_path / "s").iterdir()) == ["x.tar", "x.tar.index"]
    forbid_indexing(monkeypatch)
    shutil.copytree(tmp_path / "s", tmp_path / "elsewhere")
    for folder in ("s", "elsewhere"):
        source = TarSource(tmp_path / folder)
        assert contents(source) == [image(number) for number in range(4)]
        assert source.notes == []
    assert not cache.exists()


def test_every_damage_to_an_index_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", samples(4))
    raw = write_index(path).read_bytes()
    whole = contents(TarSource(path))
    for place in [*range(0, len(raw), 97), len(raw) - 1]:
        damaged = bytearray(raw)
        damaged[place] ^= 4
        (tmp_path / "x.tar.index").write_bytes(damaged)
        source = TarSource(path)
        assert contents(source) == whole
        assert bool(source.notes) == (place >= 4), place
    for size in (0, 10, len(raw) // 2, len(raw) - 1):
        (tmp_path / "x.tar.index").write_bytes(raw[:size])
        assert contents(TarSource(path)) == whole
    assert "x.tar.index is damaged or not of this tar" in TarSource(path).notes[0]
    assert (tmp_path / "x.tar.index").read_bytes() == raw[:-1]


def test_a_damaged_index_in_the_cache_is_replaced(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.tar", samples(4))
    TarSource(path)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert len(TarSource(path)) == 4
    assert kept.read_bytes() == whole
    forbid_indexing(monkeypatch)
    TarSource(path)


def test_an_index_of_another_tar_is_not_believed(tmp_path: Path) -> None:
    mine, other = write(tmp_path / "mine.tar", samples(3)), write(tmp_path / "other.tar", samples(3, 50))
    assert mine.stat().st_size == other.stat().st_size
    write_index(other).rename(tmp_path / "mine.tar.index")
    source = TarSource(mine)
    assert contents(source) == [image(number) for number in range(3)]
    assert "not of this tar" in source.notes[0]


def test_an_index_with_what_no_index_says_is_not_believed(tmp_path: Path) -> None:
    path, files = write(tmp_path / "x.tar", samples(3)), LocalFiles()
    shard = Shard(str(path), *files.facts(str(path)))

    def read(offset: int, size: int) -> bytes:
        return files.read(str(path), offset, size)

    index = indexing.build_index(shard, read)
    assert indexing.decode_index(indexing.encode_index(index, shard, read), shard, read) is not None
    wrong: list[tuple[str, Any]] = [("offset", -5), ("offset", 10**12), ("size", 10**12), ("size", -1)]
    wrong += [
        ("offset", 2**63 - 1),
        ("offset", -1),
        ("name", "../../x"),
        ("name", "/x"),
        ("name", "000001.jpg"),
        ("label", None),
    ]
    for column, value in wrong:
        rows = index.samples.to_pylist()
        rows[0][column] = value
        changed = index._replace(samples=pa.Table.from_pylist(rows, index.samples.schema))
        assert indexing.decode_index(indexing.encode_index(changed, shard, read), shard, read) is None, (column, value)
    changed = index._replace(facts={**index.facts, "endings": []})
    assert indexing.decode_index(indexing.encode_index(changed, shard, read), shard, read) is None


def test_a_changed_shard_is_indexed_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", samples(3))
    assert len(TarSource(path)) == 3
    write(path, samples(3, 40))
    os.utime(path, ns=(1, 1))
    assert contents(TarSource(path)) == [image(number) for number in range(40, 43)]


def test_a_cache_that_cannot_be_written_to_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source = TarSource(write(tmp_path / "x.tar", samples(3)))
    assert len(source) == 3
    assert "could not be kept in" in source.notes[0]


def test_indexes_hold_no_pickle(tmp_path: Path) -> None:
    raw = write_index(write(tmp_path / "x.tar", samples(3))).read_bytes()
    assert raw.startswith(b"PAR1")
    assert b"pickle" not in raw


# --- reading ---------------------------------------------------------------------------------------------------------


class _Bytes(Dataset[bytes]):
    def __init__(self, source: TarSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> bytes:
        return self.source.read(index)


def test_forked_workers_read_the_same_bytes(tmp_path: Path) -> None:
    source = TarSource(three_shards(tmp_path / "s"))
    expected = contents(source)
    loader = DataLoader(_Bytes(source), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == expected
    assert contents(source) == expected


def test_a_source_survives_pickling_and_holds_no_images(tmp_path: Path) -> None:
    source = TarSource(write(tmp_path / "x.tar", {"a.jpg": bytes(10**6), "a.cls": "0", "b.jpg": b"b", "b.cls": "1"}))
    source.read(0)
    raw = pickle.dumps(source)
    assert len(raw) < 10**4
    assert pickle.loads(raw).read(0) == bytes(10**6)


def test_threads_read_the_same_bytes_with_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellapart.data.sources.tar.local._MAX_OPEN", 2)
    for shard in range(8):
        write(tmp_path / "s" / f"{shard}.tar", samples(4, 4 * shard))
    source = TarSource(tmp_path / "s")
    order = np.random.default_rng(0).integers(0, 32, 2000).tolist()
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir())) if open_files.is_dir() else 0
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, order)) == [image(number) for number in order]
    if before:
        assert len(list(open_files.iterdir())) <= before + 2


def test_several_at_once(tmp_path: Path) -> None:
    source = TarSource(three_shards(tmp_path / "s"))
    assert source.read_many([14, 0, 0]) == [image(14), image(0), image(0)]
    assert source.read_many([]) == []


def test_a_shard_that_is_gone_or_changed(tmp_path: Path) -> None:
    folder = three_shards(tmp_path / "s")
    source = TarSource(folder)
    (folder / "train-0000.tar").unlink()
    write(folder / "train-0001.tar", samples(5, 60))
    source = pickle.loads(pickle.dumps(source))
    with pytest.raises(ImageError, match=r"train-0000\.tar cannot be read"):
        source.read(0)
    with pytest.raises(DataError, match=r"train-0001.tar: has been changed since it was opened"):
        source.read(5)
    assert source.read(10) == image(10)
    with (folder / "train-0002.tar").open("r+b") as file:
        file.truncate(700)
    with pytest.raises(ImageError, match="its shard ends before the image does"):
        source.read(14)

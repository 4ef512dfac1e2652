"""`pack`: what any source becomes when it is packed and read back, and what the caller is told."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart.api.pack import Packed, pack
from tellapart.data.decode import decode, image_size, pixel_hash
from tellapart.data.packing import FORMATS
from tellapart.data.sources import ArraySource, ColumnNames, Source, open_source
from tellapart.errors import ConfigError, DataError, RunError
from tellapart.training.progress import PlainProgress

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 6, 7, 3), dtype=np.uint8)
ANTS_BEES = Path(__file__).parents[3] / "shared" / "data" / "ants-bees"


def packed(data: Any, out: Path | str, **options: Any) -> Packed:
    return pack(data, out, **{"num_workers": 0, "progress": False, **options})


def original(source: Source, given: Source) -> list[str]:
    """Return the paths that the images of a pack had; of tar shards they are told by the keys, which are numbers."""
    known = set(given.paths)
    return [path if path in known else given.paths[int(Path(path).stem)] for path in source.paths]


def by_path(source: Source, given: Source) -> dict[str, tuple[Any, ...]]:
    """Return what a source says of each image, by the path that it was given with."""
    groups = source.groups or [""] * len(source)
    return {
        path: (source.label_name(row), source.targets[row].tolist(), source.parts[row], groups[row])
        for row, path in enumerate(original(source, given))
    }


def pixels_by_path(source: Source, given: Source) -> dict[str, np.ndarray]:
    return {path: decode(source.read(row), 3) for row, path in enumerate(original(source, given))}


def flat(make: Callable[..., Path]) -> Any:
    return make({"ant": 5, "bee": 4, "Käfer": 3}, sizes=((9, 7), (12, 12)))


def divided(make: Callable[..., Path]) -> Any:
    return make({"train/ant": 5, "train/bee": 4, "validation/ant": 2, "validation/bee": 2, "test/bee": 3})


def digits(make: Callable[..., Path]) -> Any:
    return "digits"


def pair(make: Callable[..., Path]) -> Any:
    return IMAGES, np.array(["b", "a", "c"] * 8)


def class_never_seen(make: Callable[..., Path]) -> Any:
    return ArraySource(IMAGES, np.arange(24) % 2 * 3, ["zebra", "a", "b", "c"], parts=["train", "val", "test"] * 8)


def sets(make: Callable[..., Path]) -> Any:
    targets = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]] * 6)
    return ArraySource(IMAGES, targets, ["wet", "warm", "a, b|c"], task="multilabel")


def number(make: Callable[..., Path]) -> Any:
    return ArraySource(IMAGES, np.linspace(-1, 1, 24, dtype=np.float32) / 3)


def whole_numbers(make: Callable[..., Path]) -> Any:
    return ArraySource(IMAGES, np.arange(24.0), task="regression", parts=["train", "train", "val"] * 8)


def numbers(make: Callable[..., Path]) -> Any:
    return ArraySource(IMAGES, np.linspace(-1, 1, 48, dtype=np.float32).reshape(24, 2) / 3)


def grouped(make: Callable[..., Path]) -> Any:
    source = ArraySource(IMAGES, np.arange(24) % 2, ["a", "b"])
    source.groups = ["", "p1", "p2", "p2"] * 6
    return source


KINDS: dict[str, Callable[[Callable[..., Path]], Any]] = {
    function.__name__: function
    for function in (flat, divided, digits, pair, class_never_seen, sets, number, whole_numbers, numbers, grouped)
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_is_what_was_packed(
    kind: str, name: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = KINDS[kind](make_folder)
    source = open_source(data)
    found = packed(data, tmp_path / "out", format=name)
    again = open_source(tmp_path / "out")
    assert (again.task, again.classes) == (source.task, source.classes)
    assert by_path(again, source) == by_path(source, source)
    assert len(again) == len(source) == found.num_images
    assert (again.groups is None) == (source.groups is None)
    before, after = pixels_by_path(source, source), pixels_by_path(again, source)
    assert all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("name", FORMATS)
def test_a_pack_can_be_packed_into_the_other_format_and_back(name: str, tmp_path: Path) -> None:
    first = class_never_seen(lambda: tmp_path)
    source = first
    for step in range(3):
        chosen = [name, *(other for other in FORMATS if other != name)][step % 2]
        packed(source, tmp_path / str(step), format=chosen)
        source = open_source(tmp_path / str(step))
    assert source.classes == first.classes
    assert by_pixels(source) == by_pixels(first)


def by_pixels(source: Source) -> dict[str, tuple[str, str]]:
    rows = range(len(source))
    return {pixel_hash(decode(source.read(row), 3)): (source.label_name(row), source.parts[row]) for row in rows}


def test_columns_of_a_manifest_are_those_asked_for(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"all": 6})
    with (root / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "kind", "animal", "who"])
        rows.writerows([f"all/{row:03}.png", "x" if row else "y", "ab"[row % 2], f"p{row // 2}"] for row in range(6))
    columns = ColumnNames(image="photo", label="animal", group="who")
    packed(root / "table.csv", tmp_path / "out", columns=columns)
    again = open_source(tmp_path / "out")
    assert again.classes == ("a", "b")
    assert again.groups is not None
    assert {Path(path).name: group for path, group in zip(again.paths, again.groups, strict=True)} == {
        f"{row:03}.png": f"p{row // 2}" for row in range(6)
    }


def test_what_was_saved_is_said(tmp_path: Path) -> None:
    large, buffer = Image.fromarray(RNG.integers(0, 256, (400, 500, 3), dtype=np.uint8)), io.BytesIO()
    large.save(buffer, "JPEG", quality=95)
    small = io.BytesIO()
    large.resize((50, 40)).save(small, "PNG")
    source = ArraySource([*[buffer.getvalue()] * 3, small.getvalue(), IMAGES[0]], ["a", "b", "a", "b", "a"])
    out = tmp_path / "my pack"
    found = packed(source, out)
    first, last = str(found).splitlines()
    assert first.startswith("5 images, ")
    assert first.endswith(f"3 scaled down to 256 px, 1 kept byte for byte, 1 encoded from pixels; 1 shard in {out}.")
    assert last == f"Train with: tellapart train '{out}'"
    assert found.num_bytes == sum(path.stat().st_size for path in out.glob("*.parquet"))
    assert f"({found.num_bytes / found.num_bytes_before:.0%})" in first
    again = open_source(out)
    sizes = {path: image_size(again.read(row)) for row, path in enumerate(again.paths)}
    assert [sizes[path] for path in source.paths] == [(320, 256)] * 3 + [(50, 40), (7, 6)]
    assert "scaled" not in str(packed(source, tmp_path / "as they are", max_size_px=0))


def test_what_was_left_out_is_said(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"ant": 3, "bee": 3})
    (root / "bee" / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bee/001\.png"):
        packed(root, tmp_path / "out")
    found = packed(root, tmp_path / "out", bad_images="skip")
    assert "1 image left out because they cannot be read, such as bee/001.png: not an image" in str(found)
    assert found.as_dict()["unreadable"] == {"bee/001.png": "not an image"}
    assert len(open_source(tmp_path / "out")) == 5


def test_notes_of_the_source_and_progress_are_shown(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"ant": 3, "bee": 3})
    (root / "readme.txt").write_text("hello")
    stream = io.StringIO()
    packed(root, tmp_path / "out", progress=PlainProgress(stream))
    assert "left out 1 file" in stream.getvalue()


@pytest.mark.parametrize("inner", ["", "packed", "a/b"])
def test_a_folder_is_not_packed_into_itself(make_folder: Callable[..., Path], tmp_path: Path, inner: str) -> None:
    root = make_folder({"ant": 3, "bee": 3})
    link = tmp_path / "link"
    link.symlink_to(root)
    before = sorted(root.rglob("*"))
    for data, out in ((root, root / inner), (str(root), link / inner), (link, root / inner)):
        with pytest.raises(RunError, match="lies inside the data"):
            packed(data, out)
    assert sorted(root.rglob("*")) == before


def test_the_data_inside_the_folder_for_the_shards_is_foreign_there(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"ant": 3, "bee": 3}, name="above/images")
    with pytest.raises(RunError, match=r"did not put there \(images\)"):
        packed(root, root.parent)


def test_wrong_settings_stop_it_before_the_data_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quality: expected 1 to 100, found 101"):
        packed(tmp_path / "nowhere", tmp_path / "out", quality=101)
    assert not (tmp_path / "out").exists()


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = packed((IMAGES, np.arange(24) % 2), "~/packed")
    assert found.path == tmp_path / "packed"


@pytest.mark.skipif(not ANTS_BEES.is_dir(), reason="no ../shared/data/ants-bees")
def test_photographs(tmp_path: Path) -> None:
    source = open_source(ANTS_BEES)
    found = packed(ANTS_BEES, tmp_path / "out", max_size_px=64, num_workers=-1, format="webdataset", shard_mib=1)
    again = open_source(tmp_path / "out")
    assert by_path(again, source) == by_path(source, source)
    assert found.num_scaled == len(source)
    assert found.num_bytes < 0.1 * found.num_bytes_before
    rows = {path: row for row, path in enumerate(original(again, source))}
    for row in range(0, len(source), 40):
        pixels = decode(source.read(row), 3).transpose(1, 2, 0)
        width, height = image_size(again.read(rows[source.paths[row]]))
        wanted = np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.LANCZOS)
        )
        stored = decode(again.read(rows[source.paths[row]]), 3).transpose(1, 2, 0)
        assert min(width, height) == 64
        assert np.abs(stored.astype(int) - wanted).mean() < 8

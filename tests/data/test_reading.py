"""Samples as reduced images: the same from the decoder and from the cache, and sums that are exact."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.api.reading import open_cache
from tellapart.config import RunConfig, override
from tellapart.data import cache as cache_module
from tellapart.data import reading as module
from tellapart.data.cache import ImageCache
from tellapart.data.decode import content_hash, decode, pixel_hash
from tellapart.data.preprocess import Preprocess
from tellapart.data.reading import ReducedImages, channel_sums, read_rows
from tellapart.data.scan import Scan, scan
from tellapart.data.sources import FolderSource, Source
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

SIDE = 8
BLANK = Preprocess(SIDE, [0.0] * 3, [1.0] * 3)
GREY = Preprocess(SIDE, [0.0], [1.0])
IMAGE_BYTES = SIDE * SIDE * 3


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_SLAB_BYTES", 5 * IMAGE_BYTES)
    monkeypatch.setattr(cache_module, "_SPARED_BYTES", 0)


class Listed(Source):
    """A source over encoded bytes, pixels, or an error to raise."""

    def __init__(self, images: Sequence[bytes | np.ndarray | Exception], num_channels: int = 3) -> None:
        paths = [f"listed/{index}" for index in range(len(images))]
        targets = np.arange(len(images)) % 2
        super().__init__("listed", classes=("a", "b"), paths=paths, targets=targets, num_channels=num_channels)
        self.listed = list(images)

    def read(self, index: int) -> bytes | np.ndarray:
        image = self.listed[index]
        if isinstance(image, Exception):
            raise image
        return image


def encoded(number: int, height: int = 11, width: int = 14, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def opened(folder: Path, preprocess: Preprocess = BLANK, max_bytes: int = 10**6) -> ImageCache:
    side = preprocess.resize_px
    return ImageCache(folder, f"{side}-{preprocess.num_channels}", (side, side, preprocess.num_channels), max_bytes)


def assert_same(found: Scan, expected: Scan) -> None:
    assert found.pixel_hashes == expected.pixel_hashes
    assert found.content_hashes == expected.content_hashes
    assert found.errors == expected.errors
    assert np.array_equal(found.channel_sums, expected.channel_sums)
    assert np.array_equal(found.channel_square_sums, expected.channel_square_sums)
    assert (found.images is None) == (expected.images is None)
    assert found.images is None or expected.images is None or torch.equal(found.images, expected.images)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with every image that is decoded."""
    seen: list[int] = []
    actual = Preprocess.decode

    def counted(self: Preprocess, raw: bytes | np.ndarray) -> np.ndarray:
        seen.append(1)
        return actual(self, raw)

    monkeypatch.setattr(Preprocess, "decode", counted)
    return seen


MIXED = [encoded(0), encoded(1, 30, 9), b"", encoded(2, form="JPEG"), encoded(0), ImageError("gone"), encoded(3)[:70]]
MIXED += [encoded(number) for number in range(10, 30)] + [OSError(errno.EIO, "Input/output error"), encoded(1, 8, 8)]
READABLE = [row for row in range(len(MIXED)) if row not in (2, 5, 6, 27)]


# --- with and without a cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("preprocess", [BLANK, GREY], ids=["colour", "grey"])
def test_a_scan_is_the_same_without_a_cache_into_it_and_out_of_it(
    tmp_path: Path, decodings: list[int], keep: bool, preprocess: Preprocess
) -> None:
    source = Listed(MIXED, preprocess.num_channels)
    plain = scan(source, preprocess, keep=keep)
    assert sorted(plain.errors) == [2, 5, 6, 27]
    cache = opened(tmp_path, preprocess)
    assert_same(scan(source, preprocess, keep=keep, cache=cache), plain)
    decodings.clear()
    for again in (cache, opened(tmp_path, preprocess)):
        assert_same(scan(source, preprocess, keep=keep, cache=again), plain)
    # Only those that cannot be decoded are tried again: why not is not kept.
    assert len(decodings) == 2 * 2
    assert (cache.find(plain.content_hashes) >= 0).tolist() == [row in READABLE for row in range(len(MIXED))]


def test_what_is_partly_there_is_filled_up(tmp_path: Path, decodings: list[int]) -> None:
    source, cache = Listed(MIXED), opened(tmp_path)
    scan(Listed(MIXED[:12]), BLANK, keep=False, cache=cache)
    plain = scan(source, BLANK, keep=True)
    decodings.clear()
    assert_same(scan(source, BLANK, keep=True, cache=cache), plain)
    assert len(decodings) == len(MIXED) - 12 - 1 + 2
    assert len(opened(tmp_path)) == len(READABLE)


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted", "index"])
def test_a_damaged_cache_changes_no_bit_and_mends(tmp_path: Path, decodings: list[int], damage: str) -> None:
    source = Listed(MIXED)
    plain = scan(source, BLANK, keep=True, cache=opened(tmp_path))
    for path in tmp_path.rglob("*.facts" if damage == "index" else "*.slab"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(raw[:-1] if damage == "cut" else raw)
    assert_same(scan(source, BLANK, keep=True, cache=opened(tmp_path)), plain)
    # A damaged image takes the others of its slab along, so the run after may have to decode those.
    assert_same(scan(source, BLANK, keep=True, cache=opened(tmp_path)), plain)
    decodings.clear()
    assert_same(scan(source, BLANK, keep=True, cache=opened(tmp_path)), plain)
    assert len(decodings) == 2


def test_a_full_disk_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Listed(MIXED)
    plain = scan(source, BLANK, keep=True)
    cache = opened(tmp_path)

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_new_file", full)
    assert_same(scan(source, BLANK, keep=True, cache=cache), plain)
    assert cache.is_full
    places = cache.find(plain.content_hashes)
    assert plain.images is not None
    assert torch.equal(ReducedImages(source, BLANK, cache, places).batch(np.array(READABLE)), plain.images[READABLE])


def test_a_cache_with_little_room_changes_no_bit(tmp_path: Path) -> None:
    source = Listed(MIXED)
    plain = scan(source, BLANK, keep=True)
    for max_bytes in (0, IMAGE_BYTES - 1, IMAGE_BYTES, 7 * IMAGE_BYTES):
        for _ in range(2):
            cache = opened(tmp_path / str(max_bytes), max_bytes=max_bytes)
            assert_same(scan(source, BLANK, keep=True, cache=cache), plain)
            assert len(opened(tmp_path / str(max_bytes), max_bytes=max_bytes)) <= max_bytes // IMAGE_BYTES


def test_an_interrupted_scan_keeps_what_it_decoded(tmp_path: Path) -> None:
    source, steps = Listed([encoded(number) for number in range(40)]), []

    def interrupt(count: int) -> None:
        steps.append(count)
        if sum(steps) >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(source, BLANK, keep=False, cache=opened(tmp_path), advance=interrupt)
    assert len(opened(tmp_path)) == sum(steps) < 40
    assert not list(tmp_path.rglob(".*.writing"))


def test_another_file_of_the_same_name_is_another_image(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 2})
    cache = opened(tmp_path / "cache")
    before = scan(FolderSource(root), BLANK, keep=True, cache=cache)
    (root / "a" / "000.png").write_bytes(encoded(99))
    after = scan(FolderSource(root), BLANK, keep=True, cache=cache)
    assert [one == two for one, two in zip(before.pixel_hashes, after.pixel_hashes, strict=True)] == [False] + [
        True
    ] * 3
    assert_same(after, scan(FolderSource(root), BLANK, keep=True))


def test_decoded_arrays_are_not_kept(tmp_path: Path) -> None:
    arrays = list(np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8))
    cache = opened(tmp_path)
    found = scan(Listed(arrays), BLANK, keep=False, cache=cache)
    assert found.content_hashes == [""] * 6
    assert all(found.pixel_hashes)
    assert (len(cache), list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({}, False),
        ({"preprocess.size_px": 9}, True),
        ({"preprocess.resize_px": 10}, True),
        ({"preprocess.fit": "squash"}, True),
        ({"preprocess.background": "black"}, True),
        ({"preprocess.background": "#ff8000"}, True),
        ({"preprocess.normalize": "half"}, False),
        ({"seed": 3}, False),
        ({"data.cache_gib": 0.5}, False),
    ],
    ids=str,
)
def test_images_reduced_otherwise_lie_elsewhere(tmp_path: Path, changes: dict[str, object], is_other: bool) -> None:
    def folder(changes: dict[str, object]) -> Path:
        config = override(RunConfig(), {"data.cache_dir": str(tmp_path), "preprocess.size_px": 8, **changes})
        chosen = config.preprocess
        preprocess = Preprocess(
            chosen.size_px,
            [0.0] * 3,
            [1.0] * 3,
            resize_px=chosen.resize_px,
            fit=chosen.fit,
            background=chosen.background,
        )
        cache = open_cache(Listed(MIXED), config, preprocess)
        assert cache is not None
        assert cache.root == tmp_path
        assert cache.shape == (preprocess.resize_px, preprocess.resize_px, 3)
        assert cache.folder.parent == tmp_path
        return cache.folder

    assert (folder(changes) != folder({})) == is_other


def test_no_cache_where_none_is_wanted_or_nothing_is_decoded(tmp_path: Path) -> None:
    config = override(RunConfig(), {"data.cache_dir": str(tmp_path), "data.cache_gib": 0.0})
    assert open_cache(Listed(MIXED), config, BLANK) is None
    in_memory = Listed(MIXED)
    in_memory.images = np.zeros((len(MIXED), 8, 8, 3), np.uint8)
    assert open_cache(in_memory, override(RunConfig(), {"data.cache_dir": str(tmp_path)}), BLANK) is None
    assert list(tmp_path.iterdir()) == []


# --- reading rows ----------------------------------------------------------------------------------------------------


def test_readings_hold_what_decoding_gives() -> None:
    rows = np.array([3, 0, 2, 1, 3])
    found = read_rows(Listed(MIXED), rows, BLANK)
    assert found.rows.tolist() == rows.tolist()
    assert found.errors == {2: "an empty file (0 bytes)"}
    assert found.is_new.tolist() == [True, True, False, True, True]
    for place, row in enumerate(rows.tolist()):
        raw = MIXED[row]
        assert isinstance(raw, bytes)
        assert found.content_hashes[place] == content_hash(raw)
        if place in found.errors:
            assert (found.pixel_hashes[place], found.pixels[place].any(), found.sums[place].any()) == ("", False, False)
            continue
        pixels = decode(raw, 3)
        assert found.pixel_hashes[place] == pixel_hash(pixels)
        assert torch.equal(found.images[place], BLANK.reduce(torch.from_numpy(pixels)))
        assert found.sums[place].tolist() == found.images[place].sum((1, 2), dtype=torch.int64).tolist()
        assert found.square_sums[place].tolist() == (found.images[place].long() ** 2).sum((1, 2)).tolist()


def test_images_lie_channels_last() -> None:
    assert read_rows(Listed(MIXED), np.arange(2), BLANK).images.is_contiguous(memory_format=torch.channels_last)
    assert ReducedImages(Listed(MIXED), BLANK).batch(np.arange(2)).is_contiguous(memory_format=torch.channels_last)


@given(
    st.integers(0, 5),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from(["noise", "white", "black"]),
)
@settings(max_examples=200)
def test_channel_sums_are_numpys_in_64_bits(count: int, height: int, width: int, channels: int, kind: str) -> None:
    shape = (count, height, width, channels)
    pixels = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
    pixels = pixels if kind == "noise" else np.full(shape, 255 if kind == "white" else 0, np.uint8)
    wide = pixels.astype(np.int64)
    sums, squares = channel_sums(pixels)
    assert sums.dtype == squares.dtype == np.int64
    assert sums.shape == squares.shape == (count, channels)
    assert np.array_equal(sums, wide.sum((1, 2)))
    assert np.array_equal(squares, (wide**2).sum((1, 2)))


@pytest.mark.parametrize("height", [256, 257, 258, 4097])
@pytest.mark.parametrize("width", [1, 5, 4097])
def test_channel_sums_of_large_white_images_do_not_overflow(height: int, width: int) -> None:
    sums, squares = channel_sums(np.full((1, height, width, 3), 255, np.uint8))
    assert sums.tolist() == [[255 * height * width] * 3]
    assert squares.tolist() == [[255**2 * height * width] * 3]


@pytest.mark.parametrize("budget", [1, IMAGE_BYTES, 3 * IMAGE_BYTES + 1, 10**9])
def test_sums_do_not_depend_on_how_many_are_added_up_at_a_time(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    expected = read_rows(Listed(MIXED), np.arange(len(MIXED)), BLANK)
    monkeypatch.setattr(module, "_SUMMED_BYTES", budget)
    found = read_rows(Listed(MIXED), np.arange(len(MIXED)), BLANK)
    assert np.array_equal(found.sums, expected.sums)
    assert np.array_equal(found.square_sums, expected.square_sums)


# --- batches ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(READABLE), max_size=9), st.sets(st.sampled_from(READABLE)))
@settings(max_examples=40)
def test_batches_are_the_scans_images_wherever_they_come_from(rows: list[int], left_out: set[int]) -> None:
    import tempfile

    source = Listed(MIXED)
    with tempfile.TemporaryDirectory() as folder:
        cache = opened(Path(folder))
        found = scan(source, BLANK, keep=True, cache=cache)
        assert found.images is not None
        places = cache.find(found.content_hashes)
        places[sorted(left_out)] = -1
        wanted = np.array(rows, dtype=np.int64)
        partly = ReducedImages(source, BLANK, cache, places)
        for reduced in (ReducedImages(source, BLANK), partly):
            assert torch.equal(reduced.batch(wanted), found.images[wanted])
        assert partly.is_cached(wanted) == (not left_out & set(rows))
        assert not ReducedImages(source, BLANK, cache).is_cached(wanted)


def test_an_image_that_went_since_the_scan_is_named(tmp_path: Path) -> None:
    source, cache = Listed(MIXED), opened(tmp_path)
    places = cache.find(scan(source, BLANK, keep=False, cache=cache).content_hashes)
    source.listed[3] = ImageError("the file cannot be opened (No such file or directory)")
    expected = (
        r"^listed/3: could be read before training and cannot any more: the file cannot be opened \(No such file or "
        r"directory\)\. Put the file back and resume the run\.$"
    )
    with pytest.raises(DataError, match=expected):
        ReducedImages(source, BLANK).batch(np.array([0, 3]))
    # What the cache has is trained on all the same: these are the pixels that the scan saw.
    assert ReducedImages(source, BLANK, cache, places).batch(np.array([0, 3])).shape == (2, 3, SIDE, SIDE)
    for path in tmp_path.rglob("*.slab"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"^listed/3: could be read before"):
        ReducedImages(source, BLANK, opened(tmp_path), places).batch(np.array([0, 3]))

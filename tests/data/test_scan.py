"""One pass over all images: what cannot be read is named, and what can is hashed, summed and kept, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart import hardware
from tellapart.data.ahead import map_ahead
from tellapart.data.decode import content_hash, decode, pixel_hash
from tellapart.data.preprocess import Preprocess
from tellapart.data.reading import read_rows
from tellapart.data.scan import fits_in_memory, read_chunks, scan, typical_size_px
from tellapart.data.sources import ArraySource, FolderSource, Source
from tellapart.data.unreadable import ImageError

BLANK = Preprocess(8, [0.0] * 3, [1.0] * 3)
MakeFolder = Callable[..., Path]


class Listed(Source):
    """A source over encoded bytes, pixels, or an error to raise."""

    def __init__(self, images: Sequence[bytes | np.ndarray | Exception], num_channels: int = 3) -> None:
        paths = [f"listed/{index}" for index in range(len(images))]
        targets = np.arange(len(images)) % 2
        super().__init__("listed", classes=("a", "b"), paths=paths, targets=targets, num_channels=num_channels)
        self.listed = images

    def read(self, index: int) -> bytes | np.ndarray:
        image = self.listed[index]
        if isinstance(image, Exception):
            raise image
        return image


def chunk_rows(source: Source, rows: Sequence[int], preprocess: Preprocess = BLANK) -> list[list[int]]:
    return [found.rows.tolist() for found in read_chunks(source, np.array(rows, dtype=np.int64), preprocess)]


def noise(count: int, height: int = 8, width: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


# --- what is found ---------------------------------------------------------------------------------------------------


def test_every_image_is_hashed_and_reduced_in_order(image_folder: Path) -> None:
    source = FolderSource(image_folder)
    found = scan(source, BLANK, keep=True)
    assert found.errors == {}
    assert found.images is not None
    for row in range(len(source)):
        pixels = decode(source.read(row), 3)
        assert found.pixel_hashes[row] == pixel_hash(pixels)
        assert found.content_hashes[row] == content_hash(source.read(row))
        assert torch.equal(found.images[row], BLANK.reduce(torch.from_numpy(pixels)))
    assert len(set(found.pixel_hashes)) == len(source) == 12


def test_keeping_or_not_finds_the_same_twice(image_folder: Path) -> None:
    source = FolderSource(image_folder)
    kept, not_kept, again = (scan(source, BLANK, keep=keep) for keep in (True, False, True))
    assert not_kept.images is None
    for other in (not_kept, again):
        assert other.pixel_hashes == kept.pixel_hashes
        assert other.content_hashes == kept.content_hashes
        assert np.array_equal(other.channel_sums, kept.channel_sums)
        assert np.array_equal(other.channel_square_sums, kept.channel_square_sums)


def test_order_is_stable_where_images_take_unequal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(40)

    class Slow(Listed):
        def read(self, index: int) -> bytes | np.ndarray:
            time.sleep(0.02 if index % 7 == 0 else 0.0)
            return super().read(index)

    monkeypatch.setattr(hardware, "num_cpus", lambda: 4)
    found = scan(Slow(images), BLANK, keep=True)
    assert found.images is not None
    assert torch.equal(found.images, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    wanted = [31, 7, 7, 0, *range(40)]
    readings = list(read_chunks(Slow(images), np.array(wanted), BLANK))
    assert [row for reading in readings for row in reading.rows] == wanted
    pixels = np.concatenate([reading.pixels for reading in readings])
    assert np.array_equal(pixels, np.stack([images[row] for row in wanted]))


@pytest.mark.parametrize("cpus", [1, 2, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 130])
def test_any_number_of_images_and_cores(monkeypatch: pytest.MonkeyPatch, cpus: int, count: int) -> None:
    monkeypatch.setattr(hardware, "num_cpus", lambda: cpus)
    steps: list[int] = []
    found = scan(Listed(noise(count)), BLANK, keep=False, advance=steps.append)
    assert all(found.pixel_hashes)
    assert sum(steps) == count


def test_the_same_pixels_in_different_files_have_one_hash(tmp_path: Path) -> None:
    pixels = noise(2)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "a" / "1.png")
    Image.fromarray(pixels[0]).save(tmp_path / "b" / "2.bmp")
    Image.fromarray(pixels[0]).save(tmp_path / "b" / "3.png", compress_level=0)
    Image.fromarray(pixels[1]).save(tmp_path / "b" / "4.png")
    grey = Image.fromarray(pixels[0][:, :, 0])
    grey.save(tmp_path / "a" / "5.png")
    grey.convert("RGB").save(tmp_path / "a" / "6.bmp")
    source = FolderSource(tmp_path)
    found = dict(zip(source.paths, scan(source, BLANK, keep=False).pixel_hashes, strict=True))
    assert found["a/1.png"] == found["b/2.bmp"] == found["b/3.png"] != found["b/4.png"]
    assert found["a/5.png"] == found["a/6.bmp"] != found["a/1.png"]


def test_hashes_do_not_depend_on_the_size_that_is_kept(image_folder: Path) -> None:
    source = FolderSource(image_folder)
    other = Preprocess(3, [0.0] * 3, [1.0] * 3, fit="squash")
    assert scan(source, other, keep=False).pixel_hashes == scan(source, BLANK, keep=False).pixel_hashes


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_unreadable_images_are_named_and_nothing_takes_their_place(make_folder: MakeFolder) -> None:
    root = make_folder({"ant": 4, "bee": 4})
    (root / "ant" / "001.png").write_bytes(b"")
    (root / "ant" / "002.png").write_bytes((root / "ant" / "003.png").read_bytes()[:80])
    (root / "bee" / "000.png").write_text("<html>not found</html>")
    source = FolderSource(root)
    (root / "bee" / "003.png").unlink()
    for keep in (True, False):
        found = scan(source, BLANK, keep=keep)
        reasons = {source.paths[row]: reason for row, reason in found.errors.items()}
        assert reasons == {
            "ant/001.png": "an empty file (0 bytes)",
            "ant/002.png": "truncated PNG",
            "bee/000.png": "not an image but an HTML page",
            "bee/003.png": "the file cannot be opened (No such file or directory)",
        }
        assert [bool(text) for text in found.pixel_hashes] == [row not in found.errors for row in range(8)]
        # What can be opened has a content hash, readable or not: it tells whether the file changed since.
        assert [bool(text) for text in found.content_hashes] == [path != "bee/003.png" for path in source.paths]
        for row in found.errors:
            assert not found.channel_sums[row].any()
            assert found.images is None or not found.images[row].any()


def test_a_read_error_of_the_system_is_one_image() -> None:
    source = Listed([*noise(2), OSError(5, "Input/output error"), ImageError("gone")])
    found = scan(source, BLANK, keep=False)
    assert found.errors == {2: "[Errno 5] Input/output error", 3: "gone"}
    read = read_rows(source, np.array([3, 1]), BLANK)
    assert read.errors == {0: "gone"}
    assert not read.images[0].any()
    assert read.images[1].any()


def test_our_own_mistakes_are_not_taken_for_bad_images() -> None:
    with pytest.raises(ZeroDivisionError):
        scan(Listed([*noise(2), ZeroDivisionError("a bug")]), BLANK, keep=False)


def test_all_images_unreadable() -> None:
    found = scan(Listed([b"x", b"y"]), BLANK, keep=True)
    assert found.errors == {0: "not an image", 1: "not an image"}
    assert found.pixel_hashes == ["", ""]


# --- mean and standard deviation -------------------------------------------------------------------------------------


def test_mean_and_std_are_numpys_over_the_chosen_rows(image_folder: Path) -> None:
    found = scan(FolderSource(image_folder), BLANK, keep=True)
    assert found.images is not None
    for rows in (np.arange(12), np.array([3]), np.array([0, 5, 11])):
        pixels = found.images.numpy()[rows].astype(np.float64) / 255
        mean, std = found.mean_std(rows)
        assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
        assert std == pytest.approx(pixels.std((0, 2, 3)).tolist(), rel=1e-9)


def test_a_channel_without_contrast_does_not_divide_by_zero() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :, 1] = 255
    image[:4, :, 2] = 255
    mean, std = scan(Listed([image, image]), BLANK, keep=False).mean_std(np.arange(2))
    assert mean == pytest.approx([0.0, 1.0, 0.5])
    assert std == pytest.approx([0.5 / 255, 0.5 / 255, 0.5])


def test_normalised_images_have_mean_0_and_std_1(image_folder: Path) -> None:
    found = scan(FolderSource(image_folder), BLANK, keep=True)
    assert found.images is not None
    inputs = Preprocess(8, *found.mean_std(np.arange(12))).normalize(found.images).double()
    assert inputs.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert inputs.std((0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_sums_are_whole_numbers_and_exact(image_folder: Path) -> None:
    found = scan(FolderSource(image_folder), BLANK, keep=True)
    assert found.images is not None
    pixels = found.images.numpy().astype(np.int64)
    assert found.channel_sums.dtype == found.channel_square_sums.dtype == np.int64
    assert np.array_equal(found.channel_sums, pixels.sum((2, 3)))
    assert np.array_equal(found.channel_square_sums, (pixels**2).sum((2, 3)))
    assert found.pixels_per_image == 64


def test_kept_images_lie_channels_last(image_folder: Path) -> None:
    images = scan(FolderSource(image_folder), BLANK, keep=True).images
    assert images is not None
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_grey_sources_have_one_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    found = scan(ArraySource(images, [0, 1, 0, 1]), Preprocess(8, [0.0], [1.0]), keep=True)
    assert found.images is not None
    assert np.array_equal(found.images.numpy()[:, 0], images)
    assert found.mean_std(np.arange(4))[0] == pytest.approx([images.mean() / 255])


# --- sizes and memory ------------------------------------------------------------------------------------------------


def test_typical_size_is_the_median_of_the_shorter_sides(make_folder: MakeFolder) -> None:
    source = FolderSource(make_folder({"a": 3, "b": 2}, sizes=((5, 90), (40, 7), (9, 9), (30, 20), (50, 31))))
    assert typical_size_px(source) == 9


def test_typical_size_looks_at_images_from_all_over() -> None:
    images = [np.zeros((4, 4, 3), np.uint8)] * 300 + [np.zeros((20, 20, 3), np.uint8)] * 700
    assert typical_size_px(Listed(images), num_probes=10) == 20


def test_typical_size_passes_over_what_does_not_open() -> None:
    image = np.zeros((6, 9, 3), np.uint8)
    assert typical_size_px(Listed([b"x", image, ImageError("gone"), OSError("gone")])) == 6
    assert typical_size_px(Listed([b"x", b""])) == 0


@pytest.mark.parametrize(("free", "expected"), [(10**6, True), (10 * 8 * 8 * 3 * 2, False), (0, False)])
def test_images_stay_in_memory_where_they_take_a_small_part(
    monkeypatch: pytest.MonkeyPatch, free: int, expected: bool
) -> None:
    monkeypatch.setattr(hardware, "free_memory_bytes", lambda device: free)
    assert fits_in_memory(10, BLANK, torch.device("cpu")) is expected


def test_images_must_fit_on_the_device_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 10**9, "cuda": 100}
    monkeypatch.setattr(hardware, "free_memory_bytes", lambda device: free[device.type])
    assert fits_in_memory(10, BLANK, torch.device("cpu"))
    assert not fits_in_memory(10, BLANK, torch.device("cuda"))


# --- reading ahead ---------------------------------------------------------------------------------------------------


def test_reading_ahead_is_bounded() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item

    results = map_ahead(work, range(100), num_threads=2, num_ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.05)
    assert len(started) <= 3 + 2 * 2 + 1
    assert list(results) == list(range(3, 100))


def test_an_error_or_an_early_end_leaves_no_threads_behind() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ZeroDivisionError
        return item

    with pytest.raises(ZeroDivisionError):
        list(map_ahead(work, range(100), num_threads=2, num_ahead=4, name="early"))
    early = map_ahead(work, range(4), num_threads=2, num_ahead=4, name="early")
    next(early)
    early.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("early")]


def test_chunks_cover_all_rows_once() -> None:
    for count in (1, 7, 63, 64, 65, 1000):
        source = Listed([np.full((1, 1, 3), 7, np.uint8)] * count)
        chunks = chunk_rows(source, range(count))
        assert [row for chunk in chunks for row in chunk] == list(range(count))
        assert all(1 <= len(chunk) <= 64 for chunk in chunks)
    assert chunk_rows(Listed([]), []) == []


def test_chunks_of_large_images_are_small() -> None:
    source, large = Listed([np.zeros((4, 4, 3), np.uint8)] * 40), Preprocess(512, [0.0] * 3, [1.0] * 3)
    assert {len(chunk) for chunk in chunk_rows(source, range(40), large)} == {1}


def test_nothing_to_read() -> None:
    found = scan(Listed([]), BLANK, keep=True)
    assert found.images is not None
    assert found.images.shape == (0, 3, 8, 8)
    assert (found.pixel_hashes, found.content_hashes, found.errors) == ([], [], {})
    assert read_rows(Listed([b"x"]), np.array([], dtype=np.int64), BLANK).images.shape == (0, 3, 8, 8)

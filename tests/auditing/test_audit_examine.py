"""The reading pass: what it measures agrees with independent computations, however it is spread over processes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F

from tellapart.auditing import examine as module
from tellapart.auditing.examine import Examination, blank_rows, examine
from tellapart.auditing.header import Header, has_wrong_ending, read_header
from tellapart.auditing.measures import flat_share, laplacian_variance, luma
from tellapart.auditing.pictures import softness
from tellapart.data.decode import content_hash, decode, pixel_hash
from tellapart.data.sources import ArraySource, FolderSource, Source

RNG = np.random.default_rng(0)


def listed(images: list[np.ndarray | bytes], channels: int = 3) -> ArraySource:
    source = ArraySource(list(images), [str(index % 2) for index in range(len(images))])
    source.num_channels = channels
    return source


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture with edges and gradients, uint8 `(H, W, 3)`."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def same(first: Examination, second: Examination) -> bool:
    return (
        first.errors == second.errors
        and first.pixel_hashes == second.pixel_hashes
        and first.content_hashes == second.content_hashes
        and bool((first.measures == second.measures).all())
        and np.array_equal(first.thumbnails, second.thumbnails)
    )


def test_hashes_sizes_and_reasons_are_those_of_the_decoder(image_folder: Path) -> None:
    (image_folder / "ant" / "bad.png").write_bytes(b"no image at all")
    source = FolderSource(image_folder)
    found = examine(source)
    bad = source.paths.index("ant/bad.png")
    assert found.errors == {bad: "not an image"}
    assert found.pixel_hashes[bad] == ""
    # A file that cannot be decoded still has bytes, which may have been others before.
    assert found.content_hashes[bad] == content_hash(b"no image at all")
    for row in found.readable():
        raw = source.read(int(row))
        pixels = decode(raw, 3)
        assert found.pixel_hashes[row] == pixel_hash(pixels)
        assert found.content_hashes[row] == content_hash(raw)
        assert (found.measures["height"][row], found.measures["width"][row]) == pixels.shape[1:]
        assert found.measures["format"][row] == "PNG"


@pytest.mark.parametrize("size", [(200, 300), (40, 30)])
def test_worker_processes_find_the_same_to_the_bit(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[np.ndarray | bytes] = [encoded(smooth(*size, seed=seed)) for seed in range(40)]
    images[7] = b"broken"
    source, counts = listed(images), []
    monkeypatch.setattr(module, "_FEW", {True: 10**9, False: 10**9})
    alone = examine(source)
    monkeypatch.setattr(module, "_FEW", {True: 0, False: 0})
    monkeypatch.setattr(module, "_CHUNK_SMALL", 9)
    monkeypatch.setattr(module.hardware, "num_cpus", lambda: 2)
    spread = examine(source, counts.append)
    assert same(alone, spread)
    assert sum(counts) == 40
    assert list(spread.errors) == [7]


def test_thumbnails_are_antialiased_squares() -> None:
    picture = RNG.integers(0, 256, (160, 240, 3), dtype=np.uint8)
    found = examine(listed([picture, picture[:, ::-1]]))
    tensor = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float()
    wanted = F.interpolate(tensor, (64, 64), mode="bilinear", antialias=True, align_corners=False)[0]
    assert found.thumbnails.shape == (2, 3, 64, 64)
    # Pillow first shrinks by a whole factor; over noise, the worst case, the two stay within a few grey levels.
    assert np.abs(found.thumbnails[0] - wanted.numpy()).mean() < 4


def test_small_images_are_kept_as_they_are() -> None:
    images = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = examine(ArraySource(images, list("ababa")))
    assert np.array_equal(found.thumbnails, images.transpose(0, 3, 1, 2))
    assert found.sharp_px == 32
    assert set(found.content_hashes) == {""}
    grey = examine(ArraySource(images[..., 0], list("ababa")))
    assert grey.thumbnails.shape == (5, 1, 32, 32)
    assert grey.measures["is_grey"].all()


def test_many_images_lie_in_a_file_that_nobody_else_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(module, "_MOST_BYTES_IN_MEMORY", 100)
    found = examine(ArraySource(images, list("ababa")))
    assert isinstance(found.thumbnails, np.memmap)
    assert np.array_equal(found.thumbnails, images.transpose(0, 3, 1, 2))


def test_many_photographs_are_compared_at_32_px(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_AT_64_PX", 2)
    found = examine(listed([smooth(90, 90, seed) for seed in range(3)]))
    assert found.thumbnails.shape == (3, 3, 32, 32)
    assert found.sharp_px == 90


def test_laplacian_by_hand_and_by_scipy() -> None:
    from scipy import ndimage

    point = np.zeros((1, 5, 5), np.float32)
    point[0, 2, 2] = 1.0
    # Nine inner values: one of -4, four of 1, four of 0: mean 0, mean square 20 / 9.
    assert laplacian_variance(point)[0] == pytest.approx(20 / 9)
    noise = RNG.normal(size=(2, 20, 30)).astype(np.float32)
    for image, value in zip(noise, laplacian_variance(noise), strict=True):
        assert value == pytest.approx(ndimage.laplace(image)[1:-1, 1:-1].var(), rel=1e-5)
    assert laplacian_variance(np.ones((1, 2, 9), np.float32)).tolist() == [0.0]


def test_luma_is_pillows() -> None:
    picture = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)
    assert np.abs(luma(picture.transpose(2, 0, 1)[None])[0] - wanted).max() <= 1.0


def test_softness_falls_with_blur_and_not_with_contrast() -> None:
    image = Image.fromarray(smooth(300, 400))
    pale = Image.fromarray((np.asarray(image) * 0.3 + 90).astype(np.uint8))
    blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4)]
    values = softness(examine(listed([np.asarray(picture) for picture in [*blurred, pale]])).measures)
    assert (np.diff(values[:4]) < -0.3).all()
    assert abs(values[4] - values[0]) < 0.05


def test_flat_share() -> None:
    half = np.zeros((10, 10, 3), np.uint8)
    half[:4] = 255
    assert flat_share(Image.fromarray(half)) == pytest.approx(0.6)
    assert flat_share(Image.fromarray(RNG.integers(0, 256, (99, 99, 3), dtype=np.uint8))) == 0.0


def test_blank_is_one_colour_but_for_noise_of_compression() -> None:
    red = np.full((50, 50, 3), (200, 30, 30), np.uint8)
    images = [encoded(red, "JPEG", quality=40), encoded(np.zeros((50, 50), np.uint8)), encoded(smooth(50, 50)), b""]
    assert blank_rows(examine(listed(list(images)))).tolist() == [0, 1]
    grain = RNG.integers(0, 256, (2000, 2000), dtype=np.uint8)
    cap_on = RNG.integers(0, 6, (300, 300, 3), dtype=np.uint8)
    found = examine(listed([grain, cap_on]))
    assert found.measures["spread"].max() <= 12, "both thumbnails show next to nothing"
    assert blank_rows(found).tolist() == [1]


def test_what_is_no_picture_is_named_and_the_rest_is_read() -> None:
    source = listed([smooth(20, 20), smooth(20, 20, 1), smooth(20, 20, 2)])
    source._list[1] = np.zeros((4, 4, 7), np.uint8)
    found = examine(source)
    assert list(found.errors) == [1]
    assert "(4, 4, 7)" in found.errors[1]
    assert found.readable().tolist() == [0, 2]


def test_an_unreadable_source_is_examined_without_a_size() -> None:
    found = examine(listed([b"", b"x"]))
    assert list(found.errors) == [0, 1]
    assert not len(found.readable())
    assert not len(blank_rows(found))


def test_a_worker_that_is_killed_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from tellapart.errors import RunError

    monkeypatch.setattr(module, "_FEW", {True: 0, False: 0})
    monkeypatch.setattr(module.hardware, "num_cpus", lambda: 2)
    monkeypatch.setattr(module, "typical_size_px", lambda source: 32)
    monkeypatch.setattr(module, "_CHUNK_SMALL", 4)
    with pytest.raises(RunError, match="out of memory"):
        examine(Deadly())


class Deadly(Source):
    """A source whose reader is killed by the system."""

    def __init__(self) -> None:
        super().__init__("deadly", classes=("a", "b"), paths=list(map(str, range(12))), targets=np.arange(12) % 2)

    def read(self, index: int) -> bytes:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        return b""


# --- headers ---------------------------------------------------------------------------------------------------------


def headers() -> dict[str, tuple[bytes, Header]]:
    rgb = smooth(20, 20)
    image = Image.fromarray(rgb)

    def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()

    frames = [Image.new("L", (9, 9), grey).convert("P") for grey in (0, 128, 255)]
    clear = image.convert("RGBA")
    clear.putalpha(100)
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    return {
        "jpeg": (saved(image, "JPEG"), Header("JPEG", "", False)),
        "grey jpeg": (saved(image.convert("L"), "JPEG"), Header("JPEG", "", False)),
        "cmyk jpeg": (saved(image.convert("CMYK"), "JPEG"), Header("JPEG", "CMYK", False)),
        "cmyk tiff": (saved(image.convert("CMYK"), "TIFF"), Header("TIFF", "CMYK", False)),
        "png": (saved(image, "PNG"), Header("PNG", "", False)),
        "alpha png": (saved(clear, "PNG"), Header("PNG", "alpha", False)),
        "palette png": (saved(image.convert("P"), "PNG", transparency=3), Header("PNG", "palette", False)),
        "opaque palette": (saved(image.convert("P"), "PNG"), Header("PNG", "", False)),
        "deep png": (saved(deep, "PNG"), Header("PNG", "16-bit", False)),
        "deep tiff": (saved(deep, "TIFF"), Header("TIFF", "16-bit", False)),
        "1-bit": (saved(image.convert("1"), "PNG"), Header("PNG", "1-bit", False)),
        "gif": (saved(image.convert("P"), "GIF"), Header("GIF", "", False)),
        "animation": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), Header("GIF", "", True)),
        "pages": (saved(image, "TIFF", save_all=True, append_images=[image]), Header("TIFF", "", True)),
        "webp": (saved(image, "WEBP"), Header("WEBP", "", False)),
        "bmp": (saved(image, "BMP"), Header("BMP", "", False)),
    }


@pytest.mark.parametrize("name", list(headers()))
def test_headers_say_format_colours_and_frames(name: str) -> None:
    raw, wanted = headers()[name]
    assert read_header(raw) == wanted
    assert decode(raw, 3).shape[0] == 3


def test_colour_of_16_bits_is_seen_though_pillow_hides_it() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert read_header(raw) == Header("PNG", "16-bit", False)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20), b"II*\0" + bytes(9)]
)
def test_a_header_that_makes_no_sense_raises_nothing(raw: bytes) -> None:
    assert read_header(raw).color_mode == ""


@pytest.mark.parametrize(
    ("path", "kind", "is_wrong"),
    [
        ("a.jpg", "PNG", True),
        ("A.JPEG", "JPEG", False),
        ("x.mpo", "JPEG", False),
        ("x.tif", "TIFF", False),
        ("x.png", "JPEG", True),
        ("shard.parquet#3", "PNG", False),
        ("no ending", "PNG", False),
        ("x.jpg", "", False),
    ],
)
def test_endings(path: str, kind: str, is_wrong: bool) -> None:
    assert has_wrong_ending(path, kind) is is_wrong

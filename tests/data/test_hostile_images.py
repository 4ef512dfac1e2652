"""A folder of hostile images, and what has to happen to each. `python tests/data/test_hostile_images.py` shows it."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import tellapart
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import Scan, scan
from tellapart.data.sources import FolderSource
from tellapart.errors import DataError
from tellapart.training.progress import Progress

HEIGHT, WIDTH = 40, 56
# Smooth enough that a lossy format stays close to it, and nowhere the same when turned or mirrored.
DOWN, RIGHT = np.mgrid[0:HEIGHT, 0:WIDTH]
PICTURE = np.stack([DOWN * 6, RIGHT * 4, (DOWN + RIGHT) * 2], axis=2).astype(np.uint8)
GREY = (DOWN * 4 + RIGHT).astype(np.uint8)
HIDDEN = 255 - PICTURE
LEFT_OUT = "left out"
# Taken from the 8 px that the tests train at; larger, so that a test sees where the pixels lie.
SEEN = Preprocess(16, [0.0] * 3, [1.0] * 3, fit="squash")


@dataclass(frozen=True)
class Hostile:
    """A file, and what has to happen to it: `pixels` that come out, `reason` it is refused for, or nothing: left out.

    `tolerance` is how far, in grey levels on average, a lossy format may lie from `pixels`, `(H, W, 3)` or `(H, W)`.
    """

    kind: str
    name: str
    write: Callable[[Path], object]
    pixels: np.ndarray | None = None
    reason: str = ""
    tolerance: float = 0.0


def encoded(image: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def holding(raw: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(raw.encode() if isinstance(raw, str) else raw)


def saved(image: Image.Image | np.ndarray, form: str, **options: object) -> Callable[[Path], object]:
    return holding(encoded(image, form, **options))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def interlaced_png() -> bytes:
    """Return the picture in the seven passes of Adam7, which Pillow cannot write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, right in passes for row in PICTURE[top::down, left::right]
    )
    return png(WIDTH, HEIGHT, 8, 2, rows, interlaced=1)


def colour_16_bit_png() -> bytes:
    wide = (PICTURE.astype(np.uint16) << 8) | 0x7F
    return png(WIDTH, HEIGHT, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide))


def deep_jpeg() -> bytes:
    raw = bytearray(encoded(PICTURE, "JPEG"))
    raw[raw.index(b"\xff\xc0") + 4] = 12
    return bytes(raw)


def flipped(raw: bytes, position: int) -> bytes:
    changed = bytearray(raw)
    changed[position] ^= 0x10
    return bytes(changed)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def over_white(alpha: int) -> np.ndarray:
    return np.round(PICTURE * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)


ALPHA = np.dstack([PICTURE, np.full_like(GREY, 100)])
PALETTE = Image.fromarray(PICTURE).quantize(64)
KEYED = Image.fromarray((GREY // 64).astype(np.uint8)).convert("P")
KEYED.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
KEYED_OVER_WHITE = np.array([[255, 255, 255], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)[GREY // 64]
DEEP_GREY = (GREY.astype(np.uint16) << 8) | 0x7F
LINE = np.linspace(0, 255, 60_000).reshape(1, -1).astype(np.uint8)
BOMB = png(30_000, 30_000, 8, 2, b"")
JPEG, PNG = encoded(PICTURE, "JPEG"), encoded(PICTURE, "PNG")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
LONG = "very " * 48 + "long.png"

HOSTILE = [
    Hostile("JPEG, baseline", "baseline.jpg", holding(JPEG), PICTURE, tolerance=4),
    Hostile("JPEG, progressive", "progressive.jpg", saved(PICTURE, "JPEG", progressive=True), PICTURE, tolerance=4),
    Hostile("JPEG, CMYK", "cmyk.jpg", saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"), PICTURE, tolerance=4),
    Hostile("JPEG, grey", "grey.jpg", saved(GREY, "JPEG"), GREY, tolerance=4),
    Hostile("JPEG, 12 bits", "deep.jpg", holding(deep_jpeg()), reason="a JPEG with 12 bits a sample"),
    Hostile(
        "JPEG, turned by EXIF",
        "turned.jpg",
        saved(PICTURE, "JPEG", exif=turned(6)),
        PICTURE[::-1].swapaxes(0, 1),
        tolerance=4,
    ),
    Hostile("JPEG, cut short", "cut.jpg", holding(JPEG[: len(JPEG) * 2 // 3]), reason="truncated JPEG"),
    Hostile("PNG, palette", "palette.png", saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    Hostile("PNG, palette with a transparent entry", "key.png", saved(KEYED, "PNG", transparency=0), KEYED_OVER_WHITE),
    Hostile("PNG, alpha", "alpha.png", saved(ALPHA, "PNG"), over_white(100), tolerance=1),
    Hostile("PNG, 16-bit grey", "deep-grey.png", saved(DEEP_GREY, "PNG"), GREY),
    Hostile("PNG, 16-bit colour", "deep-colour.png", holding(colour_16_bit_png()), PICTURE),
    Hostile("PNG, interlaced", "interlaced.png", holding(interlaced_png()), PICTURE),
    Hostile("PNG, cut short", "cut.png", holding(PNG[:-30]), reason="truncated PNG"),
    Hostile(
        "PNG, one bit flipped",
        "flipped.png",
        holding(flipped(PNG, len(PNG) // 2)),
        reason="damaged PNG (wrong checksum in its IDAT chunk)",
    ),
    Hostile(
        "PNG of 30,000 x 30,000 in 65 bytes",
        "bomb.png",
        holding(BOMB),
        reason="900,000,000 pixels is over the limit of 67,108,864",
    ),
    Hostile("WebP", "lossless.webp", saved(PICTURE, "WEBP", lossless=True), PICTURE),
    Hostile("BMP", "bitmap.bmp", saved(PICTURE, "BMP"), PICTURE),
    Hostile("TIFF, LZW", "packed.tiff", saved(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE),
    Hostile("TIFF, 16-bit grey", "deep.tif", saved(DEEP_GREY, "TIFF"), GREY),
    Hostile(
        "TIFF, float",
        "float.tif",
        saved((GREY / 255).astype(np.float32), "TIFF"),
        reason="32-bit float pixels have no fixed white",
    ),
    Hostile(
        "GIF, animated",
        "moving.gif",
        saved(PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(HIDDEN)], duration=100),
        np.asarray(PALETTE.convert("RGB")),
    ),
    Hostile("an empty file", "empty.jpg", holding(b""), reason="an empty file (0 bytes)"),
    Hostile("a text called .jpg", "text.jpg", holding("hello, this is text\n" * 9), reason="not an image"),
    Hostile(
        "an HTML page called .png",
        "page.png",
        holding("<!DOCTYPE html><html>404</html>"),
        reason="not an image but an HTML page",
    ),
    Hostile(
        "a Git LFS pointer",
        "pointer.jpg",
        holding(LFS),
        reason="not an image but a Git LFS pointer: run `git lfs pull`",
    ),
    Hostile(
        "a ZIP archive called .jpg",
        "archive.jpg",
        holding(b"PK\3\4" + bytes(60)),
        reason="not an image but a ZIP archive",
    ),
    Hostile(
        "a HEIC called .jpg",
        "phone.jpg",
        holding(b"\0\0\0\x18ftypheic" + bytes(60)),
        reason="format HEIC is not in the allowed list",
    ),
    Hostile("a PNG called .jpg", "really-a-png.jpg", holding(PNG), PICTURE),
    Hostile("one pixel by 60,000", "line.png", saved(LINE, "PNG"), LINE),
    Hostile("a Unicode name, upper-case ending", "Füße 写真 🐜 .PNG", holding(PNG), PICTURE),
    Hostile(f"a name of {len(LONG)} letters", LONG, holding(PNG), PICTURE),
    Hostile("a hidden file", "._photo.jpg", holding(b"\0\5\x16\7")),
    Hostile("a folder called .jpg", "folder.jpg", lambda path: path.mkdir()),
    Hostile("a link leading nowhere", "nowhere.jpg", lambda path: path.symlink_to("gone.jpg")),
    Hostile("a link to itself", "itself.jpg", lambda path: path.symlink_to("itself.jpg")),
]
if features.check("avif"):
    HOSTILE.append(Hostile("AVIF", "photo.avif", saved(PICTURE, "AVIF", quality=90), PICTURE, tolerance=6))
if hasattr(os, "mkfifo"):
    HOSTILE.append(Hostile("a pipe nobody writes to", "pipe.jpg", os.mkfifo))
if Path("/dev/zero").is_char_device():
    HOSTILE.append(Hostile("a link to an endless device", "zeros.jpg", lambda path: path.symlink_to("/dev/zero")))

READABLE = [case for case in HOSTILE if case.pixels is not None]
REFUSED = [case for case in HOSTILE if case.reason]
NOT_LISTED = [case for case in HOSTILE if case.pixels is None and not case.reason]
FOLDERS = [f"{part}/{name}" for name in ("ant", "bee") for part in ("train", "val", "test")]
NUM_PLAIN = 8


def write_all(root: Path) -> Path:
    """Write every hostile file into the class folders of train, val and test by turns, beside plain images."""
    rng = np.random.default_rng(0)
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
        for number in range(NUM_PLAIN):
            pixels = rng.integers(0, 128, (12, 12, 3), dtype=np.uint8) + np.uint8(127 * folder.endswith("bee"))
            Image.fromarray(pixels).save(root / folder / f"plain-{number:02}.png")
    for number, case in enumerate(HOSTILE):
        case.write(root / FOLDERS[number % len(FOLDERS)] / case.name)
    return root


def by_name(source: FolderSource) -> dict[str, int]:
    return {path.split("/")[-1]: row for row, path in enumerate(source.paths)}


def seen(pixels: np.ndarray) -> np.ndarray:
    """Return what the classifier is to see of pixels, uint8 `(3, R, R)`: from the array, without any file."""
    import torch

    return SEEN.reduce(torch.from_numpy(SEEN.decode(pixels))).numpy()


def outcomes(source: FolderSource, found: Scan) -> dict[str, str]:
    """Return by kind, in words, what happened to each hostile file."""
    assert found.images is not None
    rows, told = by_name(source), {}
    for case in HOSTILE:
        row = rows.get(case.name)
        if row is None:
            told[case.kind] = LEFT_OUT
        elif reason := found.errors.get(row):
            told[case.kind] = f"refused: {reason}"
        elif case.pixels is None:
            told[case.kind] = "read"
        else:
            distance = np.abs(found.images[row].numpy().astype(int) - seen(case.pixels)).mean()
            right = "exactly" if distance == 0 else f"within {distance:.1f} grey levels on average"
            told[case.kind] = f"read, {right} as expected"
    return told


def table(told: Mapping[str, str]) -> str:
    """Return the outcomes as the text of a table in Markdown."""
    lines = ["| what it is | file | what happened |", "|---|---|---|"]
    for case in HOSTILE:
        name = case.name if len(case.name) <= 30 else f"{case.name[:10]}...{case.name[-8:]}"
        lines.append(f"| {case.kind} | `{name}` | {told[case.kind]} |")
    return "\n".join(lines)


class Said(Progress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("hostile") / "images")


@pytest.fixture(scope="module")
def source(root: Path) -> FolderSource:
    return FolderSource(root)


@pytest.fixture(scope="module")
def found(source: FolderSource) -> Scan:
    return scan(source, SEEN, keep=True)


# --- one by one ------------------------------------------------------------------------------------------------------


def test_there_are_enough_of_them() -> None:
    assert len({case.kind for case in HOSTILE}) == len({case.name for case in HOSTILE}) == len(HOSTILE) >= 36
    assert len(BOMB) == 65
    assert len(LONG) == 248


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case.kind)
def test_what_can_be_read_gives_the_right_pixels(source: FolderSource, found: Scan, case: Hostile) -> None:
    row = by_name(source)[case.name]
    assert row not in found.errors
    assert found.images is not None
    assert case.pixels is not None
    differs = np.abs(found.images[row].numpy().astype(int) - seen(case.pixels))
    assert differs.mean() <= case.tolerance
    assert case.tolerance or not differs.any()
    assert np.abs(found.images[row].numpy().astype(int) - seen(case.pixels[:, ::-1])).mean() > 2 * case.tolerance
    assert found.pixel_hashes[row]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.kind)
def test_what_cannot_be_read_is_named_with_its_reason(source: FolderSource, found: Scan, case: Hostile) -> None:
    row = by_name(source)[case.name]
    assert case.reason in found.errors[row]
    assert "\n" not in found.errors[row]
    assert found.images is not None
    assert not found.images[row].any()
    assert found.pixel_hashes[row] == ""


@pytest.mark.parametrize("case", NOT_LISTED, ids=lambda case: case.kind)
def test_what_is_no_file_is_left_out(source: FolderSource, case: Hostile) -> None:
    assert case.name not in by_name(source)


def test_nothing_else_is_refused_or_left_out(source: FolderSource, found: Scan) -> None:
    assert {source.paths[row].split("/")[-1] for row in found.errors} == {case.name for case in REFUSED}
    assert len(source) == len(FOLDERS) * NUM_PLAIN + len(READABLE) + len(REFUSED)
    assert source.classes == ("ant", "bee")


def test_links_leading_nowhere_are_said(source: FolderSource) -> None:
    (note,) = [note for note in source.notes if "leading nowhere" in note]
    assert re.match(r"left out [23] links leading nowhere: ", note)
    assert "nowhere.jpg" in note
    assert "itself.jpg" in note


def test_the_same_with_a_cache(
    source: FolderSource, found: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tellapart.data import cache

    monkeypatch.setattr(cache, "_SPARED_BYTES", 0)
    kept = cache.ImageCache(tmp_path, "hostile", (16, 16, 3), 10**6)
    for _ in range(2):
        again = scan(source, SEEN, keep=True, cache=kept)
        assert again.errors == found.errors
        assert again.pixel_hashes == found.pixel_hashes
        assert again.images is not None
        assert found.images is not None
        assert again.images.equal(found.images)
    assert len(kept) == len(source) - len(REFUSED)


def test_the_table_tells_of_each(source: FolderSource, found: Scan) -> None:
    told = outcomes(source, found)
    assert list(told) == [case.kind for case in HOSTILE]
    assert all(told[case.kind].startswith("read, ") for case in READABLE)
    assert all(case.reason in told[case.kind] for case in REFUSED)
    assert all(told[case.kind] == LEFT_OUT for case in NOT_LISTED)
    assert len(table(told).splitlines()) == len(HOSTILE) + 2


# --- trained on ------------------------------------------------------------------------------------------------------


def train(root: Path, run: Path, said: Said, **options: object) -> tellapart.Run:
    chosen = {
        "preprocess.size_px": 8,
        "train.batch_size": 16,
        # Many of them are one picture, so val and test hold what train holds.
        "data.allow_leaks": "yes",
        "data.cache_dir": str(run.parent / "cache"),
        **{name.replace("__", "."): value for name, value in options.items()},
    }
    return tellapart.train(root, model="mlp", epochs=1, run=run, options=chosen, progress=said)


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_skipping_changes_what_is_trained_on_and_not_what_is_given(
    root: Path, source: FolderSource, tmp_path: Path, in_memory: str
) -> None:
    said = Said()
    options = {} if in_memory == "yes" else {"data__num_workers": 0}
    run = train(root, tmp_path / "run", said, data__bad_images="skip", data__in_memory=in_memory, **options)
    evaluations = {name: tellapart.evaluate(run, name, progress=False) for name in ("train", "val", "test")}
    assert sum(each.num_given for each in evaluations.values()) == len(source)
    assert sum(each.n for each in evaluations.values()) == len(source) - len(REFUSED)
    refused = {case.name for case in REFUSED}
    for name, each in evaluations.items():
        given = [path for path, part in zip(run.split.paths, run.split.splits, strict=True) if part == name]
        readable = [path for path in given if path.split("/")[-1] not in refused]
        assert (each.n, each.num_given) == (len(readable), len(given))
        assert each.predictions.paths == readable
        assert each.n < each.num_given, "none of the refused lies in this part: the test proves nothing"
    assert run.result is not None
    assert (run.result["n"], run.result["num_given"]) == (evaluations["val"].n, evaluations["val"].num_given)
    everything = "\n".join(said.texts)
    assert "frames" in everything
    assert "moving.gif" in everything


def test_failing_names_what_cannot_be_read_before_anything_is_trained(
    root: Path, source: FolderSource, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        train(root, tmp_path / "run", Said())
    text = str(caught.value)
    short = [case for case in REFUSED if case.reason.startswith("truncated")]
    assert f"{len(REFUSED) - len(short)} of {len(source)} images cannot be read" in text
    assert f"{len(short)} of {len(source)} images are cut short and cannot be read" in text
    assert "--data.bad-images skip" in text
    for case in REFUSED:
        (line,) = [line for line in text.splitlines() if f"/{case.name}: " in line]
        assert case.reason in line
    assert not (tmp_path / "run" / "bundle").exists()


def test_the_audit_names_each_with_its_reason(root: Path, source: FolderSource) -> None:
    checked = tellapart.check(root, quick=True, max_examples=99, progress=False)
    unreadable = [found for found in checked.findings if found.kind in ("unreadable", "truncated")]
    named = {
        source.paths[example.rows[0]].split("/")[-1]: example.detail
        for found in unreadable
        for example in found.examples
    }
    assert set(named) == {case.name for case in REFUSED}
    assert all(case.reason in named[case.name] for case in REFUSED)


def main() -> None:
    """Print what happens to each hostile file, and to a run that skips those that cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        root, said = write_all(Path(folder) / "images"), Said()
        source = FolderSource(root)
        told = outcomes(source, scan(source, SEEN, keep=True))
        run = train(root, Path(folder) / "run", said, data__bad_images="skip")
        evaluations = [(name, tellapart.evaluate(run, name, progress=False)) for name in ("train", "val", "test")]
    counts = ", ".join(f"{name} {each.n} evaluated of {each.num_given} given" for name, each in evaluations)
    print(f"{len(HOSTILE)} hostile files beside {len(FOLDERS) * NUM_PLAIN} plain images\n")
    print(table(told))
    print(f"\nTrained with --data.bad-images skip: {counts}.\n")
    print("\n".join(said.texts).replace(folder, ""))


if __name__ == "__main__":
    sys.exit(main())

"""Odd pictures and files are found, and ordinary ones are left in peace."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tellapart.auditing.examine import examine
from tellapart.auditing.files import Recorded, changed_findings, format_findings, unreadable_findings
from tellapart.auditing.findings import Finding, subject_of
from tellapart.auditing.pictures import picture_findings
from tellapart.data.decode import content_hash
from tellapart.data.sources import ArraySource, FolderSource, Source

REAL = Path(__file__).parents[2] / "../shared/data/ants-bees"


def scene(seed: int, height: int = 90, width: int = 120) -> Image.Image:
    """Return a picture with sharp edges, as different from others as photographs are."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(
        Image.fromarray(rng.integers(40, 216, (9, 12, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.NEAREST
        )
    )
    return Image.fromarray((pixels + rng.integers(-20, 20, pixels.shape)).clip(0, 255).astype(np.uint8))


def write(root: Path, images: dict[str, Image.Image | bytes], num_ordinary: int = 30, **options: object) -> Source:
    for place in range(num_ordinary):
        path = root / ("ant", "bee")[place % 2] / f"ordinary {place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(place, **options).save(path, compress_level=1)  # pyright: ignore[reportArgumentType]
    for name, image in images.items():
        if isinstance(image, bytes):
            (root / "ant" / name).write_bytes(image)
        else:
            image.save(root / "ant" / name)
    return FolderSource(root)


def look(source: Source, size_px: int = 32) -> dict[str, Finding]:
    subject, examination = subject_of(source), examine(source)
    found = [*picture_findings(subject, examination, size_px), *format_findings(subject, examination)]
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


def names(source: Source, finding: Finding) -> list[str]:
    return [source.paths[row].partition("/")[2] for row in finding.rows]


def test_ordinary_pictures_give_no_finding(tmp_path: Path) -> None:
    assert look(write(tmp_path, {})) == {}


def test_each_odd_picture_is_found_and_named(tmp_path: Path) -> None:
    picture = scene(99)
    pixels = np.asarray(picture).astype(float)
    notice = Image.new("RGB", (120, 90), (240, 240, 230))
    notice.paste((20, 20, 20), (30, 40, 90, 44))
    odd: dict[str, Image.Image | bytes] = {
        "blank.png": Image.new("RGB", (120, 90), (9, 99, 9)),
        "blurred.png": picture.filter(ImageFilter.GaussianBlur(6)),
        "bright.png": Image.fromarray((255 - (255 - pixels) * 0.05).astype(np.uint8)),
        "dark.png": Image.fromarray((pixels * 0.05).astype(np.uint8)),
        "large.png": scene(98, 700, 1300),
        "long.png": scene(97, 40, 500),
        "notice.png": notice,
        "image_not_available.png": scene(95),
        "small.png": scene(96, 10, 12),
    }
    source = write(tmp_path, odd)
    found = look(source)
    assert names(source, found.pop("placeholder")) == ["image_not_available.png", "notice.png"]
    assert {kind: names(source, finding) for kind, finding in found.items()} == {
        "blank": ["blank.png"],
        "dark": ["dark.png"],
        "bright": ["bright.png"],
        "blurred": ["blurred.png"],
        "small": ["small.png"],
        "large": ["large.png"],
        "aspect": ["long.png"],
    }
    assert found["small"].severity == "warning"
    assert found["small"].examples[0].detail == "12 x 10 px"
    assert found["large"].examples[0].detail == "1,300 x 700 px"


def test_what_holds_for_the_whole_data_set_is_not_odd(tmp_path: Path) -> None:
    """Dark, flat line drawings such as handwritten digits are what they are."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        picture = np.zeros((90, 90), np.uint8)
        for _ in range(3):
            top, left = rng.integers(0, 80, 2)
            picture[top : top + 2, left : left + 9] = 255
        images.append(picture)
    assert look(ArraySource(np.stack(images), [str(place % 2) for place in range(40)]), 90) == {}


def test_smooth_subjects_at_32_px_do_not_flood() -> None:
    """Gradients of random slopes, as skies: none stands out, so none is blurred."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32] / 32
    slopes = rng.uniform(20, 100, (200, 2))
    images = (100 + slopes[:, :1, None] * y + slopes[:, 1:, None] * x + rng.normal(0, 3, (200, 32, 32))).astype(
        np.uint8
    )
    assert "blurred" not in look(ArraySource(images, [str(place % 2) for place in range(200)]))


def test_a_small_image_that_was_enlarged_is_small_and_not_blurred(tmp_path: Path) -> None:
    found = look(write(tmp_path, {"small.png": scene(5, 20, 30)}, height=200, width=240), 128)
    assert set(found) == {"small"}


def test_a_picture_repeated_five_times_is_a_placeholder() -> None:
    images = [np.asarray(scene(seed)) for seed in range(30)] + [np.asarray(scene(77))] * 5
    found = look(ArraySource(images, [str(place % 2) for place in range(35)]))
    assert found["placeholder"].rows.tolist() == [30, 31, 32, 33, 34]
    assert found["placeholder"].examples[0].detail == "the same picture 5 times"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_odd_files_are_found_and_named(tmp_path: Path) -> None:
    picture = scene(99)
    clear = picture.convert("RGBA")
    clear.putalpha(128)
    frames = [scene(90).convert("P"), scene(91).convert("P")]
    source = write(
        tmp_path,
        {
            "alpha.png": clear,
            "cmyk.jpg": saved(picture.convert("CMYK"), "JPEG"),
            "film.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "grey.png": picture.convert("L"),
            "really png.jpg": saved(picture, "PNG"),
        },
    )
    found = look(source)
    assert {kind: names(source, finding) for kind, finding in found.items()} == {
        "wrong-ending": ["really png.jpg"],
        "color-mode": ["alpha.png", "cmyk.jpg"],
        "grey": ["grey.png"],
        "animated": ["film.gif"],
    }
    assert "1 alpha, 1 CMYK" in found["color-mode"].message
    assert found["wrong-ending"].examples[0].detail == "PNG content, ending .jpg (expected .jpg)".replace(
        "expected .jpg", "expected .png"
    )
    assert found["grey"].severity == "note"


def test_grey_that_gives_a_class_away_is_a_warning() -> None:
    images = [np.asarray(scene(seed)) for seed in range(60)]
    for place in range(0, 24, 2):
        images[place] = np.repeat(images[place][:, :, :1], 3, axis=2)
    found = look(ArraySource(images, ["ant" if place % 2 == 0 else "bee" for place in range(60)]))
    assert found["grey"].severity == "warning"
    assert "12 of them are in the class 'ant'" in found["grey"].message


def test_unreadable_and_truncated_are_told_apart(tmp_path: Path) -> None:
    jpeg = saved(scene(1), "JPEG")
    source = write(tmp_path, {"cut.jpg": jpeg[: len(jpeg) // 2], "empty.png": b"", "page.png": b"<html></html>"})
    cannot, cut = unreadable_findings(subject_of(source), examine(source).errors)
    assert (cannot.kind, cannot.count, cannot.severity) == ("unreadable", 2, "error")
    assert [example.detail for example in cannot.examples] == [
        "an empty file (0 bytes)",
        "not an image but an HTML page",
    ]
    assert (cut.kind, cut.count, cut.examples[0].detail) == ("truncated", 1, "truncated JPEG")
    assert cut.override == cannot.override == "--data.bad-images skip"


def test_where_nothing_can_be_read_nothing_overrides(tmp_path: Path) -> None:
    source = ArraySource([b"", b"x"], ["a", "b"])
    (found,) = unreadable_findings(subject_of(source), examine(source).errors)
    assert found.override == ""
    assert found.message.endswith("none is left.")
    assert look(source) == {}


def test_a_flipped_bit_in_a_jpeg_is_found_by_its_hash(tmp_path: Path) -> None:
    source = write(tmp_path, {"rots.jpg": saved(scene(3), "JPEG"), "goes.png": scene(4)})
    before = Recorded(
        "then", {path: content_hash(bytes(source.read(row))) for row, path in enumerate(source.paths)}, {}
    )
    assert changed_findings(subject_of(source), examine(source), before) == []
    file = tmp_path / "ant" / "rots.jpg"
    raw = bytearray(file.read_bytes())
    raw[-40] ^= 4
    file.write_bytes(raw)
    (tmp_path / "ant" / "goes.png").unlink()
    again = FolderSource(tmp_path)
    examination = examine(again)
    assert not examination.errors, "this flip leaves the file readable, which is the point"
    changed, missing = changed_findings(subject_of(again), examination, before)
    assert (changed.kind, changed.count, missing.kind, missing.count) == ("changed", 1, "missing", 1)
    assert again.paths[changed.rows[0]] == "ant/rots.jpg"
    assert missing.examples[0].detail == "ant/goes.png"


def test_pixels_are_compared_where_no_bytes_were_hashed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    source = ArraySource(images, list("abab"))
    examination = examine(source)
    before = Recorded("then", {}, dict(zip(source.paths, examination.pixel_hashes, strict=True)))
    assert changed_findings(subject_of(source), examination, before) == []
    changed = images.copy()
    changed[2, 0, 0] += 1
    other = ArraySource(changed, list("abab"))
    (found,) = changed_findings(subject_of(other), examine(other), before)
    assert found.rows.tolist() == [2]
    # Nothing is claimed of images that nobody recorded.
    assert changed_findings(subject_of(other), examine(other), Recorded("then", {}, {})) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/ants-bees is not there")
def test_the_one_placeholder_among_real_photographs_is_found_and_nothing_is_blurred() -> None:
    source = FolderSource(REAL)
    found = look(source, 128)
    assert [source.paths[row] for row in found["placeholder"].rows] == ["train/ants/imageNotFound.gif"]
    assert set(found) <= {"placeholder", "grey"}

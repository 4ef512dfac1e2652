"""The quick way through JPEGs: the same pixels as Pillow's, whole and reduced, and the same refusals."""

from __future__ import annotations

import io
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tellapart.data import decode as module
from tellapart.data.decode import ImageError, decode, image_size
from tellapart.data.jpeg import jpeg_pixels, may_be_turned, reduction
from tellapart.data.unreadable import MAX_PIXELS

SIDES = st.integers(1, 70)
# 4:4:4, 4:2:2 and 4:2:0, as Pillow numbers them.
SUBSAMPLINGS = st.sampled_from([0, 1, 2])


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return something between noise and a photograph, uint8 `(H, W, 3)` or `(H, W)`."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height), 2 * np.arange(width))[:, :, None] + np.array([0, 60, 120])
    pixels = ((slope + rng.integers(0, 60, (height, width, 3))) % 256).astype(np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def jpeg(image: np.ndarray | Image.Image, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, str(options.pop("form", "JPEG")), **options)
    return buffer.getvalue()


def by_pillow(raw: bytes, divisor: int = 1) -> np.ndarray:
    with Image.open(io.BytesIO(raw)) as image:
        width, height = image.size
        if divisor > 1:
            image.draft(None, (max(1, width // divisor), max(1, height // divisor)))
        return np.asarray(image).copy()


@contextmanager
def pillow_alone() -> Iterator[None]:
    """Decode as if every JPEG were left to Pillow."""
    quick, module.jpeg_pixels = module.jpeg_pixels, lambda raw, min_side_px=0: None
    try:
        yield
    finally:
        module.jpeg_pixels = quick


def outcome(raw: bytes) -> np.ndarray | str:
    try:
        return decode(raw, 3)
    except ImageError as error:
        return error.reason


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(raw: bytes, *segments: bytes) -> bytes:
    """Put bytes right behind a JPEG's first two."""
    return raw[:2] + b"".join(segments) + raw[2:]


def frame_header(raw: bytes) -> int:
    """Return where the content of the baseline or progressive frame header begins."""
    marker = b"\xff\xc0" if b"\xff\xc0" in raw else b"\xff\xc2"
    return raw.index(marker) + 4


def patched(raw: bytes, place: int, value: int) -> bytes:
    changed = bytearray(raw)
    changed[place] = value
    return bytes(changed)


# --- pixels ----------------------------------------------------------------------------------------------------------


@given(SIDES, SIDES, st.integers(1, 100), SUBSAMPLINGS, st.booleans(), st.integers(0, 99))
@settings(max_examples=200)
def test_colour_equals_pillow_to_the_bit(
    height: int, width: int, quality: int, subsampling: int, progressive: bool, seed: int
) -> None:
    raw = jpeg(picture(height, width, seed=seed), quality=quality, subsampling=subsampling, progressive=progressive)
    found = jpeg_pixels(raw)
    assert found is not None
    assert np.array_equal(found, by_pillow(raw))
    assert np.array_equal(decode(raw, 3), found.transpose(2, 0, 1))


@given(SIDES, SIDES, st.integers(1, 100), st.booleans())
def test_grey_equals_pillow_to_the_bit(height: int, width: int, quality: int, progressive: bool) -> None:
    raw = jpeg(picture(height, width, 1), quality=quality, progressive=progressive)
    found = jpeg_pixels(raw)
    assert found is not None
    assert found.shape == (height, width)
    assert np.array_equal(found, by_pillow(raw))
    assert np.array_equal(decode(raw, 1)[0], found)
    assert np.array_equal(decode(raw, 3), np.stack([found] * 3))


@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"restart_marker_rows": 1, "subsampling": 0},
        {"optimize": True},
        {"comment": b"a comment"},
        {"icc_profile": bytes(70_000)},
        {"dpi": (300, 300)},
        {"qtables": [[1] * 64, [9] * 64]},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(61, 45), (16, 16), (1, 1), (17, 8)])
def test_any_way_of_writing_gives_pillows_pixels(options: dict[str, object], size: tuple[int, int]) -> None:
    raw = jpeg(picture(*size), **options)
    found = jpeg_pixels(raw)
    assert found is not None
    assert np.array_equal(found, by_pillow(raw))


@given(st.lists(st.tuples(st.sampled_from([0xFE, *range(0xE2, 0xEE)]), st.binary(max_size=40)), max_size=4))
def test_comments_and_application_data_change_nothing(segments: list[tuple[int, bytes]]) -> None:
    plain = jpeg(picture(20, 31))
    raw = with_segments(plain, *(segment(*each) for each in segments))
    assert not may_be_turned(raw)
    assert np.array_equal(decode(raw, 3), decode(plain, 3))


# --- reduced scale ---------------------------------------------------------------------------------------------------


@given(SIDES, SIDES, SUBSAMPLINGS, st.booleans(), st.integers(1, 40), st.sampled_from([1, 3]))
@settings(max_examples=200)
def test_reduced_scale_equals_pillows_draft(
    height: int, width: int, subsampling: int, progressive: bool, smallest: int, channels: int
) -> None:
    raw = jpeg(picture(height, width, channels), subsampling=subsampling, progressive=progressive)
    divisor = reduction(min(height, width), smallest)
    found = jpeg_pixels(raw, smallest)
    assert found is not None
    assert found.shape[:2] == (-(-height // divisor), -(-width // divisor))
    assert min(found.shape[:2]) >= min(smallest, height, width)
    # Pillow's draft looks at whole pixels, rounded down, and takes a smaller divisor for what is smaller than that.
    if height >= divisor and width >= divisor:
        assert np.array_equal(found, by_pillow(raw, divisor))


@pytest.mark.parametrize(
    ("side", "smallest", "expected"),
    [
        (1, 0, 1),
        (5000, 0, 1),
        (5000, 5001, 1),
        (1024, 512, 2),
        (1023, 512, 2),
        (1022, 512, 1),
        (4096, 512, 8),
        (4089, 512, 8),
        (4088, 512, 4),
        (100_000, 512, 8),
        (1, 1, 8),
    ],
)
def test_by_how_much_a_side_is_divided(side: int, smallest: int, expected: int) -> None:
    assert reduction(side, smallest) == expected


def test_the_shorter_side_decides() -> None:
    raw = jpeg(picture(40, 400))
    assert decode(raw, 3, min_side_px=20).shape == (3, 20, 200)
    assert decode(raw, 3, min_side_px=21).shape == (3, 40, 400)
    assert image_size(raw) == (400, 40)


def test_other_formats_are_decoded_whole() -> None:
    for form in ("PNG", "BMP", "TIFF"):
        assert decode(jpeg(picture(80, 90), form=form), 3, min_side_px=10).shape == (3, 80, 90)


# --- which way up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("smallest", [0, 10])
@pytest.mark.parametrize("channels", [1, 3])
def test_exif_orientation_on_the_quick_path(
    monkeypatch: pytest.MonkeyPatch, orientation: int, smallest: int, channels: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = jpeg(picture(24, 40, channels), exif=exif)
    stored = jpeg_pixels(raw, smallest)
    assert stored is not None
    turned = Image.fromarray(stored)
    turned.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned).convert("RGB"))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("Pillow decoded the file"))
    found = decode(raw, 3, min_side_px=smallest)
    assert np.array_equal(found, upright.transpose(2, 0, 1))
    assert found.transpose(1, 2, 0).flags.c_contiguous


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}/></x:xmpmeta>'


@pytest.mark.parametrize("orientation", range(1, 9))
def test_xmp_orientation_counts_where_exif_has_none(orientation: int) -> None:
    xmp = XMP.format(f'tiff:Orientation="{orientation}"').encode()
    raw = jpeg(picture(24, 40), xmp=xmp)
    with Image.open(io.BytesIO(raw)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(raw, 3), upright.transpose(2, 0, 1))
    assert decode(raw, 3).shape == ((3, 24, 40) if orientation < 5 else (3, 40, 24))


def test_what_stands_before_the_orientation_does_not_hide_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = jpeg(picture(24, 40))
    app1 = segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"))
    upright = decode(plain, 3)[:, ::-1].transpose(0, 2, 1)
    for before in (b"", segment(0xFE, b"comment"), b"\xff", b"\xff" * 9, segment(0xE5, b"\xff\xe1\xff\xda")):
        raw = with_segments(plain, before, app1)
        assert may_be_turned(raw)
        assert np.array_equal(decode(raw, 3), upright), before
        with pillow_alone():
            assert np.array_equal(decode(raw, 3), upright), before


def test_orientation_behind_the_scan_is_none() -> None:
    raw = jpeg(picture(24, 40))
    assert not may_be_turned(raw)
    assert not may_be_turned(raw + segment(0xE1, b"Exif\0\0"))
    for short in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe5\0\0", bytes(99)):
        assert not may_be_turned(short)


@pytest.mark.parametrize("orientation", [None, 3, 6])
def test_mpo_is_its_first_picture_turned(orientation: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    first, second = Image.fromarray(picture(24, 40)), Image.fromarray(255 - picture(24, 40))
    raw = jpeg(first, form="MPO", save_all=True, append_images=[second], exif=exif)
    with Image.open(io.BytesIO(raw)) as image:
        assert image.format == "MPO"
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert jpeg_pixels(raw) is not None
    assert np.array_equal(decode(raw, 3), upright.transpose(2, 0, 1))


def test_damaged_exif_costs_nothing_but_the_orientation() -> None:
    plain = jpeg(picture(24, 40))
    for content in (
        b"",
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"http://ns.adobe.com/xap/1.0/\0<",
    ):
        assert np.array_equal(decode(with_segments(plain, segment(0xE1, content)), 3), decode(plain, 3))


# --- what is left to Pillow ------------------------------------------------------------------------------------------


def left_to_pillow(raw: bytes) -> np.ndarray | str:
    """Return what comes out, after making sure that Pillow made it."""
    assert jpeg_pixels(raw) is None
    assert jpeg_pixels(raw, 8) is None
    found = outcome(raw)
    with pillow_alone():
        expected = outcome(raw)
    assert isinstance(found, str) == isinstance(expected, str)
    assert np.array_equal(found, expected)
    return found


@pytest.mark.parametrize("transform", [0, 1, 2])
def test_cmyk_and_ycck_are_converted_by_pillow(transform: int) -> None:
    raw = jpeg(Image.fromarray(picture(20, 30)).convert("CMYK"))
    raw = patched(raw, raw.index(b"Adobe") + 11, transform)
    with Image.open(io.BytesIO(raw)) as image:
        assert image.mode == "CMYK"
        expected = np.asarray(image.convert("RGB"))
    found = left_to_pillow(raw)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected.transpose(2, 0, 1))


def test_a_jpeg_that_stores_rgb_is_not_taken_for_ycbcr() -> None:
    raw = jpeg(picture(20, 30), keep_rgb=True, subsampling=0, quality=100)
    found = left_to_pillow(raw)
    assert isinstance(found, np.ndarray)
    assert np.abs(found.transpose(1, 2, 0).astype(int) - picture(20, 30)).max() <= 2


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_more_than_8_bits_are_refused_in_so_many_words(bits: int, progressive: bool) -> None:
    raw = jpeg(picture(20, 30), progressive=progressive, exif=Image.Exif())
    place = frame_header(raw)
    assert raw[place] == 8
    expected = f"a JPEG with {bits} bits a sample, and only those with 8 can be read; save it with 8 bits, or as PNG"
    # A thumbnail in the metadata has a frame header of its own, of 8 bits, which is not meant.
    for deep in (patched(raw, place, bits), with_segments(patched(raw, place, bits), segment(0xE1, b"Exif\0\0" + raw))):
        assert left_to_pillow(deep) == expected
        with pytest.raises(ImageError, match=f"{bits} bits a sample"):
            image_size(deep)


@pytest.mark.parametrize("bits", [0, 1, 7, 17, 255])
def test_a_number_of_bits_that_no_jpeg_has_is_damage(bits: int) -> None:
    raw = jpeg(picture(20, 30))
    found = left_to_pillow(patched(raw, frame_header(raw), bits))
    assert isinstance(found, str)
    assert found.startswith("damaged JPEG")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("smallest", [0, 8])
def test_a_jpeg_cut_short_anywhere_is_unreadable(progressive: bool, smallest: int) -> None:
    raw = jpeg(picture(60, 60), progressive=progressive)
    for length in [*range(0, len(raw) - 2, 61), len(raw) - 20, len(raw) - 3]:
        with pytest.raises(ImageError) as caught:
            decode(raw[:length], 3, min_side_px=smallest)
        assert re.match(r"an empty file|not an image$|truncated JPEG$|damaged JPEG", caught.value.reason)
        if length > 700:
            assert caught.value.reason == "truncated JPEG"


def test_a_jpeg_without_its_end_marker_is_truncated() -> None:
    # libjpeg would make the marker up and give every pixel; Pillow does not, and how much is missing nobody knows.
    raw = jpeg(picture(60, 60))
    assert raw[-2:] == b"\xff\xd9"
    for missing in (1, 2):
        assert left_to_pillow(raw[:-missing]) == "truncated JPEG"


def test_bytes_behind_the_end_do_not_matter() -> None:
    raw = jpeg(picture(60, 60))
    for tail in (b"\0", b"\n", bytes(1000), raw):
        assert np.array_equal(decode(raw + tail, 3), decode(raw, 3))


def test_too_many_pixels_are_refused_from_the_header() -> None:
    raw = jpeg(picture(20, 30))
    place = frame_header(raw)
    bomb = raw[: place + 1] + struct.pack(">HH", 60_000, 60_000) + raw[place + 5 :]
    started_at = time.process_time()
    found = left_to_pillow(bomb)
    assert found == f"3,600,000,000 pixels is over the limit of {MAX_PIXELS:,}"
    assert time.process_time() - started_at < 1


@given(st.data())
@settings(max_examples=400)
def test_flipped_bits_give_pillows_pixels_or_a_reason(data: st.DataObject) -> None:
    channels, progressive = data.draw(st.sampled_from([1, 3])), data.draw(st.booleans())
    raw = bytearray(jpeg(picture(40, 33, channels), progressive=progressive, quality=60))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(raw)
    found = outcome(damaged)
    assert np.array_equal(outcome(damaged), found), "the same bytes, another outcome"
    with pillow_alone():
        expected = outcome(damaged)
    if not isinstance(found, str) and not isinstance(expected, str):
        assert np.array_equal(found, expected)
    if isinstance(found, str):
        assert found == expected, "left to Pillow, with another outcome"


@given(st.binary(max_size=120))
@settings(max_examples=200)
def test_any_bytes_behind_a_jpegs_first_ones(tail: bytes) -> None:
    for raw in (b"\xff\xd8" + tail, b"\xff\xd8\xff" + tail, jpeg(picture(9, 9))[:160] + tail):
        assert jpeg_pixels(raw) is None or isinstance(outcome(raw), np.ndarray)
        may_be_turned(raw)

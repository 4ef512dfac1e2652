"""Decoding: every format and mode against Pillow or hand-computed values, and every kind of broken file."""

from __future__ import annotations

import io
import pickle
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, features

from tellapart.data.decode import (
    FORMATS,
    MAX_PIXELS,
    ImageError,
    background_rgb,
    content_hash,
    decode,
    image_size,
    picture_pixels,
    pixel_hash,
)
from tellapart.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("error")

COLOUR = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0].copy()
HAS_AVIF = features.check("avif")
SAVED = [name for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM") if name != "AVIF" or HAS_AVIF]


def encode(image: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def channels_first(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 0, 1)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, *before: bytes, after: bytes = b"") -> bytes:
    """Build a PNG by hand: `rows` holds the filter bytes too, `before` and `after` are whole chunks around IDAT."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + body + after + png_chunk(b"IEND", b"")


def reason(raw: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(raw, 3)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


@pytest.fixture
def fill_truncated() -> Iterator[None]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES = False


# --- what the pixels are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_back_the_pixels(form: str) -> None:
    pixels = decode(encode(COLOUR, form), 3)
    assert pixels.dtype == np.uint8
    assert pixels.transpose(1, 2, 0).flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, channels_first(COLOUR))


def test_webp_lossless_gives_back_the_pixels() -> None:
    assert np.array_equal(decode(encode(COLOUR, "WEBP", lossless=True), 3), channels_first(COLOUR))


@pytest.mark.parametrize("form", SAVED)
def test_every_format_equals_pillows_own_conversion(form: str) -> None:
    raw = encode(COLOUR, form)
    image = Image.open(io.BytesIO(raw))
    assert np.array_equal(decode(raw, 3), channels_first(np.asarray(image.convert("RGB"))))
    assert np.array_equal(decode(raw, 1)[0], np.asarray(image.convert("RGB").convert("L")))
    assert image_size(raw) == (17, 13)


def test_colour_becomes_grey_by_the_601_luma() -> None:
    red, green, blue = (int(value) for value in COLOUR[3, 5])
    expected = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    assert decode(COLOUR, 1)[0, 3, 5] == expected


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_is_repeated(form: str) -> None:
    pixels = decode(encode(GREY, form), 3)
    assert np.array_equal(pixels, np.stack([GREY] * 3))
    assert np.array_equal(decode(encode(GREY, form), 1), GREY[None])


def test_one_bit_becomes_0_and_255() -> None:
    bits = GREY > 127
    for form in ("PNG", "TIFF", "PPM", "BMP"):
        assert np.array_equal(decode(encode(Image.fromarray(bits), form), 1)[0], bits * np.uint8(255))


def test_palette_is_resolved() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode(encode(image, "PNG"), 3), channels_first(np.asarray(image.convert("RGB"))))


@pytest.mark.parametrize("alpha", [0, 1, 127, 254, 255])
def test_alpha_is_laid_over_white(alpha: int) -> None:
    layered = np.dstack([COLOUR, np.full_like(GREY, alpha)])
    blend = COLOUR.astype(float) * alpha / 255 + 255 * (1 - alpha / 255)
    for raw in (encode(layered, "PNG"), encode(layered, "TIFF"), layered):
        assert np.abs(decode(raw, 3) - channels_first(blend)).max() <= 0.5 + 1e-9


def test_grey_with_alpha_stays_grey() -> None:
    raw = encode(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (17, 13), 0)]), "PNG")
    assert (decode(raw, 1) == 255).all()
    assert (decode(raw, 3) == 255).all()


def test_palette_with_transparent_entry_is_white_there() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    for raw in (encode(image, "PNG", transparency=0), encode(image, "GIF", transparency=0)):
        assert decode(raw, 3)[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]
    half = encode(image, "PNG", transparency=bytes([255, 0]))
    assert decode(half, 3)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_colour_key_transparency_is_white() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert decode(encode(pixels, "PNG", transparency=(1, 2, 3)), 3)[:, 0].T.tolist() == [[255, 255, 255], [4, 5, 6]]
    assert decode(encode(pixels[:, :, 0], "PNG", transparency=4), 1).tolist() == [[[1, 255]]]


def test_grey_16_bit_is_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)
    expected = [[[0, 0, 1, 127, 128, 255]]]
    for raw in (encode(values, "PNG"), encode(values, "TIFF"), encode(values, "TIFF", compression="tiff_lzw")):
        assert decode(raw, 1).tolist() == expected
    assert decode(encode(values, "PPM"), 1).tolist() == expected
    assert decode(encode(values.astype(">u2"), "TIFF"), 1).tolist() == expected


def test_grey_16_bit_transparency_key_is_white() -> None:
    rows = b"\0" + struct.pack(">HH", 0x0102, 0x0103)
    assert decode(png(2, 1, 16, 0, rows, png_chunk(b"tRNS", b"\x01\x02")), 1).tolist() == [[[255, 1]]]


def test_colour_16_bit_keeps_the_upper_byte() -> None:
    rows = b"\0" + struct.pack(">HHH", 0x0AFF, 0xFFFF, 0x8000)
    assert decode(png(1, 1, 16, 2, rows), 3).ravel().tolist() == [0x0A, 0xFF, 0x80]


def test_12_bit_tiff_is_scaled_from_12_bits() -> None:
    # Two pixels, 0xFFF and 0x800, packed in three bytes; a TIFF written by hand because Pillow writes no 12 bits.
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    raw = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    assert decode(raw, 1).tolist() == [[[255, 128]]]


def test_cmyk_jpeg_is_converted_as_pillow_does() -> None:
    raw = encode(Image.fromarray(COLOUR).convert("CMYK"), "JPEG")
    assert Image.open(io.BytesIO(raw)).mode == "CMYK"
    assert np.array_equal(decode(raw, 3), channels_first(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))))
    dark = decode(encode(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"), 3)
    assert dark.max() < 10, "CMYK black must not come out inverted"


def test_of_several_frames_the_first_is_the_image() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for form in ("GIF", "TIFF", "PNG"):
        raw = encode(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.array_equal(decode(raw, 1)[0], GREY), form


def test_mpo_is_read_as_its_first_picture() -> None:
    second = Image.fromarray(255 - COLOUR)
    raw = encode(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(raw)).format == "MPO"
    assert np.array_equal(decode(raw, 3), channels_first(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", [name for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") if name in SAVED])
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encode(COLOUR, form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    assert np.array_equal(decode(raw, 3), channels_first(np.asarray(upright.convert("RGB"))))
    assert image_size(raw) == upright.size == ((17, 13) if orientation < 5 else (13, 17))


def test_exif_after_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = png(2, 1, 8, 0, b"\0\x01\x02", after=png_chunk(b"eXIf", exif.tobytes()[6:]))
    assert decode(raw, 1).tolist() == [[[1], [2]]]
    assert image_size(raw) == (1, 2)


def test_image_size_does_not_decode() -> None:
    raw = encode(COLOUR, "JPEG")
    header_only = raw[: len(raw) - 60]
    assert image_size(header_only) == (17, 13)
    assert reason(header_only) == "truncated JPEG"


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_png_and_array_give_the_same_pixels(width: int, height: int, num_channels: int, random: object) -> None:
    seed = random.randrange(2**32)  # type: ignore[attr-defined]
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    from_file, from_array = decode(encode(array, "PNG"), num_channels), decode(array, num_channels)
    assert np.array_equal(from_file, from_array)
    assert pixel_hash(from_file) == pixel_hash(from_array)


# --- what lies behind transparent pixels -----------------------------------------------------------------------------

ORANGE = (255, 128, 0)
BACKGROUNDS = [(255, 255, 255), (0, 0, 0), (128, 128, 128), ORANGE]


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_alpha_is_laid_over_the_background(background: tuple[int, int, int], alpha: int) -> None:
    layered = np.dstack([COLOUR, np.full_like(GREY, alpha)])
    blend = COLOUR.astype(float) * alpha / 255 + np.array(background) * (1 - alpha / 255)
    for raw in (
        encode(layered, "PNG"),
        encode(layered, "TIFF"),
        encode(layered, "WEBP", lossless=True, exact=True),
        layered,
    ):
        assert np.abs(decode(raw, 3, background=background) - channels_first(blend)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_grey_with_alpha_over_the_background(background: tuple[int, int, int]) -> None:
    alpha = np.arange(GREY.size, dtype=np.uint8).reshape(GREY.shape)
    raw = encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]), "PNG")
    share = alpha[:, :, None] / 255
    blend = GREY[:, :, None] * share + np.array(background) * (1 - share)
    assert np.abs(decode(raw, 3, background=background) - channels_first(blend)).max() <= 0.5 + 1e-9
    with_colour = picture_pixels(Image.open(io.BytesIO(raw)), background)
    assert with_colour.ndim == (3 if background == ORANGE else 2)
    luma = blend @ [0.299, 0.587, 0.114]
    assert np.abs(decode(raw, 1, background=background)[0] - luma).max() <= 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_transparent_palette_entries_and_colour_keys_over_the_background(background: tuple[int, int, int]) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    raws = [encode(image, "PNG", transparency=0), encode(image, "GIF", transparency=0)]
    raws.append(encode(np.array([[[1, 2, 3], [40, 50, 60]]], np.uint8), "PNG", transparency=(1, 2, 3)))
    for raw in raws:
        assert decode(raw, 3, background=background)[:, 0].T.tolist() == [list(background), [40, 50, 60]]
    key = encode(np.array([[7, 8]], np.uint8), "PNG", transparency=7)
    assert decode(key, 3, background=background)[:, 0].T.tolist() == [list(background), [8, 8, 8]]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_grey_16_bit_with_a_key_over_the_background(background: tuple[int, int, int]) -> None:
    rows = b"\0" + struct.pack(">HHH", 0x0102, 0x0103, 0xFFFF)
    raw = png(3, 1, 16, 0, rows, png_chunk(b"tRNS", b"\x01\x02"))
    assert decode(raw, 3, background=background)[:, 0].T.tolist() == [list(background), [1] * 3, [255] * 3]
    luma = np.asarray(Image.new("RGB", (1, 1), background).convert("L"))[0, 0]
    assert decode(raw, 1, background=background).tolist() == [[[int(luma), 1, 255]]]


def test_the_background_changes_nothing_behind_opaque_pixels() -> None:
    for form in SAVED:
        raw = encode(COLOUR, form)
        assert np.array_equal(decode(raw, 3, background=ORANGE), decode(raw, 3)), form
    opaque = np.dstack([COLOUR, np.full_like(GREY, 255)])
    assert np.array_equal(decode(encode(opaque, "PNG"), 3, background=ORANGE), channels_first(COLOUR))


def test_names_of_backgrounds() -> None:
    named = {name: background_rgb(name) for name in ("white", "black", "grey", "#ff8000", "#FF8000")}
    assert named == {
        "white": (255, 255, 255),
        "black": (0, 0, 0),
        "grey": (128, 128, 128),
        "#ff8000": ORANGE,
        "#FF8000": ORANGE,
    }
    for wrong in ("", "#", "#ff80", "#ff80001", "#gg0000", "#ff  00", "ff8000", "White", "red"):
        with pytest.raises(ConfigError, match=r"expected white, black, grey or #rrggbb, found"):
            background_rgb(wrong)


# --- arrays --------------------------------------------------------------------------------------------------------


def test_arrays_of_each_accepted_shape() -> None:
    assert np.array_equal(decode(GREY, 1), GREY[None])
    assert np.array_equal(decode(GREY[:, :, None], 3), np.stack([GREY] * 3))
    assert np.array_equal(decode(COLOUR, 3), channels_first(COLOUR))
    result = decode(GREY, 1)
    result[:] = 0
    assert GREY.any(), "the source's own array must not be handed out"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=["dtype", "two channels", "flat", "batch"],
)
def test_other_arrays_are_refused_with_shape_and_dtype(array: np.ndarray) -> None:
    with pytest.raises(DataError) as caught:
        decode(array, 3)
    assert str(array.dtype) in str(caught.value)
    assert str(array.shape) in str(caught.value)


def test_an_array_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        decode(np.zeros((0, 4), np.uint8), 3)


def test_two_channels_cannot_be_asked_for() -> None:
    with pytest.raises(DataError, match=r"num_channels must be 1 .* found 2"):
        decode(GREY, 2)


def test_pillow_images_are_flattened_and_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.open(io.BytesIO(encode(COLOUR, "PNG", exif=exif)))
    assert np.array_equal(picture_pixels(image), COLOUR[::-1, ::-1])
    assert np.array_equal(picture_pixels(Image.fromarray(GREY)), GREY)


# --- the hash ------------------------------------------------------------------------------------------------------


def test_hash_depends_on_pixels_and_shape_alone() -> None:
    fast, small = encode(COLOUR, "PNG", compress_level=0), encode(COLOUR, "PNG", compress_level=9)
    assert fast != small
    assert pixel_hash(decode(fast, 3)) == pixel_hash(decode(small, 3)) == pixel_hash(decode(encode(COLOUR, "BMP"), 3))
    changed = decode(fast, 3)
    changed[2, 3, 4] ^= 1
    assert pixel_hash(changed) != pixel_hash(decode(fast, 3))
    assert pixel_hash(np.zeros((1, 2, 3), np.uint8)) != pixel_hash(np.zeros((1, 3, 2), np.uint8))


def test_hash_is_the_documented_one() -> None:
    array = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    by_pixel = bytes(int(array[channel, y, x]) for y in range(2) for x in range(3) for channel in range(3))
    assert pixel_hash(array) == xxhash.xxh3_128(by_pixel, seed=(3 << 48) ^ (2 << 24) ^ 3).hexdigest()
    assert re.fullmatch("[0-9a-f]{32}", pixel_hash(array))


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.permutations([0, 1, 2]), st.integers(0, 99))
def test_hash_does_not_depend_on_how_pixels_lie_in_memory(
    channels: int, height: int, width: int, order: list[int], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8)
    expected = pixel_hash(array)
    back = tuple(int(place) for place in np.argsort(order))
    assert pixel_hash(np.ascontiguousarray(array.transpose(order)).transpose(back)) == expected
    assert pixel_hash(np.repeat(array, 2, axis=2)[:, :, ::2]) == expected
    assert pixel_hash(array[:, ::-1].copy()[:, ::-1]) == expected


def test_hash_tells_grey_from_the_same_grey_three_times_and_every_shape() -> None:
    shapes = [(channels, 12 // width, width) for channels in (1, 3) for width in (1, 2, 3, 4, 6, 12)]
    assert len({pixel_hash(np.zeros(shape, np.uint8)) for shape in shapes}) == len(shapes)


def test_content_hash_is_of_the_bytes() -> None:
    raw = encode(COLOUR, "PNG")
    assert content_hash(raw) == xxhash.xxh3_128(raw).hexdigest()
    assert content_hash(raw) != content_hash(encode(COLOUR, "PNG", compress_level=0))
    assert content_hash(COLOUR) == ""
    for position in range(0, len(raw), 37):
        flipped = bytearray(raw)
        flipped[position] ^= 1
        assert content_hash(bytes(flipped)) != content_hash(raw)


# --- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_unreadable(form: str, fraction: float) -> None:
    raw = encode(COLOUR, form)
    assert reason(raw[: int(len(raw) * fraction)])


@pytest.mark.parametrize("form", [name for name in SAVED if name not in ("PPM", "AVIF")])
def test_the_reason_says_truncated(form: str) -> None:
    raw = encode(np.tile(COLOUR, (8, 8, 1)), form)
    assert reason(raw[: len(raw) * 3 // 4]) == f"truncated {form}"


def test_a_progressive_jpeg_cut_short_is_unreadable() -> None:
    raw = encode(np.tile(COLOUR, (8, 8, 1)), "JPEG", progressive=True)
    assert reason(raw[: len(raw) * 9 // 10]) == "truncated JPEG"


@pytest.mark.usefixtures("fill_truncated")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_truncated_stays_unreadable_where_pillow_was_told_to_fill(form: str) -> None:
    raw = encode(np.tile(COLOUR, (8, 8, 1)), form)
    cut = raw[: len(raw) * 3 // 4]
    Image.open(io.BytesIO(cut)).load()  # Pillow itself would hand out half an image here
    assert reason(cut) == f"truncated {form}"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "the setting belongs to the user's program"


@pytest.mark.usefixtures("fill_truncated")
def test_truncated_stays_unreadable_in_many_threads() -> None:
    raw = encode(np.tile(COLOUR, (8, 8, 1)), "JPEG")
    cut, outcomes = raw[: len(raw) * 3 // 4], []

    def work() -> None:
        for _ in range(40):
            try:
                outcomes.append(decode(cut, 3) is None)
            except ImageError:
                outcomes.append(True)
            outcomes.append(decode(raw, 3).shape == (3, 104, 136))

    threads = [threading.Thread(target=work) for _ in range(8)]
    before = warnings.filters[:]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 640
    assert all(outcomes)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters[:] == before


@pytest.mark.parametrize("cut", [1, 4, 12, 16, 20])
def test_a_png_without_its_end_is_truncated(cut: int) -> None:
    assert reason(encode(COLOUR, "PNG")[:-cut]) == "truncated PNG"


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_png_with_a_wrong_checksum_is_unreadable(kind: bytes) -> None:
    raw = bytearray(png(2, 1, 8, 0, b"\0\x01\x02"))
    at = raw.index(kind) - 4
    length = struct.unpack_from(">I", raw, at)[0]
    raw[at + 8 + length] ^= 1
    assert reason(bytes(raw)) == f"damaged PNG (wrong checksum in its {kind.decode()} chunk)"


def test_every_flipped_bit_of_a_png_is_noticed_or_harmless() -> None:
    raw = encode(COLOUR[:3, :4], "PNG")
    for position in range(8, len(raw)):
        flipped = bytearray(raw)
        flipped[position] ^= 0x10
        with pytest.raises(ImageError):
            decode(bytes(flipped), 3)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"hello, this is text\n" * 5, "not an image"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not an image but an HTML page"),
        (b"\n  <html>Not found</html>", "not an image but an HTML page"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "format SVG is not in the allowed list"),
        (b"%PDF-1.7 ...", "format PDF is not in the allowed list"),
        (b"8BPS" + b"\0" * 40, "format PSD is not in the allowed list"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "format HEIC is not in the allowed list"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "not an image but a Git LFS pointer"),
        (b"PK\3\4" + b"\0" * 40, "not an image but a ZIP archive"),
        (b"\xff\xd8\xff\xe0junk", "JPEG"),
        (b"\x89PNG\r\n\x1a\njunk", "PNG"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0\xff\xff\xff\xff", "TIFF"),
        (b"P6\n10 10\n255\n", "truncated"),
        (b"P6\nten ten\n", "cannot be decoded"),
        (bytes(1000), "not an image"),
    ],
)
def test_what_is_no_image_gets_a_reason(raw: bytes, expected: str) -> None:
    assert expected in reason(raw)


@pytest.mark.parametrize("form", ["ICO", "EPS", "JPEG2000", "TGA", "PCX"])
def test_formats_outside_the_list_are_refused(form: str) -> None:
    try:
        raw = encode(COLOUR, form)
    except OSError as error:
        pytest.skip(f"this Pillow cannot write {form}: {error}")
    assert "not" in reason(raw)


def test_float_and_32_bit_integer_pixels_are_refused() -> None:
    values = np.array([[0.0, 1.0]], np.float32)
    assert reason(encode(values, "TIFF")).startswith("32-bit float pixels have no fixed white")
    assert reason(encode(values.astype(np.int32), "TIFF")).startswith("32-bit integer pixels have no fixed white")


@pytest.mark.parametrize("side", [2**13 + 1, 12_000, 60_000, 2**31 - 1])
def test_too_many_pixels_are_refused_from_the_header(side: int) -> None:
    raw = png(side, side, 8, 2, b"\0")
    assert f"over the limit of {MAX_PIXELS:,}" in reason(raw)
    with pytest.raises(ImageError, match="over the limit"):
        image_size(raw)


def test_the_limit_itself_names_both_sides() -> None:
    assert reason(png(12_000, 12_000, 8, 2, b"\0")) == "12,000 x 12,000 pixels is over the limit of 67,108,864"


def test_damaged_metadata_neither_warns_nor_costs_the_image() -> None:
    tags = struct.pack("<HHII", 0x0112, 3, 60_000, 1_000_000) + struct.pack("<HHII", 0x011A, 5, 9, 99_999_999)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags
    for damaged in (exif, b"Exif\0\0garbage", b"Exif\0\0"):
        raw = encode(COLOUR, "JPEG", exif=damaged)
        assert decode(raw, 3).shape == (3, 13, 17)
        assert image_size(raw) == (17, 13)


def test_a_late_animation_chunk_does_not_warn() -> None:
    raw = png(2, 1, 8, 0, b"\0\x01\x02", after=png_chunk(b"acTL", struct.pack(">II", 0, 0)))
    assert decode(raw, 1).tolist() == [[[1, 2]]]


@given(st.sampled_from(SAVED), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_gives_pixels_or_an_image_error(form: str, data: st.DataObject) -> None:
    raw = bytearray(encode(COLOUR, form))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        pixels = decode(damaged, 3)
    except ImageError as error:
        assert error.reason
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[0] == 3


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBPVP8 ", b"P5 "]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_pixels_or_an_image_error(tail: bytes, head: bytes) -> None:
    for function in (lambda raw: decode(raw, 3), image_size):
        try:
            function(head + tail)
        except ImageError as error:
            assert error.reason


def test_the_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("truncated JPEG")))
    assert (error.reason, str(error)) == ("truncated JPEG", "truncated JPEG")
    assert isinstance(error, DataError)


def test_the_allowed_formats_are_the_documented_ones() -> None:
    assert set(FORMATS) == {"JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"}


def test_a_bad_tiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    raw = encode(np.tile(COLOUR, (8, 8, 1)), "TIFF", compression="tiff_lzw")
    reason(raw[: len(raw) // 2] + bytes(len(raw) // 2))
    assert capfd.readouterr() == ("", "")

"""Encoded bytes to pixels, or one short reason why not. Nothing is ever substituted for what cannot be read.

Pillow reads the formats of `FORMATS` and no others. What it leaves open is decided here: a file that ends early is
unreadable even where another library told Pillow to make up the rest; every checksum of a PNG is verified; the EXIF
orientation is applied; transparent pixels are laid over the background; 16-bit grey keeps its scale instead of being
clipped; colour profiles are ignored; of several frames or pages the first is the image. A JPEG whose bytes were
altered but whose structure is whole still decodes: the format holds no checksum.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import xxhash
from PIL import AvifImagePlugin, ExifTags, Image, ImageFile, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from tellapart.data.jpeg import jpeg_pixels, may_be_turned
from tellapart.data.unreadable import FORMATS, MAX_PIXELS, ImageError, as_image_error, refusal
from tellapart.errors import ConfigError, DataError

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageError",
    "background_rgb",
    "content_hash",
    "decode",
    "image_size",
    "picture_pixels",
    "pixel_hash",
]

WHITE = (255, 255, 255)
_BACKGROUNDS = {"white": WHITE, "black": (0, 0, 0), "grey": (128, 128, 128)}

# Pillow opens an MPO (several JPEGs in one file, from some phones) as a JPEG first and has no opener of that name.
_OPENERS = tuple(name for name in FORMATS if name != "MPO")

# Importing these has registered them, so that Image.open never imports the forty other plugins to identify a file.
_PLUGINS = (AvifImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)

_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# EXIF orientation to numpy, as (quarter turns counter-clockwise, mirror left to right afterwards).
# Source: CIPA DC-008 (Exif 2.32), tag 0x0112; the same table as PIL.ImageOps.exif_transpose.
_ORIENTATIONS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


def decode(
    raw: bytes | np.ndarray, num_channels: int, *, background: tuple[int, int, int] = WHITE, min_side_px: int = 0
) -> np.ndarray:
    """Return the pixels of one image, upright, over the background, as uint8 `(num_channels, H, W)`, writable.

    The memory holds them as `(H, W, num_channels)`, which is how decoders write and resizing reads.

    Grey becomes colour by repeating; colour becomes grey by Pillow's `L` (ITU-R 601-2 luma,
    `(299 R + 587 G + 114 B) / 1000`). 16-bit grey keeps its upper 8 bits, as Pillow does for 16-bit colour. 32-bit
    integer and float pixels are refused: such a file does not say which value is white, and stretching each image
    over its own range would make two images incomparable.

    Args:
        raw: the bytes of a file in one of `FORMATS`, or a decoded uint8 array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or
            `(H, W, 4)` (the fourth is alpha).
        num_channels: 1 or 3.
        background: what transparent pixels are laid over, as (red, green, blue).
        min_side_px: a JPEG may be decoded at a half, a quarter or an eighth of its size as long as its shorter side
            stays at this or above; 0 decodes the whole.

    Raises:
        ImageError: the bytes are no image, damaged, truncated, of another format or over `MAX_PIXELS`.
        DataError: the array has another shape or dtype, or `num_channels` is neither 1 nor 3.

    >>> decode(np.array([[0, 255]], np.uint8), 3).tolist()
    [[[0, 255]], [[0, 255]], [[0, 255]]]
    """
    if num_channels not in (1, 3):
        raise DataError(f"num_channels must be 1 (grey) or 3 (colour), found {num_channels}.")
    if isinstance(raw, np.ndarray):
        pixels = _array_pixels(raw, background)
    else:
        pixels = _file_pixels(raw, background, min_side_px)
    if pixels.ndim == 3 and num_channels == 1:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    if pixels.ndim == 2:
        pixels = np.broadcast_to(pixels[:, :, None], (*pixels.shape, num_channels))
    is_ready = pixels.flags.c_contiguous and pixels.flags.writeable and not isinstance(raw, np.ndarray)
    return (pixels if is_ready else np.array(pixels, order="C")).transpose(2, 0, 1)


def background_rgb(text: str) -> tuple[int, int, int]:
    """Return the colour that a config's text names: white, black, grey or #rrggbb.

    Raises:
        ConfigError: it names none.

    >>> background_rgb("#ff8000")
    (255, 128, 0)
    """
    if isinstance(text, str) and text in _BACKGROUNDS:
        return _BACKGROUNDS[text]
    if isinstance(text, str) and len(text) == 7 and text[0] == "#":
        with suppress(ValueError):
            red, green, blue = bytes.fromhex(text[1:])
            return red, green, blue
    raise ConfigError([f"preprocess.background: expected {', '.join(_BACKGROUNDS)} or #rrggbb, found '{text}'"])


def image_size(raw: bytes | np.ndarray) -> tuple[int, int]:
    """Return (width, height) in pixels as `decode` will give them, from the header alone.

    Raises:
        ImageError: as `decode`, as far as the header tells.

    >>> image_size(np.zeros((2, 5, 3), np.uint8))
    (5, 2)
    """
    if isinstance(raw, np.ndarray):
        return raw.shape[1], raw.shape[0]
    with _WHOLE_IMAGES, as_image_error(raw):
        image = _open(raw)
        width, height = image.size
        if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info:
            # EXIF may follow the pixels, where Pillow finds it only by decoding them.
            image.info["exif"] = next((bytes(data) for kind, data, _ in _png_chunks(raw) if kind == b"eXIf"), None)
        # Pillow gives a TIFF's size upright already.
        turns = 0 if image.format == "TIFF" else _orientation(image)[0]
        return (height, width) if turns % 2 else (width, height)


def pixel_hash(pixels: np.ndarray) -> str:
    """Return 32 hex digits that are equal for equal pixels, whatever the bytes of the files were.

    Args:
        pixels: uint8 `(C, H, W)` such as `decode` returns. The shape counts: grey and the same grey repeated three
            times differ.

    Source: XXH3 with 128 bits of the bytes in the order `(H, W, C)`, seeded with the shape. It is made for speed (20
    times BLAKE2b's) and tells different pixels apart; it is no proof against somebody who forges a pair.

    >>> pixel_hash(np.zeros((1, 2, 2), np.uint8)) == pixel_hash(np.zeros((1, 1, 4), np.uint8))
    False
    """
    channels, height, width = pixels.shape
    memory = np.ascontiguousarray(pixels.transpose(1, 2, 0), dtype=np.uint8)
    return xxhash.xxh3_128_hexdigest(memory.data, seed=channels << 48 ^ height << 24 ^ width)


def content_hash(raw: bytes | np.ndarray) -> str:
    """Return 32 hex digits of a file's bytes, which any change of the file changes; "" for a decoded array.

    Source: XXH3 with 128 bits.
    """
    return "" if isinstance(raw, np.ndarray) else xxhash.xxh3_128_hexdigest(raw)


def picture_pixels(image: Image.Image, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Return the pixels of a Pillow image, upright and over the background, uint8 `(H, W)` if grey or `(H, W, 3)`.

    Raises:
        ImageError: the mode has no fixed white (32-bit integer or float) or no conversion to RGB.
    """
    with nullcontext() if image.format not in ("TIFF", "PNG") else _quiet():
        image.load()
    return _upright(_flat_pixels(image, background), image)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    turns, mirrored = _orientation(image)
    pixels = np.rot90(pixels, turns) if turns else pixels
    return pixels[:, ::-1] if mirrored else pixels


def _file_pixels(raw: bytes, background: tuple[int, int, int], min_side_px: int) -> np.ndarray:
    if raw[:3] == _JPEG_SIGNATURE and (pixels := jpeg_pixels(raw, min_side_px)) is not None:
        if not may_be_turned(raw):
            return pixels
        with as_image_error(raw):
            return _upright(pixels, _open(raw))
    with _WHOLE_IMAGES, as_image_error(raw):
        if raw[:8] == _PNG_SIGNATURE:
            _check_png(raw)
        return picture_pixels(_open(raw), background)


def _array_pixels(array: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    shape = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise DataError(
            f"an image array must be uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"found {array.dtype} of shape {shape}."
        )
    if 0 in shape:
        raise ImageError(f"no pixels: shape {shape}")
    if array.ndim == 2 or shape[2] == 3:
        return array
    return array[:, :, 0] if shape[2] == 1 else _over(Image.fromarray(np.ascontiguousarray(array)), background)


def _open(raw: bytes) -> ImageFile.ImageFile:
    """Read the header, with every check that needs no pixels."""
    if len(raw) == 0:
        raise ImageError("an empty file (0 bytes)")
    with _quiet():
        image = Image.open(io.BytesIO(raw), formats=_OPENERS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width:,} x {height:,} pixels is over the limit of {MAX_PIXELS:,}")
    if image.format not in FORMATS:
        raise ImageError(refusal(str(image.format)))
    return image


def _flat_pixels(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PPM", "PNG")):
        return _upper_byte(image, background)
    if mode in ("I", "F"):
        kind = "integer" if mode == "I" else "float"
        raise ImageError(f"32-bit {kind} pixels have no fixed white; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        return _over(image, background)
    if mode in ("L", "RGB"):
        return np.asarray(image)
    return np.asarray(image.convert("L" if mode == "1" else "RGB"))


def _upper_byte(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """Scale 16-bit grey to 8 bits by value. Source: PNG (third edition), section 13.12, the shift variant."""
    values = np.asarray(image)
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    grey = (values >> (bits - 8)).astype(np.uint8)
    grey = 255 - grey if white_is_zero else grey
    if isinstance(clear := image.info.get("transparency"), int):
        colour = np.repeat(grey[:, :, None], 3, axis=2)
        colour[values == clear] = background
        return colour[:, :, 0] if len(set(background)) == 1 else colour
    return grey


def _over(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    is_grey = image.mode in ("1", "L", "LA", "La") and len(set(background)) == 1
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    clear = image.convert("RGBA")
    canvas = Image.new("RGB", clear.size, background)
    canvas.paste(clear, mask=clear)
    return np.asarray(canvas.getchannel(0) if is_grey else canvas)


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """Return (quarter turns counter-clockwise, mirror afterwards) that set the stored pixels upright."""
    try:
        with _quiet():
            # The base class's getexif, because PNG's own decodes the pixels to look behind them.
            value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata, however it fails to parse, is no damage to the pixels
        return 0, False
    return _ORIENTATIONS.get(value, (0, False)) if isinstance(value, int) else (0, False)


def _png_chunks(raw: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield (kind, data, stored checksum) of every whole chunk up to IEND."""
    view, position, kind = memoryview(raw), 8, b""
    while position + 12 <= len(view) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", view, position)
        end = position + 12 + length
        if end > len(view):
            return
        yield kind, view[position + 8 : end - 4], struct.unpack_from(">I", view, end - 4)[0]
        position = end


def _check_png(raw: bytes) -> None:
    """Verify what Pillow leaves out: the checksum of every chunk, the pixels' included, and the end of the file."""
    last = b""
    for kind, data, checksum in _png_chunks(raw):
        if zlib.crc32(data, zlib.crc32(kind)) != checksum:
            raise ImageError(f"damaged PNG (wrong checksum in its {kind.decode('ascii', 'replace')} chunk)")
        last = kind
    if last != b"IEND":
        raise ImageError("truncated PNG")


class _WholeImages:
    """Hold Pillow's process-wide LOAD_TRUNCATED_IMAGES at False while any thread decodes, then put it back.

    With it on, which many scripts do, Pillow fills the missing part of a file with grey and says nothing.
    """

    def __init__(self) -> None:
        self._lock, self._depth, self._before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop Pillow's warnings about odd metadata; one thread at a time, as the filters belong to the process."""
    with _QUIET_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _renew_locks() -> None:
    """A fork copies the locks as they are, taken ones too, without the thread that would release them."""
    global _QUIET_LOCK, _WHOLE_IMAGES
    _QUIET_LOCK, _WHOLE_IMAGES = threading.RLock(), _WholeImages()


_renew_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)

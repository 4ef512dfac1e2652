"""What is stored of one image: its bytes untouched, or its pixels scaled down and encoded anew."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tellapart.data.decode import decode, image_size
from tellapart.data.sources import Source
from tellapart.data.unreadable import ImageError, as_image_error

# How images that cannot stay as they are get encoded; "keep": what was lossy as JPEG, what was lossless as PNG.
ENCODINGS = ("keep", "jpeg", "png", "webp")

_ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "AVIF": "avif",
    "PPM": "ppm",
}
# The longest side that a format can hold. Source: WebP container specification (14 bits); libjpeg, JPEG_MAX_DIMENSION.
_LONGEST_SIDE = {"webp": 16383, "jpeg": 65500}
# A JPEG is decoded at a half, a quarter or an eighth as long as at least so many times the wanted size is left for the
# proper filter. Source: Pillow's documentation of `reducing_gap`: 2.0 is close to fair resampling.
_GAP = 2


@dataclass(frozen=True)
class Reduction:
    """How images are stored: the largest shorter side (0: any), an entry of `ENCODINGS`, and the lossy quality."""

    max_size_px: int = 256
    encode: str = "keep"
    quality: int = 90


@dataclass(frozen=True)
class Encoded:
    """One image as it is stored.

    `action` is "kept" (byte for byte), "scaled", "encoded" (given as pixels, stored at full size) or "unreadable" with
    the reason in `error`. `num_bytes_before` counts the file's bytes, or the pixels' where there is no file.
    """

    data: bytes
    ending: str
    action: str
    num_bytes_before: int
    error: str = ""


def encode_samples(source: Source, rows: Sequence[int], reduction: Reduction) -> list[Encoded]:
    """Return samples as they are stored; that one cannot be read comes back as its `error`."""
    return [_encode_sample(raw, reduction) for raw in source.read_many(rows)]


def _encode_sample(raw: bytes | np.ndarray | ImageError, reduction: Reduction) -> Encoded:
    if isinstance(raw, ImageError):
        return Encoded(b"", "", "unreadable", 0, str(raw))
    try:
        return reduce_image(raw, reduction)
    except (ImageError, OSError) as error:
        return Encoded(b"", "", "unreadable", 0, str(error))


def reduce_image(raw: bytes | np.ndarray, reduction: Reduction) -> Encoded:
    """Return an image as it is stored.

    An image whose shorter side is larger than `max_size_px` is set upright, laid over white and scaled, antialiased,
    so that the shorter side is that; grey images stay grey. A smaller one is copied byte for byte, after its pixels
    have been decoded once to see that they can be. What is too long a side for JPEG or WebP is stored as PNG.

    Args:
        raw: the bytes of an image file, or uint8 pixels `(H, W)` or `(H, W, C)`.
        reduction: how to store it.

    Raises:
        ImageError: the image cannot be read.
    """
    if isinstance(raw, np.ndarray):
        return _reduce_array(raw, reduction)
    size = image_size(raw)
    target = scaled_size(*size, reduction.max_size_px)
    ending, is_lossy = _kind(raw)
    if target == size:
        decode(raw, 3, min_side_px=1)
        return Encoded(raw, ending, "kept", len(raw))
    pixels = decode(raw, 3, min_side_px=_GAP * min(target)).transpose(1, 2, 0)
    data, ending = _save(_resize(pixels, target), "jpeg" if is_lossy else "png", reduction)
    return Encoded(data, ending, "scaled", len(raw))


def scaled_size(width: int, height: int, max_size_px: int) -> tuple[int, int]:
    """Return (width, height) scaled down so that the shorter side is at most `max_size_px`; 0 leaves every size.

    >>> scaled_size(1000, 500, 256), scaled_size(1000, 200, 256), scaled_size(1000, 500, 0)
    ((512, 256), (1000, 200), (1000, 500))
    """
    shorter = min(width, height)
    if not max_size_px or shorter <= max_size_px:
        return width, height
    # Whole numbers only, so that the result does not depend on how a machine rounds; halves go up.
    scaled_width, scaled_height = ((2 * side * max_size_px + shorter) // (2 * shorter) for side in (width, height))
    return scaled_width, scaled_height


def _reduce_array(array: np.ndarray, reduction: Reduction) -> Encoded:
    flat = decode(array, 3).transpose(1, 2, 0)
    size = image_size(array)
    target = scaled_size(*size, reduction.max_size_px)
    if target != size:
        data, ending = _save(_resize(flat, target), "png", reduction)
        return Encoded(data, ending, "scaled", array.nbytes)
    has_alpha = array.ndim == 3 and array.shape[2] == 4 and reduction.encode in ("keep", "png")
    data, ending = _save(array if has_alpha else flat, "png", reduction)
    return Encoded(data, ending, "encoded", array.nbytes)


def _kind(raw: bytes) -> tuple[str, bool]:
    """Return (ending, whether the encoding is lossy) of what `image_size` has accepted."""
    if raw[:3] == b"\xff\xd8\xff":
        return "jpg", True
    with as_image_error(raw), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is passed over without a word, as `decode` does
        image = Image.open(io.BytesIO(raw), formats=list(_ENDINGS))
    if image.format == "WEBP":
        return "webp", b"VP8L" not in _webp_chunks(raw)
    is_lossy = image.format == "AVIF" or image.info.get("compression") == "jpeg"
    return _ENDINGS[str(image.format)], is_lossy


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS))


def _webp_chunks(raw: bytes) -> set[bytes]:
    """Return the names of a WebP's chunks. Source: WebP container specification, "RIFF file format"."""
    names, place = set(), 12
    while place + 8 <= len(raw):
        names.add(raw[place : place + 4])
        length = int.from_bytes(raw[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return names


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _save(pixels: np.ndarray, natural: str, reduction: Reduction) -> tuple[bytes, str]:
    """Return (bytes, ending) of pixels in the encoding asked for, or in the one that is natural to them."""
    kind = natural if reduction.encode == "keep" else reduction.encode
    if max(pixels.shape[:2]) > _LONGEST_SIDE.get(kind, 2**31):
        kind = "png"
    if pixels.shape[2] == 3 and _is_grey(pixels[::16]) and _is_grey(pixels):  # a few rows tell most colours at once
        pixels = pixels[:, :, 0]
    options: dict[str, dict[str, Any]] = {
        "jpeg": {"format": "JPEG", "quality": reduction.quality},
        "png": {"format": "PNG"},
        "webp": {"format": "WEBP", "quality": reduction.quality},
    }
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, **options[kind])
    return buffer.getvalue(), _ENDINGS[kind.upper()]

"""One image that cannot be read: the error, the limits, and a short reason in words for every way it happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from tellapart.errors import DataError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")

# 8192 x 8192: above the 61 megapixels of today's full-frame cameras, below Pillow's own warning at 89 megapixels, and
# 0.7 GB at the peak of decoding (10 bytes a pixel measured; 18 with alpha), which a loader worker can afford.
MAX_PIXELS = 2**26

# What a file starts with: name to (offset, bytes) of every variant.
_Table = dict[str, tuple[tuple[int, bytes], ...]]
_ALLOWED: _Table = {
    "JPEG": ((0, b"\xff\xd8\xff"),),
    "PNG": ((0, b"\x89PNG\r\n\x1a\n"),),
    "WEBP": ((8, b"WEBP"),),
    "BMP": ((0, b"BM"),),
    "TIFF": ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    "GIF": ((0, b"GIF87a"), (0, b"GIF89a")),
    "AVIF": ((4, b"ftypavif"), (4, b"ftypavis")),
}
_REFUSED: _Table = {
    "HEIC": ((4, b"ftypheic"), (4, b"ftypheix"), (4, b"ftypmif1"), (4, b"ftypmsf1"), (4, b"ftyphevc")),
    "JPEG 2000": ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51")),
    "JPEG XL": ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL ")),
    "PSD": ((0, b"8BPS"),),
    "PDF": ((0, b"%PDF"),),
    "ICO": ((0, b"\0\0\1\0"),),
    "EPS": ((0, b"%!PS"),),
}
_NOT_IMAGES: _Table = {
    "a Git LFS pointer: run `git lfs pull` to get the file itself": ((0, b"version https://git-lfs"),),
    "a ZIP archive": ((0, b"PK\3\4"),),
    "a gzip archive": ((0, b"\x1f\x8b"),),
}


class ImageError(DataError):
    """One image cannot be read; `reason` says why in a few words. Whoever knows its path adds it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def as_image_error(raw: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises while it reads `raw` into an ImageError with a reason."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("decoding it needs more memory than there is") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing runs into, not OSError alone
        raise ImageError(_reason(raw, error)) from error


def refusal(name: str) -> str:
    """Return the reason for a file that is an image, in a format that Tellapart does not open."""
    return f"format {name} is not in the allowed list ({', '.join(FORMATS)})"


def jpeg_segments(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, where its content begins) of a JPEG's segments up to the first scan, as libjpeg finds them."""
    place = 2
    while (place := raw.find(b"\xff", place)) >= 0 and place + 4 <= len(raw):
        marker = raw[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD9:  # has no content
            place += 2
        else:
            yield marker, place + 4
            if marker == 0xDA:
                return
            place += 2 + max(2, int.from_bytes(raw[place + 2 : place + 4], "big"))


def _sample_bits(raw: bytes) -> int:
    """Return the bits a sample that a JPEG's frame header tells, 8 where it has none."""
    for marker, content in jpeg_segments(raw):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and content < len(raw):
            return raw[content]
    return 8


def _find(raw: bytes, table: _Table) -> str | None:
    for name, places in table.items():
        if any(raw[offset : offset + len(magic)] == magic for offset, magic in places):
            return name
    return None


def _pixels(error: Exception) -> str:
    """Return how many pixels Pillow found too many: its own limit comes before ours where it is passed twice over."""
    found = re.search(r"(\d+) pixels", str(error))
    return f"{int(found[1]):,} pixels" if found else "the number of pixels"


def _reason(raw: bytes, error: Exception) -> str:
    """Say in a few words why Pillow could not read `raw`."""
    name = _find(raw, _ALLOWED)
    if name == "JPEG" and 8 < (bits := _sample_bits(raw)) <= 16:
        return f"a JPEG with {bits} bits a sample, and only those with 8 can be read; save it with 8 bits, or as PNG"
    riff_is_short = name == "WEBP" and int.from_bytes(raw[4:8], "little") + 8 > len(raw)
    if "truncated" in str(error).lower() or riff_is_short:
        return f"truncated {name or 'file'}"
    if isinstance(error, Image.DecompressionBombError):
        return f"{_pixels(error)} is over the limit of {MAX_PIXELS:,}"
    if name:
        return f"damaged {name}" if "cannot identify" in str(error) else f"damaged {name} ({error})"
    if not isinstance(error, Image.UnidentifiedImageError):
        return f"cannot be decoded ({error})"
    if name := _find(raw, _REFUSED):
        return refusal(name)
    if name := _find(raw, _NOT_IMAGES):
        return f"not an image but {name}"
    head = bytes(raw[:512]).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")):
        return refusal("SVG") if b"<svg" in head else "not an image but XML"
    if head.startswith((b"<!doctype", b"<html")):
        return "not an image but an HTML page"
    return "not an image"

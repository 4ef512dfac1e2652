"""What a file says of itself before its pixels: its format, how it keeps colours, whether it holds several frames."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import simplejpeg
from PIL import Image

from tellapart.data.sources.tree import ending
from tellapart.data.unreadable import FORMATS

# The endings that are right for a format, as Pillow names it.
RIGHT_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".mpo", ".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
# Colours kept in a way that has to be changed before a network sees them, and what is done about it.
COLOR_MODES = {
    "CMYK": "inks for print, turned into RGB without their colour profile",
    "alpha": "transparent pixels, laid over the background",
    "palette": "a palette with transparent colours, laid over the background",
    "16-bit": "16 bits a channel, of which the upper 8 are used",
    "1-bit": "1 bit a pixel: black and white without greys",
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OPENERS = tuple(name for name in FORMATS if name != "MPO")


class Header(NamedTuple):
    """`format` is Pillow's name, `color_mode` a key of `COLOR_MODES` or "" for ordinary grey and colour."""

    format: str
    color_mode: str
    is_animated: bool


def read_header(raw: bytes) -> Header:
    """Return what the header of a readable image says; a format of "" where it cannot be told.

    >>> read_header(b"no image")
    Header(format='', color_mode='', is_animated=False)
    """
    if raw[:3] == b"\xff\xd8\xff":
        return _jpeg_header(raw)
    try:
        # Damaged metadata warns; reading runs in a process or thread of its own, so the filters are not shared.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=_OPENERS) as image:
                return Header(image.format or "", _color_mode(image, raw), bool(getattr(image, "is_animated", False)))
    except Exception:  # Whether the pixels can be read has been decided by `decode`; this only describes them.
        return Header("", "", False)


def _jpeg_header(raw: bytes) -> Header:
    """Ask libjpeg: identifying a file takes Pillow longer than a 32-pixel image takes to decode."""
    try:
        _, _, space, _ = simplejpeg.decode_jpeg_header(raw, strict=False)
    except (ValueError, KeyError):  # a KeyError is what it raises for a colour space that it does not know
        return Header("JPEG", "", False)
    return Header("JPEG", "CMYK" if space in ("CMYK", "YCCK") else "", False)


def _color_mode(image: Image.Image, raw: bytes) -> str:
    if image.mode == "CMYK":
        return "CMYK"
    # Pillow reads 16-bit colour as 8-bit RGB; in a PNG, the byte after the size tells.
    is_deep_png = raw[:8] == _PNG_SIGNATURE and raw[24:25] == b"\x10"
    if is_deep_png or image.mode.startswith("I"):
        return "16-bit"
    if image.mode == "1":
        return "1-bit"
    if image.has_transparency_data:
        return "palette" if image.mode in ("P", "PA") else "alpha"
    return ""


def has_wrong_ending(path: str, format_name: str) -> bool:
    """Return whether a path ends as another image format than the one its content has.

    >>> has_wrong_ending("a.jpg", "PNG"), has_wrong_ending("a.JPEG", "JPEG"), has_wrong_ending("row 7", "PNG")
    (True, False, False)
    """
    known = {name for endings in RIGHT_ENDINGS.values() for name in endings}
    found = ending(path)
    return found in known and format_name in RIGHT_ENDINGS and found not in RIGHT_ENDINGS[format_name]

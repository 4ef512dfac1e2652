"""The quick way through ordinary JPEGs, at reduced scale where they are larger than needed; the pixels are Pillow's.

simplejpeg calls the same library as Pillow (libjpeg-turbo, accurate integer DCT, smooth chroma upsampling), so whole
images come out equal to the bit; it saves Pillow's identification of the file, which takes longer than a 32-pixel
image's decoding does. Whatever is not ordinary (CMYK, 12 bits, damage of any kind) is left to Pillow to judge.
"""

from __future__ import annotations

import numpy as np
import simplejpeg

from tellapart.data.unreadable import MAX_PIXELS, jpeg_segments

# What libjpeg's scaled inverse DCT can make of an 8 x 8 block in whole steps of two: 4, 2 and 1 pixels a side.
_DIVISORS = (8, 4, 2)
_ORDINARY = {"YCbCr": "RGB", "Gray": "GRAY"}


def jpeg_pixels(raw: bytes, min_side_px: int = 0) -> np.ndarray | None:
    """Return the stored pixels of an ordinary JPEG, uint8 `(H, W)` or `(H, W, 3)`, or None where Pillow has to look.

    Args:
        raw: the file.
        min_side_px: the shorter side may come out as small as this, by a half, a quarter or an eighth; 0 for whole.
    """
    try:
        header = simplejpeg.decode_jpeg_header(raw)
        height, width, space = int(header[0]), int(header[1]), header[2]
        if space not in _ORDINARY or height * width > MAX_PIXELS:
            return None
        divisor = reduction(min(height, width), min_side_px)
        smallest = {} if divisor == 1 else {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
        pixels = simplejpeg.decode_jpeg(raw, _ORDINARY[space], min_factor=1, strict=True, **smallest)
    except (ValueError, KeyError, MemoryError):  # a KeyError is what it raises for a colour space it does not know
        return None
    return pixels[:, :, 0] if space == "Gray" else pixels


def reduction(side_px: int, min_side_px: int) -> int:
    """Return by how much a side may be divided (8, 4, 2 or 1) and stay at `min_side_px` or above; 0 forbids it.

    >>> reduction(3000, 512), reduction(3000, 0), reduction(500, 512)
    (4, 1, 1)
    """
    if not min_side_px:
        return 1
    return next((divisor for divisor in _DIVISORS if -(-side_px // divisor) >= min_side_px), 1)


def may_be_turned(raw: bytes) -> bool:
    """Return whether the EXIF or XMP data of a JPEG may say that the picture is to be turned."""
    for marker, content in jpeg_segments(raw):
        if marker == 0xE1:  # APP1
            end = content - 2 + int.from_bytes(raw[content - 2 : content], "big")
            # EXIF's tag 0x0112 in either order of bytes, or its name in XMP. Parsing the whole takes a tenth of the
            # time that decoding a photograph does.
            if any(raw.find(mark, content, end) >= 0 for mark in (b"\x01\x12", b"\x12\x01", b"Orientation")):
                return True
    return False

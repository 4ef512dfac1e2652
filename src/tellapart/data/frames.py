"""Whether a file holds more than one frame or page; the first is the image, and whoever trains on it is told so."""

from __future__ import annotations

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def has_more_frames(raw: bytes) -> bool:
    """Return whether a GIF holds a second frame, or a WebP, PNG or AVIF says by its header that it is animated.

    Source: WebP container, "Extended File Format" (bit 1 of the flags); APNG: an acTL chunk before IDAT; AVIF: the
    brand avis.

    >>> has_more_frames(b"GIF89a"), has_more_frames(b"RIFF....WEBPVP8X...." + b"\\x02")
    (False, True)
    """
    if raw[:4] == b"GIF8":
        return _has_second_image(raw)
    if raw[8:16] == b"WEBPVP8X":
        return bool(raw[20:21] and raw[20] & 2)
    if raw[:8] == _PNG_SIGNATURE:
        return 0 < raw.find(b"acTL", 0, 4096) < raw.find(b"IDAT")
    return raw[4:12] == b"ftypavis"


def _has_second_image(raw: bytes) -> bool:
    """Go from block to block of a GIF. Source: GIF89a, appendix B, and sections 15 (sub-blocks), 18, 20 and 21."""
    place, num_images = 13 + _color_table_bytes(raw, 10), 0
    while place < len(raw) and raw[place] in b"\x21\x2c":
        if raw[place] == 0x2C:
            num_images += 1
            if num_images == 2:
                return True
            place += 11 + _color_table_bytes(raw, place + 9)
        else:
            place += 2
        while place < len(raw) and raw[place]:
            place += 1 + raw[place]
        place += 1
    return False


def _color_table_bytes(raw: bytes, flags_at: int) -> int:
    """Return the size of the color table that a byte of flags announces."""
    flags = raw[flags_at] if flags_at < len(raw) else 0
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

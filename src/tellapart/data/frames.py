"""Whether a file holds more than one frame or page; the first is the image, and whoever trains on it is told so."""

from __future__ import annotations

# What introduces a frame of a GIF: the end of the block before it, and a graphic control extension of four bytes.
_GIF_FRAME = b"\x00\x21\xf9\x04"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def has_more_frames(raw: bytes) -> bool:
    """Return whether a GIF, WebP, PNG or AVIF says that it is animated, by its header alone.

    Source: GIF89a, section 23; WebP container, "Extended File Format" (bit 1 of the flags); APNG: an acTL chunk before
    IDAT; AVIF: the brand avis.

    >>> has_more_frames(b"GIF89a"), has_more_frames(b"RIFF....WEBPVP8X...." + b"\\x02")
    (False, True)
    """
    if raw[:4] == b"GIF8":
        return raw.count(_GIF_FRAME) > 1
    if raw[8:16] == b"WEBPVP8X":
        return bool(raw[20:21] and raw[20] & 2)
    if raw[:8] == _PNG_SIGNATURE:
        return 0 < raw.find(b"acTL", 0, 4096) < raw.find(b"IDAT")
    return raw[4:12] == b"ftypavis"

"""Small pictures for a page, as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tellapart.data.decode import ImageError, decode
from tellapart.data.sources import Source
from tellapart.errors import DataError

SIDE_PX = 176
_QUALITY = 72
# A page of over 5 MB is slow to open on a phone; the text and the third that base64 adds come on top of this.
MAX_BYTES = 3_200_000


@dataclass
class Thumbnails:
    """Makes each picture once, and none any more when the budget is spent."""

    source: Source
    max_bytes: int = MAX_BYTES
    _made: dict[int, str] = field(default_factory=dict)
    _spent: int = 0

    def uri(self, row: int) -> str:
        """Return a picture of a row as a `data:` address, or "" where it cannot be read or the budget is spent."""
        if row not in self._made:
            self._made[row] = self._make(row) if self._spent < self.max_bytes else ""
        return self._made[row]

    def _make(self, row: int) -> str:
        try:
            pixels = decode(self.source.read(row), 3, min_side_px=SIDE_PX)
        except (ImageError, DataError, OSError):
            return ""
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, reducing_gap=2.0)
        encoded = io.BytesIO()
        image.save(encoded, "WEBP", quality=_QUALITY, method=2)
        self._spent += len(encoded.getvalue())
        return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()

"""The pictures of a page: small, each made once, all together within a budget of bytes and of time."""

from __future__ import annotations

import base64
import io
import time
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tellapart.auditing.thumbnails import SIDE_PX
from tellapart.data.decode import ImageError, content_hash, decode, pixel_hash
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import typical_size_px
from tellapart.data.sources import Source
from tellapart.data.splits import Split
from tellapart.errors import DataError

if TYPE_CHECKING:
    from tellapart.reporting.facts import RunFacts

# A page of over 5 MB is slow to open on a phone. Base64 adds a third, and tables and drawings come on top of it.
MAX_BYTES = 2_700_000
# A few hundred pictures from a disk take one or two seconds; from far-away shards they must not take minutes.
_MAX_SECONDS = 20.0
_QUALITY = 75
# Pictures up to this side are shown with their pixels as they are, not blurred into each other.
_PIXELATED_PX = 64


class Pictures:
    """Makes the pictures that sections show.

    A picture whose file is not what it was when the images were divided is not shown: it is not what was judged.

    Args:
        source: where the images are; None where they are not to be had, and then there are no pictures.
        split: the division, which knows the images by their paths and hashes.
        preprocess: what the run reduces images with, which knows the pixels that were hashed.
        max_bytes: what all pictures may take, before base64.
        max_seconds: after so long no more pictures are read.
    """

    def __init__(
        self,
        source: Source | None,
        split: Split,
        preprocess: Preprocess,
        max_bytes: int = MAX_BYTES,
        max_seconds: float = _MAX_SECONDS,
    ) -> None:
        self.source, self.split, self.preprocess = source, split, preprocess
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self._spent_bytes, self._spent_seconds = 0, 0.0
        self._made: dict[int, str] = {}

    @classmethod
    def of(cls, facts: RunFacts) -> Pictures:
        """Return the pictures of a run."""
        return cls(facts.source, facts.split, facts.classifier.module.preprocess)

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent, so that no more pictures are made."""
        return self._spent_bytes >= self.max_bytes or self._spent_seconds >= self.max_seconds

    def uri(self, row: int | None) -> str:
        """Return the image at a row of the source as a `data:` address.

        It is "" where there is no such row, the image cannot be read or is another one by now, or the budget is spent.
        """
        if row is None or self.source is None:
            return ""
        if row not in self._made:
            self._made[row] = "" if self.is_spent else self._thumbnail(self.source, row)
        return self._made[row]

    def uri_of_path(self, path: str) -> str:
        """Return the image with a path of the split as a `data:` address, or "" as `uri` does."""
        return self.uri(self.row_of(path))

    def uri_of_pixels(self, pixels: np.ndarray) -> str:
        """Return pixels, uint8 `(C, H, W)` with 1 or 3 channels, as a `data:` address, or "" when the budget is spent.

        Nothing is made smaller here.
        """
        return "" if self.is_spent else self._encoded(_image_of(pixels))

    def row_of(self, path: str) -> int | None:
        """Return the row of the source with a path of the split, or None where it has none."""
        return self._rows.get(path)

    @cached_property
    def is_pixelated(self) -> bool:
        """Whether the images are so small that their pixels are to be seen, such as those of CIFAR-10."""
        return self.source is not None and 0 < typical_size_px(self.source, 5) <= _PIXELATED_PX

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {} if self.source is None else {path: row for row, path in enumerate(self.source.paths)}

    @cached_property
    def _split_rows(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(self.split.paths)}

    def _thumbnail(self, source: Source, row: int) -> str:
        started_at = time.perf_counter()
        try:
            raw = source.read(row)
            if not self._is_unchanged(source.paths[row], raw):
                return ""
            image = _image_of(decode(raw, 3, min_side_px=SIDE_PX))
        except (ImageError, DataError, OSError):
            return ""
        finally:
            self._spent_seconds += time.perf_counter() - started_at
        image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return self._encoded(image)

    def _encoded(self, image: Image.Image) -> str:
        encoded = io.BytesIO()
        image.save(encoded, "WEBP", quality=_QUALITY, method=2)
        self._spent_bytes += len(encoded.getvalue())
        return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()

    def _is_unchanged(self, path: str, raw: bytes | np.ndarray) -> bool:
        row = self._split_rows.get(path)
        if row is None:
            return False
        if isinstance(raw, bytes):
            # Divisions written by hand or by older runs have no hashes of files.
            return self.split.content_hashes[row] in ("", content_hash(raw))
        pixels = self.preprocess.decode(raw)
        return pixel_hash(self.preprocess.hashed_pixels(raw, pixels)) == self.split.pixel_hashes[row]


def _image_of(pixels: np.ndarray) -> Image.Image:
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)

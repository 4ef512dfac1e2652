"""Samples of a source as reduced images: from the cache where they are in it, decoded where they are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tellapart.data.cache import FACTS, ImageCache, checksum
from tellapart.data.decode import ImageError, content_hash, pixel_hash
from tellapart.data.frames import has_more_frames
from tellapart.data.preprocess import Preprocess
from tellapart.data.sources import Source
from tellapart.errors import DataError

_SUMMED_BYTES, _SUMMED_ROWS = 2**18, 64
_FILES_AT_ONCE = 16


@dataclass
class Readings:
    """Some rows of a source, read.

    `pixels` is uint8 `(n, R, R, C)`, zeros where `errors` (by place among the rows) has the reason why not; those
    places have the pixel hash "". The sums over the reduced pixels, of every `summed_step`-th row, are int64 `(n, C)`.
    `is_new` tells what was decoded rather than found in the cache, `has_more` what holds more frames than the one that
    was read.
    """

    rows: np.ndarray
    pixels: np.ndarray
    pixel_hashes: list[str]
    content_hashes: list[str]
    sums: np.ndarray
    square_sums: np.ndarray
    is_new: np.ndarray
    has_more: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def blank(rows: np.ndarray, preprocess: Preprocess) -> Readings:
        """Return readings of nothing yet."""
        count, side, channels = len(rows), preprocess.resize_px, preprocess.num_channels
        pixels = np.empty((count, side, side, channels), dtype=np.uint8)
        sums, square_sums = (np.zeros((count, channels), dtype=np.int64) for _ in range(2))
        is_new, has_more = (np.zeros(count, dtype=bool) for _ in range(2))
        return Readings(rows, pixels, [""] * count, [""] * count, sums, square_sums, is_new, has_more)

    def fail(self, place: int, error: Exception) -> None:
        """Note why an image cannot be read."""
        self.errors[place] = str(error)
        self.pixels[place] = 0

    @property
    def images(self) -> torch.Tensor:
        """The reduced images, uint8 `(n, C, R, R)`."""
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2)

    def keep_new(self, cache: ImageCache) -> None:
        """Put what was decoded from files into the cache."""
        for place in np.flatnonzero(self.is_new):
            if self.content_hashes[place]:
                cache.add(self._facts(int(place)), self.pixels[place])

    def _facts(self, place: int) -> np.void:
        facts: Any = np.zeros((), FACTS)
        facts["content"], facts["pixels"] = self.content_hashes[place], self.pixel_hashes[place]
        facts["sums"][: self.sums.shape[1]] = self.sums[place]
        facts["square_sums"][: self.sums.shape[1]] = self.square_sums[place]
        facts["checksum"] = checksum(self.pixels[place])
        return facts[()]


def read_rows(source: Source, rows: np.ndarray, preprocess: Preprocess, cache: ImageCache | None = None) -> Readings:
    """Return samples decoded, hashed and reduced; a problem comes back as an error, never as other pixels."""
    found = Readings.blank(rows, preprocess)
    # Some at a time, because the files of large photographs take far more memory than what is kept of them.
    for start in range(0, len(rows), _FILES_AT_ONCE):
        places = range(start, min(start + _FILES_AT_ONCE, len(rows)))
        raws = source.read_many(rows[places.start : places.stop].tolist())
        for place, raw in zip(places, raws, strict=True):
            if isinstance(raw, ImageError):
                found.fail(place, raw)
                continue
            found.content_hashes[place] = content_hash(raw)
            found.has_more[place] = isinstance(raw, bytes) and has_more_frames(raw)
        if cache is not None:
            _take_cached(found, cache, places)
        for place, raw in zip(places, raws, strict=True):
            if not isinstance(raw, ImageError) and not found.pixel_hashes[place]:
                _decode(found, place, raw, preprocess)
    _add_up(found, preprocess)
    return found


def _take_cached(found: Readings, cache: ImageCache, places: range) -> None:
    known_places = cache.find(found.content_hashes[places.start : places.stop]).tolist()
    for place, known in zip(places, known_places, strict=True):
        if known >= 0 and cache.read(known, found.pixels[place]):
            facts = cache.facts(np.array([known]))[0]
            channels = found.sums.shape[1]
            found.pixel_hashes[place] = facts["pixels"].decode()
            found.sums[place], found.square_sums[place] = facts["sums"][:channels], facts["square_sums"][:channels]


def _decode(found: Readings, place: int, raw: bytes | np.ndarray, preprocess: Preprocess) -> None:
    try:
        pixels = preprocess.decode(raw)
    except (ImageError, OSError) as error:
        found.fail(place, error)
        return
    found.pixel_hashes[place] = pixel_hash(preprocess.hashed_pixels(raw, pixels))
    found.pixels[place] = preprocess.reduce(torch.from_numpy(pixels)).numpy().transpose(1, 2, 0)
    found.is_new[place] = True


def summed_step(preprocess: Preprocess) -> int:
    """Return of how many rows of pixels one is summed: of photographs a few dozen say as much as all."""
    return max(1, preprocess.resize_px // _SUMMED_ROWS)


def _add_up(found: Readings, preprocess: Preprocess) -> None:
    """Fill in the sums of what was decoded."""
    new = np.flatnonzero(found.is_new)
    # Some at a time, so that what is written in between stays in the processor's cache.
    size = max(1, _SUMMED_BYTES // max(1, found.pixels[:1].size))
    for start in range(0, len(new), size):
        some = new[start : start + size]
        found.sums[some], found.square_sums[some] = channel_sums(found.pixels[some][:, :: summed_step(preprocess)])


def channel_sums(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums and the sums of squares of each image's channels, int64 `(n, C)`, of uint8 `(n, H, W, C)`.

    Whole rows are added to each other first, in the narrowest integers that hold the sums: 20 times as fast as adding
    up each channel in 64 bits.

    >>> channel_sums(np.full((1, 2, 2, 1), 3, np.uint8))
    (array([[12]]), array([[36]]))
    """
    count, height, width, channels = pixels.shape
    rows = pixels.reshape(count, height, width * channels)
    narrow = np.uint16 if height * 255 < 2**16 else np.uint32
    sums = rows.astype(narrow).sum(1, dtype=narrow)
    # The square of a grey level fits into 16 bits, and 66,051 of them into 32.
    squares = np.square(rows, dtype=np.uint16).sum(1, dtype=np.uint32)
    shape = (count, width, channels)
    return sums.reshape(shape).sum(1, dtype=np.int64), squares.reshape(shape).sum(1, dtype=np.int64)


@dataclass(frozen=True)
class ReducedImages:
    """The reduced images of a source, read as they are asked for.

    Args:
        source: what to read.
        preprocess: what decodes and reduces.
        cache: where they may lie already.
        places: where in the cache each sample lies, int64 `(N,)`; -1 for those that are to be decoded.
    """

    source: Source
    preprocess: Preprocess
    cache: ImageCache | None = None
    places: np.ndarray | None = None

    def batch(self, rows: np.ndarray) -> torch.Tensor:
        """Return reduced images uint8 `(B, C, R, R)` of samples that could be read once.

        Raises:
            DataError: one can no longer be read.
        """
        found = Readings.blank(rows, self.preprocess)
        lacking = [place for place, row in enumerate(rows.tolist()) if not self._take(row, found.pixels[place])]
        for place, raw in zip(lacking, self.source.read_many(rows[lacking].tolist()), strict=True):
            self._decode(int(rows[place]), raw, found.pixels[place])
        return found.images

    def is_cached(self, rows: np.ndarray) -> bool:
        """Return whether all of these samples lie in the cache."""
        return self.places is not None and bool((self.places[rows] >= 0).all())

    def _take(self, row: int, out: np.ndarray) -> bool:
        if self.cache is None or self.places is None or self.places[row] < 0:
            return False
        return self.cache.read(int(self.places[row]), out)

    def _decode(self, row: int, raw: bytes | np.ndarray | ImageError, out: np.ndarray) -> None:
        try:
            if isinstance(raw, ImageError):
                raise raw
            pixels = self.preprocess.decode(raw)
        except (ImageError, OSError) as error:
            raise DataError(
                f"{self.source.paths[row]}: could be read before training and cannot any more: {error}. "
                "Put the file back and resume the run."
            ) from None
        out[:] = self.preprocess.reduce(torch.from_numpy(pixels)).numpy().transpose(1, 2, 0)

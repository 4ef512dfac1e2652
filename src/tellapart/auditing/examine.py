"""One pass over all images: each is read once, decoded whole, hashed, measured, and kept as a small square."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tellapart import hardware
from tellapart.auditing import measures
from tellapart.auditing.header import read_header
from tellapart.data.decode import content_hash, decode, pixel_hash
from tellapart.data.scan import typical_size_px
from tellapart.data.sources import Source
from tellapart.errors import DataError, RunError

# Up to this typical side, images are compared and judged at 32 px; above it compared at 64 px, and judged at their
# typical side or SHARP_PX, whichever is less.
SMALL_PX = 40
SHARP_PX = 256
# Twelve bytes a pixel for a million images would be 12 GB at 64 px; so many are compared at 32 px.
_MOST_AT_64_PX = 200_000
# From here on the squares lie in a temporary file that the system can drop from memory.
_MOST_BYTES_IN_MEMORY = 2 * 2**30
# Images a worker is given at a time: enough small ones to make their handing over cheap, few large ones for memory.
_CHUNK_SMALL, _CHUNK_LARGE = 512, 16
# Fewer than this are read here: starting processes would take longer.
_FEW = {True: 600, False: 24}
# With fewer pixels a side, two of five handwritten digits of 8 px look like another one.
MIN_COMPARED_PX = 16
# The whole thumbnail within so many of 255 levels: JPEG's noise on one colour stays below.
_BLANK_SPREAD = 8
# Where few pixels are, few colours are, whatever is on them.
_MIN_PX_FOR_COLORS = 64


@dataclass
class Examination:
    """What one pass over a source found; row i is the source's sample i.

    `pixel_hashes` are "" where `errors` has the reason; `content_hashes` are "" where there are no bytes. `measures`
    has the fields of `measures.MEASURES`. `thumbnails` are uint8 `(N, C, S, S)`; those of unreadable images are black.
    `sharp_px` is the side at which sharpness was measured.
    """

    errors: dict[int, str]
    pixel_hashes: list[str]
    content_hashes: list[str]
    measures: np.ndarray
    thumbnails: np.ndarray
    sharp_px: int

    def readable(self) -> np.ndarray:
        """Return the rows of the images that can be read, int64."""
        return np.flatnonzero(np.array([bool(found) for found in self.pixel_hashes], dtype=bool))


def blank_rows(examination: Examination) -> np.ndarray:
    """Return the rows of readable images of one colour, int64: all of them look alike, whatever they were."""
    readable = examination.readable()
    found = examination.measures[readable]
    # A fine grain that a thumbnail averages out is something to see.
    return readable[(found["spread"] <= _BLANK_SPREAD) & (found["texture"] <= _BLANK_SPREAD)]


def tiny_rows(examination: Examination) -> np.ndarray:
    """Return the rows of readable images too small to tell look-alikes from different things, int64."""
    readable, found = examination.readable(), examination.measures
    return readable[np.minimum(found["width"], found["height"])[readable] < MIN_COMPARED_PX]


@dataclass
class _Chunk:
    rows: np.ndarray
    errors: dict[int, str]
    pixel_hashes: list[str]
    content_hashes: list[str]
    measures: np.ndarray
    thumbnails: np.ndarray


def examine(source: Source, advance: Callable[[int], None] | None = None) -> Examination:
    """Read every image of the source once.

    Args:
        source: what to read.
        advance: called with the number of images just read, for a progress bar.

    Raises:
        RunError: a process that reads ended, as one does when memory runs out.
    """
    count, typical_px = len(source), typical_size_px(source)
    is_small = typical_px <= SMALL_PX
    side = 32 if is_small or count > _MOST_AT_64_PX else 64
    result = Examination(
        errors={},
        pixel_hashes=[""] * count,
        content_hashes=[""] * count,
        measures=np.zeros(count, dtype=measures.MEASURES),
        thumbnails=room_for((count, source.num_channels, side, side)),
        sharp_px=side if is_small else min(SHARP_PX, typical_px),
    )
    for chunk in _read_chunks(_Chunks(source, side, is_small, result.sharp_px)):
        start, stop = int(chunk.rows[0]), int(chunk.rows[-1]) + 1
        result.errors.update(chunk.errors)
        result.pixel_hashes[start:stop] = chunk.pixel_hashes
        result.content_hashes[start:stop] = chunk.content_hashes
        result.measures[start:stop] = chunk.measures
        result.thumbnails[start:stop] = chunk.thumbnails
        if advance is not None:
            advance(stop - start)
    return result


def room_for(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros, uint8, in memory or in a temporary file that has no name and goes when nobody uses it."""
    if np.prod(shape, dtype=np.int64) <= _MOST_BYTES_IN_MEMORY:
        return np.zeros(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="tellapart-check-") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _read_chunks(chunks: _Chunks) -> Iterator[_Chunk]:
    """Yield the chunks in order, read by worker processes: for small images Python itself is what takes the time."""
    num_workers = 0 if len(chunks.source) < _FEW[chunks.is_small] else min(hardware.num_cpus(), len(chunks))
    if num_workers < 2:
        yield from (chunks[number] for number in range(len(chunks)))
        return
    given: Any = _as_it_is  # torch annotates the function as if it always got a list
    loader: DataLoader[Any] = DataLoader(chunks, batch_size=None, num_workers=num_workers, collate_fn=given)
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by" not in str(error):
            raise
        raise RunError(
            f"a process that reads images ended ({error}); often the machine is out of memory. Close other programs, "
            "or check a part of the images at a time."
        ) from error


def _as_it_is(chunk: _Chunk) -> _Chunk:
    return chunk


@dataclass(frozen=True)
class _Chunks(Dataset[_Chunk]):
    """A Dataset whose items are chunks of images, examined."""

    source: Source
    side: int
    is_small: bool
    sharp_px: int

    def __len__(self) -> int:
        return -(-len(self.source) // self._size)

    @property
    def _size(self) -> int:
        return _CHUNK_SMALL if self.is_small else _CHUNK_LARGE

    def __getitem__(self, number: int) -> _Chunk:
        rows = np.arange(number * self._size, min((number + 1) * self._size, len(self.source)))
        shape = (len(rows), self.source.num_channels, self.side, self.side)
        found = np.zeros(len(rows), dtype=measures.MEASURES)
        chunk = _Chunk(rows, {}, [""] * len(rows), [""] * len(rows), found, np.zeros(shape, dtype=np.uint8))
        grey: dict[int, np.ndarray] = {}
        for place in range(len(rows)):
            self._examine(chunk, place, grey)
        read = np.array([bool(text) for text in chunk.pixel_hashes], dtype=bool)
        _measure(chunk, read, grey)
        return chunk

    def _examine(self, chunk: _Chunk, place: int, grey: dict[int, np.ndarray]) -> None:
        row = int(chunk.rows[place])
        try:
            raw = self.source.read(row)
            chunk.content_hashes[place] = content_hash(raw)
            pixels = decode(raw, self.source.num_channels)
        except (DataError, OSError) as error:  # an ImageError, or an array that is no picture
            chunk.errors[row] = str(error)
            return
        chunk.pixel_hashes[place] = pixel_hash(pixels)
        found = chunk.measures[place]
        found["height"], found["width"] = pixels.shape[1:]
        if not isinstance(raw, np.ndarray):
            found["format"], found["color_mode"], found["is_animated"] = read_header(raw)
        if pixels.shape[1:] == (self.side, self.side):
            chunk.thumbnails[place] = pixels
            return
        image = _as_image(pixels)
        chunk.thumbnails[place] = thumbnail = _square(image, self.side)
        if np.ptp(thumbnail, axis=(1, 2)).max() <= _BLANK_SPREAD:
            found["texture"] = np.asarray(image.convert("L")).std()
        if min(pixels.shape[1:]) >= _MIN_PX_FOR_COLORS:
            found["flat_share"] = measures.flat_share(image)
        if not self.is_small:
            size = (self.sharp_px, self.sharp_px)
            square = image.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            grey[place] = np.asarray(square, dtype=np.float32)


def _measure(chunk: _Chunk, read: np.ndarray, grey: dict[int, np.ndarray]) -> None:
    """Fill in the measures that are taken over many images at a time."""
    found = chunk.measures[read]
    measures.measure_thumbnails(found, chunk.thumbnails[read])
    measures.measure_sharpness(found, measures.luma(chunk.thumbnails[read]))
    chunk.measures[read] = found
    for place, picture in grey.items():
        measures.measure_sharpness(chunk.measures[place : place + 1], picture[None])


def _as_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels `(C, H, W)` as a Pillow image; its antialiased resize is several times as fast as torch's."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def _square(image: Image.Image, side: int) -> np.ndarray:
    square = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))
    return square[None] if square.ndim == 2 else square.transpose(2, 0, 1)

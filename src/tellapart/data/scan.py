"""Read every image once: can it be read, what do its pixels hash to, and, where they fit, those pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from tellapart import hardware
from tellapart.data.decode import ImageError, decode, image_size, pixel_hash
from tellapart.data.preprocess import Preprocess
from tellapart.data.sources import Source

T = TypeVar("T")
# Share of the free memory that decoded images may take; the rest is for the network, its gradients and other programs.
_COMFORTABLE_SHARE = 0.4
# Tasks handed to a thread at a time, so that handing over costs little against decoding a 32-pixel image.
_CHUNK = 64


@dataclass
class Scan:
    """What one pass over a source found; row i is the source's sample i.

    `pixel_hashes` are "" where `errors` has the reason. `images` is uint8 `(N, C, R, R)`, or None if they were not
    kept. `channel_sums` and `channel_square_sums` are float64 `(N, C)` over the reduced pixels, 0 to 255.
    """

    pixel_hashes: list[str]
    errors: dict[int, str]
    images: torch.Tensor | None
    channel_sums: np.ndarray
    channel_square_sums: np.ndarray
    pixels_per_image: int

    def mean_std(self, rows: np.ndarray) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel, of images in 0 to 1, over these rows."""
        count = len(rows) * self.pixels_per_image
        mean = self.channel_sums[rows].sum(0) / count
        variance = self.channel_square_sums[rows].sum(0) / count - mean**2
        # A channel without contrast would divide by zero; half a grey level is below what uint8 can show.
        std = np.sqrt(np.maximum(variance, 0.25))
        return (mean / 255.0).tolist(), (std / 255.0).tolist()


@dataclass(frozen=True)
class Reading:
    """One image, read: its hash and reduced pixels, or the reason why not."""

    index: int
    pixel_hash: str = ""
    image: torch.Tensor | None = None
    error: str = ""


def read_image(source: Source, index: int, preprocess: Preprocess, *, hashed: bool = True) -> Reading:
    """Return sample `index` decoded, hashed and reduced; a problem comes back as `error`, never as other pixels.

    Hashing takes a sixth of the time that reading a photograph takes; who does not need it says `hashed=False`.
    """
    try:
        pixels = decode(source.read(index), preprocess.num_channels)
    except (ImageError, OSError) as error:
        return Reading(index, error=str(error))
    return Reading(index, pixel_hash(pixels) if hashed else "", preprocess.reduce(torch.from_numpy(pixels)))


def read_images(source: Source, rows: Sequence[int], preprocess: Preprocess) -> Iterator[Reading]:
    """Yield the readings of `rows` in order, decoded ahead by as many threads as there are cores."""

    def read_chunk(chunk: Sequence[int]) -> list[Reading]:
        return [read_image(source, int(index), preprocess) for index in chunk]

    chunk_size = max(1, min(_CHUNK, len(rows) // (4 * hardware.num_cpus()) or 1))
    chunks = [rows[start : start + chunk_size] for start in range(0, len(rows), chunk_size)]
    for readings in map_ahead(read_chunk, chunks):
        yield from readings


def map_ahead(function: Callable[[Sequence[int]], T], items: Sequence[Sequence[int]]) -> Iterator[T]:
    """Yield `function(item)` in order, computed in threads no further ahead than two items a thread."""
    num_threads = hardware.num_cpus()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def typical_size_px(source: Source, num_probes: int = 100) -> int:
    """Return the median of the shorter sides of up to `num_probes` images spread over the source; 0 if none opens."""
    rows = np.unique(np.linspace(0, len(source) - 1, min(num_probes, len(source))).astype(int))
    sides = []
    for row in rows:
        try:
            sides.append(min(image_size(source.read(int(row)))))
        except (ImageError, OSError):
            continue  # `scan` reads every image and names those that cannot be read.
    return int(np.median(sides)) if sides else 0


def scan(
    source: Source,
    preprocess: Preprocess,
    *,
    keep: bool,
    advance: Callable[[int], None] | None = None,
) -> Scan:
    """Read every image of the source once.

    Args:
        source: what to read.
        preprocess: its `reduce` makes the squares; mean and std are not used.
        keep: whether to hold the reduced images in memory.
        advance: called with the number of images just read, for a progress bar.
    """
    count, channels, side = len(source), preprocess.num_channels, preprocess.resize_px
    result = Scan(
        pixel_hashes=[""] * count,
        errors={},
        images=torch.zeros((count, channels, side, side), dtype=torch.uint8) if keep else None,
        channel_sums=np.zeros((count, channels)),
        channel_square_sums=np.zeros((count, channels)),
        pixels_per_image=side * side,
    )
    for reading in read_images(source, range(count), preprocess):
        _enter(result, reading)
        if advance is not None:
            advance(1)
    return result


def _enter(result: Scan, reading: Reading) -> None:
    row = reading.index
    if reading.image is None:
        result.errors[row] = reading.error
        return
    result.pixel_hashes[row] = reading.pixel_hash
    if result.images is not None:
        result.images[row] = reading.image
    # Integer sums are exact, so mean and std do not depend on the order of reading.
    flat = reading.image.flatten(1).numpy().astype(np.int64)
    result.channel_sums[row] = flat.sum(1)
    result.channel_square_sums[row] = (flat * flat).sum(1)


def fits_in_memory(num_images: int, preprocess: Preprocess, device: torch.device) -> bool:
    """Return whether the reduced images fit comfortably in the memory of the machine and of the device."""
    needed = num_images * preprocess.num_channels * preprocess.resize_px**2
    devices = {torch.device("cpu"), device}
    return all(needed <= _COMFORTABLE_SHARE * hardware.free_memory_bytes(each) for each in devices)

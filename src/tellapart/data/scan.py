"""Read every image once: can it be read, what do its pixels hash to, and, where they fit, those pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from tellapart import hardware
from tellapart.data.ahead import map_ahead
from tellapart.data.cache import ImageCache
from tellapart.data.decode import ImageError, image_size
from tellapart.data.preprocess import Preprocess
from tellapart.data.reading import Readings, read_rows, summed_step
from tellapart.data.sources import Source

# Share of the free memory that decoded images may take; the rest is for the network, its gradients and other programs.
_COMFORTABLE_SHARE = 0.4
# Images handed to a thread at a time: so many that handing over costs little against decoding a 32-pixel image, but no
# more than fit into memory that is used again instead of being fetched from the system each time.
_CHUNK, _CHUNK_BYTES = 64, 2**20


@dataclass
class Scan:
    """What one pass over a source found; row i is the source's sample i.

    `pixel_hashes` are "" where `errors` has the reason, `content_hashes` where there is no file. `images` is uint8
    `(N, C, R, R)`, or None if they were not kept. `channel_sums` and `channel_square_sums` are int64 `(N, C)` over the
    `pixels_per_image` reduced pixels that were summed, 0 to 255. `animated` are the rows of files with more frames than
    the one that was read.
    """

    pixel_hashes: list[str]
    content_hashes: list[str]
    errors: dict[int, str]
    images: torch.Tensor | None
    channel_sums: np.ndarray
    channel_square_sums: np.ndarray
    pixels_per_image: int
    animated: list[int] = field(default_factory=list)

    def mean_std(self, rows: np.ndarray) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel, of images in 0 to 1, over these rows."""
        count = len(rows) * self.pixels_per_image
        # Integer sums are exact, so mean and std do not depend on the order of reading.
        mean = self.channel_sums[rows].sum(0) / count
        variance = self.channel_square_sums[rows].sum(0) / count - mean**2
        # A channel without contrast would divide by zero; half a grey level is below what uint8 can show.
        std = np.sqrt(np.maximum(variance, 0.25))
        return (mean / 255.0).tolist(), (std / 255.0).tolist()


def scan(
    source: Source,
    preprocess: Preprocess,
    *,
    keep: bool,
    cache: ImageCache | None = None,
    advance: Callable[[int], None] | None = None,
) -> Scan:
    """Read every image of the source once.

    Args:
        source: what to read.
        preprocess: its `reduce` makes the squares; mean and std are not used.
        keep: whether to hold the reduced images in memory.
        cache: what has the images of earlier scans, and gets those that it lacks.
        advance: called with the number of images just read, for a progress bar.
    """
    count, channels, side = len(source), preprocess.num_channels, preprocess.resize_px
    kept = torch.zeros((count, side, side, channels), dtype=torch.uint8) if keep else None
    result = Scan(
        pixel_hashes=[""] * count,
        content_hashes=[""] * count,
        errors={},
        images=None if kept is None else kept.permute(0, 3, 1, 2),
        channel_sums=np.zeros((count, channels), dtype=np.int64),
        channel_square_sums=np.zeros((count, channels), dtype=np.int64),
        pixels_per_image=len(range(0, side, summed_step(preprocess))) * side,
    )
    try:
        for found in read_chunks(source, np.arange(count), preprocess, cache):
            _enter(result, found)
            if kept is not None:
                kept[torch.from_numpy(found.rows)] = torch.from_numpy(found.pixels)
            if cache is not None:
                found.keep_new(cache)
            if advance is not None:
                advance(len(found.rows))
    finally:  # interrupted, too: the next scan goes on from there
        if cache is not None:
            cache.commit()
    return result


def _enter(result: Scan, found: Readings) -> None:
    rows = found.rows
    for place, row in enumerate(rows.tolist()):
        result.pixel_hashes[row] = found.pixel_hashes[place]
        result.content_hashes[row] = found.content_hashes[place]
    result.errors.update({int(rows[place]): reason for place, reason in found.errors.items()})
    result.animated += rows[found.has_more].tolist()
    result.channel_sums[rows] = found.sums
    result.channel_square_sums[rows] = found.square_sums


def read_chunks(
    source: Source, rows: np.ndarray, preprocess: Preprocess, cache: ImageCache | None = None
) -> Iterator[Readings]:
    """Yield the readings of `rows` in order, some at a time, read ahead by as many threads as there are cores."""
    image_bytes = preprocess.num_channels * preprocess.resize_px**2
    size = max(1, min(_CHUNK, _CHUNK_BYTES // image_bytes, len(rows) // (4 * hardware.num_cpus())))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    num_threads = hardware.num_cpus()
    return map_ahead(
        lambda chunk: read_rows(source, chunk, preprocess, cache),
        chunks,
        num_threads=num_threads,
        num_ahead=2 * num_threads,
        name="decode",
    )


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


def fits_in_memory(num_images: int, preprocess: Preprocess, device: torch.device) -> bool:
    """Return whether the reduced images fit comfortably in the memory of the machine and of the device."""
    needed = num_images * preprocess.num_channels * preprocess.resize_px**2
    devices = {torch.device("cpu"), device}
    return all(needed <= _COMFORTABLE_SHARE * hardware.free_memory_bytes(each) for each in devices)

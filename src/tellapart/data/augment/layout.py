"""How a batch lies in memory, and ways through its images for which that and the rest of the batch do not matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from tellapart.data.augment.threads import share_out

# Of so many numbers as float32, 1 MiB, the cache of a core holds a few copies. What is computed in ten steps over a
# larger batch goes through the main memory ten times, and takes twice as long.
_CHUNK_NUMBERS = 2**18


def is_channels_last(images: torch.Tensor) -> bool:
    """Return whether the channels of a pixel lie side by side, and the batch is not contiguous as well.

    >>> is_channels_last(torch.zeros(2, 3, 4, 4)), is_channels_last(torch.zeros(2, 4, 4, 3).permute(0, 3, 1, 2))
    (False, True)
    """
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


def empty_batch(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return an uninitialised batch of another size, with the dtype, device and memory format of `images`."""
    layout = torch.channels_last if is_channels_last(images) else torch.contiguous_format
    shape = (*images.shape[:2], height, width)
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=layout)


def copied(images: torch.Tensor) -> torch.Tensor:
    """Return a copy that may be painted over, in the memory format of `images`."""
    return empty_batch(images, *images.shape[-2:]).copy_(images)


def column(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return a number for each image `(B,)` as `(B, 1, 1, 1)`, on the images' device, in the dtype to compute in."""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return values.to(dtype).to(images.device)[:, None, None, None]


def to_planes(images: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy that may be painted over."""
    return torch.empty(images.shape, dtype=images.dtype, device=images.device).copy_(images)


def laid_out_as(result: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return contiguous images in the memory format of `images`."""
    # A quarter of the time of `contiguous(memory_format=torch.channels_last)` for uint8 on the CPU.
    return torch.stack(result.unbind(1), dim=3).permute(0, 3, 1, 2) if is_channels_last(images) else result


def in_chunks(apply: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Make a function of contiguous images `(B, C, H, W)` and tensors `(B, ...)` one of images in any memory format.

    On the CPU it is given a few images at a time. It must keep their size and treat each by itself, so that chunks
    change the time that it takes and nothing else. The result has the memory format of the images.
    """

    @wraps(apply)
    def chunked(images: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        result = torch.empty(images.shape, dtype=images.dtype, device=images.device)

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            result[part] = apply(images[part].contiguous(), *(value[part] for value in values))

        numbers_each = max(images[:1].numel(), 1)
        if images.device.type == "cpu":
            share_out(len(images), max(1, _CHUNK_NUMBERS // numbers_each), numbers_each, work)
        else:
            work(0, len(images))
        return laid_out_as(result, images)

    return chunked


def apply_to_rows(images: torch.Tensor, rows: torch.Tensor, apply: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace the images number `rows`, int64 `(n,)`, by what `apply` makes of them, in place."""
    if len(rows):
        places = rows.to(images.device)
        images.index_copy_(0, places, apply(images.index_select(0, places)))

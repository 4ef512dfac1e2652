"""Mirroring, shifting and erasing: what becomes of a pixel depends on its place alone."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tellapart.data.augment.draw import Draw
from tellapart.data.augment.layout import copied, empty_batch, is_channels_last
from tellapart.data.augment.threads import share_out

# Contiguous images of fewer numbers than this numpy mirrors faster than torch, which takes longer to begin.
_SMALL = 2**14


def flip(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror each image, left to right, or leave it, as a coin falls."""
    return mirror(images, draw.uniform("flip")[:, 0] < 0.5)


def shift(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Cut a square of the network's size at a random place, over a black border of pad-px."""
    pad, size = draw.config.pad_px, draw.size_px
    draws = draw.uniform("shift", 2)
    top = (draws[:, 0] * (images.shape[-2] + 2 * pad - size + 1)).long()
    left = (draws[:, 1] * (images.shape[-1] + 2 * pad - size + 1)).long()
    return pad_crop(images, top, left, pad, size)


def flip_crop(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror each image or not, and shift it by up to pad-px over black."""
    return shift(flip(images, draw), draw)


def mirror(images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Turn those images of `(B, C, H, W)` left to right for which `mirrored`, bool `(B,)`, is true.

    >>> mirror(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([True, False])).flatten().tolist()
    [2, 1, 3, 4]
    """
    if images.device.type != "cpu":
        return mirror_at_once(images, mirrored)
    result = copied(images)
    places = mirrored.cpu().nonzero()[:, 0].tolist()
    numbers_each = images[:1].numel()
    if numbers_each < _SMALL and not is_channels_last(images) and images.dtype != torch.bfloat16:
        source, target = images.permute(0, 2, 3, 1).numpy(), result.permute(0, 2, 3, 1).numpy()
        for place in places:
            target[place] = source[place, :, ::-1]
        return result

    def work(start: int, stop: int) -> None:
        for place in places[start:stop]:
            result[place] = images[place].flip(-1)

    share_out(len(places), 4, numbers_each, work)
    return result


def mirror_at_once(images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Return what `mirror` does, in one step; on the CPU that takes two to ten times as long."""
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def pad_crop(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, pad: int, size: int) -> torch.Tensor:
    """Return squares `(B, C, size, size)` of images that stand in a black border of `pad` pixels.

    Args:
        images: `(B, C, H, W)`.
        top: of each square, within the border, int64 `(B,)`: 0 to H + 2 * pad - size.
        left: likewise, 0 to W + 2 * pad - size.

    >>> pad_crop(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([2]), torch.tensor([1]), 1, 2).tolist()
    [[[[3, 4], [0, 0]]]]
    """
    if images.device.type != "cpu" or images.dtype == torch.bfloat16:  # numpy knows no bfloat16.
        return pad_crop_at_once(images, top, left, pad, size)
    height, width = images.shape[-2:]
    result = empty_batch(images, size, size).zero_()
    # The same memory; a view of numpy's takes a fraction of the time of torch's, which counts for small images.
    source, target = images.permute(0, 2, 3, 1).numpy(), result.permute(0, 2, 3, 1).numpy()
    for place, (y, x) in enumerate(zip((top - pad).tolist(), (left - pad).tolist(), strict=True)):
        first_row, first_column = max(y, 0), max(x, 0)
        # A square that lies in the border alone takes nothing.
        end_row, end_column = max(min(y + size, height), first_row), max(min(x + size, width), first_column)
        part = source[place, first_row:end_row, first_column:end_column]
        target[place, first_row - y : end_row - y, first_column - x : end_column - x] = part
    return result


def pad_crop_at_once(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, pad: int, size: int) -> torch.Tensor:
    """Return what `pad_crop` does, in one step."""
    device = images.device
    windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(len(images), device=device), :, top.to(device), left.to(device)]

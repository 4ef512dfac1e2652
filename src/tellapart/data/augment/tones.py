"""Posterize, solarize, autocontrast, equalize and sharpness. Images are uint8, or floating point in [0, 1]."""

from __future__ import annotations

import torch

from tellapart.data.augment.colour import rounded_down, working
from tellapart.data.augment.layout import column, in_chunks


@in_chunks
def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest bits of each pixel, 0 to 8 of them, int64 `(B,)`.

    >>> posterize(torch.tensor([[[[255, 17]]]], dtype=torch.uint8), torch.tensor([4])).flatten().tolist()
    [240, 16]
    """
    if images.is_floating_point():
        levels = column(2**bits, images)
        return torch.minimum((images * levels).floor_().clamp_(min=0.0), levels - 1) / levels
    mask = (255 << (8 - bits)) & 255
    return images & mask.to(torch.uint8).to(images.device)[:, None, None, None]


@in_chunks
def solarize(images: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Invert the pixels that are as bright as the image's threshold, `(B,)` in [0, 1], or brighter.

    >>> solarize(torch.tensor([[[[50, 200]]]], dtype=torch.uint8), torch.tensor([0.5])).flatten().tolist()
    [50, 55]
    """
    if images.is_floating_point():
        return torch.where(images >= column(thresholds, images), 1.0 - images, images)
    below = (thresholds * 255).to(torch.float32).ceil().to(torch.int16).to(images.device)[:, None, None, None] - 1
    # All bits of a pixel that is not below the threshold are turned; a tenth of the time of a comparison on the CPU.
    bits = (images.to(torch.int16) - below).clamp_(0, 1).mul_(255).to(torch.uint8)
    return images ^ bits


@in_chunks
def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch each channel so that its darkest pixel becomes black and its brightest white, or the level before white.

    >>> autocontrast(torch.tensor([[[[10, 74, 138]]]], dtype=torch.uint8)).flatten().tolist()
    [0, 127, 254]
    """
    if not images[:1].numel():
        return images
    pixels = working(images)
    low, high = (working(ends) for ends in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    is_flat = low == high
    # The range as a share of the largest number: a division by it is what torchvision does.
    share = (high - low) * (1.0 if images.is_floating_point() else 1.0 / 255)
    return rounded_down((pixels - low.masked_fill(is_flat, 0.0)).div_(share.masked_fill(is_flat, 1.0)), images)


@in_chunks
def equalize(images: torch.Tensor) -> torch.Tensor:
    """Spread the grey levels of each channel so that all occur about equally often.

    Floating-point images are rounded down to 256 levels first.

    Source: Pillow's `ImageOps.equalize`: level v becomes (number of darker pixels + step // 2) // step, where step is a
    255th of the number of pixels that are not of the brightest level present; a channel with step 0 stays.
    """
    if not images[:1].numel():
        return images
    if images.is_floating_point():
        levels = equalize((images * 255.999).to(torch.uint8))
        return levels.to(images.dtype) / 255
    pixels = images.flatten(2).long()
    counts = torch.zeros((*images.shape[:2], 256), dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, pixels, counts.new_ones(1).expand_as(pixels))
    no_brighter = counts.cumsum(2)
    brightest = images.flatten(2).amax(2, keepdim=True).long()
    step = (pixels.shape[2] - counts.gather(2, brightest)) // 255
    table = (no_brighter - counts + step // 2) // step.clamp(min=1)
    same = torch.arange(256, device=images.device).expand_as(table)
    table = torch.where(step > 0, table.clamp(0, 255), same).to(torch.uint8)
    return table.gather(2, pixels).view(images.shape)


@in_chunks
def adjust_sharpness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Move each pixel away from the blurred image, or, where the factor `(B,)` is below 1, towards it.

    The outermost pixels stay. Source: the 3 x 3 kernel of Pillow's `ImageFilter.SMOOTH`, 1/13 and 5/13 in the middle.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    pixels = working(images)
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    middle = pixels[..., 1:-1, 1:-1]
    blurred = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + middle * 4.0) / 13.0
    if not images.is_floating_point():
        blurred = blurred.round_()
    result = pixels.clone()
    result[..., 1:-1, 1:-1] += (blurred - middle) * column(1.0 - factors, images)
    return rounded_down(result, images)

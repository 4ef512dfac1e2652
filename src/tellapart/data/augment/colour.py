"""Brightness, contrast, saturation and hue, each by a factor of the image's own.

Images are uint8, or floating point in [0, 1]. What several operations make of a pixel is rounded after each, as
torchvision does. No sum depends on the order of its terms, and products are rounded before they are added, so that the
same image gets the same bits in any batch, in either memory format, on any number of threads.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tellapart.data.augment.draw import Draw, between
from tellapart.data.augment.layout import apply_to_rows, column, in_chunks, laid_out_as, to_planes


def color_jitter(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue at random, in random order."""
    jitter = draw.config.jitter
    draws = draw.uniform("jitter", 8).cpu()
    # Ranks of random numbers are a random order.
    order = draws[:, :4].argsort(dim=1, stable=True)
    low = max(0.0, 1.0 - jitter)
    factors = between(draws[:, 4:7], low, 1.0 + jitter)
    hue = between(draws[:, 7], -jitter / 4, jitter / 4)
    result = to_planes(images)
    for turn in order.unbind(1):
        for number, adjust in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)):
            rows = (turn == number).nonzero()[:, 0]
            chosen = hue[rows] if number == 3 else factors[rows, number]
            apply_to_rows(result, rows, lambda part, adjust=adjust, chosen=chosen: adjust(part, chosen))
    return laid_out_as(result, images)


@in_chunks
def adjust_brightness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply each image `(B, C, H, W)` by its factor, float64 `(B,)`, at least 0.

    >>> adjust_brightness(torch.tensor([[[[100, 200]]]], dtype=torch.uint8), torch.tensor([1.5])).flatten().tolist()
    [150, 255]
    """
    return rounded_down(working(images) * column(factors, images), images)


@in_chunks
def adjust_contrast(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Move each pixel away from its image's mean grey, or, where the factor is below 1, towards it.

    >>> adjust_contrast(torch.tensor([[[[100, 200]]]], dtype=torch.uint8), torch.tensor([0.5])).flatten().tolist()
    [125, 175]
    """
    pixels = working(images)
    return rounded_down(_blend(pixels, _mean(_grey(pixels, images), images), factors), images)


@in_chunks
def adjust_saturation(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Move each pixel away from its own grey, or, where the factor is below 1, towards it; grey images stay."""
    if images.shape[1] != 3:
        return images
    pixels = working(images)
    return rounded_down(_blend(pixels, _grey(pixels, images), factors), images)


@in_chunks
def adjust_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn each image's hue by a part of the colour circle, float64 `(B,)` from -0.5 to 0.5; grey images stay.

    Source: Smith 1978, "Color gamut transform pairs", the HSV hexcone. With the hue h in sixths of the circle, the
    least channel l and the range c, red is l + c clamp(|h - 3| - 1), green l + c clamp(2 - |h - 2|) and blue
    l + c clamp(2 - |h - 4|), where clamp is to 0 to 1.

    >>> red = torch.tensor([200, 10, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> adjust_hue(red, torch.tensor([1 / 3])).flatten().tolist()
    [10, 200, 10]
    """
    if images.shape[1] != 3:
        return images
    pixels = working(images)
    red, green, blue = pixels.unbind(1)
    most = torch.maximum(red, torch.maximum(green, blue))
    least = torch.minimum(red, torch.minimum(green, blue))
    span = most - least
    is_red, is_green = _is_zero(most - red, images), _is_zero(most - green, images)
    divisor = span + _is_zero(span, images)
    hue = (2.0 + (blue - red) / divisor).mul_(is_green) + (4.0 + (red - green) / divisor).mul_(1.0 - is_green)
    hue = ((green - blue) / divisor).mul_(is_red) + hue.mul_(1.0 - is_red)
    hue += column(turns, images)[:, 0] * 6.0
    hue -= (hue / 6.0).floor_().mul_(6.0)
    shares = ((hue - 3.0).abs_() - 1.0, 2.0 - (hue - 2.0).abs_(), 2.0 - (hue - 4.0).abs_())
    turned = torch.stack([share.clamp_(0.0, 1.0).mul_(span).add_(least) for share in shares], dim=1)
    # As torchvision, which takes [0, 1] for 256 equal parts: it rounds up the more, the brighter the pixel.
    return rounded_down(turned if images.is_floating_point() else turned.mul_(255.999 / 255), images)


def working(images: torch.Tensor) -> torch.Tensor:
    """Return the images as floating-point numbers, of 0 to 255 if they are uint8."""
    return images if images.is_floating_point() else images.to(torch.float32)


def rounded_down(result: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Turn what was computed from `images` into their range and dtype, cutting off fractions of a grey level."""
    if images.is_floating_point():
        return result.clamp_(0.0, 1.0)
    # By way of int16 it takes a third of the time.
    return result.clamp_(0.0, 255.0).to(torch.int16).to(torch.uint8)


def _blend(pixels: torch.Tensor, others: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (pixels * column(factors, pixels)).add_(others * column(1.0 - factors, pixels))


def _is_zero(numbers: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return 1.0 where a number of at least 0, a whole one if the images are uint8, is 0; and 0.0 elsewhere."""
    if images.is_floating_point():
        return (numbers == 0).to(numbers.dtype)
    # Comparing takes five times as long on the CPU.
    return 1.0 - numbers.clamp(max=1.0)


def _grey(pixels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the grey of each pixel `(B, 1, H, W)`, in whole levels if the images are uint8; of grey images all of it.

    Source: ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B; the first to four places as in torchvision.
    """
    if images.shape[1] != 3:
        return pixels
    red, green, blue = (pixels[:, channel : channel + 1] for channel in range(3))
    if images.is_floating_point():
        return red * 0.2989 + green * 0.587 + blue * 0.114
    # Whole numbers below 2**24, hence exact.
    return (red * 2989.0).add_(green * 5870.0).add_(blue * 1140.0).div_(10000.0).floor_()


def _mean(grey: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the mean of each image `(B, 1, 1, 1)`, the same whatever order its numbers are added up in."""
    if images.is_floating_point():
        sums = grey.flatten(1)
        while sums.shape[1] > 1:
            sums = F.pad(sums, (0, sums.shape[1] % 2))
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
    else:
        # The sum of a row is a whole number that float32 holds exactly.
        sums = grey.sum(3).to(torch.int64).sum((1, 2))[:, None].to(torch.float32)
    return sums[:, :, None, None] / grey[:1].numel()

"""Random erasing: a grey rectangle over a part of the image."""

from __future__ import annotations

import math

import torch

from tellapart.data.augment.draw import Draw, between
from tellapart.data.augment.layout import copied

# Share of the area and its width's share of the height, drawn on a logarithmic scale; the defaults of torchvision and,
# nearly, of Zhong et al. 2017, arXiv 1708.04896, section 5 (0.02 to 0.4, 0.3 to 3.33).
_SCALE = (0.02, 0.33)
_LOG_RATIO = (math.log(0.3), math.log(3.3))
_TRIES = 10
_GREY = 127


def random_erasing(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Paint a random rectangle grey, at erasing-prob."""
    height, width = images.shape[-2:]
    draws = draw.uniform_rows("erasing", 2 * _TRIES + 3)
    boxes = [
        erased_box(numbers[1:], height, width) if numbers[0] < draw.config.erasing_prob else (0, 0, 0, 0)
        for numbers in draws
    ]
    return erase(images, torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4), _GREY)


def erased_box(draws: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the rectangle to erase; all 0 where ten tries find none that fits.

    Args:
        draws: 22 numbers in [0, 1): area and ratio of each try, then the place.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Source: Zhong et al. 2017, arXiv 1708.04896, algorithm 1, with the ranges and the ten tries of torchvision.
    """
    for number in range(_TRIES):
        area = height * width * between(draws[2 * number], *_SCALE)
        ratio = math.exp(between(draws[2 * number + 1], *_LOG_RATIO))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            return int(draws[-2] * (height - rows + 1)), int(draws[-1] * (width - columns + 1)), rows, columns
    return 0, 0, 0, 0


def erase(images: torch.Tensor, boxes: torch.Tensor, level: float) -> torch.Tensor:
    """Return the images with a rectangle of each painted over.

    Args:
        images: `(B, C, H, W)`, uint8, or floating point in [0, 1].
        boxes: int64 `(B, 4)`: top, left, height and width, in pixels; a height of 0 paints nothing.
        level: 0 to 255, whatever the dtype.

    >>> erase(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([[0, 1, 2, 1]]), 9).tolist()
    [[[[0, 9], [0, 9]]]]
    """
    if images.device.type != "cpu":
        return erase_at_once(images, boxes, level)
    value = _in_range(level, images)
    result = copied(images)
    for place, (top, left, height, width) in enumerate(boxes.tolist()):
        if height and width:
            result[place, :, top : top + height, left : left + width] = value
    return result


def erase_at_once(images: torch.Tensor, boxes: torch.Tensor, level: float) -> torch.Tensor:
    """Return what `erase` does, in one step."""
    top, left, height, width = boxes.to(images.device)[:, :, None].unbind(1)
    y = torch.arange(images.shape[-2], device=images.device)
    x = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], _in_range(level, images))


def _in_range(level: float, images: torch.Tensor) -> float:
    return level / 255 if images.is_floating_point() else level

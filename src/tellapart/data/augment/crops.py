"""Random resized crops: by torch's own uint8 kernel on the CPU, as two batched matrix products elsewhere."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from tellapart.data.augment.draw import Draw, between
from tellapart.data.augment.layout import empty_batch, is_channels_last
from tellapart.data.augment.threads import share_out

# Width over height, drawn on a logarithmic scale: Szegedy et al. 2014, arXiv 1409.4842, section 6; and torchvision.
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def random_resized_crop(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Cut out a part of random area and shape and scale it to the full size."""
    height, width = images.shape[-2:]
    draws = draw.uniform_rows("resized-crop", 2 * _TRIES + 2)
    boxes = [crop_box(numbers, height, width, draw.config.min_scale) for numbers in draws]
    return resized_crop(images, torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4), draw.size_px)


def crop_box(draws: list[float], height: int, width: int, min_scale: float) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the part to cut out.

    Args:
        draws: 22 numbers in [0, 1): area and ratio of each of ten tries, then the place.
        height: of the image, in pixels.
        width: of the image, in pixels.
        min_scale: smallest share of the area; the largest is 1.

    Source: Szegedy et al. 2014, arXiv 1409.4842, section 6, with the ten tries of torchvision and its way out: as much
    of the middle as the ratio allows.

    >>> crop_box([1.0] * 20 + [0.0, 0.0], 100, 200, 0.5)
    (0, 33, 100, 133)
    """
    low, high = (math.log(ratio) for ratio in _RATIO)
    for number in range(_TRIES):
        area = height * width * between(draws[2 * number], min_scale, 1.0)
        ratio = math.exp(between(draws[2 * number + 1], low, high))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return int(draws[-2] * (height - rows + 1)), int(draws[-1] * (width - columns + 1)), rows, columns
    rows, columns = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def resized_crop(images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Return a part of each image, scaled bilinearly with antialiasing to `(B, C, size, size)`.

    Args:
        images: `(B, C, H, W)`, uint8 or floating point.
        boxes: int64 `(B, 4)`: top, left, height and width of the parts, in pixels.
        size: side of the result, in pixels.
    """
    if images.device.type != "cpu":
        return resized_crop_at_once(images, boxes, size)
    if images.dtype in (torch.float16, torch.bfloat16):  # The kernel of the CPU has neither.
        return resized_crop(images.float(), boxes, size).to(images.dtype)
    result = empty_batch(images, size, size)
    corners, last = boxes.tolist(), is_channels_last(images)
    pixels, scaled = ((batch.permute(0, 2, 3, 1) if last else batch).numpy() for batch in (images, result))

    def work(start: int, stop: int) -> None:
        for place in range(start, stop):
            top, left, height, width = corners[place]
            # A copy without gaps, made by numpy, which does not wake torch's threads for it. Where the channels lie
            # together the kernel takes half as long, so that is how they are left.
            window = (slice(place, place + 1), slice(top, top + height), slice(left, left + width))
            part = torch.from_numpy(
                np.array(pixels[window if last else (window[0], slice(None), *window[1:])], order="C")
            )
            # On uint8 this is a SIMD kernel, ten times as fast as on float32.
            found = F.interpolate(
                part.permute(0, 3, 1, 2) if last else part, (size, size), mode="bilinear", antialias=True
            ).numpy()[0]
            scaled[place] = found.transpose(1, 2, 0) if last else found

    share_out(len(images), 4, images[:1].numel(), work)
    return result


def resized_crop_at_once(images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Return what `resized_crop` does, to within a grey level, as two matrix products for the whole batch.

    The kernel of the CPU scales the rows, rounds, and scales the columns, so this does too.
    """
    top, left, height, width = boxes.to(images.device).unbind(1)
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    across = scaling_matrix(left, width, images.shape[-1], size).to(dtype)
    down = scaling_matrix(top, height, images.shape[-2], size).to(dtype)
    scaled = images.to(dtype) @ across.transpose(1, 2)[:, None]
    if not images.is_floating_point():
        scaled = scaled.round_()
    scaled = down[:, None] @ scaled
    if not images.is_floating_point():
        scaled = scaled.round_().clamp_(0, 255)
    layout = torch.channels_last if is_channels_last(images) else torch.contiguous_format
    return scaled.to(images.dtype, memory_format=layout)


def scaling_matrix(start: torch.Tensor, length: torch.Tensor, source_px: int, size: int) -> torch.Tensor:
    """Return what scales `length` pixels from `start` on to `size` pixels: float32 `(B, size, source_px)`.

    Args:
        start: first pixel of each part, int64 `(B,)`.
        length: how many pixels each part has, int64 `(B,)`.
        source_px: how many pixels the whole has.
        size: how many pixels the part is scaled to.

    Source: a triangle of half-width max(length / size, 1) around (i + 1/2) * length / size, cut off at the ends of the
    part and divided by its sum; torch's `interpolate(mode="bilinear", antialias=True)`, and Pillow's `resize`.

    >>> scaling_matrix(torch.tensor([1]), torch.tensor([4]), 6, 2).tolist()[0][0]
    [0.0, 0.4285714328289032, 0.4285714328289032, 0.1428571492433548, 0.0, 0.0]
    """
    dtype = torch.float32
    scale = (length.to(dtype) / size)[:, None, None]
    middle = (torch.arange(size, device=start.device, dtype=dtype)[:, None] + 0.5) * scale
    pixel = torch.arange(source_px, device=start.device) - start[:, None]
    inside = (pixel >= 0) & (pixel < length[:, None])
    distance = (pixel[:, None, :].to(dtype) + 0.5 - middle).abs_() / scale.clamp(min=1.0)
    weights = (1.0 - distance).clamp_(min=0.0).mul_(inside[:, None, :])
    return weights.div_(weights.sum(2, keepdim=True))

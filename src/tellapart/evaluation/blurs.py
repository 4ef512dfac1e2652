"""Blurs of batches of images: out of focus, in motion, and zooming."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F


def defocus_blur(images: torch.Tensor, radius: float, alias_blur: float) -> torch.Tensor:
    """Return images seen through a lens that is out of focus: averaged over a disk, float32 `(B, C, H, W)`.

    Args:
        images: float32 `(B, C, H, W)`; beyond their border they go on mirrored, the border itself not repeated.
        radius: of the disk, in pixels.
        alias_blur: standard deviation, in pixels, of the Gaussian that smooths the edge of the disk.

    Source: `disk` and `defocus_blur` in `make_imagenet_c.py` of Hendrycks and Dietterich (2019).
    """
    kernel = disk(radius, alias_blur)
    # Nothing but zeros stands around a small disk; each of them would cost as much as a weight.
    reach = int(np.abs(np.argwhere(kernel > 0) - len(kernel) // 2).max())
    middle = len(kernel) // 2
    kernel = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    padded = _mirrored(images, reach)
    weight = torch.from_numpy(kernel)[None, None]
    flat = padded.reshape(-1, 1, *padded.shape[-2:])
    return F.conv2d(flat, weight).reshape(images.shape)


def disk(radius: float, alias_blur: float) -> np.ndarray:
    """Return the weights of a disk with a smoothed edge, float32, square, in all about one.

    >>> disk(1, 0.2)[7:10, 7:10].round(3).tolist()[1]
    [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """
    half, taps = (8, 3) if radius <= 8 else (math.floor(radius), 5)
    along = np.arange(-half, half + 1)
    inside = (along[:, None] ** 2 + along[None, :] ** 2 <= radius**2).astype(np.float64)
    offsets = np.arange(taps) - taps // 2
    weights = np.exp(-(offsets**2) / (2 * alias_blur**2))
    weights /= weights.sum()
    found = np.pad(inside / inside.sum(), taps // 2, mode="reflect")
    # The same weights along rows and columns, each offset of the smoothing added up.
    size = len(inside)
    smooth = sum(weights[i] * weights[j] * found[i : i + size, j : j + size] for i in range(taps) for j in range(taps))
    return np.asarray(smooth, np.float32)


def motion_blur(images: torch.Tensor, radius: float, sigma: float, angles: Sequence[float]) -> torch.Tensor:
    """Return images smeared along a line, float32 `(B, C, H, W)`, on the scale of the given ones.

    A pixel becomes the mean of itself and the `2 ceil(radius)` pixels that follow along its line, weighted by half a
    Gaussian of standard deviation `sigma`. Beyond their border the images go on as their last pixels.

    Args:
        images: uint8 `(B, C, H, W)`.
        radius: in pixels.
        sigma: in pixels.
        angles: in degrees, one an image: 0 is to the right, 90 down.

    Source: `MotionBlurImage` of ImageMagick, which the code of Hendrycks and Dietterich (2019) calls.
    """
    taps = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    height, width = images.shape[-2:]
    padded = np.pad(images.numpy().astype(np.float32), ((0, 0), (0, 0), (taps, taps), (taps, taps)), mode="edge")
    result = np.zeros(images.shape, np.float32)
    for image, source, angle in zip(result, padded, angles, strict=True):
        down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        for tap, weight in enumerate(weights):
            # Half a pixel rounds down, as in ImageMagick.
            top, left = taps + math.ceil(tap * down - 0.5), taps + math.ceil(tap * right - 0.5)
            image += weight * source[:, top : top + height, left : left + width]
    return torch.from_numpy(result)


def zoom_blur(images: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Return the mean of images and of what a zoom into them shows at each factor, float32 `(B, C, H, W)`.

    Args:
        images: float32 `(B, C, H, W)`, square.
        factors: of the zoom, 1 and above.

    Source: `clipped_zoom` and `zoom_blur` in `make_imagenet_c.py` of Hendrycks and Dietterich (2019).
    """
    side = images.shape[-1]
    total = images.clone()
    for factor in factors:
        inner = math.ceil(side / factor)
        top = (side - inner) // 2
        zoomed = round(inner * factor)
        cut = images[..., top : top + inner, top : top + inner]
        # With the corners kept in place, as in SciPy's zoom.
        larger = F.interpolate(cut, (zoomed, zoomed), mode="bilinear", align_corners=True)
        trim = (zoomed - side) // 2
        total += larger[..., trim : trim + side, trim : trim + side]
    return total / (len(factors) + 1)


def _mirrored(images: torch.Tensor, margin: int) -> torch.Tensor:
    """Return images with a margin in which they go on mirrored, however small they are."""
    for axis in (2, 3):
        places = np.pad(np.arange(images.shape[axis]), margin, mode="reflect")
        images = images.index_select(axis, torch.from_numpy(places))
    return images

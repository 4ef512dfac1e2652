"""Turning, shearing and moving: each pixel of the result is looked up at a place of the image, black outside of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import functional as F

from tellapart.data.augment.draw import Draw, between
from tellapart.data.augment.layout import in_chunks


def rotation(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Turn by up to rotation-degrees either way."""
    limit = draw.config.rotation_degrees
    degrees = [between(u, -limit, limit) for (u,) in draw.uniform_rows("rotation", 1)]
    return rotate(images, torch.tensor(degrees, dtype=torch.float64))


def rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Turn each image about its middle, counter-clockwise, blending neighbouring pixels.

    Args:
        images: `(B, C, H, W)`, uint8 or floating point.
        degrees: float64 `(B,)`.
    """
    return _look_up_blended(images, rotation_matrices(degrees))


def rotate_nearest(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Turn each image about its middle, counter-clockwise, taking the nearest pixel."""
    return _look_up_nearest(images, rotation_matrices(degrees))


def shear_x(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Move each row to the left by its distance from the top times the image's slope, taking the nearest pixel."""
    height = images.shape[-2]
    return _look_up_nearest(images, _matrices((1, slope, slope * height / 2, 0, 1, 0) for slope in slopes.tolist()))


def shear_y(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Move each column up by its distance from the left times the image's slope, taking the nearest pixel."""
    width = images.shape[-1]
    return _look_up_nearest(images, _matrices((1, 0, 0, slope, 1, slope * width / 2) for slope in slopes.tolist()))


def translate_x(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Move each image to the right by so many pixels, float64 `(B,)`, without the fraction."""
    return _look_up_nearest(images, _matrices((1, 0, -int(by), 0, 1, 0) for by in pixels.tolist()))


def translate_y(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Move each image down by so many pixels, float64 `(B,)`, without the fraction."""
    return _look_up_nearest(images, _matrices((1, 0, 0, 0, 1, -int(by)) for by in pixels.tolist()))


def rotation_matrices(degrees: torch.Tensor) -> torch.Tensor:
    """Return for each image where a pixel of the turned one comes from, float64 `(B, 6)`.

    A row a, b, c, d, e, f says (a x + b y + c, d x + e y + f), in pixels from the middle, x to the right and y down.

    >>> rotation_matrices(torch.tensor([90.0], dtype=torch.float64)).round().abs().tolist()
    [[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]]
    """
    # Python's sine, one by one: torch's can differ in the last bit with the place in the batch.
    angles = [math.radians(angle) for angle in degrees.tolist()]
    return _matrices((math.cos(a), -math.sin(a), 0, math.sin(a), math.cos(a), 0) for a in angles)


def _matrices(rows: Iterable[tuple[float, ...]]) -> torch.Tensor:
    return torch.tensor(list(rows), dtype=torch.float64).reshape(-1, 6)


def source_places(matrices: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return column and row, float32 `(B, H, W)` each, that the pixels of the result come from; may lie outside."""
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    x = torch.arange(width, device=matrices.device, dtype=torch.float32) - (width - 1) / 2
    y = (torch.arange(height, device=matrices.device, dtype=torch.float32) - (height - 1) / 2)[:, None]
    # A product of each coordinate, rounded by itself, and then a sum: the same bits whatever is computed beside it.
    return (b * y + (c + (width - 1) / 2)) + a * x, (e * y + (f + (height - 1) / 2)) + d * x


@in_chunks
def _look_up_nearest(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    column, row = source_places(matrices.to(torch.float32).to(images.device), height, width)
    # What lies outside is looked up in a black border, because comparisons take several times as long on the CPU.
    bordered = F.pad(images, (1, 1, 1, 1)).flatten(2)
    column = column.round_().clamp_(-1, width).to(torch.int32)
    row = row.round_().clamp_(-1, height).to(torch.int32)
    places = row.add_(1).mul_(width + 2).add_(column.add_(1)).to(torch.int64).flatten(1)
    return bordered.gather(2, places[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


@in_chunks
def _look_up_blended(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    column, row = source_places(matrices.to(torch.float32).to(images.device), height, width)
    grid = torch.stack(((column * 2 + 1) / width - 1, (row * 2 + 1) / height - 1), dim=-1)
    working = images if images.is_floating_point() else images.to(torch.float32)
    found = F.grid_sample(working, grid.to(working.dtype), "bilinear", "zeros", align_corners=False)
    return found if images.is_floating_point() else found.round_().to(images.dtype)

"""Test-time augmentation: an image is judged by the mean of what a network says of several views of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tellapart.errors import ConfigError, unknown_name

View = Callable[[torch.Tensor], torch.Tensor]


def as_is(images: torch.Tensor) -> torch.Tensor:
    """Return the images themselves."""
    return images


def mirrored(images: torch.Tensor) -> torch.Tensor:
    """Return images `(B, C, H, W)` turned left to right.

    >>> mirrored(torch.tensor([[[[1, 2, 3]]]])).flatten().tolist()
    [3, 2, 1]
    """
    return images.flip(-1)


def down_right(images: torch.Tensor) -> torch.Tensor:
    """Return images moved one pixel down and right; what comes in is the reflection of what stands next to the edge.

    >>> down_right(torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])).tolist()
    [[[[5, 4, 5], [2, 1, 2]]]]
    """
    return _moved(images, -1)


def up_left(images: torch.Tensor) -> torch.Tensor:
    """Return images moved one pixel up and left, reflected at the other edges.

    >>> up_left(torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])).tolist()
    [[[[5, 6, 5], [2, 3, 2]]]]
    """
    return _moved(images, 1)


def down_right_mirrored(images: torch.Tensor) -> torch.Tensor:
    """Return what `down_right` does, then turned left to right."""
    return mirrored(down_right(images))


def up_left_mirrored(images: torch.Tensor) -> torch.Tensor:
    """Return what `up_left` does, then turned left to right."""
    return mirrored(up_left(images))


# Each view with its weight; the weights of a name add up to 1. Source of the last: Jordan (2024), "94% on CIFAR-10 in
# 3.29 seconds on a single GPU", section 3.5 (multi-crop evaluation): the image and its mirror image have half the
# weight, two translates and their mirror images share the other half.
TTA: Mapping[str, tuple[tuple[float, View], ...]] = {
    "none": ((1.0, as_is),),
    "flip": ((0.5, as_is), (0.5, mirrored)),
    "flip-shift": (
        (0.25, as_is),
        (0.25, mirrored),
        (0.125, down_right),
        (0.125, down_right_mirrored),
        (0.125, up_left),
        (0.125, up_left_mirrored),
    ),
}


def mean_over_views(function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, tta: str) -> torch.Tensor:
    """Return the weighted mean of what `function` gives for each view of the images, float32 `(B, K)`.

    Args:
        function: images to logits `(B, K)`.
        images: of any dtype, `(B, C, H, W)`.
        tta: a name from `TTA`; "none" gives `function(images)` to the bit.

    Raises:
        ConfigError: there is no such name.
    """
    (weight, view), *others = views(tta)
    mean = function(view(images)).float()
    if others:
        mean = weight * mean
    for weight, view in others:
        mean = mean + weight * function(view(images)).float()
    return mean


def views(tta: str) -> tuple[tuple[float, View], ...]:
    """Return the views of a name, each with its weight.

    Raises:
        ConfigError: there is no such name.
    """
    if tta not in TTA:
        raise ConfigError([unknown_name("tta", tta, TTA)])
    return TTA[tta]


def _moved(images: torch.Tensor, by: int) -> torch.Tensor:
    """Return `images[..., y + by, x + by]`, indices beyond an edge reflected at it."""
    for axis in (-2, -1):
        size = images.shape[axis]
        places = torch.arange(size, device=images.device) + by
        # An image one pixel wide has nothing next to its edge.
        last = size - 1
        places = (last - (last - places.abs()).abs()).clamp(0, last)
        images = images.index_select(axis % images.ndim, places)
    return images

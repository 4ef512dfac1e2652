"""The one preprocessing: what turns a decoded uint8 image into the network's input, in training and ever after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tellapart.errors import ConfigError

# An image longer than this many times its shorter side is cut before it is scaled: the middle square moves by less than
# a pixel, and a line of 1 x 60,000 pixels does not grow into a strip that fills the memory.
_MAX_ASPECT = 16


class Preprocess(nn.Module):
    """Reduce decoded images to a square and normalise them.

    It works in two stages, so that the first can be done once and kept: `reduce` makes any image a uint8 square of
    `resize_px`, and leaves one that is such a square already as it is; `normalize` takes the middle `size_px` of it
    and scales to mean 0 and standard deviation 1. `forward` is both.

    Args:
        size_px: side of the square the network sees, in pixels.
        resize_px: side of the square that `reduce` makes; at least `size_px`.
        fit: "crop" scales the shorter side and takes the middle, "squash" scales both sides.
        mean: per channel, of images in 0 to 1; their number is the number of channels.
        std: per channel, of images in 0 to 1.

    Shapes: uint8 `(B, C, H, W)` to float32 `(B, C, size_px, size_px)`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, size_px: int, mean: Sequence[float], std: Sequence[float], *, resize_px: int = 0, fit: str = "crop"
    ) -> None:
        super().__init__()
        self.size_px = size_px
        # An even margin keeps the middle of the middle where the middle of the whole is.
        self.resize_px = max(resize_px, size_px) + (max(resize_px, size_px) - size_px) % 2
        if fit not in ("crop", "squash"):
            raise ConfigError([f"preprocess.fit: expected crop or squash, found '{fit}'"])
        self.fit = fit
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))

    @property
    def num_channels(self) -> int:
        """How many channels an image must have."""
        return self.mean.numel()

    def settings(self) -> dict[str, Any]:
        """Return what a bundle's config.json needs to make this module again."""
        return {
            "size_px": self.size_px,
            "resize_px": self.resize_px,
            "fit": self.fit,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    def reduce(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as uint8 squares: `(..., C, H, W)` to `(..., C, resize_px, resize_px)`."""
        height, width = images.shape[-2:]
        side = self.resize_px
        if self.fit == "squash":
            return _resize(images, side, side)
        shorter = min(height, width)
        images = _center_strip(images, _MAX_ASPECT * shorter)
        # Whole pixels, rounded down as torchvision's Resize does.
        images = _resize(images, *(side * size // shorter for size in images.shape[-2:]))
        return center_crop(images, side)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input for reduced uint8 images: the middle `size_px`, normalised, float32."""
        images = center_crop(images, self.size_px)
        scale = 1.0 / (255.0 * self.std)
        shift = -self.mean / self.std
        return torch.addcmul(shift[:, None, None], images.to(torch.float32), scale[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input for decoded uint8 images `(B, C, H, W)` of any size."""
        return self.normalize(self.reduce(images))


def center_crop(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the middle square of `(..., H, W)`; images that are no larger come back as they are."""
    top, left = ((size - side) // 2 if size > side else 0 for size in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def _center_strip(images: torch.Tensor, length: int) -> torch.Tensor:
    """Return the middle of what is longer than `length`; an even margin keeps the middle where it is."""
    cuts = [max(size - length, 0) // 2 for size in images.shape[-2:]]
    return images[..., cuts[0] : images.shape[-2] - cuts[0], cuts[1] : images.shape[-1] - cuts[1]]


def _resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize bilinearly with antialiasing, in float32 and rounded back, so that every device and export agrees."""
    if images.shape[-2:] == (height, width):
        return images
    batch = images if images.ndim == 4 else images[None]
    resized = F.interpolate(batch.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized if images.ndim == 4 else resized[0]

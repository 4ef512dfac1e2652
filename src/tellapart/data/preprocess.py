"""The one preprocessing: what turns a decoded uint8 image into the network's input, in training and ever after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tellapart.data.decode import background_rgb, decode
from tellapart.data.jpeg import reduction
from tellapart.errors import ConfigError

# The shorter side down to which a JPEG may be decoded to hash its pixels, whatever size a run trains at: the hash draws
# the splits, which must not depend on that.
_HASHED_SIDE_PX = 512
_SCALED_NUMBERS = 2**19


class Preprocess(nn.Module):
    """Reduce decoded images to a square and normalise them.

    It works in two stages, so that the first can be done once and kept: `reduce` makes any image a uint8 square of
    `resize_px`, and leaves one that is such a square already as it is; `normalize` takes the middle `size_px` of it
    and scales to mean 0 and standard deviation 1. `forward` is both.

    Args:
        size_px: side of the square the network sees, in pixels.
        resize_px: side of the square that `reduce` makes; at least `size_px`.
        fit: "crop" takes the square in the middle and scales it, "squash" scales both sides.
        mean: per channel, of images in 0 to 1; their number is the number of channels.
        std: per channel, of images in 0 to 1.
        background: what lies behind transparent pixels when a file is decoded: white, black, grey or #rrggbb.

    Shapes: uint8 `(B, C, H, W)` to float32 `(B, C, size_px, size_px)`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        resize_px: int = 0,
        fit: str = "crop",
        background: str = "white",
    ) -> None:
        super().__init__()
        self.size_px = size_px
        # An even margin keeps the middle of the middle where the middle of the whole is.
        self.resize_px = max(resize_px, size_px) + (max(resize_px, size_px) - size_px) % 2
        if fit not in ("crop", "squash"):
            raise ConfigError([f"preprocess.fit: expected crop or squash, found '{fit}'"])
        self.fit, self.background = fit, background
        self._background_rgb = background_rgb(background)
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
            "background": self.background,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    def decode(self, raw: bytes | np.ndarray) -> np.ndarray:
        """Return an image's pixels, uint8 `(C, H, W)`, as every reader of encoded images is to decode them.

        A JPEG with sides far above `resize_px` is decoded at a half, a quarter or an eighth of its size: still at
        least twice what `reduce` makes of it, so that the resampling decides how it looks.

        Raises:
            ImageError: it cannot be read.
        """
        smallest = max(_HASHED_SIDE_PX, 2 * self.resize_px)
        return decode(raw, self.num_channels, background=self._background_rgb, min_side_px=smallest)

    def hashed_pixels(self, raw: bytes | np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return the pixels of an image that its hash is taken of: those `decode` gave, or those a smaller run has."""
        side = min(pixels.shape[1:])
        if (
            isinstance(raw, np.ndarray)
            or 2 * self.resize_px <= _HASHED_SIDE_PX
            or reduction(side, _HASHED_SIDE_PX) == 1
        ):
            return pixels
        return decode(raw, self.num_channels, background=self._background_rgb, min_side_px=_HASHED_SIDE_PX)

    def reduce(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as uint8 squares: `(..., C, H, W)` to `(..., C, resize_px, resize_px)`."""
        if self.fit == "crop":
            images = center_crop(images, min(images.shape[-2:]))
        return _resize(images, self.resize_px)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input for reduced uint8 images: the middle `size_px`, normalised, float32."""
        images = center_crop(images, self.size_px)
        scale = 1.0 / (255.0 * self.std)
        shift = -self.mean / self.std
        rows = images.permute(0, 2, 3, 1)
        if self.num_channels > 1 and rows.is_contiguous():
            # The channels lie side by side: a row of pixels at a time, which a processor's vectors like better than
            # three numbers at a time. The same products and sums, so the same bits.
            batch, height, width, channels = rows.shape
            flat = rows.reshape(batch * height, width * channels)
            scaled = torch.empty(flat.shape, dtype=torch.float32, device=flat.device)
            # Some images at a time, so that what lies in between stays in a processor's cache.
            step = batch * height if flat.is_cuda else max(1, _SCALED_NUMBERS // (width * channels))
            wide_shift, wide_scale = shift.repeat(width), scale.repeat(width)
            for part, out in zip(flat.split(step), scaled.split(step), strict=True):
                torch.addcmul(wide_shift, part.to(torch.float32), wide_scale, out=out)
            return scaled.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return torch.addcmul(shift[:, None, None], images.to(torch.float32), scale[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's input for decoded uint8 images `(B, C, H, W)` of any size."""
        return self.normalize(self.reduce(images))


def center_crop(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the middle square of `(..., H, W)`; images that are no larger come back as they are."""
    if images.shape[-2] <= side and images.shape[-1] <= side:
        return images
    top, left = ((size - side) // 2 if size > side else 0 for size in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def _resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """Resize bilinearly with antialiasing, along rows and then along columns, rounded to whole grey levels after each.

    That is how Pillow and torch's integer routine for the CPU do it, which is four times as fast as floating point.
    Elsewhere the same is computed in float32; one pixel in fifty or fewer then differs, by one level.
    """
    if images.shape[-2:] == (side, side):
        return images
    batch = images if images.ndim == 4 else images[None]
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        # Channels last and without gaps, the routine takes a third of the time.
        resized = _interpolate(batch.contiguous(memory_format=torch.channels_last), side, side)
    else:
        # A half goes up, as in the integer routine; `round` would send it to the even neighbour.
        rows = _interpolate(batch.float(), images.shape[-2], side).add_(0.5).floor_().clamp_(0, 255)
        resized = _interpolate(rows, side, side).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return resized if images.ndim == 4 else resized[0]


def _interpolate(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)

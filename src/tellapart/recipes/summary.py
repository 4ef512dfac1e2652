"""What a recipe knows of the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSummary:
    """What a recipe may depend on; nothing in it comes from val or test labels.

    `size_px` is the typical shorter side of the images, `num_images` counts those that are not in a test part.
    """

    name: str
    task: str
    num_images: int
    num_classes: int
    num_channels: int
    size_px: int

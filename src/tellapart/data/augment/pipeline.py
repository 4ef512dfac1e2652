"""The augmentations by name, and those of a config as one function of a batch."""

from __future__ import annotations

import torch

from tellapart.config import AugmentConfig
from tellapart.data.augment.colour import color_jitter
from tellapart.data.augment.crops import random_resized_crop
from tellapart.data.augment.draw import Augmentation, Draw
from tellapart.data.augment.erasing import random_erasing
from tellapart.data.augment.flips import flip, flip_crop, shift
from tellapart.data.augment.mixing import MIXES
from tellapart.data.augment.policies import randaugment, trivialaugment
from tellapart.data.augment.warps import rotation
from tellapart.errors import ConfigError, unknown_name


def unchanged(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Leave the images as they are."""
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "flip": flip,
    "shift": shift,
    "flip-crop": flip_crop,
    "random-resized-crop": random_resized_crop,
    "rotation": rotation,
    "color-jitter": color_jitter,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "random-erasing": random_erasing,
}


class Augment:
    """The augmentations of a config, in order, as one function of a batch.

    Raises:
        ConfigError: a name that is not in AUGMENTATIONS.
    """

    def __init__(self, config: AugmentConfig, size_px: int, seed: int) -> None:
        names = [name for name in config.transforms if name not in MIXES]
        unknown = [unknown_name("augmentation", n, [*AUGMENTATIONS, *MIXES]) for n in names if n not in AUGMENTATIONS]
        if unknown:
            raise ConfigError(unknown)
        # Names, not functions: a worker process that is not forked gets this object pickled.
        self.names = names
        self.config = config
        self.size_px = size_px
        self.seed = seed

    def __call__(self, images: torch.Tensor, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return `(B, C, h, w)` for uint8 images, or floats in [0, 1], of samples `indices` int64 `(B,)`.

        Dtype, device and memory format stay. Indices on the CPU save a wait for the GPU, because most augmentations
        compute their parameters on the CPU.
        """
        for place, name in enumerate(self.names):
            images = AUGMENTATIONS[name](images, Draw(indices, epoch, self.seed, self.size_px, self.config, place))
        return images

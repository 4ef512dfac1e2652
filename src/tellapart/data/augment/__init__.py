"""Augmentation of whole batches, on the CPU or a GPU.

Each draw is a function of (seed, epoch, image index), and what is made of an image of that image alone. So neither the
batch that it is in, nor the process that augments it, changes what happens to it: on the CPU not by a bit.
"""

from __future__ import annotations

from tellapart.data.augment.draw import Augmentation, Draw
from tellapart.data.augment.flips import flip, flip_crop, shift
from tellapart.data.augment.mixing import MIXES, Mix
from tellapart.data.augment.pipeline import AUGMENTATIONS, Augment

__all__ = ["AUGMENTATIONS", "MIXES", "Augment", "Augmentation", "Draw", "Mix", "flip", "flip_crop", "shift"]

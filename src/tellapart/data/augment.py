"""Augmentation of uint8 batches. Each draw is a function of (seed, epoch, image index), so neither the batch an image
is in, nor the process that augments it, changes what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from tellapart import seeding
from tellapart.config import AugmentConfig
from tellapart.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torchvision.transforms import v2


@dataclass(frozen=True)
class Draw:
    """What an augmentation of one batch may depend on."""

    indices: torch.Tensor
    epoch: int
    seed: int
    size_px: int
    config: AugmentConfig
    place: int = 0

    def uniform(self, purpose: str, num_draws: int = 1) -> torch.Tensor:
        """Return float64 `(B, num_draws)` in [0, 1), a function of (seed, purpose, epoch, place, index).

        `place` is the augmentation's among the others: one that is named twice draws twice.
        """
        return seeding.uniform(self.indices, num_draws, self.seed, f"augment/{purpose}", self.epoch, self.place)


Augmentation = Callable[[torch.Tensor, Draw], torch.Tensor]


def flip(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror each image, left to right, or leave it, as a coin falls."""
    mirrored = (draw.uniform("flip")[:, 0] < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def shift(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Cut a square of the network's size at a random place, over a black border of pad-px."""
    pad, size = draw.config.pad_px, draw.size_px
    padded = F.pad(images, (pad, pad, pad, pad))
    draws = draw.uniform("shift", 2)
    top = (draws[:, 0] * (padded.shape[-2] - size + 1)).long().to(images.device)
    left = (draws[:, 1] * (padded.shape[-1] - size + 1)).long().to(images.device)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip_crop(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Mirror each image or not, and shift it by up to pad-px over black."""
    return shift(flip(images, draw), draw)


def _per_image(build: Callable[[Draw, int], Any], purpose: str, doc: str) -> Augmentation:
    """Return an augmentation that runs a torchvision v2 transform image by image, under a seed of its own."""

    def augment(images: torch.Tensor, draw: Draw) -> torch.Tensor:
        transform = build(draw, images.shape[1])
        results = []
        with _borrowed_torch():
            for image, index in zip(images, draw.indices.tolist(), strict=True):
                seed = seeding.derive(draw.seed, f"augment/{purpose}", draw.epoch, draw.place, index)
                # The CPU's generator is the one that torchvision draws from. torch.manual_seed would seed those of all
                # devices, which nobody would set back, and takes 200 times as long.
                torch.default_generator.manual_seed(seed)
                results.append(transform(image))
        return torch.stack(results)

    augment.__doc__ = doc
    return augment


@contextmanager
def _borrowed_torch() -> Iterator[None]:
    """Lend torch's global generator to torchvision, on one thread, and hand both back as they were.

    Several threads add up an image's mean in another order, which can change the last bit of what comes of it.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(num_threads)


def _v2() -> Any:
    from torchvision.transforms import v2

    return v2


def _random_resized_crop(draw: Draw, channels: int) -> v2.Transform:
    return _v2().RandomResizedCrop(draw.size_px, scale=(draw.config.min_scale, 1.0), antialias=True)


def _rotation(draw: Draw, channels: int) -> v2.Transform:
    return _v2().RandomRotation(draw.config.rotation_degrees, interpolation=_v2().InterpolationMode.BILINEAR)


def _color_jitter(draw: Draw, channels: int) -> v2.Transform:
    jitter = draw.config.jitter
    return _v2().ColorJitter(jitter, jitter, jitter if channels == 3 else 0.0, jitter / 4 if channels == 3 else 0.0)


def _random_erasing(draw: Draw, channels: int) -> v2.Transform:
    return _v2().RandomErasing(p=draw.config.erasing_prob, value=[127.0] * channels)


def _unchanged(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Leave the images as they are."""
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _unchanged,
    "flip": flip,
    "shift": shift,
    "flip-crop": flip_crop,
    "random-resized-crop": _per_image(
        _random_resized_crop, "resized-crop", "Cut out a part of random area and shape and scale it to the full size."
    ),
    "rotation": _per_image(_rotation, "rotation", "Turn by up to rotation-degrees either way."),
    "color-jitter": _per_image(_color_jitter, "jitter", "Change brightness, contrast, saturation and hue at random."),
    "randaugment": _per_image(
        lambda draw, channels: _v2().RandAugment(), "randaugment", "Two of torchvision's 14 operations at strength 9."
    ),
    "trivialaugment": _per_image(
        lambda draw, channels: _v2().TrivialAugmentWide(), "trivialaugment", "One operation at a random strength."
    ),
    "random-erasing": _per_image(_random_erasing, "erasing", "Paint a random rectangle grey, at erasing-prob."),
}

# These two mix images and targets, so they run on normalised batches; see `Mix`.
MIXES = ("mixup", "cutmix")


class Augment:
    """The augmentations of a config, in order, as one function of a uint8 batch.

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
        """Return uint8 `(B, C, h, w)` for uint8 `(B, C, H, W)` of the samples `indices` int64 `(B,)`."""
        for place, name in enumerate(self.names):
            images = AUGMENTATIONS[name](images, Draw(indices, epoch, self.seed, self.size_px, self.config, place))
        return images


class Mix:
    """Mixup or cutmix of normalised batches, one choice a batch, as a function of (seed, epoch, batch).

    Source: Zhang et al. 2018, arXiv 1710.09412, section 2 (mixup); Yun et al. 2019, arXiv 1905.04899, section 3.1
    (cutmix). One lambda a batch, the partner is the same batch in another order.
    """

    def __init__(self, config: AugmentConfig, num_classes: int, seed: int) -> None:
        self.kinds = [name for name in config.transforms if name in MIXES]
        self.alphas = {"mixup": config.mixup_alpha, "cutmix": config.cutmix_alpha}
        self.num_classes = num_classes
        self.seed = seed

    def __call__(
        self, inputs: torch.Tensor, targets: torch.Tensor, epoch: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed float images `(B, C, H, W)` and soft targets `(B, K)`; both unchanged if nothing mixes."""
        if not self.kinds:
            return inputs, targets
        if targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes).to(torch.float32)
        generator = seeding.generator(self.seed, "mix", epoch, batch)
        kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))]
        partner = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        share = _beta(self.alphas[kind], seeding.derive(self.seed, "mix/lambda", epoch, batch))
        if kind == "mixup":
            inputs = torch.lerp(inputs[partner], inputs, share)
        else:
            inputs, share = _paste(inputs, partner, share, generator)
        return inputs, torch.lerp(targets[partner], targets, share)


def _beta(alpha: float, seed: int) -> float:
    import numpy as np

    return float(np.random.Generator(np.random.Philox(seed)).beta(alpha, alpha))


def _paste(
    inputs: torch.Tensor, partner: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    """Paste a rectangle of the partner's area 1 - share; return the share that is really left."""
    height, width = inputs.shape[-2:]
    cut = (1.0 - share) ** 0.5
    middle_y, middle_x = (float(u) for u in torch.rand(2, generator=generator))
    top, bottom = (
        round(min(max(middle_y * height + half, 0), height)) for half in (-cut * height / 2, cut * height / 2)
    )
    left, right = (round(min(max(middle_x * width + half, 0), width)) for half in (-cut * width / 2, cut * width / 2))
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs[partner][..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)

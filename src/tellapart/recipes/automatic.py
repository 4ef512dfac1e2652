"""What to do with images that nobody has said anything about."""

from __future__ import annotations

from tellapart.config import (
    AugmentConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from tellapart.recipes.digits import digits_quick
from tellapart.recipes.summary import DataSummary

# From here on an image is a photograph: it is scaled, and cut out at random places and sizes.
_PHOTOGRAPH_PX = 65
_PHOTOGRAPH_SIZE_PX = 128
# Image views that a small network needs to learn from nothing; few images are seen more often.
_VIEWS_WANTED = 500_000


def automatic(data: DataSummary) -> RunConfig:
    """A default by image size and number of images: small images whole, photographs at 128 px.

    Command: `tellapart train FOLDER`.
    """
    if data.name == "digits" and data.task == "multiclass":
        return digits_quick(data)
    return _photographs(data) if data.size_px >= _PHOTOGRAPH_PX else _small_images(data)


def _epochs(num_images: int, least: int, most: int) -> int:
    return max(least, min(most, round(_VIEWS_WANTED / max(num_images, 1))))


def _batch_size(num_images: int, largest: int) -> int:
    """Return the largest power of two that still makes 16 steps an epoch, between 8 and `largest`."""
    size = 8
    while size * 2 <= largest and size * 32 <= num_images:
        size *= 2
    return size


def _small_images(data: DataSummary) -> RunConfig:
    size_px = max(8, data.size_px)
    return RunConfig(
        recipe="auto",
        preprocess=PreprocessConfig(size_px=size_px),
        # A mirrored digit is another sign: images in grey are shifted only.
        augment=AugmentConfig(transforms=("flip-crop",) if data.num_channels == 3 else ("shift",), pad_px=size_px // 8),
        model=ModelConfig(name="cifar10-cnn"),
        loss=LossConfig(label_smoothing=0.1 if data.task == "multiclass" else 0.0),
        optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.01),
        schedule=ScheduleConfig(name="one-cycle"),
        train=TrainConfig(epochs=_epochs(data.num_images, 10, 100), batch_size=_batch_size(data.num_images, 128)),
    )


def _photographs(data: DataSummary) -> RunConfig:
    return RunConfig(
        recipe="auto",
        preprocess=PreprocessConfig(size_px=_PHOTOGRAPH_SIZE_PX, resize_px=_PHOTOGRAPH_SIZE_PX * 9 // 8),
        augment=AugmentConfig(transforms=("random-resized-crop", "flip", "color-jitter")),
        model=ModelConfig(name="resnet18"),
        loss=LossConfig(label_smoothing=0.1 if data.task == "multiclass" else 0.0),
        optim=OptimConfig(name="adamw", lr=0.001, weight_decay=0.05),
        schedule=ScheduleConfig(name="one-cycle"),
        train=TrainConfig(epochs=_epochs(data.num_images, 10, 40), batch_size=_batch_size(data.num_images, 64)),
    )

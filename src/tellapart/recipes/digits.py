"""The embedded default: a classifier of handwritten digits in seconds, without a network."""

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
from tellapart.recipes.summary import DataSummary


def digits_quick(data: DataSummary) -> RunConfig:
    """A small convolutional network for 8 x 8 digits, shifted by up to a pixel.

    Command: `tellapart train digits`.
    """
    return RunConfig(
        recipe="digits-quick",
        preprocess=PreprocessConfig(size_px=data.size_px),
        augment=AugmentConfig(transforms=("shift",), pad_px=1),
        model=ModelConfig(name="cifar10-cnn"),
        loss=LossConfig(label_smoothing=0.1),
        optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.01),
        schedule=ScheduleConfig(name="one-cycle"),
        train=TrainConfig(epochs=15, batch_size=64),
    )

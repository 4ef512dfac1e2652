"""The embedded default: a classifier of handwritten digits in seconds, without a network."""

from __future__ import annotations

from tellapart.config import (
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
    """A small convolutional network for handwritten digits of 8 x 8 pixels, in seconds.

    Command: `tellapart train digits`. Measured on two cores over seeds 0 to 5: 99.6% on val (least 99.4%), 98.9% on
    test, n = 180 each, in 4 to 8 s. Shifting the digits by a pixel gave 98.9% and 97.7% in as many epochs.
    """
    return RunConfig(
        recipe="digits-quick",
        preprocess=PreprocessConfig(size_px=data.size_px if data.size_px <= 64 else 32),
        model=ModelConfig(name="cnn"),
        loss=LossConfig(label_smoothing=0.1 if data.task == "multiclass" else 0.0),
        optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.01),
        schedule=ScheduleConfig(name="one-cycle"),
        train=TrainConfig(epochs=10, batch_size=64),
    )

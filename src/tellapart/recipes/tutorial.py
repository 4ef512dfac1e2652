"""The tutorial's own settings."""

from __future__ import annotations

from tellapart.config import (
    AugmentConfig,
    ModelConfig,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from tellapart.recipes.summary import DataSummary


def tutorial(data: DataSummary) -> RunConfig:
    """The article's CIFAR-10 classifier: its network, AdamW, one-cycle, flip and crop, 100 epochs.

    Command: `tellapart train cifar10 --recipe tutorial`.
    """
    return RunConfig(
        recipe="tutorial",
        preprocess=PreprocessConfig(size_px=data.size_px if data.size_px <= 64 else 32, normalize="half"),
        augment=AugmentConfig(transforms=("flip-crop",), pad_px=4),
        model=ModelConfig(name="cifar10-cnn"),
        optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.01, decay_norm_and_bias=True),
        schedule=ScheduleConfig(name="one-cycle"),
        train=TrainConfig(epochs=100, batch_size=128),
    )

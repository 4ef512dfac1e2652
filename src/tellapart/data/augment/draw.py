"""What an augmentation may depend on: the seed, the epoch and the image's index, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tellapart import seeding
from tellapart.config import AugmentConfig

Number = TypeVar("Number", float, torch.Tensor)


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

    def uniform_rows(self, purpose: str, num_draws: int) -> list[list[float]]:
        """Return the same draws as a list of numbers for each sample, to compute with on the CPU.

        Where `indices` lie on a GPU this waits for it; a loader that keeps them on the CPU avoids that.
        """
        return self.uniform(purpose, num_draws).tolist()


def between(draw: Number, low: float, high: float) -> Number:
    """Return the number that lies as far between `low` and `high` as `draw` does between 0 and 1.

    >>> between(0.25, 10.0, 20.0)
    12.5
    """
    return low + draw * (high - low)


Augmentation = Callable[[torch.Tensor, Draw], torch.Tensor]

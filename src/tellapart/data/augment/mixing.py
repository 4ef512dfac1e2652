"""Mixup and cutmix: an image and its target blended with another of the batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tellapart import seeding
from tellapart.config import AugmentConfig

# These two mix images and targets, so they run on normalised batches.
MIXES = ("mixup", "cutmix")


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

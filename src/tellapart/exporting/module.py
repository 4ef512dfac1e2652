"""The whole classifier as one module: decoded uint8 images in, probabilities out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tellapart.data.preprocess import Preprocess
from tellapart.evaluation.calibration import apply_temperature
from tellapart.evaluation.outputs import to_outputs


class ClassifierModule(nn.Module):
    """Preprocessing, network and the step to probabilities; what is stored, evaluated and exported.

    Args:
        preprocess: decoded image to input.
        network: input to logits `(B, K)`.
        task: "multiclass", "multilabel" or "regression".
        target_mean: regression: mean of the training targets, `(K,)`.
        target_std: regression: their standard deviation, `(K,)`.
        thresholds: multilabel: above what probability each class is predicted, `(K,)`; by default 0.5 for each.

    The temperature is 1 until `calibrate` sets it; a regression has no use for it.

    Shapes: uint8 `(B, C, H, W)` to float32 `(B, K)`.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor
    temperature: torch.Tensor
    thresholds: torch.Tensor | None

    def __init__(
        self,
        preprocess: Preprocess,
        network: nn.Module,
        task: str,
        target_mean: torch.Tensor | None = None,
        target_std: torch.Tensor | None = None,
        thresholds: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.preprocess, self.network, self.task = preprocess, network, task
        self.register_buffer("target_mean", torch.zeros(1) if target_mean is None else target_mean.float())
        self.register_buffer("target_std", torch.ones(1) if target_std is None else target_std.float())
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("thresholds", None if thresholds is None else thresholds.float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return outputs for decoded images of any one size."""
        return self.from_reduced(self.preprocess.reduce(images))

    def from_reduced(self, images: torch.Tensor) -> torch.Tensor:
        """Return outputs for images that `preprocess.reduce` made, uint8 `(B, C, R, R)`."""
        return self.from_logits(self.logits(images))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the network says of reduced images, before the temperature: `(B, K)`."""
        return self.network(self.preprocess.normalize(images).contiguous(memory_format=torch.channels_last))

    def from_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return outputs for logits: calibrated probabilities, or numbers in the targets' unit."""
        return to_outputs(logits, self.task, self.target_mean, self.target_std, self.temperature)

    def calibrate(self, temperature: float, thresholds: np.ndarray | None = None) -> None:
        """Set the temperature and the thresholds `(K,)`, if any, which count for the probabilities that it gives."""
        self.temperature.fill_(temperature)
        chosen = None if thresholds is None else torch.from_numpy(np.array(thresholds, np.float32))
        self.thresholds = None if chosen is None else chosen.to(self.temperature.device)

    def remove_calibration(self) -> None:
        """Give the probabilities as the network has them; the thresholds move with them, so labels stay the same."""
        undone = 1.0 / float(self.temperature)
        kept = None
        if self.thresholds is not None:
            kept = apply_temperature(self.thresholds.cpu().numpy(), undone, "multilabel")
        self.calibrate(1.0, kept)

"""The whole classifier as one module: decoded uint8 images in, probabilities out."""

from __future__ import annotations

import torch
from torch import nn

from tellapart.data.preprocess import Preprocess
from tellapart.evaluation.outputs import to_outputs


class ClassifierModule(nn.Module):
    """Preprocessing, network and the step to probabilities; what is stored, evaluated and exported.

    Args:
        preprocess: decoded image to input.
        network: input to logits `(B, K)`.
        task: "multiclass", "multilabel" or "regression".
        target_mean: regression: mean of the training targets, `(K,)`.
        target_std: regression: their standard deviation, `(K,)`.

    Shapes: uint8 `(B, C, H, W)` to float32 `(B, K)`.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(
        self,
        preprocess: Preprocess,
        network: nn.Module,
        task: str,
        target_mean: torch.Tensor | None = None,
        target_std: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.preprocess, self.network, self.task = preprocess, network, task
        self.register_buffer("target_mean", torch.zeros(1) if target_mean is None else target_mean.float())
        self.register_buffer("target_std", torch.ones(1) if target_std is None else target_std.float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return outputs for decoded images of any one size."""
        return self.from_reduced(self.preprocess.reduce(images))

    def from_reduced(self, images: torch.Tensor) -> torch.Tensor:
        """Return outputs for images that `preprocess.reduce` made, uint8 `(B, C, R, R)`."""
        inputs = self.preprocess.normalize(images).contiguous(memory_format=torch.channels_last)
        return to_outputs(self.network(inputs), self.task, self.target_mean, self.target_std)

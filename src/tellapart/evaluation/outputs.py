"""From logits to what a user reads: probabilities, or numbers in the targets' own unit."""

from __future__ import annotations

import torch


def to_outputs(
    logits: torch.Tensor,
    task: str,
    target_mean: torch.Tensor,
    target_std: torch.Tensor,
    temperature: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Return probabilities (multiclass: softmax, multilabel: sigmoid) or values (regression), float32 `(B, K)`.

    Args:
        logits: `(B, K)` of any floating dtype.
        task: "multiclass", "multilabel" or "regression".
        target_mean: `(K,)`, of the training targets; used by regression, whose network learns standardised targets.
        target_std: `(K,)`.
        temperature: what the logits are divided by before they become probabilities; see `evaluation.calibration`.
    """
    logits = logits.float()
    if task == "multiclass":
        return (logits / temperature).softmax(1)
    if task == "multilabel":
        return (logits / temperature).sigmoid()
    return logits * target_std + target_mean

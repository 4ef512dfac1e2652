"""Run a model over images, each exactly once, and collect what every metric is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tellapart import hardware
from tellapart.data.loader import Batch

Prepare = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Evaluated:
    """Logits float32 `(N, K)`, targets `(N,)` or `(N, K)`, indices int64 `(N,)`, on the CPU; and the mean loss."""

    logits: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    loss: float


@torch.inference_mode()
def run_model(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Prepare | None = None,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    device: torch.device,
    precision: str = "float32",
) -> Evaluated:
    """Return the model's logits for every image of `batches`, in evaluation mode, each once.

    Args:
        model: gives logits `(B, K)` for inputs; its mode is put back afterwards.
        batches: what to run over.
        prepare: turns a batch into the model's input; by default its images as they are.
        criterion: mean loss of (logits, targets); without it the loss is NaN.
        device: where the model is.
        precision: "float32" or "bf16".
    """
    was_training = model.training
    model.eval()
    logits, targets, indices = [], [], []
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    try:
        for batch in batches:
            with hardware.autocast(device, precision):
                outputs = model(prepare(batch) if prepare else batch.images)
            outputs = outputs.float()
            if criterion is not None:
                loss_sum += criterion(outputs, batch.targets).double() * len(batch)
            # Kept on the device: copying here would wait for it once a batch.
            logits.append(outputs)
            targets.append(batch.targets)
            indices.append(batch.indices)
    finally:
        model.train(was_training)
    count = sum(map(len, targets))
    loss = float(loss_sum) / count if criterion is not None and count else float("nan")
    return Evaluated(torch.cat(logits).cpu(), torch.cat(targets).cpu(), torch.cat(indices).cpu(), loss)

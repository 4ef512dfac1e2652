"""Run a model over images, each exactly once, and collect what every metric is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tellapart import hardware
from tellapart.data.loader import Batch
from tellapart.optim import Loss

Prepare = Callable[[Batch], torch.Tensor]
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type to add up losses in: float64, or float32 on MPS, which has no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Evaluated:
    """Logits float32 `(N, K)`, targets `(N,)` or `(N, K)`, indices int64 `(N,)`, on the CPU; and the mean loss."""

    logits: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    loss: float


# Not inference_mode: a model or a Dataset may keep a tensor that it makes here, and train with it later.
@torch.no_grad()
def run_model(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Prepare | None = None,
    criterion: Criterion | None = None,
    device: torch.device,
    precision: str = "float32",
) -> Evaluated:
    """Return the model's logits for every image of `batches`, in evaluation mode, each once.

    Args:
        model: gives logits `(B, K)` for inputs; its mode, and that of each part of it, is put back afterwards.
        batches: what to run over.
        prepare: turns a batch into the model's input; by default its images as they are.
        criterion: mean loss of (logits, targets); without it the loss is NaN. Ours add up to the mean over all
            batches with class weights too.
        device: where the model is.
        precision: "float32" or "bf16".
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    logits, targets, indices = [], [], []
    loss_sum = loss_weight = torch.zeros((), dtype=sum_dtype(device), device=device)
    try:
        for batch in batches:
            with hardware.autocast(device, precision):
                outputs = model(prepare(batch) if prepare else batch.images)
            outputs = outputs.float()
            if criterion is not None:
                part_sum, part_weight = _sum_and_weight(criterion, outputs, batch.targets)
                loss_sum, loss_weight = loss_sum + part_sum, loss_weight + part_weight
            # Kept on the device: copying here would wait for it once a batch.
            logits.append(outputs)
            targets.append(batch.targets)
            indices.append(batch.indices)
    finally:
        for module, was_training in modes:
            module.training = was_training
    loss = float(loss_sum) / float(loss_weight) if criterion is not None else float("nan")
    return Evaluated(torch.cat(logits).cpu(), torch.cat(targets).cpu(), torch.cat(indices).cpu(), loss)


def _sum_and_weight(
    criterion: Criterion, outputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses and what it is divided by, for our losses and for any that is a mean."""
    dtype = sum_dtype(outputs.device)
    if isinstance(criterion, Loss):
        total, weight = criterion.sum_and_weight(outputs, targets)
        return total.to(dtype), weight.to(dtype)
    weight = torch.full((), len(targets), dtype=dtype, device=outputs.device)
    return criterion(outputs, targets).to(dtype) * weight, weight

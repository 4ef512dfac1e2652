"""Losses: the mean over the images of a batch, which parts of the batch add up to exactly.

Every loss is a sum over images divided by a total weight. A training step that computes a batch in parts (to save
memory, or on several ranks) first asks for the `weight` of the whole batch, then adds up `sum / weight` of the parts:

    weight = loss.weight(targets)
    for part in parts:
        (loss(model(images[part]), targets[part], reduction="sum") / weight).backward()

This gives the gradient of `loss(model(images), targets)`, with class weights too, where a mean of means would not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.errors import ConfigError, DataError, unknown_name

Reduction = Literal["mean", "sum", "none"]


class Loss(nn.Module):
    """A loss over a batch of logits `(B, K)`; see `create_loss` for what the targets may be."""

    name = ""
    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        # A function of the config and the split, so it moves with the module but is not part of its state.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Return the loss: "mean" float `()`, "sum" float `()` before the division, or "none" float `(B,)`.

        Args:
            logits: `(B, K)`, float; bfloat16 and float16 are computed in float32.
            targets: int64 `(B,)` class indices, or float `(B, K)`.
            reduction: "mean" divides by `weight(targets)`.

        Raises:
            DataError: targets of a wrong shape, type or range.
        """
        losses = self._per_image(*self._checked(logits, targets))
        if reduction == "none":
            return losses
        total = losses.sum()
        return total if reduction == "sum" else total / self.weight(targets)

    def weight(self, targets: Tensor) -> Tensor:
        """Return what "mean" divides the sum by, float32 `()`: the number of images (cross-entropy: see there)."""
        return torch.full((), targets.shape[0], dtype=torch.float32, device=targets.device)

    def sum_and_weight(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and their weight, each float `()`; both add up over parts of a batch."""
        return self(logits, targets, reduction="sum"), self.weight(targets)

    def _per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def _checked(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in the type to compute in, or say what is wrong with them."""
        if logits.ndim != 2 or not logits.is_floating_point():
            raise DataError(f"{self.name}: expected logits as float (B, K), found {_describe(logits)}.")
        num_images, num_classes = logits.shape
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ConfigError(
                [f"class_weights: expected one for each of the {num_classes} logits, found {len(self.class_weights)}"]
            )
        if targets.dtype == torch.int64 and targets.shape == (num_images,):
            _check_range(self.name, targets, num_classes)
            return logits, targets
        if targets.is_floating_point() and targets.shape == logits.shape:
            return logits, targets.to(logits.dtype)
        raise DataError(
            f"{self.name}: expected targets as int64 ({num_images},) class indices or as float "
            f"({num_images}, {num_classes}) for logits {tuple(logits.shape)}, found {_describe(targets)}. "
            "Convert labels with .long(), multi-label targets with .float()."
        )


class CrossEntropy(Loss):
    """Softmax cross-entropy, with hard or soft targets, label smoothing and class weights.

    As in torch, an image with a hard label counts as much as the weight of its class, and "mean" divides by the sum of
    these weights. With soft targets, each class's term is weighted, and "mean" divides by the number of images.

    Source: label smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
    """

    name = "cross-entropy"

    def weight(self, targets: Tensor) -> Tensor:
        """Return the number of images, or for hard labels with class weights the sum of the images' weights."""
        if self.class_weights is None or targets.is_floating_point():
            return super().weight(targets)
        return self.class_weights[targets].sum()

    def _per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight = self.class_weights if self.class_weights is None else self.class_weights.to(logits.dtype)
        # torch leaves out targets of -100 by default: a label that nothing should ever be left out for.
        return F.cross_entropy(
            logits,
            targets,
            weight=weight,
            ignore_index=torch.iinfo(torch.int64).min,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )


class BinaryCrossEntropy(Loss):
    """Sigmoid cross-entropy of every class by itself, the mean over classes: `(B, K)` targets in [0, 1].

    Class weights are torch's `pos_weight`: they multiply the term of an image that has the class, and not that of one
    that lacks it, so that a rare class is missed less often. "mean" divides by the number of images. Label smoothing
    moves targets towards 1/2. Hard labels `(B,)` mean their one-hot targets.

    Source: label smoothing as in Szegedy et al. 2016, section 7, for the two outcomes of each class.
    """

    name = "binary-cross-entropy"

    def _per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        targets = _dense(targets, logits)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        pos_weight = self.class_weights if self.class_weights is None else self.class_weights.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
        return losses.mean(1)


class MeanSquaredError(Loss):
    """Mean over the K outputs of the squared difference to the targets; hard labels mean their one-hot targets.

    Source: for classification, Hui and Belkin 2021, "Evaluation of neural architectures trained with square loss vs
    cross-entropy", without their rescaling.
    """

    name = "mean-squared-error"

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> None:
        given = {"label_smoothing": label_smoothing != 0.0, "class_weights": class_weights is not None}
        problems = [
            f"{key}: '{self.name}' cannot honour it; leave it out" for key, is_given in given.items() if is_given
        ]
        if problems:
            raise ConfigError(problems)
        super().__init__()

    def _per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(logits, _dense(targets, logits), reduction="none").mean(1)


LOSSES: dict[str, Callable[[float, Tensor | None], Loss]] = {
    CrossEntropy.name: CrossEntropy,
    BinaryCrossEntropy.name: BinaryCrossEntropy,
    MeanSquaredError.name: MeanSquaredError,
}


def create_loss(name: str, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> Loss:
    """Return the loss of this name.

    Args:
        name: a key of `LOSSES`.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: float `(K,)`, finite and above 0; what they multiply is said at each loss.

    Raises:
        ConfigError: an unknown name, a value out of range, or a setting that this loss cannot honour.

    >>> loss = create_loss("cross-entropy")
    >>> round(float(loss(torch.zeros(4, 10), torch.tensor([0, 1, 2, 3]))), 4)  # log(10)
    2.3026
    """
    problems = [] if name in LOSSES else [unknown_name("loss", name, LOSSES)]
    if not 0.0 <= label_smoothing < 1.0:
        problems.append(f"label_smoothing: expected at least 0 and less than 1, found {label_smoothing:g}")
    if class_weights is not None:
        class_weights = class_weights.detach().to(torch.float32)
        if class_weights.ndim != 1 or not bool((class_weights > 0).all() and class_weights.isfinite().all()):
            problems.append(
                "class_weights: expected finite numbers above 0, one for each class (to leave a class out, leave out "
                f"its images), found {_describe(class_weights)}: {class_weights.tolist()}"
            )
    if problems:
        raise ConfigError(problems)
    return LOSSES[name](label_smoothing, class_weights)


def _dense(targets: Tensor, logits: Tensor) -> Tensor:
    """Return class indices as one-hot targets like `logits`; leave dense targets as they are."""
    if targets.is_floating_point():
        return targets
    return torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)


def _check_range(name: str, labels: Tensor, num_classes: int) -> None:
    # On a GPU this would wait for the device; there, torch's own kernels stop the run.
    if not labels.is_cpu or not len(labels) or torch.compiler.is_compiling():
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{name}: expected class indices from 0 to {num_classes - 1}, found indices from {low} to {high}. "
            "Does the model have as many outputs as the data has classes?"
        )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

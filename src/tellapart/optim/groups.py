"""Parameter groups: which parameters are trained, and which of them the weight decay applies to."""

from __future__ import annotations

from typing import Any

from torch import nn

from tellapart.errors import ConfigError

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters with requires_grad by name, in the model's order; a shared one once.

    Raises:
        ConfigError: there are none.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ConfigError(
            [f"model: {type(model).__name__} has no trainable parameters: all are frozen, or it has none; "
             "set requires_grad on those to train"]
        )  # fmt: skip
    return found


def names_without_decay(model: nn.Module) -> set[str]:
    """Return the names of all biases, norm parameters and other parameters with fewer than two dimensions.

    Source: He et al. 2019, "Bag of tricks for image classification", section 3.1, "no bias decay".

    >>> sorted(names_without_decay(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm([2, 2]))))
    ['0.bias', '1.bias', '1.weight']
    """
    names = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2 or name.endswith("bias") or isinstance(module, NORMS):
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def decay_groups(model: nn.Module, *, weight_decay: float, decay_norm_and_bias: bool = False) -> list[dict[str, Any]]:
    """Return torch parameter groups "decay" and "no_decay" (without empty ones), with the parameters' names.

    Raises:
        ConfigError: the model has no trainable parameters.
    """
    exempt = set() if decay_norm_and_bias else names_without_decay(model)
    named = trainable_parameters(model)
    groups = [
        ("decay", weight_decay, [pair for pair in named.items() if pair[0] not in exempt]),
        ("no_decay", 0.0, [pair for pair in named.items() if pair[0] in exempt]),
    ]
    return [{"params": pairs, "weight_decay": decay, "name": name} for name, decay, pairs in groups if pairs]

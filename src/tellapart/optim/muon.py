"""Muon: momentum whose update is made orthogonal, for hidden matrices; AdamW for everything else, in one optimizer.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon; scale of the update: Liu et al. 2025, "Muon is scalable for LLM training",
section 2.2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tellapart.errors import ConfigError
from tellapart.hardware import has_fast_bf16
from tellapart.optim.groups import names_without_decay, trainable_parameters
from tellapart.optim.layout import align_layouts
from tellapart.optim.startup import LeanOptimizer

# Jordan et al. 2024: tuned so that five iterations bring singular values from 0.01 to 1 into about 0.7 to 1.2.
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Small matrices are computed together up to this many numbers (4 MiB of float32): fewer launches on a GPU. Larger ones
# fill a device by themselves, and stacking them made resnet18's step a tenth slower on a CPU.
_STACK_NUMEL = 2**20

Scale = Literal["match_rms_adamw", "original"]
Precision = Literal["auto", "float32", "bfloat16"]

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def newton_schulz(matrices: Tensor, *, num_iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """Return the matrices with all singular values moved to about 1, in the type given.

    Args:
        matrices: float `(N, rows, columns)`; in bfloat16 where the hardware is fast at it.
        num_iterations: of the quintic iteration X <- a X + b (X X^T) X + c (X X^T)^2 X.
        eps: smallest Frobenius norm that is divided by.

    Source: Jordan et al. 2024, "Newton-Schulz iteration".

    >>> singular_values = torch.linalg.svdvals(newton_schulz(torch.tensor([[[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]]])))
    >>> bool(((singular_values > 0.6) & (singular_values < 1.3)).all())
    True
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    is_tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if is_tall else matrices
    # The Frobenius norm bounds the spectral norm, which must be at most 1 for the iteration to converge.
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_iterations):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def update_scale(shape: torch.Size, scale: Scale) -> float:
    """Return the factor of the learning rate for a parameter, seen as a matrix `(out, in * kernel)`.

    "match_rms_adamw" gives updates of the size of AdamW's, so that its learning rate and weight decay carry over;
    "original" is Jordan's.

    Source: Liu et al. 2025, equation 4; Jordan et al. 2024.

    >>> update_scale(torch.Size([64, 16, 2, 2]), "match_rms_adamw")
    1.6
    >>> update_scale(torch.Size([64, 4, 2, 2]), "original")
    2.0
    """
    rows, columns = shape[0], math.prod(shape[1:])
    return 0.2 * math.sqrt(max(rows, columns)) if scale == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))


class Muon(LeanOptimizer):
    """Muon for groups with `algorithm="muon"`, AdamW for those with `algorithm="adamw"`.

    The parameters of a Muon group have two or more dimensions and are seen as `(out, in * kernel)`. They must be whole
    on each rank: right under DDP, not under FSDP.

    Args:
        params: parameter groups, such as those of `muon_parameter_groups`; a group without "algorithm" is Muon's.
        lr, weight_decay: of both algorithms; the weight decay is decoupled (lr * weight_decay * weights a step).
        momentum, nesterov: of Muon.
        betas, eps: of AdamW.
        scale: see `update_scale`.
        precision: of the orthogonalisation; "auto" is bfloat16 where the hardware is fast at it.
        fused: use torch's fused AdamW.

    Raises:
        ConfigError: a Muon group has a parameter with fewer than two dimensions, or a name is unknown.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        scale: Scale = "match_rms_adamw",
        precision: Precision = "auto",
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "betas": betas,
            "eps": eps,
            "scale": scale,
            "precision": precision,
            "fused": fused,
            "algorithm": "muon",
        }
        super().__init__(params, defaults)
        problems = [problem for group in self.param_groups for problem in _group_problems(group)]
        if problems:
            raise ConfigError(problems)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters from their gradients; return the closure's value if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        align_layouts(self)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["algorithm"] == "muon":
                self._muon_step(group, parameters)
            elif parameters:
                self._adamw_step(group, parameters)
        return loss

    def _muon_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        updates = buffers
        if group["nesterov"]:
            updates = list(torch._foreach_lerp(gradients, buffers, group["momentum"]))  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
        for parameter, update in zip(parameters, _orthogonalize(updates, group["precision"]), strict=True):
            parameter.add_(update, alpha=-group["lr"] * update_scale(parameter.shape, group["scale"]))

    def _adamw_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            if not self.state[p]:
                # torch's fused kernels want the count on the device, all others on the CPU.
                device = p.device if group["fused"] else "cpu"
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=device)
                self.state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        adamw(
            parameters,
            [p.grad for p in parameters],  # type: ignore[misc]
            [self.state[p]["exp_avg"] for p in parameters],
            [self.state[p]["exp_avg_sq"] for p in parameters],
            [],
            [self.state[p]["step"] for p in parameters],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _group_problems(group: dict[str, Any]) -> list[str]:
    allowed = {
        "algorithm": ("muon", "adamw"),
        "scale": ("match_rms_adamw", "original"),
        "precision": ("auto", "float32", "bfloat16"),
    }
    problems = [
        f"{key}: expected {' or '.join(values)}, found '{group[key]}'"
        for key, values in allowed.items()
        if group[key] not in values
    ]
    if group["algorithm"] == "muon":
        problems += [
            f"params: Muon expects parameters with two or more dimensions, found shape {tuple(p.shape)}; "
            "put it into a group with algorithm='adamw'"
            for p in group["params"]
            if p.ndim < 2
        ]
    return problems


def _orthogonalize(updates: list[Tensor], precision: Precision) -> list[Tensor]:
    """Return the updates made orthogonal; those whose matrices have the same shape are computed together."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    wide = [_as_wide_matrix(update) for update in updates]
    for index, matrix in enumerate(wide):
        alike[matrix.shape, matrix.device, matrix.dtype].append(index)
    results = list(updates)
    for (shape, device, dtype), indices in alike.items():
        per_stack = max(1, _STACK_NUMEL // shape.numel())
        for start in range(0, len(indices), per_stack):
            chosen = indices[start : start + per_stack]
            stack = torch.stack([wide[index] for index in chosen]).to(_compute_dtype(device, dtype, precision))
            for index, matrix in zip(chosen, newton_schulz(stack), strict=True):
                is_tall = len(updates[index]) > shape[0]
                results[index] = (matrix.mT if is_tall else matrix).reshape(updates[index].shape)
    return results


def _as_wide_matrix(update: Tensor) -> Tensor:
    matrix = update.reshape(len(update), -1)
    return matrix.mT if matrix.size(0) > matrix.size(1) else matrix


def _compute_dtype(device: torch.device, dtype: torch.dtype, precision: Precision) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else dtype
    return torch.float32 if precision == "float32" else torch.bfloat16


def muon_parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = False,
    first_conv: bool = False,
    head: bool = False,
) -> list[dict[str, Any]]:
    """Return parameter groups "muon", "decay" and "no_decay" (the last two AdamW's) for `Muon`, without empty ones.

    Muon gets the weights of Linear and convolution layers and the input projection of MultiheadAttention, except, by
    the order in which the modules stand in the model: the first of them if it is a convolution (it sees pixels, not
    features), and the last of them (the head). AdamW gets these two, depthwise filters (which mix no features), and
    all that is not such a weight: biases, norms, embeddings, class tokens. Frozen layers count in the order but are
    left out, so that the second layer stays Muon's when the first is frozen.

    Args:
        weight_decay: of "muon" and "decay".
        decay_norm_and_bias: put biases and norms into "decay" instead of "no_decay".
        first_conv: give a first convolution to Muon as well.
        head: give the head to Muon as well.

    Raises:
        ConfigError: nothing is trainable, or nothing is left for Muon.

    Source: the division: Jordan et al. 2024, "Empirical considerations".
    """
    named = trainable_parameters(model)
    hidden = _hidden_weights(model, first_conv=first_conv, head=head) & named.keys()
    if not hidden:
        raise ConfigError(
            [f"optimizer 'muon': {type(model).__name__} has no trainable hidden weight matrices, between a first "
             "convolution and the head, for it to train; use 'adamw'"]
        )  # fmt: skip
    exempt = set() if decay_norm_and_bias else names_without_decay(model)
    members: dict[str, list[tuple[str, nn.Parameter]]] = {"muon": [], "decay": [], "no_decay": []}
    for name, parameter in named.items():
        members["muon" if name in hidden else "no_decay" if name in exempt else "decay"].append((name, parameter))
    return [
        {
            "params": pairs,
            "weight_decay": 0.0 if name == "no_decay" else weight_decay,
            "algorithm": "muon" if name == "muon" else "adamw",
            "name": name,
        }
        for name, pairs in members.items()
        if pairs
    ]


def _hidden_weights(model: nn.Module, *, first_conv: bool, head: bool) -> set[str]:
    """Return the names of the weights that Muon trains; see `muon_parameter_groups`."""
    layers: list[tuple[str, nn.Module]] = []
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.MultiheadAttention | _Conv):
            layers.append((f"{prefix}." if prefix else "", module))
    if layers and not first_conv and isinstance(layers[0][1], _Conv):
        layers = layers[1:]
    if layers and not head:
        layers = layers[:-1]
    names = set()
    for prefix, module in layers:
        for name, parameter in module.named_parameters(recurse=False):
            is_depthwise = isinstance(module, _Conv) and parameter.ndim > 1 and parameter.shape[1] == 1
            if parameter.ndim > 1 and name.endswith("weight") and not is_depthwise:
                names.add(prefix + name)
    return names

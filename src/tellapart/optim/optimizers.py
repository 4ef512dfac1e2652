"""Optimizers by name: torch's SGD, Adam and AdamW in their fastest form, and Muon."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tellapart.errors import ConfigError, unknown_name
from tellapart.optim.groups import decay_groups, trainable_parameters
from tellapart.optim.layout import align_layouts
from tellapart.optim.muon import Muon, muon_parameter_groups
from tellapart.optim.startup import LeanOptimizer, is_compiler_imported


class _TorchStep(LeanOptimizer):
    """The update of the torch optimizer that a subclass names second, safe for fused kernels and without a compiler."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters from their gradients; see torch.optim.Optimizer.step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not torch.compiler.is_compiling():
            align_layouts(self)
        step: Any = super().step.__func__
        # torch wraps the class's step to run hooks and the profiler; our own step is wrapped already.
        if getattr(step, "hooked", False):
            step = step.__wrapped__
        if is_compiler_imported() or step.__code__.co_name != "_use_grad":
            step(self)
            return loss
        # `_use_grad` does this and two graph breaks, which mean nothing outside of the compiler.
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            step.__wrapped__(self)
        return loss


class SGD(_TorchStep, torch.optim.SGD):
    """torch.optim.SGD."""


class Adam(_TorchStep, torch.optim.Adam):
    """torch.optim.Adam: the weight decay is an L2 term in the gradient."""


class AdamW(_TorchStep, torch.optim.AdamW):
    """torch.optim.AdamW: the weight decay acts on the weights directly."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What an entry of `OPTIMIZERS` may make use of; see `create_optimizer`."""

    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_norm_and_bias: bool = False

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the model's trainable parameters in the groups "decay" and "no_decay"."""
        return decay_groups(model, weight_decay=self.weight_decay, decay_norm_and_bias=self.decay_norm_and_bias)


def _sgd(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return SGD(settings.groups(model), lr=settings.lr, fused=can_fuse(model))


def _sgd_momentum(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Gradient descent with momentum (Polyak)."""
    return SGD(settings.groups(model), lr=settings.lr, momentum=settings.momentum, fused=can_fuse(model))


def _sgd_nesterov(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov momentum."""
    if not settings.momentum:
        raise ConfigError(["momentum: 'sgd-nesterov' needs more than 0; without momentum use 'sgd'"])
    return SGD(settings.groups(model), lr=settings.lr, momentum=settings.momentum, nesterov=True, fused=can_fuse(model))


def _adam(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adam; the weight decay is added to the gradient (L2)."""
    return Adam(settings.groups(model), lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=can_fuse(model))


def _adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    return AdamW(settings.groups(model), lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=can_fuse(model))


def _muon(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Muon for hidden matrices and filters, AdamW for the rest."""
    groups = muon_parameter_groups(
        model, weight_decay=settings.weight_decay, decay_norm_and_bias=settings.decay_norm_and_bias
    )
    return Muon(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        betas=settings.betas,
        eps=settings.eps,
        fused=can_fuse(model),
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, OptimizerSettings], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "sgd-momentum": _sgd_momentum,
    "sgd-nesterov": _sgd_nesterov,
    "adam": _adam,
    "adamw": _adamw,
    "muon": _muon,
}


def create_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decay_norm_and_bias: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer of this name over the model's trainable parameters, in named groups.

    Create it once the model is on its device and in its memory format.

    Args:
        name: a key of `OPTIMIZERS`. "adam" has L2 regularisation, "adamw" and "muon" decoupled weight decay.
        lr: learning rate, at least 0.
        weight_decay: at least 0; not applied to biases, norms and other parameters with fewer than two dimensions.
        momentum: in [0, 1); of "sgd-momentum", "sgd-nesterov" and "muon", unused by the others.
        betas: each in [0, 1); of "adam", "adamw" and the part of "muon" that is AdamW, unused by the others.
        eps: above 0; where `betas` are used.
        decay_norm_and_bias: apply the weight decay to every parameter.

    Raises:
        ConfigError: an unknown name, a value out of range, or a model with nothing to train.
    """
    problems = [] if name in OPTIMIZERS else [unknown_name("optimizer", name, OPTIMIZERS)]
    at_least_0 = {"lr": lr, "weight_decay": weight_decay}
    problems += [f"{key}: expected at least 0, found {v:g}" for key, v in at_least_0.items() if not 0 <= v < math.inf]
    in_0_to_1 = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
    problems += [
        f"{key}: expected at least 0 and less than 1, found {v:g}" for key, v in in_0_to_1.items() if not 0 <= v < 1
    ]
    if not 0 < eps < math.inf:
        problems.append(f"eps: expected more than 0, found {eps:g}")
    if problems:
        raise ConfigError(problems)
    settings = OptimizerSettings(
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        betas=betas,
        eps=eps,
        decay_norm_and_bias=decay_norm_and_bias,
    )
    return OPTIMIZERS[name](model, settings)


def can_fuse(model: nn.Module) -> bool | None:
    """Return True where torch has a fused update for all trainable parameters, else None (torch's default).

    Fused updates are element by element, so the same bits on every run. Time of torch's default over fused, torch
    2.15 on 2 AVX2 cores, 21 parameters with 0.74 million numbers: Adam 4.4, AdamW 4.2, SGD with momentum 1.9, with
    Nesterov and weight decay 3.1, plain SGD 1.0.
    """
    parameters = trainable_parameters(model).values()
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters) or None

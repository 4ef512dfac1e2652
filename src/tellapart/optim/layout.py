"""The memory layout of gradients and optimizer state, which fused updates rely on without checking."""

from __future__ import annotations

import torch
from torch import Tensor


def align_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give gradients and optimizer state the memory layout of their parameters, where it differs.

    Fused kernels read all of them in memory order: where a channels-last filter meets a state that was loaded from a
    file, and is contiguous, torch 2.15 on a CPU updates every weight by the moments of another one and says nothing.
    The optimizers of this room call this before each update; for others, call it after loading their state.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            strides = parameter.stride()
            if parameter.grad is not None and parameter.grad.stride() != strides:
                parameter.grad = _laid_out_like(parameter.grad, parameter)
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim and value.stride() != strides:
                    state[key] = _laid_out_like(value, parameter)


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    # The stride of a dimension of size 1 means nothing, and autograd does not keep it.
    triples = zip(parameter.shape, parameter.stride(), value.stride(), strict=False)
    if value.shape != parameter.shape or all(size == 1 or one == other for size, one, other in triples):
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

"""Optimizers that do not import torch's compiler.

torch marks five methods of an optimizer as "not to be compiled". To do so they import torch._dynamo when first called,
2 s that every run would pay before its first step, whether it compiles anything or not:

- `add_param_group`, `zero_grad`, `state_dict` and `load_state_dict`, through the decorator of torch/_compile.py;
- `step` of torch's own optimizers, through `_use_grad_for_differentiable` of torch/optim/optimizer.py.

As long as nothing else has imported torch._dynamo, nothing can be compiling, and the function inside the decorator
does the same work. Once it is imported (torch.compile does that), torch's methods run unchanged. Only our own
subclasses are affected, and a decorator that does not look as expected is left in place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def is_compiler_imported() -> bool:
    """Return whether torch's compiler has been imported, so that code may be compiling."""
    return "torch._dynamo" in sys.modules


def without_compiler(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside torch's "not to be compiled" decorator, or `method` itself if it is not in one.

    Another decorator (a profiler's, another library's) is never taken off.
    """
    code = getattr(method, "__code__", None)
    is_marked = code is not None and code.co_filename.replace("\\", "/").endswith("torch/_compile.py")
    return getattr(method, "__wrapped__", method) if is_marked else method


class LeanOptimizer(torch.optim.Optimizer):
    """A base for optimizers whose bookkeeping methods import no compiler; `step` is the subclass's."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; see torch.optim.Optimizer.add_param_group."""
        self._call(torch.optim.Optimizer.add_param_group, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop (or set to zero) the gradients; see torch.optim.Optimizer.zero_grad."""
        self._call(torch.optim.Optimizer.zero_grad, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the parameter groups; see torch.optim.Optimizer.state_dict."""
        return self._call(torch.optim.Optimizer.state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; see torch.optim.Optimizer.load_state_dict."""
        self._call(torch.optim.Optimizer.load_state_dict, state_dict)

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        return (method if is_compiler_imported() else without_compiler(method))(self, *args)

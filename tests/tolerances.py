"""How far two computations of the same thing may lie apart, by dtype; the one place where tests take it from."""

from __future__ import annotations

from typing import TypedDict

import torch


class Bounds(TypedDict):
    """What `torch.testing.assert_close` takes."""

    rtol: float
    atol: float


# About 8 units in the last place after some ten operations each; relative, and absolute for numbers near 1.
_TOLERANCES = {
    torch.float64: 1e-14,
    torch.float32: 1e-5,
    torch.bfloat16: 4e-2,
    torch.float16: 5e-3,
}


def tolerance(dtype: torch.dtype, factor: float = 1.0) -> Bounds:
    """Return `rtol` and `atol` for `torch.testing.assert_close`; both 0 for whole numbers.

    Args:
        dtype: of what is compared, or of the least precise step on the way to it.
        factor: how much more a long chain of operations may lose.
    """
    bound = factor * _TOLERANCES.get(dtype, 0.0)
    return {"rtol": bound, "atol": bound}

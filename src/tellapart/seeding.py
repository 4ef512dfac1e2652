"""Randomness as a function: every draw is a pure function of (seed, purpose, counters).

This is the one place that derives seeds. Nothing here keeps a state, so a checkpoint holds no random state, and what
is drawn for image 4711 in epoch 3 depends neither on the number of workers nor on what ran before.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# SplitMix64's increment and its two finalizer multipliers (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
# number generators", section 4; constants of variant 13 by D. Stafford), as signed 64-bit integers for torch.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


def derive(seed: int, purpose: str, *counters: int) -> int:
    """Return the 63-bit seed that belongs to (seed, purpose, counters).

    Args:
        seed: the run's seed.
        purpose: what the draw is for, such as "order" or "init"; different purposes are independent.
        counters: epoch, step, index, in the order the caller always uses.

    Source: SHA-256 of the text `seed/purpose/counter/...`, first 8 bytes, sign bit cleared.

    >>> derive(0, "order", 3) == derive(0, "order", 3)
    True
    >>> derive(0, "order", 3) == derive(0, "order", 4)
    False
    """
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") & (2**63 - 1)


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a new CPU generator seeded for (seed, purpose, counters)."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


def permutation(num_items: int, seed: int, purpose: str, *counters: int) -> torch.Tensor:
    """Return a random order of `num_items` items, int64 `(num_items,)`, as a function of (seed, purpose, counters)."""
    import torch

    return torch.randperm(num_items, generator=generator(seed, purpose, *counters))


def uniform(indices: torch.Tensor, num_draws: int, seed: int, purpose: str, *counters: int) -> torch.Tensor:
    """Return uniform draws in [0, 1) for each sample, a function of its index and (seed, purpose, counters).

    The integers behind the draws are exact, so the CPU and a GPU, and a batch of any composition, draw the same.

    Args:
        indices: sample indices, int64 `(B,)`, on any device.
        num_draws: how many numbers each sample needs.

    Returns:
        float64 `(B, num_draws)` on the device of `indices`, or on the CPU where that has no float64 (MPS).

    Source: SplitMix64 (Steele, Lea, Flood 2014, section 4) of a counter that starts at `derive(...)`, applied twice so
    that neighbouring indices share nothing; the top 53 bits make the number.
    """
    import torch

    if indices.device.type == "mps":
        indices = indices.cpu()
    base = derive(seed, purpose, *counters)
    stream = _splitmix64(indices.to(torch.int64) * _GOLDEN + base)
    draw = torch.arange(1, num_draws + 1, device=indices.device, dtype=torch.int64) * _GOLDEN
    bits = _splitmix64(stream[:, None] + draw[None, :])
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _splitmix64(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right without copying the sign bit, which torch's int64 shift would do."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)

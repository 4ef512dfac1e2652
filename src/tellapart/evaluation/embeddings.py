"""What a network makes of an image before it decides, and which images it makes nearly the same of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tellapart.errors import RunError
from tellapart.models.summary import left_untouched

_ABOUT = "tellapart.embeddings"
# Rows of a bank compared at a time: 16 MB of float32 at 512 features.
_CHUNK = 8192
# Lengths whose squares float32 holds with all its digits.
_SAFE = 1e-16
# Features up to this size are kept as float32, larger ones as float16, which tells cosines apart from 0.0001 on.
_FULL_BYTES = 2**28


def find_head(network: nn.Module, num_outputs: int, in_channels: int, size_px: int) -> str:
    """Return the name of the layer that turns features into the `num_outputs` logits: the last linear or convolution.

    Raises:
        RunError: the network has no such layer.
    """
    called: list[tuple[str, bool]] = []

    def recorder(name: str) -> Any:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found = module.out_features if isinstance(module, nn.Linear) else getattr(module, "out_channels", 0)
            called.append((name, found == num_outputs))

        return record

    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [module.register_forward_hook(recorder(name)) for name, module in layers]
    try:
        reference = next(network.parameters())
        image = torch.zeros(1, in_channels, size_px, size_px, device=reference.device, dtype=reference.dtype)
        with left_untouched(network), torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise RunError(f"{type(network).__name__}: expected a last layer, linear or a convolution, found none.")
    fitting = [name for name, fits in called if fits]
    return fitting[-1] if fitting else called[-1][0]


class Embedder:
    """Makes features of images: what enters the network's last layer, averaged over places where it has any.

    Args:
        network: normalised images, float `(B, C, S, S)`, to logits; it is left as it was.
        head: the name of its last layer, as `find_head` gives it.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        self.network, self.head = network, head

    def __call__(self, inputs: torch.Tensor) -> np.ndarray:
        """Return features float32 `(B, D)`."""
        layer = self.network.get_submodule(self.head)
        with _captured(layer) as captured, left_untouched(self.network), torch.no_grad():
            self.network(inputs)
        return _flat(captured[-1]).float().cpu().numpy()


@contextmanager
def _captured(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    captured: list[torch.Tensor] = []
    # A copy, as an activation that works in place may follow.
    handle = layer.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0].detach().clone()))
    try:
        yield captured
    finally:
        handle.remove()


def _flat(features: torch.Tensor) -> torch.Tensor:
    """Return `(B, D)` of `(B, D)`, `(B, D, h, w)` of a convolution or `(B, tokens, D)`."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.flatten(1, -2).mean(dim=1) if features.ndim > 2 else features


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Return features `(N, D)` scaled to length 1, float32; a row of zeros, or one that is not finite, becomes zeros.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = np.asarray(features, dtype=np.float64)
    wide = np.where(np.isfinite(wide).all(axis=1, keepdims=True), wide, 0.0)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def nearest_rows(queries: np.ndarray, bank: np.ndarray, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the bank most similar to each query, best first, and their cosines.

    Every row is compared. Of equally similar ones the first in the bank comes first.

    Args:
        queries: features `(Q, D)`, of any length.
        bank: features `(N, D)`, of any floating dtype.
        num_neighbours: how many; fewer come back where the bank has fewer rows.

    Returns:
        int64 `(Q, n)` and float32 `(Q, n)` in [-1, 1].

    Source: cosine similarity, x . y / (|x| |y|).

    >>> rows, cosines = nearest_rows(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0], [5.0, 0.0]]), 2)
    >>> rows.tolist(), cosines.tolist()
    ([[1, 0]], [[1.0, 0.0]])
    """
    directions = unit_rows(queries)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    cosines = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, len(bank), _CHUNK):
        some = _cosines(directions, bank[start : start + _CHUNK])
        cosines = np.concatenate([cosines, some], axis=1)
        numbers = np.arange(start, start + some.shape[1], dtype=np.int64)
        rows = np.concatenate([rows, np.broadcast_to(numbers, some.shape)], axis=1)
        # The best so far come first and are of lower rows, so a stable order keeps the first of equals first.
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbours]
        rows, cosines = np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1)
    return rows, cosines.clip(-1.0, 1.0)


def _cosines(directions: np.ndarray, bank: np.ndarray) -> np.ndarray:
    rows = np.asarray(bank, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not bool(((lengths > _SAFE) & (lengths < 1 / _SAFE)).all()):
        return directions @ unit_rows(bank).T  # in doubles, where no square over- or underflows
    return directions @ rows.T / lengths


def kept_dtype(num_rows: int, num_features: int) -> type[np.floating[Any]]:
    """Return the dtype in which so many features are kept."""
    return np.float32 if 4 * num_rows * num_features <= _FULL_BYTES else np.float16


@dataclass(frozen=True, eq=False)
class Bank:
    """The features of a run's training images.

    Attributes:
        rows: of the stored division, int64 `(N,)`.
        features: of length 1, `(N, D)`; float32, or float16 where they would take more than 256 MiB.
    """

    rows: np.ndarray
    features: np.ndarray

    def save(self, path: Path, key: str) -> None:
        """Write it as safetensors, under a temporary name first, with what it was made from and a SHA-256.

        Raises:
            OSError: it cannot be written.
        """
        from safetensors.numpy import save

        path.parent.mkdir(parents=True, exist_ok=True)
        # One entry, because the library writes several in any order.
        about = {_ABOUT: json.dumps({"key": key, "sha256": self._digest()})}
        content = save({"rows": self.rows, "features": self.features}, about)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path, key: str) -> Bank | None:
        """Return what `save` wrote, or None where there is none, it was made from something else, or is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})[_ABOUT])
                if about["key"] != key:
                    return None
                bank = Bank(file.get_tensor("rows"), file.get_tensor("features"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        is_table = bank.rows.ndim == 1 and bank.features.ndim == 2 and len(bank.rows) == len(bank.features)
        return bank if is_table and bank._digest() == about.get("sha256") else None

    def _digest(self) -> str:
        digest = hashlib.sha256(str((self.rows.dtype, self.features.dtype, self.features.shape)).encode())
        for array in (self.rows, self.features):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

"""Checkpoints: safetensors and JSON under a temporary name, synced, renamed. A damaged one is named and passed over."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tellapart.errors import RunError
from tellapart.training.state import TrainState

FORMAT_VERSION = 1
_NUM_KEPT = 2  # The newest may turn out damaged; then the one before it serves.
_TEMPORARY = ".tmp-"
_NAME = re.compile(r"epoch-(\d+)-batch-(\d+)")


class _DamagedError(RunError):
    """A checkpoint that the one before it can stand in for."""


def save_checkpoint(folder: Path, state: TrainState, extra: Mapping[str, Any]) -> Path:
    """Write the state as `folder/epoch-0003-batch-00012/` and return that path.

    Args:
        folder: the run's `checkpoints/`; made if it is missing.
        state: what to save.
        extra: plain data to store beside it, such as the history's length.

    A checkpoint is whole or absent: its files get a temporary folder, are synced, and the folder is renamed. The
    best weights are a file of their own, written once and shared by the checkpoints that name them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"epoch-{state.epoch:04d}-batch-{state.batch_in_epoch:05d}"
    temporary = folder / f"{_TEMPORARY}{target.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors = state.tensors()
    best = tensors.pop("best", None)
    files = {f"{name}.safetensors": _write_tensors(temporary / f"{name}.safetensors", t) for name, t in tensors.items()}
    description: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "files": files,
        "state": state.position(),
        "extra": dict(extra),
    }
    if best is not None:
        description["best"] = _save_best(folder, state.best_epoch, best)
    description["sha256"] = _digest(description)
    _write(temporary / "state.json", (json.dumps(description, indent=1) + "\n").encode())
    _sync_folder(temporary)
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    _sync_folder(folder)
    _remove_others(folder, target)
    return target


def _digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _save_best(folder: Path, epoch: int, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    path = folder / f"best-epoch-{epoch:04d}.safetensors"
    content = _to_bytes(weights)
    if not path.exists() or path.read_bytes() != content:
        temporary = folder / f"{_TEMPORARY}{path.name}"
        _write(temporary, content)
        temporary.rename(path)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}


def _to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    # Two names for one weight (tied weights) are stored twice: safetensors refuses shared memory.
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    content = _to_bytes(tensors)
    _write(path, content)
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in a folder, oldest first."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("epoch-*-batch-*") if path.is_dir()}
    # By number: as text, epoch 10000 stands before epoch 9999.
    places = {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
    return sorted(places, key=places.__getitem__)


def _remove_others(folder: Path, newest: Path) -> None:
    """Keep the newest and the one before it, with the best weights they name; what killed runs left goes as well.

    Checkpoints ahead of the newest are damaged ones that a resumed run passed over.
    """
    found = checkpoints(folder)
    end = found.index(newest) + 1
    for path in [*found[: max(0, end - _NUM_KEPT)], *found[end:]]:
        shutil.rmtree(path)
    needed = set()
    for path in checkpoints(folder):
        try:
            needed.add(json.loads((path / "state.json").read_bytes())["best"]["file"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for path in folder.glob("best-epoch-*.safetensors"):
        if path.name not in needed:
            path.unlink()
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def load_newest(folder: Path, state: TrainState) -> tuple[dict[str, Any], list[str]]:
    """Restore the newest whole checkpoint into `state`.

    Returns:
        The checkpoint's `extra`, and a sentence for each damaged checkpoint that was passed over.

    Raises:
        RunError: there is none, none that is whole, or it is of another model or of a later Tellapart.
    """
    found = checkpoints(folder)
    warnings: list[str] = []
    for path in reversed(found):
        try:
            description, tensors = read_checkpoint(path)
        except _DamagedError as error:
            warnings.append(str(error))
            continue
        try:
            state.restore(description["state"], tensors)
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
        return description["extra"], [f"{warning} The one before it is used." for warning in warnings]
    if found:
        advice = f"To start this run from its beginning, remove {folder} and resume it."
        raise RunError("\n".join([f"{folder}: no checkpoint is whole.", *warnings, advice]))
    raise RunError(f"{folder}: no checkpoint yet.")


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Return a checkpoint's description and tensors after checking every file's SHA-256.

    safetensors itself loads a flipped bit without a word, hence the hashes.

    Raises:
        RunError: a file is missing, torn or altered, or a later Tellapart wrote it.
    """
    from safetensors.torch import load

    description = _read_description(path)
    tensors, files = {}, description["files"]
    paths = {name.removesuffix(".safetensors"): (path / name, digest) for name, digest in files.items()}
    if "best" in description:
        paths["best"] = (path.parent / description["best"]["file"], description["best"]["sha256"])
    for name, (file, digest) in paths.items():
        try:
            content = file.read_bytes()
        except OSError as error:
            raise _DamagedError(f"{path}: damaged checkpoint ({file.name}: {error.strerror}).") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise _DamagedError(f"{path}: damaged checkpoint ({file.name}: its bytes are not those that were written).")
        tensors[name] = load(content)
    return description, tensors


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads((path / "state.json").read_bytes())
        digest = description.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamagedError(f"{path}: damaged checkpoint (state.json: {error}).") from None
    if digest != _digest(description):
        raise _DamagedError(f"{path}: damaged checkpoint (state.json: its bytes are not those that were written).")
    if description["version"] != FORMAT_VERSION:
        raise RunError(
            f"{path}: written by a later Tellapart (checkpoint version {description['version']}, this one reads "
            f"{FORMAT_VERSION}); upgrade."
        )
    return description

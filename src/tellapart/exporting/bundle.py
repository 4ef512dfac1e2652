"""The bundle: weights, preprocessing, classes and where they come from, in a folder that runs no code when loaded."""

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

from tellapart.data.preprocess import Preprocess
from tellapart.errors import RunError, TellapartError
from tellapart.exporting.card import model_card
from tellapart.exporting.classifier import Classifier
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model

FORMAT_VERSION = 1
_WEIGHTS = "model.safetensors"
# A model's name is a table's key or one of timm's and torchvision's; a path or an address of a hub is neither.
_MODEL_NAME = re.compile(r"((timm|torchvision):)?[A-Za-z0-9_.\-]+")


def save_bundle(folder: Path, module: ClassifierModule, info: Mapping[str, Any]) -> None:
    """Write the bundle, under a temporary name first.

    Args:
        folder: where it goes; an older bundle there is replaced as a whole.
        module: what is shipped.
        info: `model` (name, num_classes, in_channels, size_px), `classes`, `task`, and whatever else config.json is to
            tell: metrics, data, versions, licence.
    """
    from safetensors.torch import save

    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = save({name: t.detach().to("cpu", copy=True).contiguous() for name, t in module.state_dict().items()})
    description = {
        "version": FORMAT_VERSION,
        **info,
        "task": module.task,
        "preprocessing": module.preprocess.settings(),
        "files": {_WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    contents = {
        _WEIGHTS: weights,
        "config.json": (json.dumps(description, indent=2) + "\n").encode(),
        "README.md": model_card(description).encode(),
    }
    for name, content in contents.items():
        with (temporary / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def load_bundle(folder: Path, device: torch.device) -> Classifier:
    """Read a bundle, check its hashes, and return the classifier. Nothing in it is executed.

    Raises:
        RunError: no bundle, a damaged one, or one whose parts contradict each other.
    """
    from safetensors.torch import load

    info = read_info(folder)
    try:
        content = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise RunError(f"{folder / _WEIGHTS}: cannot be read ({error.strerror}).") from None
    if hashlib.sha256(content).hexdigest() != info["files"][_WEIGHTS]:
        raise RunError(f"{folder / _WEIGHTS}: its bytes are not those that were written. Copy the bundle again.")
    weights = load(content)
    module = _empty_module(folder, info, weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{folder}: the weights do not fit the model that config.json names: {error}") from None
    return Classifier(module.to(device).eval(), tuple(info["classes"]), info, device)


def _empty_module(folder: Path, info: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> ClassifierModule:
    name = info["model"]["name"]
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        raise RunError(f"{folder / 'config.json'}: {name!r} is no model's name.")
    try:
        settings = dict(info["preprocessing"])
        preprocess = Preprocess(settings.pop("size_px"), settings.pop("mean"), settings.pop("std"), **settings)
        network = create_model(**info["model"])
        module = ClassifierModule(
            preprocess, network, info["task"], weights.get("target_mean"), weights.get("target_std")
        )
    except TellapartError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise RunError(f"{folder / 'config.json'}: cannot make the model it describes ({error}).") from None
    return module.to(memory_format=torch.channels_last)


def read_info(folder: Path) -> dict[str, Any]:
    """Return a bundle's config.json.

    Raises:
        RunError: it is missing, no JSON, incomplete, or of a later version.
    """
    path = folder / "config.json"
    try:
        info = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Expected a run or a bundle.") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not JSON ({error}).") from None
    needed = {"version", "task", "classes", "model", "preprocessing", "files"}
    missing = sorted(needed - set(info)) if isinstance(info, dict) else sorted(needed)
    if missing:
        raise RunError(f"{path}: expected the config of a bundle, found none of: {', '.join(missing)}.")
    if not isinstance(info["version"], int) or info["version"] > FORMAT_VERSION:
        raise RunError(f"{path}: written by a later Tellapart (bundle version {info['version']}); upgrade.")
    return info

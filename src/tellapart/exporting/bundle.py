"""The bundle: weights, preprocessing, classes and where they come from, in a folder that runs no code when loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tellapart.data.decode import background_rgb
from tellapart.data.preprocess import Preprocess
from tellapart.errors import ConfigError, RunError, TellapartError
from tellapart.evaluation.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from tellapart.evaluation.metrics import HEADLINE
from tellapart.exporting.card import model_card
from tellapart.exporting.classifier import Classifier
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model, is_external

# Version 1 had no temperature and no thresholds.
FORMAT_VERSION = 2
_WEIGHTS = "model.safetensors"
# A model's name is a table's key or one of timm's and torchvision's; a path or an address of a hub is neither.
_MODEL_NAME = re.compile(r"((timm|torchvision):)?[A-Za-z0-9_.\-]{1,100}")
# No image is larger (config's `size_px`), and no number in a config.json may make this process allocate more.
_MAX_SIZE_PX = 4096
# What a bundle without a word of them has.
_WITHOUT: dict[str, Any] = {"temperature": 1.0, "thresholds": []}


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
        "temperature": float(module.temperature),
        "thresholds": [] if module.thresholds is None else module.thresholds.tolist(),
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
        MissingError: its model is of a package that is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    info = read_info(folder)
    try:
        content = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise RunError(f"{folder / _WEIGHTS}: cannot be read ({error.strerror}).") from None
    if hashlib.sha256(content).hexdigest() != info["files"][_WEIGHTS]:
        raise RunError(f"{folder / _WEIGHTS}: its bytes are not those that were written. Copy the bundle again.")
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{folder / _WEIGHTS}: not a safetensors file ({error}).") from None
    if info["version"] == 1:
        weights.setdefault("temperature", torch.ones(()))
    module = _empty_module(folder, info, weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{folder}: {_first_mismatch(error)}") from None
    if module.preprocess.settings() != info["preprocessing"]:
        raise RunError(f"{folder}: config.json describes another preprocessing than the weights hold.")
    classifier = Classifier(module.to(device).eval(), tuple(info["classes"]), info, device)
    stored = {"temperature": classifier.temperature, "thresholds": list(classifier.thresholds)}
    for name, found in stored.items():
        if found != info.get(name, _WITHOUT[name]):
            raise RunError(f"{folder}: config.json has another {name} ({_shown(info.get(name))}) than the weights.")
    return classifier


def _empty_module(folder: Path, info: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> ClassifierModule:
    """Return the module that config.json describes, after making sure that the weights are those of such a module.

    A built-in model is first made without memory: a number that does not fit the weights is refused before anything
    of its size is allocated.
    """
    settings = dict(info["preprocessing"])
    preprocess = Preprocess(settings.pop("size_px"), settings.pop("mean"), settings.pop("std"), **settings)

    num_outputs = info["model"]["num_classes"]
    num_scales = num_outputs if info["task"] == "regression" else 1

    def make() -> ClassifierModule:
        network = create_model(**info["model"])
        scale, thresholds = torch.ones(num_scales), torch.ones(num_outputs) if info.get("thresholds") else None
        return ClassifierModule(preprocess, network, info["task"], torch.zeros(num_scales), scale, thresholds)

    try:
        if not any(tensor.shape[:1] == (num_outputs,) for tensor in weights.values()):
            raise ValueError(f"no weight has {num_outputs} outputs")
        if not is_external(info["model"]["name"]):
            with torch.device("meta"), _NothingDrawn():
                _require_shapes(folder, {name: tensor.shape for name, tensor in make().state_dict().items()}, weights)
        with torch.random.fork_rng(devices=[]):  # Its initial weights, which are about to be replaced, are drawn.
            module = make()
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise RunError(f"{folder / 'config.json'}: cannot make the model it describes ({problems})") from None
    except TellapartError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        raise RunError(f"{folder / 'config.json'}: cannot make the model it describes ({error}).") from None
    return module.to(memory_format=torch.channels_last)


class _NothingDrawn(TorchFunctionMode):
    """Leave out the drawing of initial weights: where there is no memory for them, torch imports sympy (2 s) for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if getattr(func, "__name__", "") == "normal_" else func(*args, **(kwargs or {}))


def _require_shapes(folder: Path, expected: Mapping[str, torch.Size], weights: Mapping[str, torch.Tensor]) -> None:
    for name in sorted({*expected, *weights}):
        found = tuple(weights[name].shape) if name in weights else "none"
        wanted = tuple(expected[name]) if name in expected else "none"
        if found != wanted:
            raise RunError(
                f"{folder}: the weights do not fit the model that config.json describes: '{name}' should have shape "
                f"{wanted}, found {found}."
            )


def _first_mismatch(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return f"the weights do not fit the model that config.json describes: {' '.join(lines[:1])}"


def read_info(folder: Path) -> dict[str, Any]:
    """Return a bundle's config.json, its parts of the right kind and in agreement with each other.

    Raises:
        RunError: it is missing, no JSON, incomplete, wrong, or of a later version.
    """
    path = folder / "config.json"
    try:
        info = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Expected a run or a bundle.") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not JSON ({error}).") from None
    needed = {"version", "task", "classes", "model", "preprocessing", "files"}
    if isinstance(info, dict) and info.get("version") != 1:
        needed |= set(_WITHOUT)
    missing = sorted(needed - set(info)) if isinstance(info, dict) else sorted(needed)
    if missing:
        raise RunError(f"{path}: expected the config of a bundle, which has also: {', '.join(missing)}.")
    version = info["version"]
    if _is_whole(version, 1, 10**9) and version > FORMAT_VERSION:
        raise RunError(f"{path}: written by a later Tellapart (bundle version {version}); upgrade.")
    wrong = [f"{what}, found {_shown(found)}" for is_right, what, found in _checks(info) if not is_right]
    if wrong:
        raise RunError("\n".join([f"{path}: not the config of a bundle:", *(f"  - expected {text}" for text in wrong)]))
    return info


def _checks(info: Mapping[str, Any]) -> Iterator[tuple[bool, str, Any]]:
    """Yield (whether it is so, what is expected, what was found) for everything that loading relies on."""
    task, classes, files = info["task"], info["classes"], info["files"]
    yield _is_whole(info["version"], 1, FORMAT_VERSION), f"version 1 to {FORMAT_VERSION}", info["version"]
    yield isinstance(task, str) and task in HEADLINE, f"task: {', '.join(HEADLINE)}", task
    is_names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    yield is_names and len(set(classes)) == len(classes), "classes: a list of different names", classes
    digest = files.get(_WEIGHTS) if isinstance(files, dict) else None
    yield isinstance(digest, str), f"files: the SHA-256 of {_WEIGHTS}", files
    model = info["model"] if isinstance(info["model"], dict) else {}
    keys = {"name", "num_classes", "in_channels", "size_px"}
    yield set(model) == keys, f"model: {', '.join(sorted(keys))}, and no more", info["model"]
    name, num_classes = model.get("name"), model.get("num_classes")
    yield isinstance(name, str) and bool(_MODEL_NAME.fullmatch(name)), "model.name: a model's name", name
    count = len(classes) if is_names and task != "regression" else num_classes
    yield _is_whole(num_classes, 1, 10**6) and num_classes == count, "model.num_classes: one a class", num_classes
    channels = model.get("in_channels")
    yield _is_whole(channels, 1, 3) and channels != 2, "model.in_channels: 1 or 3", channels
    yield from _preprocessing_checks(info["preprocessing"], model)
    temperature, thresholds = (info.get(name, without) for name, without in _WITHOUT.items())
    low, high = LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE
    yield _is_number(temperature, low, high), f"temperature: a number from {low:g} to {high:g}", temperature
    is_thresholds = isinstance(thresholds, list) and all(_is_number(number, 0, 1) for number in thresholds)
    count = num_classes if task == "multilabel" and thresholds else 0
    expected = "a number from 0 to 1 a class, or none" if task == "multilabel" else "none"
    yield is_thresholds and len(thresholds) == count, f"thresholds: {expected}", thresholds


def _preprocessing_checks(settings: Any, model: Mapping[str, Any]) -> Iterator[tuple[bool, str, Any]]:
    keys = {"size_px", "resize_px", "fit", "background", "mean", "std"}
    # The first bundles had no background; theirs was white.
    is_whole = isinstance(settings, dict) and {"background", *settings} == keys
    yield is_whole, f"preprocessing: {', '.join(sorted(keys))}, and no more", settings
    if not is_whole:
        return
    size_px, resize_px, channels = settings["size_px"], settings["resize_px"], model.get("in_channels")
    is_size = _is_whole(size_px, 1, _MAX_SIZE_PX) and size_px == model.get("size_px")
    yield is_size, f"preprocessing.size_px: 1 to {_MAX_SIZE_PX} and the model's", size_px
    is_resize = is_size and _is_whole(resize_px, size_px, _MAX_SIZE_PX + 1)
    yield is_resize, f"preprocessing.resize_px: from size_px to {_MAX_SIZE_PX + 1}", resize_px
    background = settings.get("background", "white")
    yield _is_background(background), "preprocessing.background: white, black, grey or #rrggbb", background
    for key in ("mean", "std"):
        numbers = settings[key]
        is_numbers = isinstance(numbers, list) and all(isinstance(x, float | int) and abs(x) < 1e6 for x in numbers)
        yield is_numbers and len(numbers) == channels, f"preprocessing.{key}: a number a channel", numbers


def _is_background(value: Any) -> bool:
    try:
        background_rgb(value)
    except (ConfigError, TypeError):
        return False
    return True


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."

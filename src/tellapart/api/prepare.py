"""From what a user asks for to a whole config: the data's summary, the recipe, the user's own choices, all checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tellapart.api.opening import open_data
from tellapart.config import RunConfig, get, override
from tellapart.data.augment import AUGMENTATIONS, MIXES
from tellapart.data.scan import typical_size_px
from tellapart.data.sources import SOURCES, Source
from tellapart.data.splits import check_division, unread_fractions
from tellapart.errors import ConfigError, unknown_name
from tellapart.models import MODELS
from tellapart.optim import LOSSES, OPTIMIZERS, SCHEDULES, SETTINGS_USED
from tellapart.recipes import RECIPES, DataSummary

_LOSS_OF_TASK = {
    "multiclass": "cross-entropy",
    "multilabel": "binary-cross-entropy",
    "regression": "mean-squared-error",
}
_LOSSES_OF_TASK = {
    "multiclass": set(LOSSES),
    "multilabel": {"binary-cross-entropy", "mean-squared-error"},
    "regression": {"mean-squared-error"},
}
# Which names each field may take; the tables themselves live beside what they name.
NAMES = {
    "recipe": RECIPES,
    "model.name": MODELS,
    "loss.name": ("auto", *LOSSES),
    "optim.name": OPTIMIZERS,
    "schedule.name": SCHEDULES,
    "augment.transforms": (*AUGMENTATIONS, *MIXES),
}


@dataclass(frozen=True)
class Prepared:
    """An opened source and the config that is complete for it."""

    source: Source
    config: RunConfig


def prepare(data: Any, recipe: str, changes: Mapping[str, Any]) -> Prepared:
    """Open the data, ask the recipe, and apply the user's changes.

    Args:
        data: what `open_source` takes: a name, a path, a pair of arrays, a source.
        recipe: a key of RECIPES.
        changes: values by dotted name, as text or typed.

    Raises:
        ConfigError: everything that is wrong with `recipe` and `changes`, together.
        DataError: the data cannot be opened.
    """
    changes = {name.replace("-", "_"): value for name, value in changes.items()}
    problems = [] if recipe in RECIPES else [f"recipe: {unknown_name('name', recipe, RECIPES)}"]
    try:
        # Names and values are judged before the data is opened; combinations below, against the recipe's values.
        names = {name: known for name, known in NAMES.items() if name in changes}
        asked = override(RunConfig(), changes, names, combinations=False)
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from None
    problems += _seed_problems(asked)
    if problems:
        raise ConfigError(problems)
    source = open_data(data, asked.data)
    base = RECIPES[recipe](summarize(source))
    config = override(base, {**_consequences(base, changes), **changes}, NAMES)
    unused = without_effect(config, changes, source)
    if unused:
        raise ConfigError(unused)
    check_division(source, config.data)
    return Prepared(source, _resolve(config, data, source))


def _seed_problems(config: RunConfig) -> list[str]:
    problems = []
    if config.seeds == 1:
        problems.append("seeds: expected 0 (train once) or at least 2, whose results have a spread; found 1")
    if config.seeds and config.data.folds and not config.data.fold:
        problems.append(
            "seeds, data.folds: give one of them. A seed shows how training varies on one division, and a fold has "
            "another one: the two spreads would be one number that says neither. For several seeds of one fold, name "
            "it by data.fold"
        )
    if config.seeds and config.seed + config.seeds > 2**63:
        problems.append(f"seeds: the last of {config.seeds} seeds from {config.seed} on would be over {2**63 - 1}")
    return problems


def summarize(source: Source) -> DataSummary:
    """Return what a recipe may know of the source."""
    return DataSummary(
        name=source.name,
        task=source.task,
        num_images=sum(part != "test" for part in source.parts),
        num_classes=len(source.classes),
        num_channels=source.num_channels,
        size_px=typical_size_px(source) or 32,
    )


def _consequences(base: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user's choice makes of the recipe's other choices, where they cannot go together."""
    follow: dict[str, Any] = {}
    if str(changes.get("model.pretrained", "")).lower() in ("true", "yes", "on", "1"):
        follow["preprocess.normalize"] = "pretrained"
    if changes.get("loss.name") == "mean-squared-error":
        follow |= {"loss.label_smoothing": 0.0, "loss.class_weights": "none"}
    if changes.get("schedule.name") == "exponential":
        follow["schedule.gamma"] = 0.95  # The default of `step` every epoch would end learning after three.
    if "preprocess.size_px" in changes and base.preprocess.resize_px:
        follow["preprocess.resize_px"] = 0
    return follow


# What a field needs to have an effect: another field, and the values of it that read this one.
_READ_BY = {
    "optim.momentum": ("optim.name", {"sgd-momentum", "sgd-nesterov", "muon"}),
    "augment.pad_px": ("augment.transforms", {"shift", "flip-crop"}),
    "augment.rotation_degrees": ("augment.transforms", {"rotation"}),
    "augment.jitter": ("augment.transforms", {"color-jitter"}),
    "augment.min_scale": ("augment.transforms", {"random-resized-crop"}),
    "augment.erasing_prob": ("augment.transforms", {"random-erasing"}),
    "augment.num_ops": ("augment.transforms", {"randaugment"}),
    "augment.magnitude": ("augment.transforms", {"randaugment"}),
    "augment.mixup_alpha": ("augment.transforms", {"mixup"}),
    "augment.cutmix_alpha": ("augment.transforms", {"cutmix"}),
    "data.data_dir": ("data.source", set(SOURCES)),
    **{
        f"schedule.{field}": ("schedule.name", {name for name, used in SETTINGS_USED.items() if setting in used})
        for field, setting in {
            "warmup_epochs": "warmup_steps",
            **{name: name for name in ("min_factor", "step_epochs", "gamma", "patience")},
            **{name: name for name in ("pct_start", "div_factor", "final_div_factor", "cycle_momentum")},
        }.items()
    },
}


def without_effect(config: RunConfig, changes: Mapping[str, Any], source: Source) -> list[str]:
    """Return a sentence for each change that nothing would read: no intention of the user's is dropped in silence."""
    problems = []
    for name in changes:
        if name in _READ_BY:
            by, readers = _READ_BY[name]
            chosen = get(config, by)
            values = set(chosen) if isinstance(chosen, tuple) else {source.name if by == "data.source" else chosen}
            if not values & readers:
                shown = ", ".join(sorted(values)) or "none"
                problems.append(f"{name}: has no effect with {by} {shown}; only with {', '.join(sorted(readers))}")
    problems += unread_fractions(source, config.data, changes)
    if config.data.in_memory == "yes" and {"data.num_workers", "data.worker_timeout_s"} & set(changes):
        problems.append("data.num_workers, data.worker_timeout_s: have no effect with data.in_memory yes")
    return problems


def _resolve(config: RunConfig, data: Any, source: Source) -> RunConfig:
    """Fill in what was left to be found out, so that the stored config is whole."""
    loss = _LOSS_OF_TASK[source.task] if config.loss.name == "auto" else config.loss.name
    if loss not in _LOSSES_OF_TASK[source.task]:
        fitting = ", ".join(sorted(_LOSSES_OF_TASK[source.task]))
        raise ConfigError([f"loss.name: '{loss}' does not fit a {source.task} task. Fitting: {fitting}"])
    size_px = config.preprocess.size_px or RECIPES[config.recipe](summarize(source)).preprocess.size_px
    return replace(
        config,
        data=replace(
            config.data,
            source=storable_name(data),
            task=source.task,
            # Absolute, so that the run can be resumed and evaluated from anywhere.
            data_dir=str(Path(config.data.data_dir).expanduser().resolve()) if config.data.data_dir else "",
        ),
        loss=replace(config.loss, name=loss),
        preprocess=replace(config.preprocess, size_px=size_px, resize_px=max(config.preprocess.resize_px, size_px)),
    )


def storable_name(data: Any) -> str:
    """Return what finds the data again: a name, an absolute path, or "<arrays>" for what only the caller has."""
    if not isinstance(data, str | os.PathLike):
        return "<arrays>"
    text = os.fspath(data)
    # As in `open_source`: a known name wins over a folder of that name, here and when the run is resumed.
    if isinstance(data, str) and text in SOURCES:
        return text
    return str(Path(text).resolve()) if Path(text).exists() and os.sep in os.fspath(Path(text).resolve()) else text


# What a resumed run may do otherwise: where images are read and how often it saves changes no bit.
_SAME_BITS = {
    "data.in_memory",
    "data.cache_dir",
    "data.cache_gib",
    "data.num_workers",
    "data.worker_timeout_s",
    "train.checkpoint_interval_s",
    "train.report",
}


def same_bits(name: str) -> bool:
    """Return whether a field may change when a run is resumed, because the result does not depend on it."""
    return name.replace("-", "_") in _SAME_BITS


def differences(config: RunConfig, changes: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each change that a stored config does not agree with; "auto" agrees with anything."""
    wanted = override(config, changes, {k: v for k, v in NAMES.items() if k in changes})
    names = [name.replace("-", "_") for name in changes]
    return [
        f"{name}: the run has {get(config, name)!r}, this command asks for {get(wanted, name)!r}"
        for name in names
        if get(config, name) != get(wanted, name) and get(wanted, name) != "auto" and not same_bits(name)
    ]

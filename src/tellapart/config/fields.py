"""The leaves of RunConfig by dotted name: read from text or JSON, replaced, and judged all together."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal

from tellapart.config.sections import RunConfig
from tellapart.errors import ConfigError, nearest, unknown_name


@dataclass(frozen=True)
class Option:
    """One leaf of RunConfig, as the command line and the docs show it."""

    name: str
    type: Any
    default: Any
    doc: str
    low: float | None
    high: float | None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values it may take, where they are few; else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


@cache
def options() -> dict[str, Option]:
    """Return every leaf of RunConfig by its dotted name, in order."""
    return {leaf.name: leaf for leaf in _leaves(RunConfig, "")}


def _leaves(section: type, prefix: str) -> Iterator[Option]:
    hints = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        annotation = hints[item.name]
        if is_dataclass(annotation):
            yield from _leaves(typing.cast(type, annotation), f"{prefix}{item.name}.")
        else:
            meta = item.metadata
            yield Option(prefix + item.name, annotation, item.default, meta["doc"], meta["low"], meta["high"])


def get(config: RunConfig, name: str) -> Any:
    """Return the value at a dotted name.

    >>> get(RunConfig(), "train.epochs")
    20
    """
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def override(
    config: RunConfig,
    changes: Mapping[str, Any],
    names: Mapping[str, Collection[str]] | None = None,
    *,
    combinations: bool = True,
) -> RunConfig:
    """Return a config with `changes` applied, or report everything that is wrong with them together.

    Args:
        config: what to start from; it is not changed.
        changes: values by dotted name; text (as the command line gives it) is read by the field's type.
        names: for fields that name an entry of a table, the table's names.
        combinations: whether to judge how the fields go together; not while some of them are still to be chosen.

    Raises:
        ConfigError: unknown names, values of a wrong type or out of range, and combinations that make no sense.

    >>> override(RunConfig(), {"optim.lr": "0.01"}).optim.lr
    0.01
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, raw in changes.items():
        key = name.replace("-", "_")
        if key not in options():
            problems.append(_unknown_field(name))
            continue
        try:
            values[key] = _coerce(raw, options()[key])
        except ValueError as error:
            problems.append(f"{key}: {error}")
    changed = _replace(config, values)
    problems += _problems(changed, names or {})
    if combinations:
        problems += _contradictions(changed)
    if problems:
        raise ConfigError(problems)
    return changed


def _unknown_field(name: str) -> str:
    # By the last word alone: with its section in front, every wrong name is near to some other of the section.
    fields = {known.rsplit(".", 1)[-1]: known for known in reversed(options())}
    guess = fields.get(nearest(name.replace("-", "_").rsplit(".", 1)[-1], fields) or "")
    return f"unknown field '{name}'." + (
        f" Did you mean '{guess}'?" if guess else " `tellapart train --help` lists all."
    )


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    direct = {name: value for name, value in values.items() if "." not in name}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." in name:
            section, rest = name.split(".", 1)
            sections.setdefault(section, {})[rest] = value
    for section, inner in sections.items():
        direct[section] = _replace(getattr(config, section), inner)
    return dataclasses.replace(config, **direct)


def _coerce(raw: Any, leaf: Option) -> Any:
    """Return `raw` as the field's type; text is read, and nothing is rounded or cut in silence."""
    if leaf.choices:
        if raw not in leaf.choices:
            raise ValueError(unknown_name("value", str(raw), map(str, leaf.choices)))
        return raw
    if leaf.type == tuple[str, ...]:
        items = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"expected names separated by commas, found {raw!r}")
        return tuple(item.strip() for item in items if item.strip())
    return _coerce_scalar(raw, leaf.type)


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _coerce_scalar(raw: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(raw, str) and raw.lower() in _WORDS:
            return _WORDS[raw.lower()]
        if isinstance(raw, bool):
            return raw
        raise ValueError(f"expected true or false, found {raw!r}")
    if kind is str:
        if isinstance(raw, str):
            return raw
        raise ValueError(f"expected text, found {raw!r}")
    number = _number(raw)
    if kind is int and isinstance(number, float) and not number.is_integer():
        raise ValueError(f"expected a whole number, found {raw!r}")
    # Beyond int64 no tensor can hold a whole number, and a little further no float either.
    if abs(number) >= 2**63 and (kind is int or isinstance(number, int)):
        raise ValueError("expected a number of at most 9223372036854775807 either way, found a larger one")
    return int(number) if kind is int else float(number)


def _number(raw: Any) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError(f"expected a number, found {raw!r}")
    if not isinstance(raw, str):
        number: int | float = raw
    else:
        try:
            number = int(raw)
        except ValueError:
            try:
                number = float(raw)
            except ValueError:
                raise ValueError(f"expected a number, found {raw!r}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {raw!r}")
    return number


def _problems(config: RunConfig, names: Mapping[str, Collection[str]]) -> list[str]:
    problems = []
    for name, leaf in options().items():
        value = get(config, name)
        if leaf.low is not None and value < leaf.low:
            problems.append(f"{name}: expected at least {_exact(leaf.low)}, found {_exact(value)}")
        if leaf.high is not None and value > leaf.high:
            problems.append(f"{name}: expected at most {_exact(leaf.high)}, found {_exact(value)}")
    for name, known in names.items():
        chosen = get(config, name)
        for item in chosen if isinstance(chosen, tuple) else (chosen,):
            if item not in known and not (name == "model.name" and ":" in item):
                problems.append(f"{name}: {unknown_name('name', item, known)}")
    return problems


def _exact(number: float) -> str:
    """Return a number short, but never so short that two different ones look alike."""
    short = f"{number:g}"
    return short if float(short) == number and isinstance(number, float) else repr(number)


def _contradictions(config: RunConfig) -> list[str]:
    """Combinations in which one of the user's intentions would have to be dropped."""
    problems = []
    train, preprocess, schedule = config.train, config.preprocess, config.schedule
    if train.accumulation_steps > train.batch_size:
        problems.append(
            f"train.accumulation_steps: expected at most train.batch_size ({train.batch_size}), "
            f"found {train.accumulation_steps}"
        )
    if preprocess.resize_px and preprocess.size_px and preprocess.resize_px < preprocess.size_px:
        problems.append(
            f"preprocess.resize_px: expected at least preprocess.size_px ({preprocess.size_px}), "
            f"found {preprocess.resize_px}"
        )
    if config.data.val_fraction + config.data.test_fraction > 0.9:
        problems.append("data.val_fraction and data.test_fraction: together they leave under a tenth to train on")
    if schedule.name == "one-cycle" and schedule.warmup_epochs:
        problems.append(
            "schedule.warmup_epochs: one-cycle has a warmup of its own (schedule.pct_start); take another schedule.name"
        )
    if schedule.warmup_epochs > train.epochs:
        problems.append(f"schedule.warmup_epochs: expected at most train.epochs ({train.epochs})")
    if config.model.pretrained and ":" not in config.model.name:
        problems.append(
            f"model.pretrained: '{config.model.name}' has no published weights; expected a model.name that starts with "
            "timm: or torchvision:"
        )
    if not config.model.pretrained and preprocess.normalize == "pretrained":
        problems.append("preprocess.normalize: 'pretrained' needs model.pretrained")
    return problems


def type_name(kind: Any) -> str:
    """Return how a field's type is shown in `--help`."""
    if kind == tuple[str, ...]:
        return "NAME[,NAME]"
    if typing.get_origin(kind) in (Literal, types.UnionType):
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}[kind]

"""What a run chose, who chose it, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.config import RunConfig, get, options
from tellapart.data.scan import typical_size_px
from tellapart.data.sources import SOURCES, Source
from tellapart.errors import TellapartError
from tellapart.recipes import RECIPES, DataSummary
from tellapart.reporting.facts import RunFacts

# What `--loss.name auto` becomes; naming it in a command would say nothing.
_NATURAL_LOSS = {
    "multiclass": "cross-entropy",
    "multilabel": "binary-cross-entropy",
    "regression": "mean-squared-error",
}
# Where these lie or how fast they are read changes no bit of the result, and another machine has other places for them.
_NO_PART = {"data.cache_dir", "data.cache_gib", "data.num_workers", "data.worker_timeout_s", "data.in_memory"}
_ELSEWHERE = {"recipe", "data.source"}
# Decided by the data or the machine, so nobody's choice.
_FOUND = {"data.source", "data.task", "loss.name", "preprocess.size_px", "preprocess.resize_px", "compute.precision"}


@dataclass(frozen=True)
class Choice:
    """A field of the config: its value, its default, its meaning, and who set it.

    `by` is "you" (it differs from what the recipe says), "recipe", "found" (by the data or the machine), or "" where
    the value is the default.
    """

    name: str
    value: str
    default: str
    doc: str
    by: str


def recipe_config(config: RunConfig, source: Source | None) -> RunConfig | None:
    """Return what the run's recipe says for the source, or None where the source or the recipe is not to be had."""
    if source is None or config.recipe not in RECIPES:
        return None
    try:
        size_px = typical_size_px(source) or 32
    except (TellapartError, OSError):
        return None
    return RECIPES[config.recipe](
        DataSummary(
            name=source.name,
            task=source.task,
            num_images=sum(part != "test" for part in source.parts),
            num_classes=len(source.classes),
            num_channels=source.num_channels,
            size_px=size_px,
        )
    )


def choices(config: RunConfig, base: RunConfig | None) -> list[Choice]:
    """Return every field of the config in order; `base` is what the recipe says, where that is known."""
    default = RunConfig()
    asked = _asked(config, base) if base is not None else set()
    found = []
    for name, option in options().items():
        value, usual = get(config, name), get(default, name)
        by = "" if value == usual else "found" if name in _FOUND and name not in asked else "recipe"
        if (name in asked and name not in _ELSEWHERE) or (name == "data.source" and by):
            by = "you"
        found.append(Choice(name, as_text(value), as_text(usual), option.doc, by))
    return found


def as_text(value: Any) -> str:
    """Return a value as the command line takes it.

    >>> as_text(("flip", "shift")), as_text(True), as_text(0.1)
    ('flip,shift', 'true', '0.1')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _asked(config: RunConfig, base: RunConfig) -> set[str]:
    """Return the fields that are not what the recipe and the data make of them."""
    size_px = config.preprocess.size_px
    wanted_resize = 0 if size_px != base.preprocess.size_px else base.preprocess.resize_px
    natural = {
        "loss.name": _NATURAL_LOSS.get(config.data.task, "auto") if base.loss.name == "auto" else base.loss.name,
        "data.task": "multiclass",
        "preprocess.resize_px": max(wanted_resize, size_px),
        "compute.precision": config.compute.precision,
    }
    return {
        name for name in options() if name not in _ELSEWHERE and get(config, name) != natural.get(name, get(base, name))
    }


def flags(config: RunConfig, base: RunConfig) -> list[str]:
    """Return the options of `train` that make `config` of what the recipe says, as words for a shell.

    The precision is always among them, because another machine would choose another.

    >>> flags(RunConfig(seed=7), RunConfig())[:2]
    ['--seed', '7']
    """
    asked = _asked(config, base) - _NO_PART | {"compute.precision"}
    if config.data.task != base.data.task and config.data.source not in SOURCES:
        asked.add("data.task")
    words: list[str] = []
    for name in options():
        if name in asked:
            flag, value = f"--{name.replace('_', '-')}", as_text(get(config, name))
            # A value that begins with a dash would be taken for an option.
            words += [f"{flag}={value}"] if value.startswith("-") else [flag, value]
    return words


def command(facts: RunFacts, base: RunConfig | None, run: str = "runs/again") -> str:
    """Return the line for a shell that trains the run again, into the folder `run`; "" where none can be given.

    Everything that is not as the recipe has it is an option, so that the resolved config comes out the same.
    """
    config = facts.config
    if base is None or config.data.source == "<arrays>":
        return ""
    words = ["tellapart", "train", config.data.source, "--recipe", config.recipe, "--run", run, *flags(config, base)]
    return shlex.join(words)


def recorded(environment: Mapping[str, Any]) -> str:
    """Return the command that was typed, as a line for a shell; "" where the run was started from Python.

    >>> recorded({"command": ["/usr/lib/tellapart/__main__.py", "train", "my photos"]})
    "tellapart train 'my photos'"
    """
    typed = environment.get("command")
    if not isinstance(typed, Sequence) or isinstance(typed, str) or len(typed) < 2:
        return ""
    program = Path(str(typed[0]))
    if program.name not in ("tellapart", "tellapart.exe") and program.parts[-2:] != ("tellapart", "__main__.py"):
        return ""
    return shlex.join(["tellapart", *map(str, typed[1:])])


def as_python(config: RunConfig, base: RunConfig | None) -> str:
    """Return the call that trains a run of arrays again, given them as `images` and `targets`."""
    asked = [] if base is None else [name for name in options() if name in _asked(config, base) - _NO_PART]
    inner = "".join(f"        {name!r}: {get(config, name)!r},\n" for name in asked)
    lines = ["import tellapart", "", "tellapart.train(", "    (images, targets),", f"    recipe={config.recipe!r},"]
    lines += ["    options={", inner.rstrip("\n"), "    },"] if inner else []
    return "\n".join([*lines, ")"])

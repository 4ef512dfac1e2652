"""What can be wrong with how a source is to be divided, found before any image is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from tellapart.config import DataConfig
from tellapart.data.sources import Source
from tellapart.data.splits.found import search_paths
from tellapart.data.splits.given import read_given
from tellapart.errors import ConfigError


def check_division(source: Source, config: DataConfig) -> None:
    """Raise what can be raised of a division before the images are read.

    Raises:
        ConfigError: settings that contradict each other, patterns that find nothing; all of them together.
        DataError: the file of `data.split` cannot be used.
    """
    problems = [*_contradictions(config), *_without_columns(source, config)]
    problems += _pattern_problems("data.group_pattern", config.group_pattern, source.paths)
    problems += _pattern_problems("data.time_pattern", config.time_pattern, source.paths)
    own = [part for part in ("val", "test") if part in source.parts]
    if _time_settings(config) and (len(own) == 2 or (own == ["val"] and not config.test_fraction)):
        problems.append(
            f"{_time_settings(config)[0]}: has no effect, because nothing is left to draw: {source.name} has parts of "
            "its own"
        )
    if problems:
        raise ConfigError(problems)
    if config.split:
        read_given(config.split)


def unread_fractions(source: Source, config: DataConfig, names: Collection[str]) -> list[str]:
    """Return a sentence for each of `names`, dotted names of fields, that is a fraction by which nothing is drawn.

    `data.split_seed` is another such name, where nothing is drawn at random.
    """
    problems = _unread_seed(source, config) if "data.split_seed" in names and config.split_seed >= 0 else []
    for part in ("val", "test"):
        if (name := f"data.{part}_fraction") not in names:
            continue
        if config.split:
            problems.append(f"{name}: has no effect with data.split, which says where each image goes")
        elif config.folds and part == "test":
            problems.append(f"{name}: has no effect with data.folds, by which each run is tested on one fold")
        elif part in source.parts and not config.folds:
            problems.append(f"{name}: has no effect, because {source.name} has a {part} part of its own")
    return problems


def _unread_seed(source: Source, config: DataConfig) -> list[str]:
    if config.split:
        why = "with data.split, which says where each image goes"
    elif _time_settings(config):
        why = f"with {_time_settings(config)[0]}: a division by time is not drawn"
    elif not config.folds and "val" in source.parts and ("test" in source.parts or not config.test_fraction):
        why = f"because nothing is left to draw: {source.name} has parts of its own"
    else:
        return []
    return [f"data.split_seed: has no effect {why}"]


def _time_settings(config: DataConfig) -> list[str]:
    return [f"data.{name}" for name in ("time_column", "time_pattern") if getattr(config, name)]


def _contradictions(config: DataConfig) -> list[str]:
    problems = []
    for kind in ("group", "time"):
        if getattr(config, f"{kind}_column") and getattr(config, f"{kind}_pattern"):
            problems.append(f"data.{kind}_column, data.{kind}_pattern: give one of them; which one says the {kind}?")
    times = _time_settings(config)
    if config.split and times:
        problems.append(f"{times[0]}: has no effect with data.split, which says where each image goes")
    if config.split and config.folds:
        problems.append("data.folds: are drawn, and data.split says where each image goes; give one of them")
    if config.folds == 1:
        problems.append("data.folds: expected 0 (one run) or at least 2 parts, each tested on once; found 1")
    if config.fold > config.folds:
        problems.append(f"data.fold: expected at most data.folds ({config.folds}), found {config.fold}")
    if config.folds and times:
        problems.append(
            f"{times[0]}: does not go with data.folds, where each fold but one would be trained on later images than "
            "it is tested on. Leave out one of them"
        )
    if config.folds > 1 and config.val_fraction + 1 / config.folds > 0.9:
        problems.append(
            f"data.val_fraction: with {config.folds} folds it leaves under a tenth to train on; expected at most "
            f"{0.9 - 1 / config.folds:.2g}, found {config.val_fraction:g}"
        )
    return problems


def _without_columns(source: Source, config: DataConfig) -> list[str]:
    problems = []
    for name, found in (("group_column", source.groups), ("time_column", source.times)):
        if getattr(config, name) and found is None:
            problems.append(f"data.{name}: has no effect, because {source.name} is read without a table of columns")
    return problems


def _pattern_problems(name: str, pattern: str, paths: Sequence[str]) -> list[str]:
    if not pattern:
        return []
    try:
        found = search_paths(pattern, paths)
    except re.error as error:
        return [f"{name}: {pattern!r} is no regular expression: {error}"]
    if paths and not any(found):
        return [f"{name}: {pattern!r} finds nothing in any of the {len(paths):,} paths, such as {paths[0]!r}"]
    return []

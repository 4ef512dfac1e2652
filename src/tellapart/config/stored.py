"""RunConfig as JSON text, and back to an equal object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tellapart.config.fields import override
from tellapart.config.sections import RunConfig
from tellapart.errors import ConfigError

CONFIG_VERSION = 1


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as nested plain data, with its format's version."""
    return {"version": CONFIG_VERSION, **dataclasses.asdict(config)}


def dump(config: RunConfig) -> str:
    """Return the config as JSON text; `load` gives an equal object back."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load(text: str, where: str = "config") -> RunConfig:
    """Return the config in JSON text. Fields that an older version did not have take their defaults.

    Raises:
        ConfigError: no JSON, a later version, or fields that are unknown or wrong; all of them are named.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits is a plain ValueError
        raise ConfigError([f"{where}: not JSON ({error})"]) from None
    if not isinstance(data, dict):
        raise ConfigError([f"{where}: expected a JSON object, found {type(data).__name__}"])
    try:
        _check_version(data.pop("version", CONFIG_VERSION), where)
        return override(RunConfig(), dict(_flatten(data, "")))
    except RecursionError:
        raise ConfigError([f"{where}: nested deeper than any config"]) from None


def _check_version(version: Any, where: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError([f"{where}: expected a whole number from 1 as version, found {version!r}"])
    if version > CONFIG_VERSION:
        raise ConfigError(
            [f"{where}: config version {version} is of a later Tellapart (this one reads {CONFIG_VERSION}); upgrade"]
        )


def _flatten(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

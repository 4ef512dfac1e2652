"""What is said when a model of another package cannot be had."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from types import ModuleType

from tellapart.errors import ConfigError, MissingError


def import_package(package: str, command: str) -> ModuleType:
    """Import and return the package.

    Raises:
        MissingError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingError(
            f"models named '{package}:...' need the package {package}, which cannot be imported ({first_line(error)}). "
            f"Install it with: {command}"
        ) from error


def unknown_model(package: str, name: str, known: Sequence[str], listing: str) -> ConfigError:
    """Return the error for a name that the package does not have.

    It names the closest few, where `errors.unknown_name` would list more than a thousand.
    """
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f" Did you mean '{package}:{near[0]}'?" if near else ""
    others = f" Also close: {', '.join(near[1:])}." if len(near) > 1 else ""
    return ConfigError([f"unknown model '{package}:{name}'.{hint}{others} {listing} lists all {len(known)} names."])


def no_weights(name: str, alternatives: Sequence[str]) -> ConfigError:
    """Return the error for a model that its package has no pretrained weights for."""
    others = f" These have some: {', '.join(alternatives)}." if alternatives else ""
    return ConfigError([f"there are no pretrained weights for '{name}'; train it with pretrained=False.{others}"])


def cannot_build(name: str, num_classes: int, in_channels: int, size_px: int, error: BaseException) -> ConfigError:
    """Return the error for a model that its package refuses to build for these images."""
    return ConfigError(
        [
            f"'{name}' cannot be built for {in_channels} x {size_px} x {size_px} images and {num_classes} classes: "
            f"{first_line(error)}"
        ]
    )


def weights_missing(name: str, address: str, how_to_cache: str, error: BaseException) -> MissingError:
    """Return the error for weights that are neither in the cache nor can be downloaded."""
    return MissingError(
        f"the pretrained weights of '{name}' could not be loaded. Tried: the cache, then {address} "
        f"({type(error).__name__}: {first_line(error)}).\n"
        f"Two ways on:\n"
        f"  1. train without them: pretrained=False;\n"
        f"  2. {how_to_cache}"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message, or its kind where it has none.

    >>> first_line(AssertionError())
    'AssertionError'
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

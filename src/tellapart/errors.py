"""What a user can mend, said so that they can: what, where, expected, found, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TellapartError(Exception):
    """A problem that the user can mend. The command line prints it without a traceback and exits with 1."""


class ConfigError(TellapartError):
    """One or more fields of a config are wrong; `problems` lists every one of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "1 problem in the config:" if count == 1 else f"{count} problems in the config:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class DataError(TellapartError):
    """The images or labels cannot be used as they are."""


class RunError(TellapartError):
    """A run folder, checkpoint or bundle is missing, damaged or of another kind."""


class MissingError(TellapartError):
    """A package, device or network that the command needs is not there."""


class NonFiniteLossError(TellapartError):
    """The loss became NaN or infinite; training stopped before the update."""


class Interrupted(TellapartError):  # noqa: N818 - it is no failure
    """The user or the system asked the run to stop; its state is saved."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that `name` most likely meant, or None.

    >>> nearest("restnet18", ["resnet18", "mlp"])
    'resnet18'
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not in a table: the list and the nearest match.

    >>> unknown_name("model", "restnet18", ["mlp", "resnet18"])
    "unknown model 'restnet18'. Did you mean 'resnet18'? Known: mlp, resnet18"
    """
    known = sorted(known)
    guess = nearest(name, known)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(known)}"

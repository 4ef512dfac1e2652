"""argparse with suggestions: a wrong option names the nearest right one, and exits with 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from tellapart.errors import nearest


class Parser(argparse.ArgumentParser):
    """A verb's parser; its help ends with examples.

    Args:
        verb: the verb's name.
        description: what it does, one or two sentences.
        examples: lines to try.
    """

    def __init__(self, verb: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"tellapart {verb}",
            description=description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def known_options(self) -> list[str]:
        """Return every option as it is typed."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Return the parsed arguments; a wrong call is explained on stderr and exits with 2."""
        found, unknown = self.parse_known_args([_with_dashes(word) for word in arguments])
        if unknown:
            # Behind an unknown option its value is left over too; naming the option is enough.
            options = [word for word in unknown if word.startswith("-")]
            self.error("; ".join(self._suggest(word) for word in options or unknown))
        return found

    def _suggest(self, word: str) -> str:
        if not word.startswith("-"):
            return f"did not expect '{word}'"
        name = word.split("=")[0]
        by_last = [o for o in self.known_options() if o.rsplit(".", 1)[-1].lstrip("-") == name.lstrip("-")]
        guess = by_last[0] if by_last else nearest(name, self.known_options())
        return f"unknown option '{name}'." + (f" Did you mean '{guess}'?" if guess else "")

    def error(self, message: str) -> NoReturn:
        """Explain a wrong call and exit with 2."""
        print(f"{self.prog}: {message}\nTry: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _with_dashes(word: str) -> str:
    """Return an option's name with dashes, as Python's `train_batch_size` style of typing it means the same."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word

"""The `tellapart` command: finds the verb, runs it, and turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from tellapart import __version__
from tellapart.errors import Interrupted, TellapartError, nearest

# Importing a verb's room costs what the verb needs; this table is all that `tellapart --help` loads.
VERBS = {
    "check": "what is wrong with a data set, worst first: unreadable, duplicate, leaked, mislabelled, odd",
    "pack": "write any data set as shards, reduced to the size that is needed",
    "train": "train a classifier on labelled images, or resume a run",
    "evaluate": "a run's metrics on val or test, each with its 95% interval",
    "compare": "two or more runs on the same images: the difference, its interval, and whether it is more than chance",
    "report": "one HTML page that shows why to believe a run, or an overview of many",
    "explain": "where the network looks, and which training images an image resembles",
    "predict": "classify images with a run or a bundle",
    "ls": "what there is: runs, models, datasets, recipes, optimizers, schedules, losses, augmentations",
    "doctor": "check this environment and say how to mend it",
}

EXIT_ERROR, EXIT_USAGE = 1, 2
# EX_TEMPFAIL of sysexits.h: the work is saved, and the same command with --resume finishes it.
EXIT_RESUME = 75

_EXAMPLES = """\
examples:
  tellapart check path/to/folder              what is wrong with your images, before they mislead
  tellapart train digits                      handwritten digits, nothing to download
  tellapart train path/to/folder              your own images, a sub-folder a class
  tellapart evaluate runs/RUN --split test    the final number
  tellapart predict runs/RUN image.jpg        what is on a picture

`tellapart VERB --help` shows a verb's options and examples.
"""


def usage() -> str:
    """Return the text of `tellapart --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: tellapart VERB ...",
            "",
            "From labelled images to a trained, honestly judged, shippable classifier.",
            "",
            "verbs:",
            *lines,
            "",
            _EXAMPLES.rstrip(),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a problem, 2 a wrong call, 75 stopped and ready to be resumed."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else EXIT_USAGE
    verb, *rest = arguments
    if verb in ("--version", "-V"):
        print(f"tellapart {__version__}")
        return 0
    if verb not in VERBS:
        guess = nearest(verb, VERBS)
        hint = f" Did you mean '{guess}'?" if guess else ""
        print(f"tellapart: there is no verb '{verb}'.{hint} Verbs: {', '.join(VERBS)}", file=sys.stderr)
        return EXIT_USAGE
    return _run_verb(verb, rest)


def _run_verb(verb: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(f"tellapart.cli.{verb}")
    try:
        code = module.run(list(arguments))
        sys.stdout.flush()
        return code
    except Interrupted as error:
        print(f"tellapart {verb}: {error}", file=sys.stderr)
        return EXIT_RESUME
    except TellapartError as error:
        print(f"tellapart {verb}: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f"\ntellapart {verb}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) has gone; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR

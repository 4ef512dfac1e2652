"""`tellapart explain`."""

from __future__ import annotations

import json
import sys
from typing import Any

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart explain runs/mine photo.jpg
tellapart explain runs/mine photos/ --out explained.html
tellapart explain runs/mine --split test --mistakes 10 --out mistakes.html
tellapart explain runs/mine photo.jpg --class bees --layer stages.2.1
tellapart explain runs/mine --index 3 17 --json
"""


class _MixedParser(Parser):
    """Lets the images stand before, between and behind options, which argparse does not where there may be none."""

    _is_inside = False

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - its overloads say the same
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Return what was found and what was left over."""
        if self._is_inside:  # argparse's own way to it parses twice
            return super().parse_known_args(args, namespace)
        self._is_inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_inside = False


def make_parser() -> Parser:
    """Return the parser."""
    parser = _MixedParser(
        "explain",
        "For each image: what the network says, where in the picture it looks, and which training images it is\n"
        "reminded of. An image that cannot be read is a line with its error; exit code 1.",
        _EXAMPLES,
    )
    parser.add_argument("run", help="the folder of a run; or of a bundle, which has no neighbours to show")
    parser.add_argument("paths", nargs="*", default=[], metavar="IMAGE", help="images, or folders of images")
    parser.add_argument("--split", choices=("val", "test", "train"), help="the most confident mistakes of a split")
    parser.add_argument("--mistakes", type=int, metavar="INT", help="how many of them (default: 10)")
    parser.add_argument("--index", type=int, nargs="+", default=[], metavar="ROW", help="rows of the run's division")
    parser.add_argument("--out", metavar="FILE", help="write a page with the pictures, for a browser")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="look for this class, not the predicted one")
    parser.add_argument("--layer", metavar="NAME", help="look at this layer, not at the last one with a map")
    parser.add_argument("--neighbours", type=int, default=6, metavar="INT", help="training images to name (default: 6)")
    parser.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, all else on stderr")
    return parser


def run(arguments: list[str]) -> int:
    """Explain and print."""
    parser = make_parser()
    found = parser.parse(arguments)
    if not found.paths and found.split is None and found.mistakes is None and not found.index:
        parser.error("expected images, or --split with --mistakes, or --index")
    if found.neighbours < 0:
        parser.error(f"--neighbours: expected 0 or more, found {found.neighbours}")
    if found.mistakes is not None and found.mistakes < 1:
        parser.error(f"--mistakes: expected at least 1, found {found.mistakes}")
    from tellapart.api.explain import explain
    from tellapart.training.progress import make_progress

    result = explain(
        found.run,
        found.paths,
        split=found.split,
        mistakes=found.mistakes,
        index=found.index,
        class_name=found.class_name,
        layer=found.layer,
        neighbours=found.neighbours,
        out=found.out,
        device=found.device,
        progress=make_progress(True, sys.stderr if found.json else sys.stdout),
    )
    if found.json:
        print(json.dumps(result.as_dict()))
    else:
        print(
            "\n\n".join([text for text in [str(result)] if text] + [f"page: {result.page}"] * (result.page is not None))
        )
    if result.num_unreadable:
        count = f"{result.num_unreadable:,} of {len(result.images):,} images"
        print(f"tellapart explain: {count} cannot be read.", file=sys.stderr)
    return 1 if result.num_unreadable else 0

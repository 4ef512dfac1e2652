"""`tellapart compare`."""

from __future__ import annotations

import json

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart compare runs/one runs/other
tellapart compare runs/baseline runs/second runs/third --split test
tellapart compare runs/mine/seed-0 runs/mine/seed-1
tellapart compare runs/cnn-5-seeds runs/resnet-5-seeds --json
tellapart compare runs/mine predictions-of-another-tool.csv
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "compare",
        "Compare runs on the same images, each with the first: the difference, its 95% interval, and whether it is\n"
        "more than chance. Reads the predictions that `train` and `evaluate` stored; computes none.",
        _EXAMPLES,
    )
    parser.add_argument("run", nargs="+", help="a run's folder, one of seeds or folds, or a file of predictions")
    parser.add_argument(
        "--split", choices=("val", "test"), default=None, help="(default: test if every run has looked at it, else val)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    return parser


def run(arguments: list[str]) -> int:
    """Compare and print."""
    parser = make_parser()
    found = parser.parse(arguments)
    if len(found.run) < 2:
        parser.error(f"expected two runs or more, found '{found.run[0]}' alone")
    from tellapart.api.compare import compare

    comparison = compare(*found.run, split=found.split)
    print(json.dumps(comparison.as_dict()) if found.json else comparison)
    return 0

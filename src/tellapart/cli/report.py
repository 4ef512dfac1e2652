"""`tellapart report`."""

from __future__ import annotations

import json

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart report runs/mine
tellapart report runs/mine --out mine.html
tellapart report runs
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "report",
        "One page that shows why to believe a run's number: its interval, what it was measured on, curves, mistakes,\n"
        "calibration, data and model. Of a folder of runs, an overview. One file, which needs no other.",
        _EXAMPLES,
    )
    parser.add_argument("run", help="the run's folder, or a folder that holds runs")
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: report.html in the folder)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, all else on stderr")
    return parser


def run(arguments: list[str]) -> int:
    """Write the page and say where it is."""
    found = make_parser().parse(arguments)
    from tellapart.api.report import report

    path = report(found.run, found.out)
    if found.json:
        print(json.dumps({"report": str(path), "bytes": path.stat().st_size}))
    else:
        print(f"report: {path}")
    return 0

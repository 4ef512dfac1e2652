"""`tellapart doctor`."""

from __future__ import annotations

import json

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart doctor
tellapart doctor --json
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "doctor",
        "Check this environment: versions, devices, precision, one convolution, one torchvision operator.",
        _EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: list[str]) -> int:
    """Print what was found; exit with 1 if something is wrong."""
    found = make_parser().parse(arguments)
    from tellapart.api.doctor import examine

    report = examine()
    if found.json:
        print(json.dumps(report.as_dict()))
        return 1 if report.problems else 0
    width = max(map(len, report.facts))
    for name, value in report.facts.items():
        print(f"  {name:{width}}  {value}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print("Everything works." if not report.problems else f"{len(report.problems)} problem(s).")
    return 1 if report.problems else 0

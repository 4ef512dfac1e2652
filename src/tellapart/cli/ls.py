"""`tellapart ls`."""

from __future__ import annotations

import json

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart ls
tellapart ls models
tellapart ls recipes --json
"""
KINDS = ("models", "datasets", "recipes", "optimizers", "schedules", "losses", "augmentations")


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("ls", "What there is, by name, with a line on each.", _EXAMPLES)
    parser.add_argument("kind", nargs="?", choices=KINDS, help="what to list (default: everything)")
    parser.add_argument("--json", action="store_true", help="print JSON: kind, name, description")
    return parser


def run(arguments: list[str]) -> int:
    """Print the tables."""
    found = make_parser().parse(arguments)
    from tellapart.api.listing import listing

    tables = {kind: listing(kind) for kind in (KINDS if found.kind is None else (found.kind,))}
    if found.json:
        print(json.dumps(tables))
        return 0
    for kind, table in tables.items():
        if len(tables) > 1:
            print(f"{kind}:")
        width = max(map(len, table))
        for name, text in table.items():
            print(f"  {name:{width}}  {text}")
    return 0

"""`tellapart ls`."""

from __future__ import annotations

import json
import shutil
import sys

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart ls
tellapart ls models
tellapart ls recipes --json
tellapart ls runs
tellapart ls runs path/to/runs --json
"""
KINDS = ("models", "datasets", "recipes", "optimizers", "schedules", "losses", "augmentations")
# A file or a pipe has no columns to keep to; names are still cut somewhere.
_MOST_COLUMNS, _FEWEST_COLUMNS = 120, 80


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser("ls", "What there is, by name, with a line on each; or the runs in a folder.", _EXAMPLES)
    parser.add_argument("kind", nargs="?", choices=(*KINDS, "runs"), help="what to list (default: all but runs)")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="runs: the folder they are in (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON: kind, name, description; or the runs")
    return parser


def run(arguments: list[str]) -> int:
    """Print the tables, or the runs."""
    parser = make_parser()
    found = parser.parse(arguments)
    if found.kind == "runs":
        return _list_runs(found.folder or "runs", found.json)
    if found.folder is not None:
        parser.error(f"did not expect '{found.folder}': only `ls runs` takes a folder")
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


def _list_runs(folder: str, json_wanted: bool) -> int:
    from tellapart.api.listing import runs_listing
    from tellapart.api.overview import gather_runs

    rows = gather_runs(folder)
    if json_wanted:
        print(json.dumps({"runs": runs_listing(rows)}))
        return 0
    from tellapart.reporting.run_lines import run_lines
    from tellapart.reporting.sparklines import is_ascii_only

    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _MOST_COLUMNS
    width = min(max(columns, _FEWEST_COLUMNS), _MOST_COLUMNS)
    print("\n".join(run_lines(rows, width=width, ascii_only=is_ascii_only(sys.stdout))))
    return 0

"""`tellapart check`."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

from tellapart.cli.parser import Parser

if TYPE_CHECKING:
    from tellapart.api.check import Checked

_EXAMPLES = """
tellapart check path/to/folder
tellapart check photos.csv --html check.html
tellapart check path/to/folder --fix clean.csv
tellapart check path/to/folder --run runs/mine
tellapart check cifar10 --json > check.json
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "check",
        "Read every image of a data set and say what is wrong with it, worst first. No file of the data is changed.\n"
        "Exit code 0 whatever is found, unless --strict is given.",
        _EXAMPLES,
    )
    parser.usage = "tellapart check [DATA] [--run RUN] [--html FILE] [--fix OUT] [--json] [--strict] ..."
    parser.add_argument("data", nargs="?", help="what `tellapart train` takes (default: the data of --run)")
    parser.add_argument(
        "--run", metavar="RUN", help="a run on this data: judge its division, doubt labels, find files changed since"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the pictures, for a browser")
    parser.add_argument("--fix", metavar="OUT", help="write a corrected manifest: .csv, .tsv or .parquet, a new file")
    parser.add_argument("--verify", metavar="FILE", help="find files changed since a split.parquet or --fix manifest")
    parser.add_argument("--quick", action="store_true", help="do not look for near duplicates")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are errors or warnings")
    parser.add_argument("--max-examples", type=int, default=3, metavar="INT", help="of each finding (default: 3)")
    parser.add_argument("--data-dir", default="", metavar="TEXT", help="where downloaded data sets lie or go")
    parser.add_argument("--task", default="auto", metavar="TEXT", help="multiclass, multilabel, regression (or auto)")
    for name, what in _COLUMNS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default="", metavar="TEXT", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, all else on stderr")
    return parser


_COLUMNS = {
    "image_column": "manifests, Parquet: the column of paths or bytes",
    "label_column": "manifests, Parquet: the column of labels",
    "split_column": "manifests, Parquet: the column that says train, val or test",
    "group_column": "manifests, Parquet: images of one group stay on one side",
    "label_separator": "manifests: the sign between several labels of one image",
}


def run(arguments: list[str]) -> int:
    """Check and print."""
    parser = make_parser()
    found = parser.parse(arguments)
    if found.data is None and found.run is None:
        parser.error("expected DATA, or --run RUN, whose data to check")
    if found.max_examples < 1:
        parser.error(f"--max-examples: expected at least 1, found {found.max_examples}")
    from tellapart.api.check import UnwrittenError, check
    from tellapart.data.sources import ColumnNames
    from tellapart.training.progress import make_progress

    named = {role: getattr(found, f"{role}_column") for role in ("image", "label", "split", "group")}
    columns = ColumnNames(**named, separator=found.label_separator)
    try:
        checked = check(
            found.data,
            run=found.run,
            verify=found.verify,
            quick=found.quick,
            html=found.html,
            fix=found.fix,
            max_examples=found.max_examples,
            data_dir=found.data_dir,
            task=found.task,
            columns=None if columns == ColumnNames() else columns,
            progress=make_progress(True, sys.stderr if found.json else sys.stdout),
        )
    except UnwrittenError as error:
        _show(error.checked, found.json, found.max_examples)
        raise
    _show(checked, found.json, found.max_examples)
    return 1 if found.strict and not checked.is_clean else 0


def _show(checked: Checked, as_json: bool, max_examples: int) -> None:
    from tellapart.auditing.summary import as_text

    if as_json:
        print(json.dumps(checked.as_dict()))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    print("\n".join([as_text(checked.audit, max_examples, min(width, 100)), *_written(checked)]), flush=True)


def _written(checked: Checked) -> list[str]:
    lines = [f"page: {checked.page}"] if checked.page else []
    if (fixed := checked.fixed) is not None:
        lines.append(
            f"manifest: {fixed.manifest} ({fixed.num_kept:,} kept, {fixed.num_left_out:,} left out, "
            f"{fixed.num_marked:,} marked to be looked at)"
        )
        lines += [f"left out: {fixed.left_out}"] if fixed.left_out else []
        lines.append(f"next: {fixed.advice}")
    return lines

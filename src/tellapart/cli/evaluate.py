"""`tellapart evaluate`."""

from __future__ import annotations

import json
import shutil
import sys

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart evaluate runs/mine
tellapart evaluate runs/mine --split test
tellapart evaluate runs/mine --split test --tta flip --json
tellapart evaluate runs/mine --data path/to/new/photos
tellapart evaluate runs/mine --corruptions --limit 1000
tellapart evaluate runs/mine --split test --selective --ood path/to/other/photos
tellapart evaluate predictions.csv
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "evaluate",
        "A run's metrics on val, on test, or on any other images, each with its 95% interval. A look at test is noted "
        "in the run.\nOr the metrics of a table of predictions (.csv, .tsv, .parquet) that anything wrote: a column "
        "class,\nand a column of probabilities for each class.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("run", help="the run's folder, or a table of predictions")
    add("--split", choices=("val", "test", "train"), help="(default: val; of --data: all images)")
    add(
        "--data",
        metavar="DATA",
        help="other images with the classes of the run: a folder, a manifest, a data set's name",
    )
    add("--tta", default="none", metavar="TEXT", help="views of an image to average: none, flip, flip-shift")
    add("--corruptions", action="store_true", help="also under noise, blur, JPEG and more, each in five strengths")
    add(
        "--limit", type=int, default=0, metavar="INT", help="corruptions: of so many images, drawn; 0: all (default: 0)"
    )
    add("--selective", action="store_true", help="also what answering only when sure brings, and how sure for 99%%")
    add("--ood", metavar="DATA", help="also whether it notices images that are of none of its classes")
    add("--classes", default="", metavar="A,B,C", help="a table with one column of lists: their classes, in order")
    add("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda, mps (default: auto)")
    add("--json", action="store_true", help="print JSON on stdout, all else on stderr")
    return parser


def run(arguments: list[str]) -> int:
    """Evaluate and print."""
    parser = make_parser()
    found = parser.parse(arguments)
    if found.limit < 0:
        parser.error(f"--limit: expected a number of images, or 0 for all, found {found.limit}")
    if found.limit and not found.corruptions:
        parser.error("--limit: says of how many images --corruptions are measured; it has no effect without them")
    from tellapart.api.evaluate import evaluate
    from tellapart.training.progress import make_progress

    display = make_progress(True, sys.stderr if found.json else sys.stdout)
    try:
        result = evaluate(
            found.run,
            found.split,
            data=found.data,
            tta=found.tta,
            corruptions=found.corruptions,
            limit=found.limit,
            selective=found.selective,
            ood=found.ood,
            classes=[name.strip() for name in found.classes.split(",") if name.strip()],
            device=found.device,
            progress=display,
        )
    finally:
        display.close()
    if found.json:
        print(json.dumps(result.details()))
    else:
        width = max(60, min(120, shutil.get_terminal_size((80, 24)).columns))
        print("\n".join(result.lines(width)))
    return 0

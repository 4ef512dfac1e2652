"""`tellapart evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tellapart.cli.parser import Parser

_EXAMPLES = """
tellapart evaluate runs/mine
tellapart evaluate runs/mine --split test
tellapart evaluate runs/mine --split test --json
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "evaluate",
        "A run's metrics on val, or on test, each with its 95% interval. A look at test is noted in the run.",
        _EXAMPLES,
    )
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--split", choices=("val", "test", "train"), default="val", help="(default: val)")
    parser.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, all else on stderr")
    return parser


def run(arguments: list[str]) -> int:
    """Evaluate and print."""
    found = make_parser().parse(arguments)
    from tellapart.api.evaluate import Evaluation, evaluate, looks_at
    from tellapart.api.run import Run
    from tellapart.evaluation.metrics import format_accuracy, per_class_table
    from tellapart.training.progress import make_progress

    display = make_progress(True, sys.stderr if found.json else sys.stdout)
    result: Evaluation = evaluate(found.run, found.split, device=found.device, progress=display)
    if found.json:
        print(json.dumps(result.as_dict()))
        return 0
    if "top1" in result.metrics:
        print(f"accuracy on {result.split}: {format_accuracy(result.metrics['top1'], result.n, result.num_given)}")
    if result.n < result.num_given:
        print(f"{result.n:,} of {result.num_given:,} images evaluated; the others cannot be read")
    for name, estimate in result.metrics.items():
        print(f"  {name:18} {estimate.value:.4f}   {estimate.low:.4f} to {estimate.high:.4f}")
    if result.predictions.task != "regression":
        _print_classes(per_class_table(result.predictions))
    looks = len(looks_at(Run(Path(found.run)), "test"))
    if found.split == "test" and looks > 1:
        print(f"test was looked at {looks} times; whatever was chosen after a look makes the next one flatter.")
    return 0


def _print_classes(rows: list[dict[str, str | int | float | None]], most: int = 30) -> None:
    width = max(len("class"), *(len(str(row["class"])) for row in rows))
    print(f"  {'class':{width}}  {'n':>7}  precision  recall")
    for row in rows[:most]:
        precision, recall = (f"{row[key]:.1%}" if row[key] is not None else "-" for key in ("precision", "recall"))
        print(f"  {row['class']:{width}}  {row['support']:>7,}  {precision:>9}  {recall:>6}")
    if len(rows) > most:
        print(f"  and {len(rows) - most:,} more classes")

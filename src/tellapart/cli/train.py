"""`tellapart train`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tellapart.cli.parser import Parser
from tellapart.config import Option, options, type_name

_EXAMPLES = """
tellapart train digits
tellapart train path/to/folder --run runs/mine
tellapart train cifar10 --model resnet18 --epochs 30 --optim.lr 0.01
tellapart train cifar10 --recipe tutorial --dry-run
tellapart train path/to/folder --data.folds 5
tellapart train digits --seeds 5
tellapart train --resume runs/mine
"""
# Short names for the fields that are set most often.
_SHORT = {
    "model": "model.name",
    "epochs": "train.epochs",
    "batch-size": "train.batch_size",
    "seed": "seed",
    "seeds": "seeds",
    "device": "compute.device",
    "precision": "compute.precision",
    "data-dir": "data.data_dir",
}
# These fields are set by an argument of their own.
_ELSEWHERE = {"recipe", "seed", "seeds", "data.source"}


def make_parser() -> Parser:
    """Return the parser: the short options, then every field of the config by its dotted name."""
    parser = Parser("train", "Train a classifier on labelled images, or resume a run.", _EXAMPLES)
    parser.usage = "tellapart train [DATA] [--recipe NAME] [--run DIR] [--resume [RUN]] [--FIELD VALUE ...]"
    parser.add_argument("data", nargs="?", help="a data set's name, a folder, a Parquet or npz file (default: digits)")
    parser.add_argument("--recipe", default=None, metavar="NAME", help="from `tellapart ls recipes` (default: auto)")
    parser.add_argument("--run", metavar="DIR", help="the run's folder, new or empty (default: runs/DATE-DATA-MODEL)")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with a run")
    parser.add_argument("--dry-run", action="store_true", help="print the config and the model, train nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout, all else on stderr")
    for short, name in _SHORT.items():
        option = options()[name]
        parser.add_argument(f"--{short}", dest=name, metavar=type_name(option.type), help=_help(option))
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, option in options().items():
        if name in _ELSEWHERE:
            continue
        section = name.split(".")[0]
        group = groups.setdefault(section, parser.add_argument_group(f"{section} fields"))
        flag, metavar = f"--{name.replace('_', '-')}", type_name(option.type)
        group.add_argument(flag, dest=name, default=argparse.SUPPRESS, metavar=metavar, help=_help(option))
    return parser


def _help(option: Option) -> str:
    default = ",".join(option.default) if isinstance(option.default, tuple) else option.default
    known = "" if default in ("", None) else f" ({default} unless the recipe says otherwise)"
    return (option.doc + known).replace("%", "%%")


def run(arguments: list[str]) -> int:
    """Train, resume, or show what would be trained."""
    parser = make_parser()
    found = vars(parser.parse(arguments))
    data, recipe, json_wanted = found.pop("data"), found.pop("recipe"), found.pop("json")
    path, resume, dry_run = found.pop("run"), found.pop("resume"), found.pop("dry_run")
    changes = {name: value for name, value in found.items() if value is not None}
    path = _which_run(parser, path, resume)
    from tellapart.training.progress import make_progress

    display = make_progress(True, sys.stderr if json_wanted else sys.stdout)
    if dry_run and resume is not None:
        parser.error("--dry-run shows a new run; leave out --resume (the run's config.json has its config)")
    if dry_run:
        return _show(data or "digits", recipe or "auto", changes, json_wanted)
    from tellapart.api.train import train

    try:
        finished = train(
            data,
            recipe=recipe or "auto",
            run=path,
            resume=resume is not None,
            options=changes,
            progress=display,
        )
    except KeyboardInterrupt:
        display.close()
        raise
    if json_wanted:
        print(json.dumps(finished.result))
    else:
        print(_next_steps(str(finished.path), finished))
    return 0


def _which_run(parser: Parser, path: str | None, resume: str | None) -> str | None:
    if resume is None:
        return path
    if resume and path and resume != path:
        parser.error(f"--resume names '{resume}' and --run names '{path}'; which one?")
    chosen = resume or path
    if not chosen:
        parser.error("--resume needs the run's folder: tellapart train --resume RUN")
    return chosen


def _next_steps(path: str, finished: Any) -> str:
    from tellapart.api.folds import FoldsRun, fold_path
    from tellapart.api.seeds import SeedsRun, seed_path

    steps = {f"tellapart predict {path} IMAGE ...": "what is on a picture"}
    if isinstance(finished, SeedsRun):
        one, other = (seed_path(finished.path, seed) for seed in finished.seeds[:2])
        steps = {
            f"tellapart compare {one} {other}": "is one better, or is it chance?",
            f"tellapart predict {one} IMAGE ...": "what the first seed makes of a picture",
        }
        if len(finished.split.rows("test")):
            steps = {f"tellapart evaluate {path} --split test": "the final number, of every seed", **steps}
    elif isinstance(finished, FoldsRun):
        steps = {
            f"tellapart train {finished.config.data.source} ...": "the model to ship: the same without --data.folds",
            f"tellapart predict {fold_path(finished.path, 1)} IMAGE ...": "what the first fold makes of a picture",
        }
    elif len(finished.split.rows("test")):
        steps = {f"tellapart evaluate {path} --split test": "the final number, on images that chose nothing", **steps}
    width = max(map(len, steps))
    return "\n".join([f"run: {path}", "next:", *(f"  {step:{width}}  # {why}" for step, why in steps.items())])


def _show(data: str, recipe: str, changes: dict[str, Any], json_wanted: bool) -> int:
    from tellapart import config as configs
    from tellapart.api.job import make_network
    from tellapart.api.prepare import prepare
    from tellapart.models import summary

    prepared = prepare(data, recipe, changes)
    source, config = prepared.source, prepared.config
    size_px = config.preprocess.size_px
    model = summary(
        make_network(config, source.num_outputs, source.num_channels), (source.num_channels, size_px, size_px)
    )
    if json_wanted:
        print(json.dumps({"config": configs.to_dict(config), "num_parameters": model.total_params}))
    else:
        print(configs.dump(config))
        print(model)
    return 0

"""`tellapart predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tellapart.cli.parser import Parser

if TYPE_CHECKING:
    from tellapart.exporting.classifier import Prediction

_EXAMPLES = """
tellapart predict runs/mine photo.jpg
tellapart predict runs/mine photos/ --top-k 5
tellapart predict runs/mine photo.jpg --tta flip
tellapart predict runs/mine/bundle photos/ --json > predictions.jsonl
"""


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "predict",
        "Classify images with a run or a bundle. An image that cannot be read is a line with its error; exit code 1.",
        _EXAMPLES,
    )
    parser.add_argument("run", help="the folder of a run or a bundle")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, or folders of images")
    parser.add_argument("--top-k", type=int, default=1, metavar="INT", help="classes to show for an image (default: 1)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="INT", help="images at a time (default: 64)")
    parser.add_argument(
        "--tta", default="none", metavar="TEXT", help="views of an image to average: none, flip, flip-shift"
    )
    parser.add_argument("--uncalibrated", action="store_true", help="the network's own probabilities, no temperature")
    parser.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    return parser


def run(arguments: list[str]) -> int:
    """Classify and print a line an image."""
    parser = make_parser()
    found = parser.parse(arguments)
    for name in ("top_k", "batch_size"):
        if getattr(found, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(found, name)}")
    from tellapart.api.load import load
    from tellapart.data.decode import ImageError

    classifier = load(found.run, device=found.device, calibrated=not found.uncalibrated)
    num_failed = num_images = 0
    for path, result in classifier.predict_each(image_paths(found.paths), found.batch_size, tta=found.tta):
        num_images += 1
        if isinstance(result, ImageError):
            num_failed += 1
            _print_error(path, str(result), found.json)
        elif found.json:
            print(json.dumps(as_dict(path, result, found.top_k)), flush=True)
        else:
            print(as_line(path, result, found.top_k), flush=True)
    if not num_images:
        print("tellapart predict: found no images there.", file=sys.stderr)
        return 1
    if num_failed:
        print(f"tellapart predict: {num_failed:,} of {num_images:,} images cannot be read.", file=sys.stderr)
    return 1 if num_failed else 0


def image_paths(paths: list[str]) -> Iterator[Path]:
    """Yield the files that are named, and the images in the folders that are, in the order of their names."""
    from tellapart.data.sources.tree import walk

    for path in map(Path, paths):
        if path.is_dir():
            yield from (path / inner for inner in walk(path).images)
        else:
            yield path


def as_dict(path: Path, prediction: Prediction, top_k: int) -> dict[str, Any]:
    """Return what `predict --json` prints of an image."""
    if prediction.prob != prediction.prob:
        # Numbers have no probability, and JSON has no NaN.
        values = list(prediction.probs.values())
        return {"path": _text(path), "class": prediction.label, "prob": None, "top": [], "values": values}
    top = [{"class": name, "prob": prob} for name, prob in prediction.top(top_k)]
    return {"path": _text(path), "class": prediction.label, "prob": prediction.prob, "top": top}


def as_line(path: Path, prediction: Prediction, top_k: int) -> str:
    """Return what `predict` prints of an image."""
    if prediction.prob != prediction.prob:
        return f"{_text(path)}: {prediction.label}"
    if top_k == 1:
        return f"{_text(path)}: {prediction.label} {prediction.prob:.1%}"
    return f"{_text(path)}: " + ", ".join(f"{name} {prob:.1%}" for name, prob in prediction.top(top_k))


def _print_error(path: Path, error: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"path": _text(path), "error": error}), flush=True)
    else:
        print(f"{_text(path)}: cannot be read: {error}", flush=True)


def _text(path: Path) -> str:
    from tellapart.data.sources.tree import to_text

    return to_text(str(path))

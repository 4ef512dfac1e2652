"""The model card of a bundle, in the form that the Hugging Face Hub shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(info: Mapping[str, Any]) -> str:
    """Return README.md for a bundle from what its config.json says."""
    data, val = info.get("data", {}), info.get("val", {})
    lines = [
        "---",
        "library_name: tellapart",
        "pipeline_tag: image-classification",
        "tags: [image-classification, tellapart]",
        "---",
        "",
        f"# {info['model']['name']} on {data.get('name', 'images')}",
        "",
        f"Classifies images ({info['task']}) into {len(info['classes'])} classes. The preprocessing is stored with the",
        "weights: give it decoded images of any size.",
        "",
        "```python",
        "import tellapart",
        "",
        'tellapart.load("path/to/this/folder").predict("image.jpg")[0].label',
        "```",
        "",
        "## Measured on val",
        "",
        f"On {val.get('n', 0):,} of {val.get('num_given', 0):,} images given. Val chose these weights, so it",
        "flatters them a little.",
        "",
        *_metric_lines(val.get("metrics", {})),
        "",
        "## Classes",
        "",
        ", ".join(f"`{name}`" for name in info["classes"]) or "none: it predicts numbers",
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps({key: info[key] for key in ("model", "preprocessing", "data", "versions") if key in info}, indent=1),
        "```",
        "",
        "Licence: not stated. Whoever publishes this bundle has to add one that the images and the weights allow.",
        "",
    ]
    return "\n".join(lines)


def _metric_lines(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    lines = ["| metric | value | 95% interval |", "|---|---|---|"]
    for name, estimate in metrics.items():
        shown = ["not defined" if estimate[key] is None else f"{estimate[key]:.4f}" for key in ("value", "low", "high")]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} to {shown[2]} |")
    return lines

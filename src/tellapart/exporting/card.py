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
        *_calibration_lines(info),
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


def _calibration_lines(info: Mapping[str, Any]) -> list[str]:
    """Return the section on what the probabilities mean; a bundle that predicts numbers has none."""
    if info["task"] == "regression":
        return []
    temperature = info.get("temperature", 1.0)
    lines = ["## Probabilities", ""]
    if temperature == 1.0:
        lines += ["The probabilities are those that the network gives: its temperature is 1.", ""]
    else:
        lines += [
            f"The logits are divided by a temperature of {temperature:.4g} before they become probabilities, in order",
            "that of the images about which it is 90% sure, 90% are right. What is predicted stays the same, and",
            "`tellapart.load(..., calibrated=False)` leaves the temperature out. It was fitted on val, so what is said",
            "of the probabilities after it flatters them a little.",
            "",
        ]
    told = info.get("calibration", {})
    lines += _before_and_after(told.get("before", {}), told.get("after", {}))
    if info.get("thresholds"):
        chosen = zip(info["classes"], info["thresholds"], strict=False)
        lines += [
            "A class is predicted where its probability is above its threshold, which was chosen on val to have the",
            "highest F1:",
            "",
            ", ".join(f"`{name}` {threshold:.3f}" for name, threshold in chosen),
            "",
        ]
    return lines


def _before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a table of the metrics that look at the probabilities, with the temperature and without."""
    names = [name for name in before if name in after]
    if not names:
        return []
    lines = ["| on val | before | after | 95% interval |", "|---|---|---|---|"]
    for name in names:
        found = after[name]
        values = (before[name]["value"], found["value"], found["low"], found["high"])
        shown = ["not defined" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {shown[2]} to {shown[3]} |")
    return [*lines, ""]

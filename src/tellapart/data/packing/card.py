"""The README.md of packed shards, which tells people and Hugging Face `datasets` what lies where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SPLITS = {"train": "train", "val": "validation", "test": "test", "data": "train"}


def card(pack: dict[str, Any]) -> str:
    """Return the text, with the splits as YAML in front.

    Source: Hugging Face Hub documentation, "Manual Configuration" of data sets.
    """
    files = [shard["file"] for shard in pack["shards"]]
    stems = list(dict.fromkeys(file.split("-")[0] for file in files))
    ending = files[0].rpartition(".")[2]
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for stem in stems:
        split = stem if stem == "data" and len(stems) > 1 else _SPLITS[stem]
        lines += [f"  - split: {split}", f'    path: "{stem}-*.{ending}"']
    plan = pack["plan"]
    left_out = f", {len(pack['unreadable']):,} left out because they cannot be read" if pack["unreadable"] else ""
    return "\n".join(
        [
            *lines,
            "---",
            "",
            f"# {_one_line(plan['source'])}",
            "",
            f"{pack['num_images']:,} images in {len(files):,} shards{left_out}, written by `tellapart pack`. "
            f"{_sizes(plan['settings'])} `pack.json` has the settings and a SHA-256 of every shard.",
            *(["", _classes(plan["task"], plan["classes"])] if plan["classes"] else []),
            "",
        ]
    )


def _sizes(settings: dict[str, Any]) -> str:
    if not settings["max_size_px"]:
        return "The images have the sizes that they were given in."
    return f"Images with a shorter side of more than {settings['max_size_px']} px were scaled down to that."


def _classes(task: str, classes: Sequence[str], most: int = 30) -> str:
    shown = ", ".join(_one_line(name) for name in classes[:most])
    more = f" and {len(classes) - most:,} more" if len(classes) > most else ""
    kind = "any number of them an image" if task == "multilabel" else "one an image"
    return f"Classes ({len(classes):,}, {kind}): {shown}{more}."


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""What a run keeps of every evaluation: who looked at what, when, with which weights, and on which division."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tellapart.api.run import Run
from tellapart.data.splits import SPLITS, Split
from tellapart.errors import RunError


def weights_hash(run: Run) -> str:
    """Return the SHA-256 of the weights that are shipped, in hex."""
    file = run.bundle / "model.safetensors"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}).") from None


def add_look(run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """Note that somebody looked, with the time, the weights and a fingerprint of the division; return the line."""
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": weights_hash(run),
        **found,
        "division": fingerprint(run.split),
    }
    path = run.path / "evaluations.jsonl"
    before = path.read_bytes() if path.exists() else b"\n"
    # A process that was killed while it wrote may have left half a line, which the next must not be glued to.
    start = b"" if before.endswith(b"\n") else b"\n"
    with path.open("ab") as file:
        file.write(start + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return line


def all_looks(run: Run) -> list[dict[str, Any]]:
    """Return all recorded evaluations, oldest first."""
    path = run.path / "evaluations.jsonl"
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # Torn by a kill; the evaluation that wrote it never returned its numbers.
        if isinstance(line, dict) and "split" in line:
            lines.append(line)
    return lines


def looks_at(run: Run, split: str) -> list[dict[str, Any]]:
    """Return the recorded evaluations of a split of the run, oldest first; those of other data are not among them."""
    return [line for line in all_looks(run) if line["split"] == split and not line.get("data")]


def looks_in_words(looks: Sequence[Mapping[str, Any]]) -> str:
    """Return what several looks at test mean, or "" for one or none.

    >>> looks_in_words([{"weights": "a"}, {"weights": "b"}, {"weights": "a"}]).split(";")[0]
    'test was looked at 3 times, with 2 different weights'
    """
    if len(looks) < 2:
        return ""
    num_weights = len({look.get("weights") for look in looks})
    if num_weights > 1:
        weights = f"with {num_weights} different weights"
        meaning = "if a look chose the weights of a later one, the later number is too good."
    else:
        weights = "always with the same weights"
        meaning = "whatever is chosen after a look makes the next one flatter."
    return f"test was looked at {len(looks)} times, {weights}; {meaning}"


def fingerprint(split: Split) -> dict[str, dict[str, Any]]:
    """Return, for each part, how many images it has and a SHA-256 of their paths, classes and pixels in hex."""
    found = {}
    for name in SPLITS:
        rows = [row for row, part in enumerate(split.splits) if part == name]
        content = [[split.paths[row], split.classes[row], split.pixel_hashes[row]] for row in rows]
        found[name] = {"n": len(rows), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
    return found


def require_same_division(run: Run) -> None:
    """Refuse a run whose `split.parquet` is not the one that it was trained with.

    A run of before the fingerprint was kept cannot be checked, and passes.

    Raises:
        RunError: the division was edited, with the parts that differ.
    """
    then = next((look["division"] for look in all_looks(run) if isinstance(look.get("division"), dict)), None)
    if then is None:
        return
    now = fingerprint(run.split)
    changed = [name for name in SPLITS if then.get(name, now[name]) != now[name]]
    if changed:
        counts = "; ".join(f"{name} had {then[name]['n']:,} images and has {now[name]['n']:,}" for name in changed)
        raise RunError(
            f"{run.path / 'split.parquet'}: this is not the division that the run was trained with ({counts}; paths, "
            "classes or pixels differ). A number on it could be of images that were trained on. Put the file back; or "
            "train a new run on the new division: --data.split FILE."
        )

"""The runs in a folder as rows of a table, from the few small files that each keeps; predictions are not read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tellapart import config as configs
from tellapart.config import RunConfig, get, options
from tellapart.errors import ConfigError, RunError
from tellapart.evaluation.metrics import Estimate
from tellapart.reporting.run_rows import RunRow, headline_of

# Deeper folders hold pictures, not runs.
_MOST_LEVELS = 4
# What only a run folder has; a bundle has a config.json of another kind.
_SIGNS = ("history.jsonl", "split.parquet", "checkpoints", "result.json", "environment.json")
# Beside the network's weights, what a bundle keeps that is not learnt by the optimizer.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_MOST_HEADER_BYTES = 100_000_000
_REMAKE = "Remove result.json and resume the run, to have it made again."


def gather_runs(folder: str | os.PathLike[str]) -> list[RunRow]:
    """Return every run in a folder and the folders below it, by name. What is wrong with one is said in its row.

    The runs of several folds or seeds are the members of one row. A folder that is a run itself is one row.

    Raises:
        RunError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"{root}: expected a folder that holds runs, found {'a file' if root.exists() else 'nothing'}.")
    divisions: dict[bytes, str] = {}
    if is_run_folder(root):
        return [_row(root, root.resolve().name, divisions)]
    return [_row(path, name, divisions) for path, name in sorted(_run_folders(root, "", _MOST_LEVELS), key=_by_name)]


def is_run_folder(path: Path) -> bool:
    """Return whether a folder is that of a run, be it a damaged one."""
    if (path / "config.json").is_file():
        found = _read_json(path / "config.json")
        if isinstance(found, dict) and found:
            return "train" in found and "model" in found
    return any((path / name).exists() for name in _SIGNS)


def _run_folders(folder: Path, prefix: str, levels: int, seen: set[Path] | None = None) -> Iterator[tuple[Path, str]]:
    """Yield each run folder below a folder with its name, by name. A folder that links lead to twice is taken once."""
    seen = {folder.resolve()} if seen is None else seen
    try:
        # Of folders full of pictures not one file is looked at by itself.
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    for path in (Path(entry) for entry in sorted(found, key=lambda entry: (entry.is_symlink(), entry.name))):
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        if is_run_folder(path):
            yield path, prefix + path.name
        elif levels > 1:
            yield from _run_folders(path, f"{prefix}{path.name}/", levels - 1, seen)


def _by_name(found: tuple[Path, str]) -> str:
    return found[1]


def _row(path: Path, name: str, divisions: dict[bytes, str]) -> RunRow:
    try:
        config = configs.load((path / "config.json").read_text(encoding="utf-8"), "config.json")
    except FileNotFoundError:
        return RunRow(name, path, state="damaged", why="it has no config.json", written_at=_written_at(path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        why = "; ".join(error.problems) if isinstance(error, ConfigError) else f"config.json: {error}"
        return RunRow(name, path, state="damaged", why=" ".join(why.split()), written_at=_written_at(path))
    try:
        return _read_row(path, name, config, divisions)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        # Whoever edited the files by hand is told which; the Python error would tell them nothing.
        why = f"result.json or evaluations.jsonl holds something else than a run writes. {_REMAKE}"
        return _known(path, name, config, state="damaged", why=why)


def _read_row(path: Path, name: str, config: RunConfig, divisions: dict[bytes, str]) -> RunRow:
    result = _read_json(path / "result.json")
    if result is None and (path / "result.json").exists():
        return _known(
            path, name, config, state="damaged", why="result.json is not JSON; resume the run to have it made"
        )
    several = _several(config)
    members = tuple(_row(inner, title, divisions) for inner, title in _run_folders(path, "", 1)) if several else ()
    epochs = _epochs(path / "history.jsonl")
    if result is None:
        why = _why_unfinished(path, config, epochs, members)
        return _known(path, name, config, state="unfinished", why=why, members=members, epochs=len(epochs))
    metrics = _estimates(result["metrics"])
    headline = headline_of(metrics)
    looks = _looks(path / "evaluations.jsonl")
    test_looks = [line for line in looks if line.get("split") == "test" and not line.get("data")]
    plain = [line for line in test_looks if line.get("tta") in (None, "none")]
    last = plain[-1] if plain else {}
    return _known(
        path,
        name,
        config,
        headline=headline,
        epochs=int(result.get("epochs") or len(epochs)),
        best_epoch=_whole(result.get("best_epoch")),
        metrics=metrics,
        n=int(result.get("n", 0)),
        num_given=int(result.get("num_given", 0)),
        test=_estimates(last.get("metrics", {})),
        n_test=int(last.get("n", 0)),
        looks=len(test_looks),
        num_params=_num_params(path / "bundle" / "model.safetensors"),
        seconds=_finite(result.get("seconds")),
        written_at=str(looks[0].get("at", "")) if looks else _written_at(path),
        curve=tuple(_number(line.get(f"val/{headline}")) for line in epochs),
        division="" if several else _division(path / "split.parquet", divisions),
        has_report=(path / "report.html").is_file(),
        spread=_spread(result, headline),
        members=members,
    )


def _known(path: Path, name: str, config: RunConfig, **more: Any) -> RunRow:
    """Return a row with what the config says."""
    source = config.data.source
    return RunRow(
        name,
        path,
        kind=_several(config) or "run",
        data=source.rstrip("/").rpartition("/")[2] or source,
        source=source,
        model=config.model.name,
        recipe=config.recipe,
        settings={option: get(config, option) for option in options()},
        **{"written_at": _written_at(path), **more},
    )


def _several(config: RunConfig) -> str:
    if config.data.folds > 0 and config.data.fold == 0:
        return "folds"
    return "seeds" if config.seeds > 0 else ""


def _why_unfinished(path: Path, config: RunConfig, epochs: list[dict[str, Any]], members: tuple[RunRow, ...]) -> str:
    if several := _several(config):
        planned = config.data.folds if several == "folds" else config.seeds
        where = f"{sum(member.state == 'ended' for member in members)} of {planned} {several} have ended"
    else:
        where = f"{len(epochs)} of {config.train.epochs} epochs have ended"
    return f"{where}; it is still training, or was stopped. To go on: tellapart train --resume {path}"


def _estimates(metrics: Mapping[str, Any]) -> dict[str, Estimate]:
    return {
        name: Estimate(*(_number(found[key]) for key in ("value", "low", "high"))) for name, found in metrics.items()
    }


def _spread(result: Mapping[str, Any], headline: str) -> dict[str, float | None]:
    """Return what folds or seeds say together of the headline."""
    over = result.get("over_folds") or result.get("over_seeds") or {}
    return {name: _finite(value) for name, value in (over.get(headline) or {}).items()}


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Return the epochs' lines. Those of steps may be a thousand times as many and are not parsed."""
    try:
        texts = [text for text in path.read_bytes().splitlines() if b'"epoch"' in text[:40]]
    except OSError:
        return []
    try:
        # Ten times as fast as a line at a time.
        found = json.loads(b"[%b]" % b",".join(texts))
    except (ValueError, RecursionError):
        found = [_parsed(text) for text in texts]
    return [line for line in found if isinstance(line, dict) and line.get("kind") == "epoch"]


def _looks(path: Path) -> list[dict[str, Any]]:
    """Return the recorded evaluations, oldest first; a torn line never gave anybody a number."""
    try:
        found = (_parsed(text) for text in path.read_bytes().splitlines())
    except OSError:
        return []
    return [line for line in found if line]


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return _parsed(path.read_bytes()) or None
    except OSError:
        return None


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # a whole number of over 308 digits
        return math.nan


def _finite(value: Any) -> float | None:
    found = _number(value)
    return found if math.isfinite(found) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _written_at(path: Path) -> str:
    """Return when a run last wrote, by its files."""
    files = [path / name for name in ("result.json", "history.jsonl", "config.json")]
    times = [file.stat().st_mtime for file in files if file.exists()] or [path.stat().st_mtime]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")


def _num_params(path: Path) -> int | None:
    """Return how many numbers were learnt, by the header of the weights' file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = _parsed(file.read(min(length, _MOST_HEADER_BYTES)))
    except (OSError, struct.error):
        return None
    try:
        learnt = [
            entry["shape"]
            for name, entry in header.items()
            if name.startswith("network.") and not name.endswith(_BUFFERS)
        ]
        return sum(math.prod(shape) for shape in learnt) or None
    except (TypeError, KeyError):
        return None


def _division(path: Path, known: dict[bytes, str]) -> str:
    """Return a name that runs share which hold out the same images; "" where the division cannot be read.

    `known` has the names by the SHA-256 of the file, so that equal files are read once.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    if digest not in known:
        known[digest] = _held_out(path)
    return known[digest]


def _held_out(path: Path) -> str:
    """Return a digest of which readable images are val and which are test, whatever their order."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            has_content = "content_hash" in file.schema_arrow.names
            columns = ["path", "class", "split", "pixel_hash", *(["content_hash"] if has_content else [])]
            table = file.read(columns=columns)
        is_wanted = pc.field("split").isin(["val", "test"]) & (pc.field("pixel_hash") != "")
        table = table.filter(is_wanted).drop_columns(["pixel_hash"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return ""
    rows = sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return hashlib.sha256(repr(rows).encode("utf-8", "surrogatepass")).hexdigest()

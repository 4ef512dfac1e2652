"""The table of predictions as a Parquet file: written whole, read with every bit, refused when it was changed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.predictions import TASKS, Predictions

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA_KEY = b"tellapart.predictions"
# Format 1 had no temperature and no thresholds.
_FORMAT = 2
_MAKE_AGAIN = "Make it again with `tellapart evaluate`."


def write(predictions: Predictions, path: Path) -> None:
    """Write a valid table: to a temporary name, synced, then renamed. See `Predictions.save`."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A Python file, because a folder's name that is not valid Unicode is beyond pyarrow.
        with temporary.open("wb") as file:
            pq.write_table(_to_table(predictions), file, compression="zstd", write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read(kind: type[Predictions], path: Path) -> Predictions:
    """Read a table that `write` wrote. See `Predictions.load`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise RunError(f"{path}: expected a table of predictions, found no file. `tellapart evaluate` writes it.")
    try:
        with path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            table = parquet.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(
            f"{path}: expected a whole Parquet file, found one that cannot be read: {error}. {_MAKE_AGAIN}"
        ) from error
    about = _read_about(table, path)
    predictions = _from_table(kind, table, about, path)
    predictions.check(path, advice=_MAKE_AGAIN)
    if _about(predictions, about["format"]) != about:
        raise RunError(f"{path}: the contents changed after they were written: SHA-256 differs. {_MAKE_AGAIN}")
    return predictions


def _to_table(p: Predictions) -> pa.Table:
    import pyarrow as pa

    n = len(p)
    text = [_printable(path) for path in p.paths]
    raw = [None if t == path else path.encode("utf-8", "surrogatepass") for t, path in zip(text, p.paths, strict=True)]
    strings = pa.list_(pa.string()) if p.task == "multilabel" else pa.string()
    columns = {
        "index": pa.array(p.indices),
        "path": pa.array(text, pa.string()),
        "path_raw": pa.array(raw, pa.binary()),
        "class": pa.nulls(n, strings),
        "target": pa.array(p.targets) if p.task == "multiclass" else _rows(p.targets),
        "predicted": pa.nulls(n, strings),
        "prob": pa.nulls(n, pa.float32()),
        _output_column(p.task): _rows(p.outputs),
    }
    if p.task != "regression":
        columns["class"] = _names(p.classes, p.targets)
        columns["predicted"] = _names(p.classes, p.predicted())
    if p.task == "multiclass":
        columns["prob"] = pa.array(p.outputs.max(axis=1, initial=-np.inf))
    return pa.table(columns, metadata={_METADATA_KEY: json.dumps(_about(p)).encode()})


def _about(p: Predictions, version: int = _FORMAT) -> dict[str, Any]:
    """Return what the metadata says, with a SHA-256 over all of it and every column that `load` reads."""
    about = {"format": version, "task": p.task, "classes": list(p.classes), "num_given": int(p.num_given)}
    if version > 1:
        # JSON has no NaN: null is a temperature that is not known.
        about["temperature"] = None if math.isnan(p.temperature) else float(p.temperature)
        about["thresholds"] = [float(threshold) for threshold in p.thresholds]
    digest = hashlib.sha256(json.dumps([about, p.paths]).encode())
    for array in (p.indices, p.targets, p.outputs):
        digest.update(np.ascontiguousarray(array).data)
    return {**about, "sha256": digest.hexdigest()}


def _read_about(table: pa.Table, path: Path) -> dict[str, Any]:
    """Return the metadata, each part that is read of the right kind."""
    try:
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        version = about["format"]
        _ = str(about["task"]), tuple(map(str, about["classes"])), int(about["num_given"])
        if version in range(2, _FORMAT + 1):
            _ = float(about["temperature"] or 0), tuple(map(float, about["thresholds"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(
            f"{path}: expected a Parquet file that Tellapart wrote, found one whose metadata has no sound "
            f"`{_METADATA_KEY.decode()}` ({error!r}). {_MAKE_AGAIN}"
        ) from error
    if version not in range(1, _FORMAT + 1):
        raise RunError(
            f"{path}: expected format 1 to {_FORMAT}, found {version}. Read it with the Tellapart that wrote it."
        )
    return about


def _from_table(kind: type[Predictions], table: pa.Table, about: dict[str, Any], path: Path) -> Predictions:
    task, classes = str(about["task"]), tuple(map(str, about["classes"]))
    _check_columns(table, task, len(classes), path)
    raw = table["path_raw"].to_pylist()
    text = table["path"].to_pylist()
    temperature = about.get("temperature", 1.0) if about["format"] > 1 else 1.0
    thresholds = about["thresholds"] if about["format"] > 1 else ()
    return kind(
        task=task,
        classes=classes,
        indices=np.array(table["index"]),
        paths=[t if r is None else r.decode("utf-8", "surrogatepass") for r, t in zip(raw, text, strict=True)],
        targets=np.array(table["target"]) if task == "multiclass" else _matrix(table["target"]),
        outputs=_matrix(table[_output_column(task)]),
        num_given=int(about["num_given"]),
        temperature=math.nan if temperature is None else float(temperature),
        thresholds=tuple(map(float, thresholds)),
    )


def _check_columns(table: pa.Table, task: str, num_classes: int, path: Path) -> None:
    """Raise a RunError if a column is missing, of another type, or has nulls where there must be none."""
    import pyarrow as pa

    if task not in TASKS:
        raise RunError(f"{path}: {unknown_name('task', task, TASKS)}. {_MAKE_AGAIN}")
    found = {field.name: field.type for field in table.schema}
    output = _output_column(task)
    # A regression need not name what it predicts; its width is then whatever was written.
    width = num_classes or getattr(found.get(output), "list_size", 1)
    rows = pa.list_(pa.float32(), width)
    types = {"index": pa.int64(), "path": pa.string(), "path_raw": pa.binary(), output: rows}
    types["target"] = pa.int64() if task == "multiclass" else rows
    for name, kind in types.items():
        if found.get(name) != kind:
            what = found.get(name, "no such column")
            raise RunError(f"{path}: column {name}: expected {kind}, found {what}. {_MAKE_AGAIN}")
        if name != "path_raw" and table[name].null_count:
            nulls = table[name].null_count
            raise RunError(f"{path}: column {name}: expected a value in every row, found {nulls} nulls. {_MAKE_AGAIN}")


def _names(classes: tuple[str, ...], chosen: np.ndarray) -> pa.Array:
    """Return class names: of indices `(N,)` one name a row; of a table of 0 and 1 `(N, K)` a list a row."""
    import pyarrow as pa

    names = pa.array([_printable(name) for name in classes], pa.string())
    if chosen.ndim == 1:
        return names.take(pa.array(chosen))
    mask = chosen.astype(bool)
    ends = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), names.take(pa.array(mask.nonzero()[1])))


def _rows(matrix: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32, copy=False).reshape(-1, width)


def _output_column(task: str) -> str:
    return "values" if task == "regression" else "probabilities"


def _printable(text: str) -> str:
    """Return text that UTF-8 can hold: a surrogate, which stands for a byte that is not Unicode, is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sync_folder(folder: Path) -> None:
    """Make the rename last through a power cut, where the system lets a folder be synced."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

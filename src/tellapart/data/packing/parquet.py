"""Parquet shards in the layout of Hugging Face `datasets`: an image with its path, a label, perhaps group and time."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tellapart.data.packing.formats import Layout, Row

# A row group is what a reader that does not hold the whole file has to load to see one row.
_GROUP_BYTES = 16 * 2**20
_GROUP_ROWS = 1000

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard_schema(layout: Layout) -> pa.Schema:
    """Return the columns, with Hugging Face's description of them in the metadata.

    Source: `datasets`, `Features.arrow_schema`: JSON under `huggingface`, at info.features.
    """
    label: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
        "multiclass": (pa.int64(), _class_label(layout)),
        # "Sequence" is what both older and newer versions read; since 4.0 it is called "List".
        "multilabel": (pa.list_(pa.int64()), {"feature": _class_label(layout), "_type": "Sequence"}),
        "regression": (pa.float32(), _value("float32")),
    }
    kind, feature = label[layout.task]
    if layout.task == "regression" and layout.num_outputs > 1:
        kind, feature = pa.list_(pa.float32()), {"feature": _value("float32"), "_type": "Sequence"}
    fields, features = [("image", _IMAGE), ("label", kind)], {"image": {"_type": "Image"}, "label": feature}
    for name, is_there in (("group", layout.has_groups), ("time", layout.has_times)):
        if is_there:
            fields.append((name, pa.string()))
            features[name] = _value("string")
    described = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    return pa.schema(fields, metadata={"huggingface": described})


def _class_label(layout: Layout) -> dict[str, Any]:
    return {"names": list(layout.classes), "_type": "ClassLabel"}


def _value(kind: str) -> dict[str, Any]:
    return {"dtype": kind, "_type": "Value"}


class ParquetShard:
    """Writes one shard, a row group at a time."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._layout, self._schema = layout, shard_schema(layout)
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        encoded = {"multiclass": "label", "multilabel": "label.list.element"}.get(layout.task)
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            # Images are compressed already.
            compression={"image.bytes": "NONE"},  # pyright: ignore[reportArgumentType]
            use_dictionary=[name for name in (encoded, "group") if name],  # pyright: ignore[reportArgumentType]
            # ParquetSource verifies the checksums, so rot in a shard is found when it is read.
            write_page_checksum=True,
        )

    def add(self, row: Row) -> None:
        """Keep one row, and write a row group when there are enough."""
        record: dict[str, Any] = {
            "image": {"bytes": row.data, "path": row.path},
            "label": _label(row.target, self._layout),
        }
        if self._layout.has_groups:
            record["group"] = row.group
        if self._layout.has_times:
            record["time"] = row.time
        self._rows.append(record)
        self._num_bytes += len(row.data)
        if self._num_bytes >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._num_bytes = [], 0


def _label(target: np.ndarray | np.int64, layout: Layout) -> Any:
    if layout.task == "multiclass":
        return int(target)
    if layout.task == "multilabel":
        return np.flatnonzero(target).tolist()
    values = np.asarray(target).tolist()
    return values[0] if layout.num_outputs == 1 else values

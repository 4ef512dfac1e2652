"""Where in a Parquet file the images, labels and class names are, by metadata first and names second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tellapart.errors import DataError

# In the order in which they are preferred.
IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "pixels", "jpg", "png", "webp", "file", "bytes")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "category", "target", "targets", "class_name", "cls", "y")


class Columns(NamedTuple):
    """The names of the two columns, and notes for the user where there was a choice."""

    image: str
    label: str
    notes: list[str]


def choose_columns(file: Path) -> Columns:
    """Return which columns of a Parquet file hold the images and the labels.

    Raises:
        DataError: the file cannot be read, or the columns cannot be told.
    """
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet: {error}") from error
    features = _features(schema)
    images = [name for name in schema.names if _kind(features, name) == "Image"]
    images = images or [name for name in schema.names if _may_be_image(schema.field(name).type)]
    image = _preferred(images, IMAGE_NAMES)
    others = [name for name in schema.names if name != image]
    labels = [name for name in others if _kind(features, name) == "ClassLabel"]
    labels = labels or [name for name in others if name.lower() in LABEL_NAMES]
    label = _preferred(labels, LABEL_NAMES)
    if image is None or label is None:
        lacking = "of images (bytes, or a struct with bytes)"
        if image is not None:
            lacking = f"of labels (with class names in the metadata, or called {', '.join(LABEL_NAMES)})"
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataError(f"{file}: expected a column {lacking}, found {found}.")
    notes = [
        f"of the columns {', '.join(names)} that could hold the {what}, '{taken}' was taken."
        for names, what, taken in ((images, "images", image), (labels, "labels", label))
        if len(names) > 1
    ]
    return Columns(image, label, notes)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the class names that the metadata gives for a column, index = label, or None."""
    feature = _features(schema).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return Hugging Face's description of the columns: JSON under `huggingface`, at info.features."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(features: dict[str, Any], name: str) -> str:
    feature = features.get(name)
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _may_be_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _preferred(names: list[str], order: tuple[str, ...]) -> str | None:
    ranked = sorted(names, key=lambda name: order.index(name.lower()) if name.lower() in order else len(order))
    return ranked[0] if ranked else None

"""Which columns of a table hold images, labels, parts and groups: as asked, by metadata, by name, by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from tellapart.data.sources.base import ColumnNames, part_of
from tellapart.data.sources.tables.table import Table
from tellapart.errors import DataError, unknown_name

# In the order in which they are preferred; compared without case and separators.
IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "pixels", "jpg", "png", "webp", "file", "bytes"),
    *("filename", "filepath", "path", "imagepath", "imgpath", "imagefile", "imagename", "imgname", "photopath"),
    *("filenames", "paths", "imageid", "imgid", "id"),
)
LABEL_NAMES = (
    *("label", "labels", "fine_label", "class", "category", "target", "targets", "class_name", "cls", "y"),
    *("classes", "label_name", "class_id", "label_id", "species", "tags"),
)
SPLIT_NAMES = ("split", "splits", "part", "partition", "subset", "set", "dataset_split", "data_split", "phase", "usage")
GROUP_NAMES = (
    *("group", "group_id", "groups", "patient", "patient_id", "subject", "subject_id", "person", "person_id"),
    *("participant", "participant_id", "individual_id"),
)
_NO_LABELS = frozenset({"id", "index", "unnamed0", "", "width", "height", "size", "indexlevel0", "url", "md5"})

# A cell of more words than this is a caption.
_MAX_WORDS = 6


class UnrelatedTableError(DataError):
    """A table that does not say which images there are, of which labels; its folder may be read in another way."""


class Columns(NamedTuple):
    """The names of the columns, "" for those that are not there, and notes for the user.

    `labels` has several names where the user gave several columns of numbers.
    """

    image: str
    labels: tuple[str, ...]
    split: str
    group: str
    time: str
    notes: list[str]

    def without_image(self) -> list[str]:
        """Return the names of the others, each once."""
        return list(dict.fromkeys(name for name in (*self.labels, self.split, self.group, self.time) if name))


def choose_columns(table: Table, asked: ColumnNames, count_files: Callable[[list[str]], int]) -> Columns:
    """Return which columns of a table hold what.

    Args:
        table: the table.
        asked: the columns that the user named.
        count_files: how many of some cells are the paths of existing files.

    Raises:
        DataError: a named column is not there.
        UnrelatedTableError: the images or the labels cannot be told.
    """
    _require_known(table, asked)
    notes: list[str] = []
    image = asked.image or _guess_image(table, _labels_asked(table, asked), count_files, notes)
    split = asked.split or _guess_split(table, image, notes)
    group = asked.group or _first_named(table, GROUP_NAMES, {image, split, asked.label})
    labels = _labels_asked(table, asked) or (_guess_label(table, image, {split, group, asked.time}, notes),)
    if image in labels:
        raise DataError(f"{table.path}: the column '{image}' cannot hold both the images and the labels.")
    if group:
        notes.append(f"images of one '{group}' are kept on one side.")
    if not _is_described(table, image, labels) or split or group or asked.time:
        notes.insert(0, _say(image, labels, split, group, asked.time))
    return Columns(image, labels, split, group, asked.time, notes)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the class names that the metadata gives for a column or its lists, index = label, or None."""
    feature = _features(schema).get(column)
    while isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds strings, also where each is kept once."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column may hold the bytes of images: bytes, or a struct with a field of that name."""
    return is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _require_known(table: Table, asked: ColumnNames) -> None:
    wanted = {"image": asked.image, "split": asked.split, "group": asked.group, "time": asked.time}
    labels = {} if _labels_asked(table, asked) else {"label": asked.label}
    for role, name in {**wanted, **labels}.items():
        if name and name not in table.schema.names:
            raise DataError(
                f"{table.path}: {unknown_name('column', name, table.schema.names)} (asked for as {role}_column)."
            )


def _labels_asked(table: Table, asked: ColumnNames) -> tuple[str, ...]:
    """Return the label columns that the user named: one, or several with commas between them."""
    if asked.label and asked.label in table.schema.names:
        return (asked.label,)
    names = tuple(name.strip() for name in asked.label.split(","))
    return names if len(names) > 1 and set(names) <= set(table.schema.names) else ()


def _guess_image(table: Table, taken: Sequence[str], count_files: Callable[[list[str]], int], notes: list[str]) -> str:
    schema, features = table.schema, _features(table.schema)
    names = [name for name in schema.names if name not in taken]
    candidates = [name for name in names if _kind(features, name) == "Image"]
    candidates = candidates or [name for name in names if holds_bytes(schema.field(name).type)]
    if not candidates:
        texts = _ranked([name for name in names if is_text(schema.field(name).type)], IMAGE_NAMES)
        hits = {name: count_files(_some_texts(table, name)) for name in texts}
        best = max(hits.values(), default=0)
        candidates = [name for name in texts if hits[name] == best > 0]
        named = [name for name in names if _plain(name) in _RANKS[IMAGE_NAMES] and _may_name_files(schema, name)]
        candidates = candidates or _ranked(named, IMAGE_NAMES)[:1]
    if not candidates:
        raise UnrelatedTableError(
            f"{table.path}: expected a column of images (bytes, or the paths of files), found {_say_schema(schema)}. "
            "Name it with image_column."
        )
    return _preferred(candidates, IMAGE_NAMES, "images", notes)


def _guess_split(table: Table, image: str, notes: list[str]) -> str:
    for name in _ranked([name for name in table.schema.names if name != image], SPLIT_NAMES):
        if _plain(name) not in _RANKS[SPLIT_NAMES] or name not in table.sample.schema.names:
            continue
        cells = table.sample.column(name).unique().to_pylist()
        if any(part_of(str(cell).strip()) for cell in cells if cell is not None):
            return name
        if any(cells):
            notes.append(f"the column '{name}' names no parts (train, val, test), so it was not taken for the split.")
    return ""


def _first_named(table: Table, known: tuple[str, ...], taken: set[str]) -> str:
    names = [name for name in table.schema.names if name not in taken and _plain(name) in _RANKS[known]]
    return _ranked(names, known)[0] if names else ""


def _guess_label(table: Table, image: str, taken: set[str], notes: list[str]) -> str:
    schema, features = table.schema, _features(table.schema)
    others = [name for name in schema.names if name not in taken and name != image]
    labels = [name for name in others if _kind(features, name) == "ClassLabel" or class_names(schema, name)]
    labels = labels or [name for name in others if _plain(name) in _RANKS[LABEL_NAMES]]
    if labels:
        return _preferred(labels, LABEL_NAMES, "labels", notes)
    others = [name for name in others if _plain(name) not in _NO_LABELS and not holds_bytes(schema.field(name).type)]
    likely = [name for name in others if _repeats(table, name)]
    if len(others) == 1 and not holds_bytes(schema.field(image).type) and not _is_prose(table, others[0]):
        likely = others
    if len(likely) != 1:
        raise UnrelatedTableError(
            f"{table.path}: expected a column of labels (with class names in the metadata, or called "
            f"{', '.join(LABEL_NAMES)}), found {_say_schema(schema)}. Name it with label_column."
        )
    return likely[0]


def _repeats(table: Table, name: str) -> bool:
    """Return whether a column holds few enough different texts to be classes."""
    if name not in table.sample.schema.names or not is_text(table.schema.field(name).type):
        return False
    count = len(table.sample.column(name).unique())
    return 1 < count <= len(table.sample) / 2


def _is_prose(table: Table, name: str) -> bool:
    """Return whether the cells of a column are rather captions than classes or numbers."""
    cells = table.sample.column(name).to_pylist() if name in table.sample.schema.names else []
    return any(isinstance(cell, str) and len(cell.split()) > _MAX_WORDS for cell in cells)


def _some_texts(table: Table, name: str, count: int = 20) -> list[str]:
    if name not in table.sample.schema.names:
        return []
    step = max(1, len(table.sample) // count)
    return [cell for cell in table.sample.column(name)[::step].to_pylist() if cell]


def _may_name_files(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return is_text(kind) or pa.types.is_integer(kind)


def _is_described(table: Table, image: str, labels: Sequence[str]) -> bool:
    """Return whether the metadata tells both columns, so that nothing was guessed."""
    return _kind(_features(table.schema), image) == "Image" and all(class_names(table.schema, name) for name in labels)


def _say(image: str, labels: Sequence[str], split: str, group: str, time: str) -> str:
    named = {"image": image, "label": "', '".join(labels), "split": split, "group": group, "time": time}
    return "columns: " + ", ".join(f"{role} '{name}'" for role, name in named.items() if name) + "."


def _say_schema(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema) or "no columns"


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


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_RANKS: dict[tuple[str, ...], dict[str, int]] = {
    known: {_plain(name): rank for rank, name in reversed(list(enumerate(known)))}
    for known in (IMAGE_NAMES, LABEL_NAMES, SPLIT_NAMES, GROUP_NAMES)
}


def _ranked(names: Sequence[str], known: tuple[str, ...]) -> list[str]:
    return sorted(names, key=lambda name: _RANKS[known].get(_plain(name), len(known)))


def _preferred(names: Sequence[str], known: tuple[str, ...], what: str, notes: list[str]) -> str:
    taken = _ranked(names, known)[0]
    if len(names) > 1:
        notes.append(f"of the columns {', '.join(names)} that could hold the {what}, '{taken}' was taken.")
    return taken

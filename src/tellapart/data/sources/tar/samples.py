"""The samples of one tar shard: the members that share a key, WebDataset's way, as one table without the images."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tellapart.data.sources.tables.columns import GROUP_NAMES, LABEL_NAMES, SPLIT_NAMES
from tellapart.data.sources.tar.headers import Member, Window
from tellapart.data.sources.tree import ENDINGS, to_text

_TEXT = pa.dictionary(pa.int32(), pa.string())
# What is known of a sample; each is null where it is not known. `problem` says why a sample cannot be used.
TEXT_COLUMNS = ("label", "group", "split", "time", "problem")
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("path", pa.string()),
        *((name, _TEXT) for name in TEXT_COLUMNS),
    ]
)
# As in WebDataset, the key ends at the first dot of the file's own name; names that start with a dot have none.
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_LABEL_ENDINGS = {"cls": "cls", "class": "cls", "json": "json", "jsn": "json", "txt": "txt"}
_MAX_LABEL_BYTES = {"cls": 2**16, "json": 2**20, "txt": 2**10}


class _Sample:
    __slots__ = ("endings", "image", "is_dotted", "is_link", "known", "labels", "name", "path", "problem")

    def __init__(self, name: str) -> None:
        self.name = name
        self.image: tuple[int, int] | None = None
        self.is_link = self.is_dotted = False
        self.endings: list[str] = []
        self.labels: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.problem: str | None = None
        self.path: str | None = None

    def row(self) -> tuple[Any, ...]:
        offset, size = self.image or (-1, -1)
        label = next((f"{kind}:{self.labels[kind]}" for kind in ("cls", "json", "txt") if kind in self.labels), None)
        problem = self.problem if label is None else None
        if self.image is None:
            problem = "whose image is a link" if self.is_link else "without an image"
        elif label is None:
            problem = problem or "without a label"
        return (
            self.name,
            offset,
            size,
            self.path,
            label,
            *(self.known.get(name) for name in TEXT_COLUMNS[1:4]),
            problem,
        )


def read_samples(window: Window, found: Iterable[Member]) -> pa.Table:
    """Return the samples of a shard, in the order of their first members, with `SCHEMA`.

    `name` is unique. `label` is text behind what it was found in: `cls:` and `txt:` the content, `json:` the JSON of
    the value. Samples that cannot be used have a `problem`, and where it is the image that is lacking, offset -1.
    The metadata `tellapart` counts the endings, and names samples with more than one image.
    """
    samples: list[_Sample] = []
    latest: dict[str, _Sample] = {}
    endings: Counter[str] = Counter()
    several: list[str] = []
    for member in found:
        if (match := _KEY.fullmatch(member.name)) is None:
            continue
        key, ending = _harmless(match[1]), match[2].lower()
        endings[ending.rpartition(".")[2][:20]] += 1
        sample = latest.get(key)
        if sample is None or ending in sample.endings:
            sample = latest[key] = _Sample(key)
            samples.append(sample)
        sample.endings.append(ending)
        if _is_image(ending):
            _enter_image(sample, member, ending, several)
        elif ending in _LABEL_ENDINGS and not member.is_link:
            _enter_label(sample, member, _LABEL_ENDINGS[ending], window)
    rows = [sample.row() for sample in samples]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in SCHEMA]
    columns[0] = unique(columns[0])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    facts = {"endings": dict(endings.most_common(20)), "num_several": len(several), "several": several[:3]}
    return pa.table(arrays, SCHEMA.with_metadata({"tellapart": json.dumps(facts)}))


def _is_image(ending: str) -> bool:
    return f".{ending.rpartition('.')[2]}" in ENDINGS


def _enter_image(sample: _Sample, member: Member, ending: str, several: list[str]) -> None:
    """Take the image, and of several the first whose ending is no more than that: `jpg` before `seg.png`."""
    if member.is_link:
        sample.is_link = True
        return
    if sample.image is not None:
        several.append(sample.name)
        if "." in ending or not sample.is_dotted:
            return
    sample.image, sample.is_dotted = (member.offset, member.size), "." in ending
    sample.name = _harmless(member.name)


def _enter_label(sample: _Sample, member: Member, kind: str, window: Window) -> None:
    try:
        if member.size > _MAX_LABEL_BYTES[kind]:
            raise ValueError
        text = window.take(member.offset, member.size).decode("utf-8-sig").strip()
        if kind == "json":
            _enter_json(sample, json.loads(text))
        elif text:
            sample.labels[kind] = text
    except (ValueError, RecursionError):
        # A long text is a description of the image, not a label.
        sample.problem = sample.problem if kind == "txt" else "whose label cannot be read"


def _enter_json(sample: _Sample, content: Any) -> None:
    if not isinstance(content, dict):
        content = {"label": content}
    if isinstance(path := content.get("path"), str) and path:
        sample.path = _harmless(path)
    known = {_plain(name): value for name, value in content.items()}
    for what, names in JSON_NAMES.items():
        value = next((known[name] for name in names if known.get(name) is not None), None)
        if what == "label" and _is_label(value):
            sample.labels["json"] = json.dumps(value)
        elif what != "label" and isinstance(value, str | int | float) and str(value):
            sample.known[what] = str(value).encode("utf-8", "backslashreplace").decode()


def _is_label(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float) and _is_label(item) for item in value)
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


@lru_cache(4096)
def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


# The names that values have in the JSON of a sample, in the order in which they are preferred.
JSON_NAMES = {
    "label": [_plain(name) for name in LABEL_NAMES],
    "group": [_plain(name) for name in GROUP_NAMES],
    "split": [_plain(name) for name in SPLIT_NAMES],
    "time": ["time"],
}


def _harmless(name: str) -> str:
    """Return a name as text that leads nowhere: relative and without "..", should anyone ever join it to a folder.

    >>> _harmless("./a/1"), _harmless("/../../etc/passwd")
    ('a/1', '__/__/etc/passwd')
    """
    if "." not in name and "/" not in name and name.isascii() and "\\" not in name:
        return name
    return "/".join("__" if step == ".." else step for step in to_text(name).split("/") if step not in ("", "."))


def unique(names: list[str]) -> list[str]:
    """Return the names, those that occurred before with `#2`, `#3`, ... behind them."""
    taken = set(names)
    if len(taken) == len(names):
        return names
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        fresh = name
        while seen[name] > 1 and (fresh := f"{name}#{seen[name]}") in taken:
            seen[name] += 1
        taken.add(fresh)
        found.append(fresh)
    return found

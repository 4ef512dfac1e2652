"""What the labels of tar samples are, as found by `samples`, and the names of the classes beside the shards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tellapart.data.sources.tables.values import Coded, Lists, Values, take
from tellapart.data.sources.tasks import TASKS
from tellapart.errors import DataError

_WHOLE = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_CLASS_FILES = ("classes.json", "dataset.json", "index.json", "classes.txt")
# What some servers send for a file that is not there.
_PAGE = (b"<!doctype", b"<html")
# Of so many samples with texts of their own, hardly one the same as another, the texts are descriptions.
_MIN_DESCRIPTIONS = 20


class Described(NamedTuple):
    """What a file beside the shards says: the classes, None if it does not, and the task, "" if it does not."""

    classes: tuple[str, ...] | None
    task: str


def read_classes(folders: Sequence[str], read: Callable[[str], bytes | None]) -> Described:
    """Return what the first of the files classes.json, dataset.json, index.json, classes.txt says of the classes.

    Args:
        folders: where to look, as the front parts of addresses.
        read: returns a small file, or None if it is not there.

    Raises:
        DataError: classes.json or classes.txt is there and holds no class names.
    """
    for folder in folders:
        for name in _CLASS_FILES:
            address = f"{folder}/{name}"
            if (raw := read(address)) is None or raw.lstrip()[:9].lower().startswith(_PAGE):
                continue
            described = _from_text(raw) if name.endswith(".txt") else _from_json(raw)
            if described is not None:
                return described
            if name.startswith("classes"):
                raise DataError(f"{address}: expected class names: a list, or an object of names and numbers.")
    return Described(None, "")


def _from_text(raw: bytes) -> Described | None:
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeError:
        return None
    names = tuple(line.strip() for line in lines if line.strip())
    return Described(names, "") if names else None


def _from_json(raw: bytes) -> Described | None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    task = ""
    if isinstance(content, dict) and "classes" in content:
        task = content.get("task", "") if content.get("task", "") in TASKS else ""
        content = content["classes"]
    if isinstance(content, dict):
        content = _in_order_of_numbers(content)
    if not isinstance(content, list) or not all(isinstance(name, str | int) for name in content):
        return None
    names = tuple(_storable(str(name)) for name in content)
    return Described(names or None, task) if names or task else None


def _in_order_of_numbers(content: dict[str, Any]) -> list[Any] | None:
    """Return the names of {"cat": 0, "dog": 1} or {"0": "cat", "1": "dog"} in order; None where numbers lack."""
    pairs = [(value, name) if isinstance(value, int) else (name, value) for name, value in content.items()]
    if not all(str(number).isdigit() for number, _ in pairs):
        return None
    names = {int(number): name for number, name in pairs}
    return [names[number] for number in sorted(names)] if sorted(names) == list(range(len(pairs))) else None


def as_values(labels: Sequence[str], codes: np.ndarray, classes: Sequence[str] | None, name: str) -> Values:
    """Return the labels of samples as `labels.understand` takes them.

    Args:
        labels: each different one once, as in the column `label` of `samples.read_samples`.
        codes: which of them each sample has, int64 `(N,)`.
        classes: their names, where they are known.
        name: of the source, for errors.

    Raises:
        DataError: the labels are of kinds that do not go together, or descriptions rather than labels.

    >>> as_values(["cls:7", "cls:0"], np.array([1, 0, 0]), None, "x").tolist()
    [0, 7, 7]
    """
    used, codes = np.unique(codes, return_inverse=True)
    split = [labels[int(code)].partition(":") for code in used]
    origins, texts = [origin for origin, _, _ in split], [text for _, _, text in split]
    if set(origins) == {"txt"} and len(codes) >= _MIN_DESCRIPTIONS and len(used) > len(codes) / 2:
        raise DataError(
            f"{name}: the samples have no labels but texts (.txt), and {len(used):,} of {len(codes):,} differ, as "
            f"descriptions do: '{texts[0]:.60}'. Expected KEY.cls, or KEY.json with a label."
        )
    try:
        known = [json.loads(text) if origin == "json" else None for origin, text in zip(origins, texts, strict=True)]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: an index beside the shards holds labels that are none. Delete it.") from error
    if any(isinstance(value, list) for value in known):
        return take(_lists(known, texts, name), codes)
    if set(origins) == {"json"}:
        return _join(known, name, codes)
    plain = [str(text if value is None else value) for text, value in zip(texts, known, strict=True)]
    return _from_texts(plain, codes, classes)


def _lists(known: list[Any], texts: Sequence[str], name: str) -> Lists:
    if not all(isinstance(value, list) for value in known):
        single = next(text for text, value in zip(texts, known, strict=True) if not isinstance(value, list))
        several = next(text for text, value in zip(texts, known, strict=True) if isinstance(value, list))
        raise DataError(
            f"{name}: some labels are lists, such as {several:.60}, and others are not, such as {single:.60}."
        )
    lengths = [len(value) for value in known]
    flat = [item for value in known for item in value]
    values = _join(flat, name, np.arange(len(flat))) if flat else Coded((), np.zeros(0, np.int64))
    assert not isinstance(values, Lists)
    return Lists(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _join(known: list[Any], name: str, codes: np.ndarray) -> Values:
    """Return JSON values that are no lists, taken by code."""
    if all(isinstance(value, str) for value in known):
        return _coded(known, codes)
    if any(isinstance(value, str) for value in known):
        shown = sorted({type(value).__name__: value for value in known}.values(), key=str)
        raise DataError(f"{name}: some labels are text and others are numbers, such as {shown[0]!r} and {shown[-1]!r}.")
    if all(isinstance(value, int) and abs(value) < 2**63 for value in known):
        return np.array(known, dtype=np.int64)[codes]
    return np.array(known, dtype=np.float64)[codes]


def _from_texts(texts: list[str], codes: np.ndarray, classes: Sequence[str] | None) -> Values:
    """Return texts as whole numbers or floats where all of them are such, else as names."""
    if all(_WHOLE.fullmatch(text) for text in texts):
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
        # Names that look like numbers: 007 would lose its zeros, and 1990 is no place in a list of ten.
        is_named = classes is not None and numbers.max() >= len(classes) and set(texts) <= set(classes)
        is_canonical = all(str(number) == text for number, text in zip(numbers.tolist(), texts, strict=True))
        if not is_named and (is_canonical or classes is not None):
            return numbers[codes]
    elif all(_NUMBER.fullmatch(text) for text in texts) and classes is None:
        return np.array([float(text) for text in texts])[codes]
    return _coded(texts, codes)


def _coded(texts: list[str], codes: np.ndarray) -> Coded:
    names = [_storable(text) for text in texts]
    places: dict[str, int] = {}
    own = np.array([places.setdefault(text, len(places)) for text in names], dtype=np.int64)
    return Coded(tuple(places), own[codes])


def _storable(text: str) -> str:
    """Return text that UTF-8 can hold; JSON may spell out halves of letters."""
    return text.encode("utf-8", "backslashreplace").decode()


def folder_of(address: str) -> str:
    """Return the folder that a file lies in, as the front part of its address.

    >>> folder_of("s3://bucket/a/0.tar")
    's3://bucket/a'
    """
    is_page = address.startswith(("http://", "https://"))
    return (address.partition("?")[0] if is_page else address).rpartition("/")[0]

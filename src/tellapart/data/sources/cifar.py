"""CIFAR-10 and CIFAR-100, from the published Python or binary files. No pickle runs code here."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.sources.base import InMemorySource, numbered
from tellapart.data.sources.downloads import Layout, download_archive, locate_or_download, present
from tellapart.errors import DataError

_TRAIN_10 = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS_10 = (
    Layout("python", "cifar-10-batches-py", (*_TRAIN_10, "test_batch", "batches.meta")),
    Layout(
        "binary", "cifar-10-batches-bin", (*(f"{name}.bin" for name in _TRAIN_10), "test_batch.bin", "batches.meta.txt")
    ),
)
_LAYOUTS_100 = (
    Layout("python", "cifar-100-python", ("train", "test", "meta")),
    Layout("binary", "cifar-100-binary", ("train.bin", "test.bin", "fine_label_names.txt")),
)
_NUM_VALUES = 3 * 32 * 32


def open_cifar10(data_dir: str = "") -> InMemorySource:
    """Return CIFAR-10: 60,000 colour images of 32 x 32 in 10 classes, in the parts train and test.

    Raises:
        MissingError: the files are not there and could not be fetched.
        DataError: a file is damaged, or asks to run code.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), chapter 3.
    """
    return _open("cifar10", "CIFAR10", _LAYOUTS_10, data_dir, label_place=0, num_labels=1)


def open_cifar100(data_dir: str = "") -> InMemorySource:
    """Return CIFAR-100 with its 100 fine classes: 60,000 colour images of 32 x 32, in the parts train and test.

    Raises:
        MissingError: the files are not there and could not be fetched.
        DataError: a file is damaged, or asks to run code.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), chapter 3.
    """
    return _open("cifar100", "CIFAR100", _LAYOUTS_100, data_dir, label_place=1, num_labels=2)


def _open(
    name: str, dataset: str, layouts: tuple[Layout, ...], data_dir: str, *, label_place: int, num_labels: int
) -> InMemorySource:
    folder, layout = locate_or_download(name, data_dir, layouts, partial(download_archive, dataset))
    *batches, meta = (present(folder, file) or folder / file for file in layout.files)
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]] = _read_python_batch
    if layout.kind == "binary":
        read = partial(_read_binary_batch, label_place=label_place, num_labels=num_labels)
    classes = _read_class_names(meta)
    images, labels = [], []
    for path in batches:
        values, numbers = read(path)
        if len(values) != len(numbers) or not ((numbers >= 0) & (numbers < len(classes))).all():
            expected = f"one label from 0 to {len(classes) - 1} for each of {len(values)} images"
            raise DataError(f"{path}: expected {expected}, found {len(numbers)} labels, or others.")
        images.append(values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(numbers)
    num_test = len(labels[-1])
    num_train = sum(len(numbers) for numbers in labels[:-1])
    return InMemorySource(
        name,
        np.ascontiguousarray(np.concatenate(images)),
        targets=np.concatenate(labels),
        classes=classes,
        paths=numbered(f"{name}/train", num_train) + numbered(f"{name}/test", num_test),
        parts=["train"] * num_train + ["test"] * num_test,
    )


def _read_binary_batch(path: Path, label_place: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Read records of `num_labels` label bytes, then 3072 values, red first. Source: cs.toronto.edu/~kriz/cifar.html"""
    raw, size = np.fromfile(path, np.uint8), num_labels + _NUM_VALUES
    if len(raw) == 0 or len(raw) % size:
        raise DataError(f"{path}: expected records of {size} bytes, found {len(raw):,} bytes in all.")
    records = raw.reshape(-1, size)
    return records[:, num_labels:], records[:, label_place].astype(np.int64)


def _read_python_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    entry = load_plain_pickle(path)
    values, labels = entry.get("data"), entry.get("labels", entry.get("fine_labels"))
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != _NUM_VALUES:
        found = getattr(values, "shape", type(values).__name__)
        raise DataError(f"{path}: expected 'data' of shape (N, {_NUM_VALUES}), found {found}.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: expected 'labels' or 'fine_labels', a list of whole numbers.")
    return values, np.array(labels, dtype=np.int64)


def _read_class_names(path: Path) -> tuple[str, ...]:
    if path.suffix == ".txt":
        names = path.read_text(encoding="utf-8").split()
    else:
        entry = load_plain_pickle(path)
        names = entry.get("label_names", entry.get("fine_label_names"))
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: expected the names of the classes, found {names!r}.")
    return tuple(names)


class _Array:
    """Stands in for numpy.ndarray while unpickling: keeps the state, runs none of numpy's own unpickling."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or dtype.code != "u1" or not isinstance(raw, bytes):
            raise DataError("an array that is not of uint8")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """Stands in for numpy.dtype while unpickling."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for _codecs.encode, which would look up any codec by name."""
    if encoding != "latin1":
        raise DataError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


# All that a pickled numpy array names, before and after numpy 2 moved its modules; each is a stand-in of our own.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for what a pickled array needs, and refuse everything else a file may name."""
        if (module, name) not in _STAND_INS:
            raise DataError(f"it asks to run '{module}.{name}', which no batch of images needs; it is not genuine")
        return _STAND_INS[module, name]


def load_plain_pickle(path: Path) -> dict[str, Any]:
    """Return the dict that a pickle holds, made of plain values and uint8 arrays alone. Nothing in the file can run.

    Raises:
        DataError: the file is damaged, is no dict, or names anything but a numpy array.
    """
    try:
        with path.open("rb") as file:
            entry = _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise DataError(f"{path}: refused or damaged: {error}") from error
    if not isinstance(entry, dict):
        raise DataError(f"{path}: expected a dict, found {type(entry).__name__}.")
    return {str(key): value.array if isinstance(value, _Array) else value for key, value in entry.items()}

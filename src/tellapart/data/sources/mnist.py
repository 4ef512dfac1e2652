"""MNIST and the sets made in its likeness, from IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from tellapart.data.sources.base import InMemorySource, numbered
from tellapart.data.sources.downloads import Layout, download_idx, locate_or_download, present
from tellapart.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGITS = tuple(str(digit) for digit in range(10))
# Source: https://github.com/zalandoresearch/fashion-mnist, section "Labels".
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def open_mnist(data_dir: str = "") -> InMemorySource:
    """Return MNIST: 70,000 grey handwritten digits of 28 x 28, in the parts train and test.

    Raises:
        MissingError: the files are not there and could not be fetched.
        DataError: a file is damaged.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition"
        (1998), section III.
    """
    return _open("mnist", "MNIST", DIGITS, data_dir)


def open_fashion_mnist(data_dir: str = "") -> InMemorySource:
    """Return Fashion-MNIST: 70,000 grey pictures of clothes of 28 x 28, in the parts train and test.

    Raises:
        MissingError: the files are not there and could not be fetched.
        DataError: a file is damaged.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST" (2017), arXiv:1708.07747.
    """
    return _open("fashion-mnist", "FashionMNIST", CLOTHES, data_dir)


def _open(name: str, dataset: str, classes: tuple[str, ...], data_dir: str) -> InMemorySource:
    files = tuple(file for pair in _FILES.values() for file in pair)
    layouts = (Layout("idx", f"{dataset}/raw", files),)
    folder, _ = locate_or_download(name, data_dir, layouts, partial(download_idx, dataset))
    images, labels, paths, parts = [], [], [], []
    for part, (image_file, label_file) in _FILES.items():
        images.append(read_idx(_path(folder, image_file), num_axes=3))
        labels.append(read_idx(_path(folder, label_file), num_axes=1))
        count = len(labels[-1])
        if len(images[-1]) != count or (count and labels[-1].max() >= len(classes)):
            raise DataError(
                f"{_path(folder, label_file)}: expected one label from 0 to {len(classes) - 1} for each of the "
                f"{len(images[-1])} images, found {count} labels up to {labels[-1].max(initial=0)}."
            )
        paths += numbered(f"{name}/{part}", count)
        parts += [part] * count
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(f"{folder}: train images are {images[0].shape[1:]} px and test images {images[1].shape[1:]}.")
    return InMemorySource(
        name,
        np.concatenate(images),
        targets=np.concatenate(labels),
        classes=classes,
        paths=paths,
        parts=parts,
        num_channels=1,
    )


def _path(folder: Path, filename: str) -> Path:
    path = present(folder, filename)
    assert path is not None
    return path


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Return the uint8 array of an IDX file, gzipped if its name ends in `.gz`.

    Raises:
        DataError: the file has another type or number of axes, ends early, or goes on too long.

    Source: LeCun, Cortes, Burges, "The MNIST database", section "The IDX file format": two zero bytes, the type
        (8 is uint8), the number of axes, each length as big-endian uint32, then the values in C order.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Delete it, so that it is fetched again.") from error
    start = 4 + 4 * num_axes
    if raw[:4] != bytes([0, 0, 8, num_axes]) or len(raw) < start:
        expected = f"an IDX file of uint8 with {num_axes} axes"
        raise DataError(f"{path}: expected {expected}, found one that starts {raw[:4]!r}.")
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", num_axes, 4))
    if len(raw) != start + math.prod(shape):
        raise DataError(
            f"{path}: expected {start + math.prod(shape):,} bytes for the shape {shape}, found {len(raw):,}. "
            "Delete it, so that it is fetched again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)

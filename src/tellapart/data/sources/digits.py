"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, on every machine that has scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from tellapart.data.sources.base import InMemorySource, numbered
from tellapart.errors import MissingError


def open_digits(data_dir: str = "") -> InMemorySource:
    """Return the digits, classes "0" to "9", pixels 0 to 16 scaled to 0 to 255; no parts are given.

    Args:
        data_dir: not used; the data lie inside the scikit-learn package.

    Raises:
        MissingError: scikit-learn is not installed.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits" (1998), the test set, by way of
        `sklearn.datasets.load_digits`.
    """
    table = _read_table()
    pixels = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return InMemorySource(
        "digits",
        pixels,
        targets=table[:, 64],
        classes=[str(digit) for digit in range(10)],
        paths=numbered("digits", len(table)),
        num_channels=1,
    )


def _read_table() -> np.ndarray:
    """Return float64 `(1797, 65)`: 64 pixels of 0 to 16, then the digit.

    Finding the file without importing scikit-learn saves a second.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise MissingError(
            "the 'digits' data set comes with scikit-learn, which is not installed. "
            "Install it (pip install scikit-learn) or name another data set or folder."
        )
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([np.asarray(pixels), np.asarray(labels)])

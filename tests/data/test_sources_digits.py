"""The digits, against scikit-learn's own loader."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tellapart.data.sources.digits import open_digits
from tellapart.errors import MissingError

pytestmark = pytest.mark.filterwarnings("error")


def test_digits_equal_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    table, labels = (np.asarray(values) for values in load_digits(return_X_y=True))
    source = open_digits()
    images = np.asarray(source.images)
    assert np.array_equal(source.targets, labels)
    assert np.array_equal(images, np.round(table.reshape(1797, 8, 8) * 255 / 16).astype(np.uint8))
    assert (images.min(), images.max()) == (0, 255)
    assert source.classes == tuple("0123456789")
    assert (source.num_channels, set(source.parts)) == (1, {""})
    assert (source.paths[0], source.paths[17], source.paths[-1]) == ("digits/0000", "digits/0017", "digits/1796")


def test_a_package_without_the_file_falls_back_to_its_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = open_digits()
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: False)
    fallback = open_digits()
    assert np.array_equal(np.asarray(direct.images), np.asarray(fallback.images))
    assert np.array_equal(direct.targets, fallback.targets)


def test_without_scikit_learn_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="scikit-learn, which is not installed"):
        open_digits()

"""A Dataset of the user's as a source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from tellapart.data.decode import decode
from tellapart.data.sources import DatasetSource, open_source
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


class Pictures(Dataset[tuple[Any, int]]):
    classes = ("ant", "bee")

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        array = PIXELS[index]
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        kinds = {
            "picture": Image.fromarray(array),
            "array": array,
            "tensor": tensor,
            "float": tensor.float() / 255,
            "normalised": tensor.float() / 127.5 - 1,
        }
        return kinds[self.kind], index % 2


@pytest.mark.parametrize("kind", ["picture", "array", "tensor", "float"])
def test_every_kind_of_item_gives_the_same_pixels(kind: str) -> None:
    source = open_source(Pictures(kind))
    assert isinstance(source, DatasetSource)
    assert source.classes == ("ant", "bee")
    assert source.targets.tolist() == [0, 1, 0, 1, 0, 1]
    for index in range(len(source)):
        assert (decode(source.read(index), 3) == PIXELS[index].transpose(2, 0, 1)).all()


def test_normalised_images_are_refused() -> None:
    source = open_source(Pictures("normalised"))
    with pytest.raises(ImageError, match=r"uint8"):
        source.read(0)


def test_an_empty_dataset_is_refused() -> None:
    class Empty(Pictures):
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="found none"):
        open_source(Empty("array"))

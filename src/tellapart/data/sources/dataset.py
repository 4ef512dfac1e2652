"""A PyTorch Dataset of the user's as a source: its images before any normalisation, and its targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from tellapart.data.sources.arrays import as_listed_image
from tellapart.data.sources.base import Source, numbered, require_two_classes
from tellapart.data.sources.labels import understand
from tellapart.data.sources.tasks import change_task
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError


class DatasetSource(Source):
    """A map-style Dataset whose items are (image, target).

    An image is a Pillow picture, a uint8 array `(H, W)` or `(H, W, C)`, or a uint8 tensor `(C, H, W)`; floats in
    [0, 1] are scaled. Normalised images are refused: Tellapart's own preprocessing has to see the pixels, because it
    is shipped with the weights. Targets are read from the Dataset's `targets` where it has them, and else item by
    item; class names from its `classes`.

    Raises:
        DataError: the Dataset is empty, or its targets are of no use.
        ConfigError: the targets do not allow `task`.
    """

    def __init__(self, dataset: Any, task: str = "auto") -> None:
        name = type(dataset).__name__
        count = len(dataset)
        if not count:
            raise DataError(f"{name}: expected images, found none.")
        given = getattr(dataset, "targets", None)
        values = np.asarray(given if given is not None else [np.asarray(dataset[row][1]) for row in range(count)])
        classes = getattr(dataset, "classes", None)
        labels = understand(values, classes, task, name)
        self._dataset = dataset
        super().__init__(
            name,
            classes=labels.classes,
            paths=numbered(name, count),
            targets=labels.targets,
            task=labels.task,
            notes=labels.notes,
        )
        change_task(self, task)
        if self.task == "multiclass":
            require_two_classes(name, self.classes)

    def read(self, index: int) -> bytes | np.ndarray:
        """Return the image of an item.

        Raises:
            ImageError: the item is no image, or a normalised one.
        """
        try:
            return as_listed_image(self._dataset[index][0], self.paths[index], [])
        except ImageError:
            raise
        except DataError as error:
            raise ImageError(str(error)) from error

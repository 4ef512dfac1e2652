"""What every source of labelled images offers, and the one where all images already lie decoded in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ColumnNames:
    """Which columns of a table hold what, where the user said so; "" leaves it to the columns' names and types.

    `separator` is the sign between several labels in one cell; "" is one label a cell.
    """

    image: str = ""
    label: str = ""
    split: str = ""
    group: str = ""
    time: str = ""
    separator: str = ""


class Source(ABC):
    """A list of labelled images: where the bytes are and what the label is; the pixels are read one at a time.

    A source survives pickling and forking, so that the workers of a loader can read from it.

    Attributes:
        name: what the user asked for, in short, for titles.
        task: a key of `tasks.TASKS`.
        classes: the names, index = label; empty for regression.
        paths: one per sample, unique and storable as UTF-8, as shown to the user and kept in manifests.
        targets: multiclass int64 `(N,)`; multilabel float32 `(N, K)` of 0 and 1; regression float32 `(N, K)`.
        parts: one per sample: "train", "val", "test", or "" where the source does not say.
        num_channels: 1 where every image is known to be grey, else 3.
        notes: sentences for the user about what was left out or assumed.
        groups: one per sample where the source has groups: samples of one group, "" aside, belong on one side.
        times: one per sample where a time column was asked for: texts whose order is that of time, "" if unknown.
        blocks: int64 `(N,)`, the shard of each sample, where reading shard by shard is much faster; else None.
        seeks: whether one sample is read without those beside it in its shard.
        root: the folder that `paths` count from, where the samples are files; else None.
        images: all images decoded, uint8 `(N, H, W)` or `(N, H, W, C)`, where they lie in memory so; else None.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    paths: list[str]
    targets: np.ndarray
    parts: list[str]
    num_channels: int
    notes: list[str]
    groups: list[str] | None = None
    times: list[str] | None = None
    blocks: np.ndarray | None = None
    seeks: bool = True
    root: Path | None = None
    images: np.ndarray | None = None

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        paths: list[str],
        targets: np.ndarray,
        parts: list[str] | None = None,
        task: str = "multiclass",
        num_channels: int = 3,
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.task, self.classes, self.paths = name, task, tuple(classes), paths
        self.targets = targets.astype(np.int64 if task == "multiclass" else np.float32, copy=False)
        self.parts = [""] * len(paths) if parts is None else parts
        self.num_channels, self.notes = num_channels, list(notes)
        assert len(self.paths) == len(self.targets) == len(self.parts)
        assert self.targets.ndim == (1 if task == "multiclass" else 2)

    @property
    def num_outputs(self) -> int:
        """How many logits a network needs: one a class, or one a number."""
        return len(self.classes) or self.targets.shape[1]

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} images, {self.task})"

    @abstractmethod
    def read(self, index: int) -> bytes | np.ndarray:
        """Return the encoded bytes of an image, or its decoded uint8 pixels `(H, W)` or `(H, W, C)`.

        Raises:
            ImageError: the file is no longer there or cannot be read.
        """

    def read_many(self, indices: Sequence[int]) -> list[bytes | np.ndarray | ImageError]:
        """Return what `read` returns for each of several samples, in the place of one that cannot be read why not.

        Overridden where asking for several at once takes hardly longer than asking for one.
        """
        return [self._try_read(index) for index in indices]

    def _try_read(self, index: int) -> bytes | np.ndarray | ImageError:
        try:
            return self.read(index)
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(str(error))

    def label_name(self, index: int) -> str:
        """Return the label in words: the class, the classes joined with "|", or the numbers joined with ", "."""
        target = self.targets[index]
        if self.task == "multiclass":
            return self.classes[int(target)]
        if self.task == "multilabel":
            return "|".join(name for name, is_set in zip(self.classes, target, strict=True) if is_set)
        return ", ".join(f"{value:g}" for value in target)


class InMemorySource(Source):
    """A source whose images all have one size and lie decoded in memory, as the uint8 array `images`."""

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        *,
        classes: Sequence[str],
        paths: list[str],
        targets: np.ndarray,
        parts: list[str] | None = None,
        num_channels: int = 3,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(
            name, classes=classes, paths=paths, targets=targets, parts=parts, num_channels=num_channels, notes=notes
        )
        assert images.dtype == np.uint8
        assert len(images) == len(self)
        self.images = self._images = images

    def read(self, index: int) -> np.ndarray:
        """Return the uint8 pixels of an image, a view of `images`."""
        return self._images[index]


def numbered(name: str, count: int) -> list[str]:
    """Return paths for samples that have none: the name and a number of at least four digits.

    >>> numbered("digits", 2)
    ['digits/0000', 'digits/0001']
    """
    width = max(4, len(str(count - 1)))
    return [f"{name}/{index:0{width}d}" for index in range(count)]


def part_of(name: str) -> str | None:
    """Return which part a folder or file of that name holds, or None; case, separators and a final "set" aside.

    >>> part_of("Validation"), part_of("training_set"), part_of("cats")
    ('val', 'train', None)
    """
    word = "".join(letter for letter in name.lower() if letter.isalnum())
    return PART_NAMES.get(word) or PART_NAMES.get(word.removesuffix("set"))


def require_two_classes(name: str, classes: Sequence[str]) -> None:
    """Refuse a data set in which there is nothing to tell apart.

    Raises:
        DataError: fewer than two classes.
    """
    if len(classes) < 2:
        found = f"one: '{classes[0]}'" if classes else "none"
        raise DataError(f"{name}: expected at least two classes to tell apart, found {found}.")

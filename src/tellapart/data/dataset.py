"""Datasets and loaders in plain PyTorch, for a loop of one's own or for `train_model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from tellapart import seeding
from tellapart.config import DataConfig
from tellapart.data.decode import ImageError, decode
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import scan, typical_size_px
from tellapart.data.sources import Source, open_source
from tellapart.data.splits import apportion, make_split
from tellapart.data.transforms import HALF, eval_transform, train_transform
from tellapart.errors import ConfigError, DataError

Transform = Callable[[Any], Any]


class ArrayDataset(Dataset[tuple[Any, Any]]):
    """A Dataset over arrays or tensors that lie in memory.

    Args:
        data: `(N, ...)`; an item is `data[i]`, as a tensor if there is no transform.
        targets: `(N, ...)`; integers come as int64, other numbers as float32.
        transform: applied to `data[i]` as it is.

    Raises:
        DataError: data and targets differ in length.

    >>> image, target = ArrayDataset(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1])[3]
    >>> tuple(image.shape), int(target)
    ((8, 8), 1)
    """

    def __init__(self, data: Any, targets: Any, transform: Transform | None = None) -> None:
        if len(data) != len(targets):
            raise DataError(f"ArrayDataset: expected as many targets as images, found {len(data)} and {len(targets)}.")
        self.data = data if isinstance(data, torch.Tensor | np.ndarray) else np.asarray(data)
        values = torch.as_tensor(np.asarray(targets) if not isinstance(targets, torch.Tensor) else targets)
        self.targets = values.float() if values.is_floating_point() else values.long()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self.data[index]
        if self.transform is not None:
            return self.transform(image), self.targets[index]
        # A copy: torch can share neither a read-only array nor one with a mirrored axis.
        return torch.from_numpy(np.array(image)) if isinstance(self.data, np.ndarray) else image, self.targets[index]


class SourceDataset(Dataset[tuple[Any, Any]]):
    """A Dataset over rows of a source: uint8 `(C, H, W)` through the transform, and the target.

    Raises:
        ImageError: from an item whose image cannot be read.
    """

    def __init__(self, source: Source, rows: Sequence[int] | np.ndarray, transform: Transform | None = None) -> None:
        self.source, self.rows, self.transform = source, np.asarray(rows, dtype=np.int64), transform
        self.classes = source.classes
        self.targets = torch.from_numpy(source.targets[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = int(self.rows[index])
        try:
            image = torch.from_numpy(decode(self.source.read(row), self.source.num_channels))
        except ImageError as error:
            raise ImageError(f"{self.source.paths[row]}: cannot be read: {error.reason}") from None
        return (image if self.transform is None else self.transform(image)), self.targets[index]


class Loaders(NamedTuple):
    """Plain DataLoaders; `test` is None where there is no test part."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    test: DataLoader[Any] | None


def make_loaders(
    data: Any,
    val: Dataset[Any] | None = None,
    *,
    batch_size: int = 128,
    transforms: tuple[Transform, Transform] | None = None,
    num_workers: int = 0,
    seed: int = 0,
) -> Loaders:
    """Return DataLoaders for train, val and test.

    Args:
        data: a Dataset, of which val is drawn if none is given; or whatever `open_source` takes (a name, a folder, a
            file, a pair of arrays), divided as `tellapart.train` divides it.
        val: a Dataset to validate on, if `data` is one.
        batch_size: images a batch.
        transforms: for training and for evaluation, if `data` is no Dataset. Default: flip and crop, and none; both
            to the images' typical size and scaled to -1 to 1.
        num_workers: processes that read.
        seed: of the division and of the order.

    Raises:
        DataError: the data cannot be opened, read or divided.
        ConfigError: `transforms` with a Dataset, or `val` without one.
    """
    if isinstance(data, Dataset) and transforms is not None:
        raise ConfigError(["transforms: a Dataset applies its own; give it the transform, or give the files or arrays"])
    if not isinstance(data, Dataset) and val is not None:
        raise ConfigError(["val: only where `data` is a Dataset too; other data is divided by its parts or at random"])
    if isinstance(data, Dataset):
        train_set, val_set, test_set = (data, val, None) if val is not None else (*_draw_val(data, seed), None)
    else:
        train_set, val_set, test_set = _from_source(open_source(data), transforms, seed)
    order = seeding.generator(seed, "order")

    def plain(dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        return DataLoader(dataset, batch_size, num_workers=num_workers, **options)

    return Loaders(
        plain(train_set, shuffle=True, generator=order),
        plain(val_set),
        plain(test_set) if test_set is not None else None,
    )


def _from_source(
    source: Source, transforms: tuple[Transform, Transform] | None, seed: int
) -> tuple[Dataset[Any], Dataset[Any], Dataset[Any] | None]:
    size_px = typical_size_px(source) or 32
    channels = source.num_channels
    found = scan(source, Preprocess(size_px, [0.0] * channels, [1.0] * channels), keep=False)
    if found.errors:
        row = min(found.errors)
        raise DataError(f"{source.paths[row]}: cannot be read: {found.errors[row]} ({len(found.errors)} such images).")
    split = make_split(source, found.pixel_hashes, DataConfig(), seed)
    if transforms is None:
        half = HALF[:channels]
        transforms = (
            train_transform("flip-crop" if channels == 3 else "none", size_px=size_px, mean=half, std=half),
            eval_transform(size_px=size_px, mean=half, std=half),
        )
    train, val, test = (split.rows(name) for name in ("train", "val", "test"))
    return (
        SourceDataset(source, train, transforms[0]),
        SourceDataset(source, val, transforms[1]),
        SourceDataset(source, test, transforms[1]) if len(test) else None,
    )


def _draw_val(dataset: Any, seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """Draw a tenth of a Dataset for val, stratified where it tells its targets."""
    count = len(dataset)
    if count < 2:
        raise DataError(f"expected at least two images to divide, found {count}.")
    labels = np.asarray(getattr(dataset, "targets", np.zeros(count)))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        labels = np.zeros(count, dtype=np.int64)
    quotas = apportion({int(k): int((labels == k).sum()) for k in np.unique(labels)}, max(1, round(0.1 * count)))
    order = seeding.permutation(count, seed, "split/val").numpy()
    chosen: list[int] = []
    for label, quota in quotas.items():
        chosen += order[labels[order] == label][:quota].tolist()
    if not chosen:
        raise DataError(f"expected a class with two images or more to draw val from, found {count} classes of one.")
    rest = sorted(set(range(count)) - set(chosen))
    return Subset(dataset, rest), Subset(dataset, sorted(chosen))

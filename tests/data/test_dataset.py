"""Datasets and loaders in plain PyTorch, from everything that they may be made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from tellapart.data.dataset import ArrayDataset, Loaders, SourceDataset, make_loaders
from tellapart.data.decode import decode
from tellapart.data.sources import FolderSource, open_source
from tellapart.data.transforms import eval_transform, train_transform
from tellapart.data.unreadable import ImageError
from tellapart.errors import ConfigError, DataError

# Python 3.12's advice on forking beside OpenMP's threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

MakeFolder = Callable[..., Path]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def train_once(loaders: Loaders, channels: int, size_px: int, num_classes: int) -> None:
    """Take one optimizer step on every training batch, as any loop of one's own would."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * size_px**2, num_classes))
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
    before = model[1].weight.detach().clone()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    for images, labels in loaders.train:
        assert images.dtype == torch.float32
        assert images.shape[1:] == (channels, size_px, size_px)
        assert labels.dtype == torch.int64
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.equal(before, model[1].weight)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for images, labels in loaders.val:
            assert torch.isfinite(criterion(model(images), labels))


def num_images(loader: DataLoader[Any] | None) -> int:
    assert loader is not None
    return sum(len(labels) for _, labels in loader)


# --- ArrayDataset ----------------------------------------------------------------------------------------------------


def test_arrays_and_tensors_are_datasets() -> None:
    images, labels = pixels(5, 4, 4, 3), [0, 1, 0, 2, 1]
    for data in (images, torch.from_numpy(images), images.tolist()):
        for targets in (labels, np.array(labels), torch.tensor(labels), np.array(labels, np.uint8)):
            dataset = ArrayDataset(data, targets)
            assert len(dataset) == 5
            image, label = dataset[3]
            assert isinstance(image, torch.Tensor)
            assert image.tolist() == images[3].tolist()
            assert label.dtype == torch.int64
            assert int(label) == 2
            assert dataset[-1][0].tolist() == images[4].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_other_numbers_become_float32(dtype: type) -> None:
    dataset = ArrayDataset(pixels(3, 2, 2), np.array([[0.5, 1], [0, 1], [2, 3]], dtype=dtype))
    target = dataset[0][1]
    assert target.dtype == torch.float32
    assert target.tolist() == [0.5, 1.0]


def test_the_transform_gets_the_item_as_it_is() -> None:
    images = pixels(3, 2, 2)
    seen: list[Any] = []
    dataset = ArrayDataset(images, [0, 1, 2], lambda image: seen.append(image) or "done")
    assert dataset[1] == ("done", torch.tensor(1))
    assert isinstance(seen[0], np.ndarray)
    assert np.array_equal(seen[0], images[1])


def test_arrays_that_torch_cannot_share_are_read_all_the_same() -> None:
    images = pixels(3, 4, 4)
    images.setflags(write=False)
    assert np.array_equal(ArrayDataset(images, [0, 1, 0])[1][0].numpy(), images[1])
    mirrored = images[:, :, ::-1]
    assert np.array_equal(ArrayDataset(mirrored, [0, 1, 0])[1][0].numpy(), mirrored[1])
    swapped = images.astype(">u2").byteswap().view("<u2")
    assert np.array_equal(ArrayDataset(swapped, [0, 1, 0])[1][0].numpy(), swapped[1])


def test_what_a_loop_does_to_an_item_does_not_reach_the_array() -> None:
    images = pixels(2, 4, 4)
    before = images.copy()
    ArrayDataset(images, [0, 1])[0][0].zero_()
    assert np.array_equal(images, before)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="expected as many targets as images, found 3 and 2"):
        ArrayDataset(pixels(3, 2, 2), [0, 1])


def test_batches_of_an_array_dataset() -> None:
    dataset = ArrayDataset(pixels(10, 1, 4, 4), np.arange(10) % 2)
    (images, labels), *rest = DataLoader(dataset, batch_size=4)
    assert images.shape == (4, 1, 4, 4)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 1, 0, 1]
    assert len(rest) == 2


# --- SourceDataset ---------------------------------------------------------------------------------------------------


def test_rows_of_a_source(image_folder: Path) -> None:
    source = FolderSource(image_folder)
    dataset = SourceDataset(source, [8, 2, 2])
    assert len(dataset) == 3
    assert dataset.classes == ("ant", "bee")
    assert dataset.targets.tolist() == [1, 0, 0]
    image, target = dataset[0]
    assert torch.equal(image, torch.from_numpy(decode(source.read(8), 3)))
    assert int(target) == 1
    assert SourceDataset(source, [3], lambda image: image.sum())[0][0].shape == ()


def test_a_read_only_source_is_no_trouble() -> None:
    source = open_source("digits")
    source.targets.setflags(write=False)
    assert len(SourceDataset(source, np.arange(7))) == 7


def test_an_image_that_cannot_be_read_is_named(image_folder: Path) -> None:
    source = FolderSource(image_folder)
    (image_folder / "bee" / "001.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^bee/001\.png: cannot be read: an empty file"):
        SourceDataset(source, np.arange(12))[7]


# --- make_loaders ----------------------------------------------------------------------------------------------------


def test_loaders_of_digits() -> None:
    loaders = make_loaders("digits", batch_size=256)
    assert all(type(loader) is DataLoader for loader in loaders)
    assert [num_images(loader) for loader in loaders] == [1437, 180, 180]
    train_once(loaders, channels=1, size_px=8, num_classes=10)


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_of_a_folder(make_folder: MakeFolder, workers: int) -> None:
    root = make_folder({"ant": 20, "bee": 20}, sizes=((9, 7), (12, 12), (8, 15)))
    loaders = make_loaders(root, batch_size=8, num_workers=workers)
    assert [num_images(loader) for loader in loaders] == [32, 4, 4]
    train_once(loaders, channels=3, size_px=8, num_classes=2)
    values = torch.cat([images.flatten() for images, _ in loaders.val])
    assert -1 <= float(values.min()) < -0.5 < 0.5 < float(values.max()) <= 1


def test_loaders_of_a_folder_with_parts(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ant": 5, "train/bee": 5, "test/ant": 3, "test/bee": 1})
    loaders = make_loaders(str(root))
    assert [num_images(loader) for loader in loaders] == [9, 1, 4]
    no_test = make_folder({"train/ant": 5, "train/bee": 5, "val/ant": 3}, name="other")
    assert num_images(make_loaders(no_test).val) == 3


@pytest.mark.parametrize("as_tensor", [False, True])
def test_loaders_of_arrays(as_tensor: bool) -> None:
    images, labels = pixels(60, 10, 10, 3), np.arange(60) % 3
    data = (torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)) if as_tensor else (images, labels)
    loaders = make_loaders(data, batch_size=16)
    assert [num_images(loader) for loader in loaders] == [48, 6, 6]
    train_once(loaders, channels=3, size_px=10, num_classes=3)


def test_loaders_of_a_dataset() -> None:
    dataset = ArrayDataset(pixels(40, 3, 6, 6), np.arange(40) % 4, lambda image: torch.from_numpy(image).float() / 255)
    loaders = make_loaders(dataset, batch_size=8)
    assert loaders.test is None
    train, val = loaders.train.dataset, loaders.val.dataset
    assert isinstance(train, Subset)
    assert isinstance(val, Subset)
    assert sorted([*train.indices, *val.indices]) == list(range(40))
    assert sorted(int(dataset.targets[row]) for row in val.indices) == [0, 1, 2, 3]
    train_once(loaders, channels=3, size_px=6, num_classes=4)


def test_a_dataset_to_validate_on_is_taken_as_it_is() -> None:
    train, val = TensorDataset(torch.zeros(9, 1), torch.zeros(9)), TensorDataset(torch.ones(2, 1), torch.ones(2))
    loaders = make_loaders(train, val, batch_size=4)
    assert loaders.train.dataset is train
    assert loaders.val.dataset is val
    assert (num_images(loaders.train), num_images(loaders.val), loaders.test) == (9, 2, None)


class Bare(Dataset[Any]):
    """A Dataset that does not tell its targets."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), index % 2


def test_a_dataset_that_does_not_tell_its_targets() -> None:
    loaders = make_loaders(Bare(50), batch_size=50)
    assert (num_images(loaders.train), num_images(loaders.val)) == (45, 5)
    assert num_images(make_loaders(Bare(2)).val) == 1


@pytest.mark.parametrize(("dataset", "expected"), [(Bare(1), "found 1"), (Bare(0), "found 0")])
def test_too_few_to_divide(dataset: Dataset[Any], expected: str) -> None:
    with pytest.raises(DataError, match=f"at least two images to divide, {expected}"):
        make_loaders(dataset)


def test_classes_of_one_image_each_leave_no_val() -> None:
    with pytest.raises(DataError, match="expected a class with two images or more to draw val from"):
        make_loaders(ArrayDataset(pixels(3, 2, 2), [0, 1, 2]))


def test_labels_with_many_columns_are_no_classes() -> None:
    loaders = make_loaders(ArrayDataset(pixels(30, 2, 2), np.eye(3, dtype=np.float32)[np.arange(30) % 3]))
    assert num_images(loaders.val) == 3


def order_of(loaders: Loaders) -> list[float]:
    return [float(value) for images, _ in loaders.train for value in images.flatten(1)[:, 0]]


def test_order_and_division_are_functions_of_the_seed() -> None:
    first, again, other = (make_loaders(Bare(60), batch_size=7, seed=seed) for seed in (0, 0, 1))
    orders = [order_of(first), order_of(again), order_of(other)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) != orders[0]
    assert sorted(orders[0]) != sorted(orders[2]), "val is another one"
    assert order_of(first) != orders[0], "the next epoch has another order"
    assert [float(value) for images, _ in first.val for value in images] == sorted(
        float(value) for images, _ in again.val for value in images
    )


def test_transforms_of_ones_own(make_folder: MakeFolder) -> None:
    root = make_folder({"ant": 10, "bee": 10})
    transforms = train_transform("randaugment", size_px=12), eval_transform(size_px=6)
    loaders = make_loaders(root, transforms=transforms)
    assert next(iter(loaders.train))[0].shape[1:] == (3, 12, 12)
    assert next(iter(loaders.val))[0].shape[1:] == (3, 6, 6)


def test_what_would_have_no_effect_is_refused() -> None:
    plain = eval_transform(size_px=4)
    with pytest.raises(ConfigError, match="transforms: a Dataset applies its own"):
        make_loaders(Bare(9), transforms=(plain, plain))
    with pytest.raises(ConfigError, match="val: only where `data` is a Dataset too"):
        make_loaders("digits", Bare(9))


def test_unreadable_images_stop_at_once_and_are_named(image_folder: Path) -> None:
    (image_folder / "ant" / "004.png").write_bytes(b"GIF89a")
    (image_folder / "bee" / "004.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"ant/004\.png: cannot be read: .* \(2 such images\)"):
        make_loaders(image_folder)


def test_what_is_no_data() -> None:
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        make_loaders("digit")

"""Batches of augmented uint8 images. The order of an epoch and what happens to each image are functions of the seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tellapart import hardware, seeding
from tellapart.data.augment import Augment
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import read_image
from tellapart.data.sources import Source
from tellapart.errors import DataError, RunError


@dataclass(frozen=True)
class Batch:
    """Images uint8 `(B, C, H, W)`, targets int64 `(B,)` or float32 `(B, K)`, and the samples' indices int64 `(B,)`."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


class TrainLoader(Protocol):
    """What the loop needs of the training data."""

    num_images: int
    num_batches: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on; the earlier ones cost nothing."""
        ...


def epoch_batches(num_images: int, batch_size: int, seed: int, epoch: int) -> list[torch.Tensor]:
    """Return the positions, int64, of each batch of an epoch: every image once, in an order drawn for the epoch.

    A last batch of one image joins the batch before it, because batch norm cannot train on a single one; batches that
    are all of one image stay so.
    """
    batches = list(seeding.permutation(num_images, seed, "order", epoch).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def num_epoch_batches(num_images: int, batch_size: int) -> int:
    """Return how many batches `epoch_batches` makes."""
    full, rest = divmod(num_images, batch_size)
    return max(1, full + (rest > 1 or (rest == 1 and full == 0)))


class MemoryLoader:
    """Batches indexed and augmented as whole tensors, from images that lie on the device.

    Args:
        images: uint8 `(N, C, R, R)` on the device, all of the source's.
        targets: int64 `(N,)` or float32 `(N, K)` on the device.
        rows: the samples to train on, int64.
        batch_size: images a batch.
        augment: applied to every batch.
        seed: the run's seed.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
    ) -> None:
        self.images, self.targets = images, targets
        self.rows = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(images.device)
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self.num_images = len(rows)
        self.num_batches = num_epoch_batches(self.num_images, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        for positions in epoch_batches(self.num_images, self.batch_size, self.seed, epoch)[start:]:
            indices = self.rows[positions.to(self.images.device, non_blocking=True)]
            yield Batch(self.augment(self.images[indices], indices, epoch), self.targets[indices], indices)


class WorkerLoader:
    """The same batches as `MemoryLoader`'s, to the bit, read and augmented by worker processes as they are needed.

    Args:
        source: where the images are.
        targets: int64 `(N,)` or float32 `(N, K)`, all of the source's.
        rows: the samples to train on, int64.
        preprocess: its `reduce` is applied to each image.
        num_workers: processes; 0 reads in this one; -1 is one a core.
        timeout_s: after so many seconds without a batch the run ends with an error; 0 waits for ever.

    Raises:
        DataError: from `epoch`, an image can no longer be read.
        RunError: from `epoch`, a worker ended or fell silent.
    """

    def __init__(
        self,
        source: Source,
        targets: torch.Tensor,
        rows: np.ndarray,
        *,
        preprocess: Preprocess,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
        num_workers: int = -1,
        timeout_s: float = 300.0,
    ) -> None:
        self.dataset = _ReducedImages(source, targets, np.asarray(rows, dtype=np.int64), preprocess, augment)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.num_workers = hardware.num_cpus() if num_workers < 0 else num_workers
        self.timeout_s = timeout_s if self.num_workers else 0.0
        self.num_images = len(rows)
        self.num_batches = num_epoch_batches(self.num_images, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        batches = epoch_batches(self.num_images, self.batch_size, self.seed, epoch)[start:]
        loader: DataLoader[Batch] = DataLoader(
            _BatchesOfEpoch(self.dataset, [batch.numpy() for batch in batches], epoch),
            batch_size=None,
            num_workers=self.num_workers,
            timeout=self.timeout_s,
            pin_memory=self.device.type == "cuda",
            # Not used, but without one of its own the DataLoader draws from torch's global generator.
            generator=torch.Generator(),
        )
        for item in _received(loader, self.timeout_s):
            if isinstance(item, DataError):
                raise item
            yield Batch(*(tensor.to(self.device, non_blocking=True) for tensor in item))


def _received(loader: DataLoader[Any], timeout_s: float) -> Iterator[Any]:
    """Yield what the workers send.

    Raises:
        RunError: a worker ended, or none has sent anything for too long.
    """
    try:
        yield from loader
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader timed out" in str(error):
            raise RunError(
                f"no images came from the reading processes for {timeout_s:g} s. Does the disk that holds them still "
                "answer? Resume the run when it does; --data.worker-timeout-s sets how long a new run waits."
            ) from error
        if isinstance(error, ConnectionError) or "exited unexpectedly" in str(error) or "killed by" in str(error):
            raise RunError(
                f"a process that reads images ended ({error}); often the machine is out of memory. Resume the run, or "
                "start one that uses less: a smaller --data.num-workers or --train.batch-size."
            ) from error
        raise


@dataclass(frozen=True)
class _ReducedImages:
    source: Source
    targets: torch.Tensor
    rows: np.ndarray
    preprocess: Preprocess
    augment: Augment

    def batch(self, positions: np.ndarray, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        indices = torch.from_numpy(self.rows[positions])
        images = torch.stack([self._image(int(index)) for index in indices])
        return self.augment(images, indices, epoch), self.targets[indices], indices

    def _image(self, index: int) -> torch.Tensor:
        reading = read_image(self.source, index, self.preprocess, hashed=False)
        if reading.image is None:
            raise DataError(
                f"{self.source.paths[index]}: could be read before training and cannot any more: {reading.error}. "
                "Put the file back and resume the run."
            )
        return reading.image


@dataclass(frozen=True)
class _BatchesOfEpoch(Dataset[Any]):
    """A Dataset whose items are whole batches, so that a worker augments a batch at a time."""

    images: _ReducedImages
    batches: list[np.ndarray]
    epoch: int

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | DataError:
        try:
            return self.images.batch(self.batches[number], self.epoch)
        except DataError as error:
            return error  # Raised in a worker, it would reach the user wrapped in that process's traceback.

"""Batches of augmented uint8 images. The order of an epoch and what happens to each image are functions of the seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tellapart import hardware
from tellapart.data.ahead import map_ahead
from tellapart.data.augment import Augment
from tellapart.data.order import WINDOW, epoch_order
from tellapart.data.reading import ReducedImages
from tellapart.errors import DataError, RunError

# Enough that a batch is there when the device asks, few enough to stay small beside the network.
_BATCHES_AHEAD = 3


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


@dataclass(frozen=True)
class Order:
    """What the order of a run's epochs follows from.

    `blocks`, int64 `(N,)`, is the shard of each training image where images are to be read shard by shard, and
    `window` how far one may then be drawn from its place.
    """

    seed: int
    blocks: np.ndarray | None = None
    window: int = WINDOW

    def batches(self, num_images: int, batch_size: int, epoch: int) -> list[torch.Tensor]:
        """Return the positions, int64, of each batch of an epoch: every image once, in an order drawn for the epoch.

        A last batch of one image joins the batch before it, because batch norm cannot train on a single one; batches
        that are all of one image stay so.
        """
        batches = list(epoch_order(num_images, self.seed, epoch, self.blocks, self.window).split(batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches


def num_epoch_batches(num_images: int, batch_size: int) -> int:
    """Return how many batches an `Order` makes of so many images."""
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
        order: what the order of an epoch follows from.
    """

    def __init__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        *,
        batch_size: int,
        augment: Augment,
        order: Order,
    ) -> None:
        self.images, self.targets = images, targets
        self.rows = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        self.batch_size, self.augment, self.order = batch_size, augment, order
        self.num_images = len(rows)
        self.num_batches = num_epoch_batches(self.num_images, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        for positions in self.order.batches(self.num_images, self.batch_size, epoch)[start:]:
            # What happens to an image is drawn from its index on the CPU, which needs no answer from the device.
            rows = self.rows[positions]
            indices = rows.to(self.images.device, non_blocking=True)
            yield Batch(self.augment(take(self.images, indices), rows, epoch), self.targets[indices], indices)


def take(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return images `(B, C, R, R)` of `(N, C, R, R)`, channels last in memory where the whole is so."""
    return images.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


class WorkerLoader:
    """The same batches as `MemoryLoader`'s, to the bit, of images that are read as they are needed.

    Images that all lie in the cache are read ahead by threads; where some have to be decoded, worker processes read.
    They are augmented on the device; where that is the CPU, by the threads that read.

    Args:
        images: what reads.
        targets: int64 `(N,)` or float32 `(N, K)`, all of the source's.
        rows: the samples to train on, int64.
        batch_size: images a batch.
        augment: applied to every batch, on the device.
        order: what the order of an epoch follows from.
        num_workers: processes; 0 reads in this one; -1 is one a core, or none where all is in the cache.
        timeout_s: after so many seconds without a batch the run ends with an error; 0 waits for ever.

    Raises:
        DataError: from `epoch`, an image can no longer be read.
        RunError: from `epoch`, a worker ended or fell silent.
    """

    def __init__(
        self,
        images: ReducedImages,
        targets: torch.Tensor,
        rows: np.ndarray,
        *,
        batch_size: int,
        augment: Augment,
        order: Order,
        device: torch.device,
        num_workers: int = -1,
        timeout_s: float = 300.0,
    ) -> None:
        self.images, self.targets, self.rows = images, targets, np.asarray(rows, dtype=np.int64)
        self.batch_size, self.augment, self.order, self.device = batch_size, augment, order, device
        self.reads_ahead = num_workers < 0 and images.is_cached(self.rows)
        self.num_workers = 0 if self.reads_ahead else hardware.num_cpus() if num_workers < 0 else num_workers
        self.timeout_s = timeout_s if self.num_workers else 0.0
        self.num_images = len(rows)
        self.num_batches = num_epoch_batches(self.num_images, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        positions = self.order.batches(self.num_images, self.batch_size, epoch)[start:]
        batches = [self.rows[batch.numpy()] for batch in positions]
        for rows, images in zip(batches, self._read(batches, epoch), strict=True):
            indices = torch.from_numpy(rows)
            parts = (images, self.targets[indices], indices)
            images, targets, on_device = (part.to(self.device, non_blocking=True) for part in parts)
            yield Batch(images if self._augments_ahead else self.augment(images, indices, epoch), targets, on_device)

    @property
    def _augments_ahead(self) -> bool:
        return self.reads_ahead and self.device.type == "cpu"

    def _prepare(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        images = self.images.batch(rows)
        if self._augments_ahead:
            return self.augment(images, torch.from_numpy(rows), epoch)
        return images.permute(0, 2, 3, 1).pin_memory().permute(0, 3, 1, 2) if self.device.type == "cuda" else images

    def _read(self, batches: list[np.ndarray], epoch: int) -> Iterator[torch.Tensor]:
        """Yield the reduced images of each batch, augmented already where that is done ahead."""
        if self.reads_ahead:
            yield from map_ahead(
                lambda rows: self._prepare(rows, epoch),
                batches,
                num_threads=min(hardware.num_cpus(), _BATCHES_AHEAD),
                num_ahead=_BATCHES_AHEAD,
                name="read",
            )
            return
        loader: DataLoader[Any] = DataLoader(
            _Batches(self.images, batches),
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
            yield item.permute(0, 3, 1, 2)


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
class _Batches(Dataset[Any]):
    """A Dataset whose items are the images of whole batches, `(B, R, R, C)`, so that a worker sends one tensor each."""

    images: ReducedImages
    batches: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> torch.Tensor | DataError:
        try:
            return self.images.batch(self.batches[number]).permute(0, 2, 3, 1)
        except DataError as error:
            return error  # Raised in a worker, it would reach the user wrapped in that process's traceback.

"""The order of an epoch, a function of seed and epoch: any order of all images, or one that reads shards in a row."""

from __future__ import annotations

import numpy as np
import torch

from tellapart import seeding

# About what WebDataset users set for `shuffle`: enough to mix what was written shuffled, at 100 KB an image 400 MB.
WINDOW = 4096


def epoch_order(
    num_images: int, seed: int, epoch: int, blocks: np.ndarray | None = None, window: int = WINDOW
) -> torch.Tensor:
    """Return the order of the training images in an epoch, int64 `(N,)`, each once.

    Args:
        num_images: N.
        seed: the run's seed.
        epoch: its number.
        blocks: int64 `(N,)`, the shard of each image, where images are to be read shard by shard.
        window: see `shuffled_in_blocks`.

    >>> sorted(epoch_order(5, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    """
    if blocks is None:
        return seeding.permutation(num_images, seed, "order", epoch)
    assert len(blocks) == num_images
    return shuffled_in_blocks(blocks, seed, epoch, window)


def shuffled_in_blocks(blocks: np.ndarray, seed: int, epoch: int, window: int) -> torch.Tensor:
    """Return an order of images in which at any time few shards are read, int64 `(N,)`.

    The shards come in an order drawn for the epoch, the images of each in their stored order; then each image's place
    p is moved to p + u * window, u drawn for the image, and the images are sorted by that. So no image ends further
    than `window` places from where reading in a row would have it. A window of N or more shuffles all images alike.

    Args:
        blocks: int64 `(N,)`, the shard of each image, the images in stored order.
        seed: the run's seed.
        epoch: its number.
        window: in places, 0 or more; 0 reads in a row.

    >>> shuffled_in_blocks(np.array([7, 7, 7, 2, 2]), seed=0, epoch=0, window=0).tolist() in (
    ...     [0, 1, 2, 3, 4], [3, 4, 0, 1, 2])
    True
    """
    count = len(blocks)
    _, numbers = np.unique(np.asarray(blocks), return_inverse=True)
    num_blocks = int(numbers.max()) + 1 if count else 0
    ranks = torch.argsort(seeding.permutation(num_blocks, seed, "blocks", epoch))
    in_a_row = torch.argsort(ranks[torch.from_numpy(numbers)], stable=True)
    draws = seeding.uniform(in_a_row, 1, seed, "window", epoch)[:, 0]
    places = torch.arange(count, dtype=torch.float64)
    keys = places + draws * window if window < count else draws
    return in_a_row[torch.argsort(keys, stable=True)]

"""The order of an epoch: every image once, a function of seed and epoch, and few shards at a time where it matters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tellapart import seeding
from tellapart.data.order import epoch_order, shuffled_in_blocks


def in_a_row(blocks: np.ndarray, seed: int, epoch: int) -> list[int]:
    return shuffled_in_blocks(blocks, seed, epoch, window=0).tolist()


@given(
    blocks=st.lists(st.integers(0, 6), max_size=60),
    window=st.integers(0, 80),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 99),
)
def test_every_image_once_and_none_further_than_the_window(
    blocks: list[int], window: int, seed: int, epoch: int
) -> None:
    array = np.array(blocks, dtype=np.int64)
    order = shuffled_in_blocks(array, seed, epoch, window)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(len(blocks)))
    before = {image: place for place, image in enumerate(in_a_row(array, seed, epoch))}
    assert all(abs(place - before[image]) <= window for place, image in enumerate(order.tolist()))
    assert torch.equal(order, shuffled_in_blocks(array, seed, epoch, window))


@given(blocks=st.lists(st.integers(0, 6), max_size=60), seed=st.integers(0, 99))
def test_without_a_window_each_shard_is_read_in_a_row(blocks: list[int], seed: int) -> None:
    order = in_a_row(np.array(blocks, dtype=np.int64), seed, 0)
    numbers = [blocks[image] for image in order]
    assert sum(a != b for a, b in pairwise(numbers)) == max(0, len(set(blocks)) - 1)
    for number in set(blocks):
        own = [image for image in order if blocks[image] == number]
        assert own == sorted(own)


def test_orders_differ_by_epoch_and_seed() -> None:
    blocks = np.repeat(np.arange(20), 10)
    orders = [tuple(in_a_row(blocks, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    windowed = [tuple(shuffled_in_blocks(blocks[:10], 0, epoch, 5).tolist()) for epoch in range(20)]
    assert len(set(windowed)) == 20


def test_the_order_depends_on_the_shards_alone_and_not_on_their_numbers() -> None:
    blocks = np.repeat([0, 1, 2], 7)
    assert torch.equal(shuffled_in_blocks(blocks, 3, 1, 4), shuffled_in_blocks(blocks * 10 + 5, 3, 1, 4))


def test_any_shard_comes_first_as_often() -> None:
    blocks = np.repeat(np.arange(8), 2)
    firsts = np.bincount([blocks[in_a_row(blocks, 0, epoch)[0]] for epoch in range(800)], minlength=8)
    # Chi-square with 7 degrees of freedom is above 24.3 once in a thousand times.
    assert ((firsts - 100) ** 2 / 100).sum() < 24.3


@pytest.mark.parametrize("window", [12, 50])
def test_a_window_of_all_images_shuffles_uniformly(window: int) -> None:
    blocks = np.repeat([0, 1, 2], 4)
    counts = np.zeros((12, 12))
    for epoch in range(600):
        counts[np.arange(12), shuffled_in_blocks(blocks, 7, epoch, window)] += 1
    # Of 12 x 12 cells with 50 expected each; 121 degrees of freedom, above 175 once in a thousand times.
    assert ((counts - 50) ** 2 / 50).sum() < 175


def test_neighbouring_batches_touch_few_shards() -> None:
    blocks = np.repeat(np.arange(100), 50)
    order = shuffled_in_blocks(blocks, 0, 0, window=200)
    for batch in order.split(64)[:-1]:
        # 64 images moved by at most 200 places lie within 464 places: 10 shards and the two cut at the ends.
        assert len(np.unique(blocks[batch.numpy()])) <= 12
    spread = [len(np.unique(blocks[batch.numpy()])) for batch in epoch_order(5000, 0, 0).split(64)[:-1]]
    assert min(spread) > 30


def test_a_window_does_mix() -> None:
    blocks = np.repeat(np.arange(4), 1000)
    order = shuffled_in_blocks(blocks, 0, 0, window=500).numpy()
    moved = np.abs(np.argsort(order) - np.argsort(np.array(in_a_row(blocks, 0, 0))))
    assert 100 < moved.mean() < 250


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_without_shards_the_order_is_the_one_drawn_for_the_epoch(count: int) -> None:
    assert torch.equal(epoch_order(count, 4, 2), seeding.permutation(count, 4, "order", 2))


def test_with_shards_it_is_the_one_of_the_shards() -> None:
    blocks = np.repeat(np.arange(5), 3)
    assert torch.equal(epoch_order(15, 4, 2, blocks, 6), shuffled_in_blocks(blocks, 4, 2, 6))

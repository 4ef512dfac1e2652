"""Rule 1: every draw is a pure function of (seed, purpose, counters, index), and looks random all the same."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tellapart import seeding

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
INT64 = st.integers(-(2**63), 2**63 - 1)
SEEDS = st.integers(0, 2**63 - 1)


def mix(z: int) -> int:
    """SplitMix64's finalizer, in Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference(index: int, draw: int, seed: int, purpose: str, *counters: int) -> float:
    """One number of `uniform`, in Python's integers."""
    base = seeding.derive(seed, purpose, *counters)
    stream = mix((index * GOLDEN + base) & MASK)
    return (mix((stream + (draw + 1) * GOLDEN) & MASK) >> 11) * 2.0**-53


def chi_square(values: np.ndarray, num_bins: int) -> float:
    """Return the statistic of values in [0, 1) over equal bins; its mean is `num_bins - 1`."""
    counts = np.bincount((values * num_bins).astype(int), minlength=num_bins)
    expected = len(values) / num_bins
    return float(((counts - expected) ** 2 / expected).sum())


# --- derive ----------------------------------------------------------------------------------------------------------


def test_derive_is_what_its_docstring_says() -> None:
    digest = hashlib.sha256(b"7/order/3/11").digest()[:8]
    assert seeding.derive(7, "order", 3, 11) == int.from_bytes(digest, "little") % 2**63


def test_derive_takes_numpy_integers_for_what_they_are() -> None:
    assert seeding.derive(np.int64(7), "order", np.int32(3)) == seeding.derive(7, "order", 3)  # pyright: ignore[reportArgumentType]


@given(SEEDS, st.text(max_size=8), st.lists(st.integers(0, 10**6), max_size=3))
def test_derived_seeds_fit_in_63_bits(seed: int, purpose: str, counters: list[int]) -> None:
    assert 0 <= seeding.derive(seed, purpose, *counters) < 2**63


def test_derived_seeds_differ_in_every_argument() -> None:
    seeds = {
        seeding.derive(seed, purpose, epoch, step)
        for seed in range(5)
        for purpose in ("order", "init", "augment/flip")
        for epoch in range(12)
        for step in range(12)
    }
    assert len(seeds) == 5 * 3 * 12 * 12


# --- uniform: the numbers --------------------------------------------------------------------------------------------


def test_the_reference_gives_the_published_sequence() -> None:
    # Vigna's splitmix64.c started at 1234567, as listed on rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix((1234567 + step * GOLDEN) & MASK) for step in (1, 2, 3, 4)] == published


@given(st.lists(INT64, min_size=1, max_size=5), st.integers(1, 4), SEEDS, st.lists(st.integers(0, 99), max_size=2))
def test_uniform_equals_the_reference(indices: list[int], num_draws: int, seed: int, counters: list[int]) -> None:
    found = seeding.uniform(torch.tensor(indices), num_draws, seed, "augment/flip", *counters)
    expected = [
        [reference(index, draw, seed, "augment/flip", *counters) for draw in range(num_draws)] for index in indices
    ]
    assert found.dtype == torch.float64
    assert found.tolist() == expected


def test_a_few_numbers_stay_what_they_are() -> None:
    # A change here means that no stored run can be resumed or repeated.
    assert seeding.derive(0, "order", 0) == 7983451878373509741
    found = seeding.uniform(torch.tensor([0, 1]), 1, 0, "flip")
    assert found.flatten().tolist() == [0.9413966748664359, 0.4142736521629956]


@given(st.lists(INT64, min_size=1, max_size=50), SEEDS)
def test_uniform_lies_in_0_to_1(indices: list[int], seed: int) -> None:
    found = seeding.uniform(torch.tensor(indices), 3, seed, "p")
    assert bool(((found >= 0) & (found < 1)).all())


# --- uniform: a function of the index alone --------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_batch_does_not_matter(indices: list[int], shuffler: random.Random) -> None:
    whole = seeding.uniform(torch.tensor(indices), 2, 0, "p", 1)
    for place in range(0, len(indices), 7):
        assert torch.equal(seeding.uniform(torch.tensor(indices[place : place + 1]), 2, 0, "p", 1)[0], whole[place])
    order = list(range(len(indices)))
    shuffler.shuffle(order)
    assert torch.equal(seeding.uniform(torch.tensor(indices)[order], 2, 0, "p", 1), whole[order])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_the_dtype_of_the_index_does_not_matter(dtype: torch.dtype) -> None:
    indices = torch.tensor([0, 3, 120])
    assert torch.equal(seeding.uniform(indices.to(dtype), 2, 5, "p"), seeding.uniform(indices, 2, 5, "p"))


def test_more_draws_leave_the_first_ones_as_they_are() -> None:
    indices = torch.arange(9)
    assert torch.equal(seeding.uniform(indices, 5, 0, "p")[:, :2], seeding.uniform(indices, 2, 0, "p"))


def test_no_images_draw_nothing() -> None:
    assert seeding.uniform(torch.empty(0, dtype=torch.int64), 3, 0, "p").shape == (0, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same() -> None:
    indices = torch.arange(-5000, 5000) * 977
    found = seeding.uniform(indices.cuda(), 3, 1, "p", 2)
    assert found.is_cuda
    assert torch.equal(found.cpu(), seeding.uniform(indices, 3, 1, "p", 2))


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # pyright: ignore
    seeding.uniform(torch.arange(5), 2, 0, "p")
    seeding.permutation(10, 0, "order")
    seeding.generator(0, "x")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # pyright: ignore


# --- uniform: it looks random ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 64, 2**32], ids=lambda stride: f"every {stride}th index")
def test_draws_are_uniform(stride: int) -> None:
    values = seeding.uniform(torch.arange(20_000) * stride, 2, 0, "p").numpy()
    for column in range(2):
        # 49 degrees of freedom: mean 49, standard deviation 9.9. Outside of these by chance: 1 in 100,000.
        assert 16 < chi_square(values[:, column], 50) < 103


def test_one_image_is_uniform_over_epochs_and_seeds() -> None:
    index = torch.tensor([4711])
    for values in (
        [float(seeding.uniform(index, 1, 0, "p", epoch)) for epoch in range(2000)],
        [float(seeding.uniform(index, 1, seed, "p", 0)) for seed in range(2000)],
    ):
        assert 3 < chi_square(np.array(values), 20) < 53


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_purposes_epochs_seeds_neighbours_and_draws_are_independent() -> None:
    count = 40_000
    indices = torch.arange(count)
    base = seeding.uniform(indices, 2, 0, "flip", 0)
    others = {
        "purpose": seeding.uniform(indices, 2, 0, "shift", 0),
        "epoch": seeding.uniform(indices, 2, 0, "flip", 1),
        "seed": seeding.uniform(indices, 2, 1, "flip", 0),
        "neighbour": seeding.uniform(indices + 1, 2, 0, "flip", 0),
        "far neighbour": seeding.uniform(indices + 256, 2, 0, "flip", 0),
        "other draw": base.flip(1),
        "neighbour's other draw": seeding.uniform(indices + 1, 2, 0, "flip", 0).flip(1),
    }
    for name, other in others.items():
        pairs = zip(base.unbind(1), other.unbind(1), strict=True)
        for one, two in pairs:
            assert abs(correlation(one, two)) < 4.5 / count**0.5, name
            # Dependence that is not a correlation: 64 cells of the plane, 63 degrees of freedom (deviation 11.2).
            cells = (one * 8).long() * 8 + (two * 8).long()
            assert 22 < chi_square((cells.numpy() + 0.5) / 64, 64) < 125, name


# --- permutation and generator ---------------------------------------------------------------------------------------


@given(st.integers(0, 300), SEEDS, st.integers(0, 50))
def test_permutation_holds_everything_once_and_repeats(num_items: int, seed: int, epoch: int) -> None:
    order = seeding.permutation(num_items, seed, "order", epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(num_items))
    torch.rand(3)
    assert torch.equal(order, seeding.permutation(num_items, seed, "order", epoch))


def test_permutations_differ_by_epoch_seed_and_purpose() -> None:
    orders = {
        tuple(seeding.permutation(50, seed, purpose, epoch).tolist())
        for seed in range(3)
        for purpose in ("order", "split")
        for epoch in range(20)
    }
    assert len(orders) == 3 * 2 * 20


def test_first_place_of_a_permutation_is_uniform_over_epochs() -> None:
    firsts = np.array([int(seeding.permutation(10, 0, "order", epoch)[0]) for epoch in range(1000)])
    assert chi_square((firsts + 0.5) / 10, 10) < 37


def test_generators_are_new_each_time() -> None:
    first, second = seeding.generator(0, "x", 1), seeding.generator(0, "x", 1)
    assert torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))
    assert not torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=seeding.generator(0, "x", 1)))

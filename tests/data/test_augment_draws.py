"""What augmentations draw is distributed as torchvision's draws are."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tellapart import seeding
from tellapart.config import AugmentConfig
from tellapart.data.augment import Augment, Draw
from tellapart.data.augment.crops import crop_box
from tellapart.data.augment.erasing import erased_box
from tellapart.data.augment.policies import OPERATIONS


def noise(count: int, channels: int = 3, height: int = 12, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make(*names: str, size_px: int = 10, seed: int = 0, **options: float) -> Augment:
    return Augment(AugmentConfig(transforms=names, **options), size_px, seed)  # pyright: ignore[reportArgumentType]


def draws(indices: torch.Tensor, epoch: int, seed: int, purpose: str, num: int, place: int = 0) -> torch.Tensor:
    return seeding.uniform(indices, num, seed, f"augment/{purpose}", epoch, place)


def test_flip_and_shift_draw_what_they_always_drew() -> None:
    # Runs that were stored resume to the same bits; found with the first version of this package.
    indices = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 4711, 50_000])
    draw = Draw(indices, 3, 17, 8, AugmentConfig())
    assert (draw.uniform("flip")[:, 0] < 0.5).int().tolist() == [1, 0, 0, 1, 0, 1, 1, 1, 0, 1]
    places = (draw.uniform("shift", 2) * 9).long()
    assert places[:, 0].tolist() == [4, 8, 8, 8, 8, 7, 1, 4, 6, 4]
    assert places[:, 1].tolist() == [7, 2, 1, 5, 2, 0, 6, 2, 1, 1]


def same_distribution(ours: list[Any], theirs: list[Any]) -> None:
    """Assert that a Kolmogorov-Smirnov test of each number does not tell the two apart."""
    for first, second in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        found: Any = stats.ks_2samp(first, second, method="asymp")
        assert found.pvalue > 1e-3


def drawn(num: int, count: int = 3000) -> list[list[float]]:
    return draws(torch.arange(count), 0, 0, "test", num).tolist()


@pytest.mark.parametrize(("height", "width", "min_scale"), [(64, 64, 0.08), (40, 130, 0.35), (300, 20, 0.35)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int, min_scale: float) -> None:
    from torchvision.transforms import v2

    theirs = v2.RandomResizedCrop(8, scale=(min_scale, 1.0))
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = [theirs.make_params([image]) for _ in range(3000)]
    boxes = [crop_box(numbers, height, width, min_scale) for numbers in drawn(22)]
    same_distribution(boxes, [[p[key] for key in ("top", "left", "height", "width")] for p in expected])
    # And what goes with what.
    same_distribution(
        [(h * w, h / w, top + h, left + w) for top, left, h, w in boxes],
        [
            (p["height"] * p["width"], p["height"] / p["width"], p["top"] + p["height"], p["left"] + p["width"])
            for p in expected
        ],
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (12, 90)])
def test_erased_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    from torchvision.transforms import v2

    theirs, image = v2.RandomErasing(p=1.0), torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = [theirs.make_params([image]) for _ in range(3000)]
    boxes = [erased_box(numbers, height, width) for numbers in drawn(22)]
    same_distribution(boxes, [[p[key] for key in "ijhw"] if p["v"] is not None else [0] * 4 for p in expected])


@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=22, max_size=22),
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(0.01, 1.0),
)
def test_boxes_lie_within_the_image(numbers: list[float], height: int, width: int, min_scale: float) -> None:
    for top, left, rows, columns in (
        crop_box(numbers, height, width, min_scale),
        erased_box(numbers, height, width),
    ):
        assert 0 <= top <= top + rows <= height
        assert 0 <= left <= left + columns <= width
    assert rows * columns < 0.4 * height * width + height + width + 1
    assert min(crop_box(numbers, height, width, min_scale)[2:]) >= 1


def test_what_fits_no_ratio_is_cut_out_of_the_middle() -> None:
    never = [0.999] * 22
    assert crop_box(never, 10, 400, 0.99) == (0, 193, 10, 13)
    assert crop_box(never, 400, 10, 0.99) == (193, 0, 13, 10)


def test_angles_are_even_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from tellapart.data.augment import warps

    angles: list[float] = []
    monkeypatch.setattr(warps, "rotate", lambda images, degrees: angles.extend(degrees.tolist()) or images)
    make("rotation", rotation_degrees=30.0)(noise(1).expand(4000, -1, -1, -1), torch.arange(4000), 0)
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 1e-3


def test_jitter_tries_all_orders_and_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    from tellapart.data.augment import colour

    factors: dict[str, list[float]] = {}
    orders: list[list[str]] = [[] for _ in range(2400)]

    def spy(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def adjust(images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            factors.setdefault(name, []).extend(values.tolist())
            for number in (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1]).tolist():
                orders[number].append(name)
            return images

        return adjust

    names = ("brightness", "contrast", "saturation", "hue")
    for name in names:
        monkeypatch.setattr(colour, f"adjust_{name}", spy(name))
    number = torch.arange(2400)
    images = torch.stack((number // 256, number % 256), 1).to(torch.uint8)[:, None, None, :].expand(-1, 3, 2, 2)
    make("color-jitter", jitter=0.6)(images.contiguous(), number, 0)
    for name, (low, high) in dict.fromkeys(names[:3], (0.4, 1.6)).items() | {"hue": (-0.15, 0.15)}.items():
        assert len(factors[name]) == 2400
        assert stats.kstest(factors[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    counts = [orders.count(list(order)) for order in permutations(names)]
    assert sum(counts) == 2400
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("policy", "times"), [("randaugment", 2), ("trivialaugment", 1)])
def test_policies_choose_evenly(policy: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {}

    def spy(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return lambda images, strength: seen.setdefault(name, []).extend(strength.tolist()) or images

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, spy(name))
    make(policy)(noise(1, height=8, width=8).expand(7000, -1, -1, -1), torch.arange(7000), 0)
    counts = [len(strengths) for strengths in seen.values()]
    assert sum(counts) == 7000 * times
    assert len(counts) == 14
    assert stats.chisquare(counts).pvalue > 1e-3
    turned = np.sign(seen["rotate"])
    assert 0.4 < (turned < 0).mean() < 0.6
    assert min(seen["solarize"]) >= 0
    if policy == "randaugment":
        assert {round(abs(angle), 4) for angle in seen["rotate"]} == {9.0}
    else:
        angles = np.abs(seen["rotate"])
        assert len(np.unique(angles.round(3))) == 31
        assert stats.chisquare(np.unique(angles.round(3), return_counts=True)[1]).pvalue > 1e-3


def test_magnitude_and_number_of_operations_can_be_set() -> None:
    images, indices = noise(30), torch.arange(30)
    assert torch.equal(make("randaugment", num_ops=0)(images, indices, 0), images)
    results = [make("randaugment", magnitude=magnitude)(images, indices, 0) for magnitude in (0, 9, 30)]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_erasing_prob_is_how_often() -> None:
    erased = make("random-erasing", erasing_prob=0.3)(noise(1).expand(3000, -1, -1, -1), torch.arange(3000), 0)
    share = float((erased != noise(1)).flatten(1).any(1).float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 3000)

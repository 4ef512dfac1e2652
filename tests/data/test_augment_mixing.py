"""Mixup and cutmix: images and targets are mixed by the same share, a function of (seed, epoch, batch)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tellapart import seeding
from tellapart.config import AugmentConfig
from tellapart.data.augment import MIXES, Mix, mixing
from tests.tolerances import tolerance


def mix(*names: str, num_classes: int = 8, seed: int = 0, **options: float) -> Mix:
    return Mix(AugmentConfig(transforms=names, **options), num_classes, seed)  # pyright: ignore[reportArgumentType]


def numbered(count: int = 8, height: int = 6, width: int = 5) -> torch.Tensor:
    """Return images whose every pixel is the image's number."""
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].repeat(1, 2, height, width)


def test_without_a_mix_nothing_changes() -> None:
    inputs, labels = numbered(), torch.arange(8)
    found = mix("flip", "none")(inputs, labels, 0, 0)
    assert found[0] is inputs
    assert found[1] is labels


@pytest.mark.parametrize("name", MIXES)
def test_targets_are_shares_that_sum_to_one(name: str) -> None:
    for batch in range(30):
        inputs, targets = mix(name)(numbered(), torch.arange(8), 0, batch)
        assert targets.shape == (8, 8)
        assert targets.dtype == torch.float32
        assert inputs.shape == (8, 2, 6, 5)
        assert float(targets.min()) >= 0
        torch.testing.assert_close(targets.sum(1), torch.ones(8), **tolerance(torch.float32))


def test_mixup_blends_by_the_share_of_the_target() -> None:
    for batch in range(30):
        inputs, targets = mix("mixup", mixup_alpha=1.0)(numbered(), torch.arange(8), 0, batch)
        expected = (targets @ torch.arange(8.0))[:, None, None, None].expand_as(inputs)
        torch.testing.assert_close(inputs, expected, **tolerance(torch.float32))


def test_mixup_takes_one_beta_number_a_batch() -> None:
    for batch in range(20):
        seed = seeding.derive(5, "mix/lambda", 3, batch)
        share = np.random.Generator(np.random.Philox(seed)).beta(0.2, 0.2)
        _, targets = mix("mixup", seed=5)(numbered(), torch.arange(8), 3, batch)
        own = targets.diagonal()
        assert bool((((own - share).abs() < 1e-6) | ((own - 1).abs() < 1e-6)).all())
        assert sorted(targets.sum(0).tolist()) == pytest.approx([1.0] * 8), "each image is the partner of one"


@pytest.mark.parametrize("alpha", [0.001, 0.2, 1.0, 5.0])
def test_cutmix_weighs_targets_by_the_area_that_is_left(alpha: float) -> None:
    areas = set()
    for batch in range(60):
        inputs, targets = mix("cutmix", cutmix_alpha=alpha)(numbered(), torch.arange(8), 0, batch)
        for number, image in enumerate(inputs):
            counts = torch.bincount(image[0].flatten().long(), minlength=8)
            assert torch.equal(image[0], image[1])
            torch.testing.assert_close(targets[number], counts / 30, rtol=0, atol=1e-6)
            pasted = image[0] != number
            if pasted.any():
                rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
                assert bool(pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()), "no rectangle"
            areas.add(int(pasted.sum()))
    assert 0 in areas
    assert len(areas) > 3


@pytest.mark.parametrize(("share", "expected"), [(1.0, {0}), (0.0, set(range(1, 31)))])
def test_cutmix_without_a_cut_and_with_the_largest(
    monkeypatch: pytest.MonkeyPatch, share: float, expected: set[int]
) -> None:
    monkeypatch.setattr(mixing, "_beta", lambda alpha, seed: share)
    for batch in range(20):
        inputs, targets = mix("cutmix")(numbered(), torch.arange(8), 0, batch)
        pasted = {int((image[0] != number).sum()) for number, image in enumerate(inputs)} - {0}
        assert pasted <= expected
        assert torch.equal(targets.argmax(1), torch.arange(8)) or share < 1
        assert bool(torch.isfinite(targets).all())
        if share == 1:
            assert torch.equal(inputs, numbered())
            assert torch.equal(targets, torch.eye(8))


def test_the_cut_has_the_area_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "_beta", lambda alpha, seed: 0.75)
    areas = []
    for batch in range(40):
        inputs, _ = mix("cutmix", num_classes=2)(numbered(2, 40, 40), torch.arange(2), 0, batch)
        areas.append(int((inputs[0, 0] != 0).sum()))
    # A quarter of 40 x 40 where no edge cuts it off; each side is rounded to whole pixels.
    assert 19 * 19 <= max(areas) <= 21 * 21


def test_a_cut_of_everything_makes_the_partner() -> None:
    generator = torch.Generator()
    for seed in range(200):
        # The middle of the cut is drawn, so a cut as large as the image is mostly cut off at an edge.
        mixed, share = mixing._paste(numbered(2, 1, 1), torch.tensor([1, 0]), 0.0, generator.manual_seed(seed))
        assert share in (0.0, 1.0)
        assert mixed[0].unique().tolist() == [1.0 - share]


@pytest.mark.parametrize("name", MIXES)
def test_mixing_is_a_function_of_seed_epoch_and_batch(name: str) -> None:
    inputs, labels = numbered(), torch.arange(8)
    state = torch.get_rng_state()
    base = mix(name)(inputs, labels, 2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    again = mix(name)(inputs, labels, 2, 3)
    assert torch.equal(base[0], again[0])
    assert torch.equal(base[1], again[1])
    for other in (
        mix(name)(inputs, labels, 3, 3),
        mix(name)(inputs, labels, 2, 4),
        mix(name, seed=1)(inputs, labels, 2, 3),
    ):
        assert not torch.equal(base[1], other[1])
    assert torch.equal(inputs, numbered()), "the batch was painted over"


@pytest.mark.parametrize("name", MIXES)
def test_several_labels_and_numbers_are_mixed_as_they_are(name: str) -> None:
    inputs = numbered()
    for targets in (torch.tensor([[0.0, 1.0], [1.0, 1.0]] * 4), torch.arange(8.0)[:, None] - 3):
        for batch in range(5):
            _, shares = mix(name)(inputs, torch.arange(8), 0, batch)
            _, mixed = mix(name, num_classes=targets.shape[1])(inputs, targets, 0, batch)
            assert mixed.dtype == torch.float32
            torch.testing.assert_close(mixed, shares @ targets, **tolerance(torch.float32))


def test_two_mixes_take_turns_at_random() -> None:
    kinds = []
    for batch in range(60):
        inputs, _ = mix("mixup", "cutmix", mixup_alpha=1.0)(numbered(), torch.arange(8), 0, batch)
        kinds.append(bool((inputs == inputs.round()).all()))
    assert 10 < sum(kinds) < 50


@pytest.mark.parametrize("name", MIXES)
def test_a_batch_of_one_mixes_with_itself(name: str) -> None:
    inputs, targets = mix(name)(numbered(8)[3:4], torch.tensor([3]), 0, 0)
    torch.testing.assert_close(inputs, numbered(8)[3:4], **tolerance(torch.float32))
    torch.testing.assert_close(targets, torch.eye(8)[3:4], **tolerance(torch.float32))


def test_shares_follow_the_beta_distribution() -> None:
    shares = np.array([mixing._beta(0.2, seeding.derive(0, "mix/lambda", 0, batch)) for batch in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.03
    # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
    assert abs(shares.var() - 1 / (4 * 1.4)) < 0.01
    assert all(0 <= mixing._beta(0.001, seed) <= 1 for seed in range(200))

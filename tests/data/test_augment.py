"""Augmentation: each draw a function of (seed, epoch, image) alone, and each result what torchvision makes of it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tellapart import seeding
from tellapart.config import AugmentConfig
from tellapart.data import augment as module
from tellapart.data.augment import AUGMENTATIONS, MIXES, Augment, Draw, Mix
from tellapart.errors import ConfigError
from tests.tolerances import tolerance

# Draw from torch's global generator, image by image.
PER_IMAGE = (
    "random-resized-crop",
    "rotation",
    "color-jitter",
    "randaugment",
    "trivialaugment",
    "random-erasing",
)
PURPOSES = {name: name for name in PER_IMAGE} | {
    "random-resized-crop": "resized-crop",
    "color-jitter": "jitter",
    "random-erasing": "erasing",
}
ALL = tuple(name for name in AUGMENTATIONS if name != "none")


def noise(count: int, channels: int = 3, height: int = 12, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make(*names: str, size_px: int = 10, seed: int = 0, **options: float) -> Augment:
    return Augment(AugmentConfig(transforms=names, **options), size_px, seed)  # pyright: ignore[reportArgumentType]


def draws(indices: torch.Tensor, epoch: int, seed: int, purpose: str, num: int, place: int = 0) -> torch.Tensor:
    return seeding.uniform(indices, num, seed, f"augment/{purpose}", epoch, place)


# --- what all of them promise ----------------------------------------------------------------------------------------


def test_every_augmentation_is_tried_here_and_says_what_it_does() -> None:
    assert {"flip", "shift", "flip-crop", "none", *PER_IMAGE} == set(AUGMENTATIONS)
    assert all((function.__doc__ or "").endswith(".") for function in AUGMENTATIONS.values())


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(name: str, channels: int) -> None:
    images = noise(6, channels)
    before = images.clone()
    result = make(name)(images, torch.arange(6), 0)
    size = 10 if name in ("shift", "flip-crop", "random-resized-crop") else 12
    assert result.shape == (6, channels, size, size)
    assert result.dtype == torch.uint8
    assert torch.equal(images, before), "the stored images were painted over"


@pytest.mark.parametrize("name", ALL)
def test_neither_the_batch_nor_its_order_matters(name: str) -> None:
    images, indices, augment = noise(24), torch.arange(24) * 37 + 5, make(name)
    whole = augment(images, indices, 3)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(images[order], indices[order], 3), whole[order])
    for part in (slice(0, 1), slice(7, 9), slice(9, 24)):
        assert torch.equal(augment(images[part], indices[part], 3), whole[part])


@pytest.mark.parametrize("name", ALL)
def test_epoch_seed_and_index_each_change_what_happens(name: str) -> None:
    images, indices = noise(1).expand(64, -1, -1, -1), torch.arange(64)
    base = make(name)(images, indices, 0)
    assert torch.equal(make(name)(images, indices, 0), base)
    for other in (
        make(name)(images, indices, 1),
        make(name, seed=1)(images, indices, 0),
        make(name)(images, indices + 64, 0),
    ):
        changed = (other != base).flatten(1).any(1).sum()
        assert int(changed) > 12, "of 64 images, as few as that by chance: less than once in a million"
    assert len({image.numpy().tobytes() for image in base}) > 1


@pytest.mark.parametrize("name", ALL)
def test_global_generators_and_threads_are_handed_back(name: str) -> None:
    make(name)(noise(1), torch.arange(1), 0)
    torch.set_num_threads(2)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    make(name)(noise(8), torch.arange(8), 0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[2], strict=True))
    assert torch.get_num_threads() == 2


def test_global_state_is_handed_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(draw: Draw, channels: int) -> object:
        def transform(image: torch.Tensor) -> torch.Tensor:
            torch.rand(1)
            raise OSError("stop")

        return transform

    monkeypatch.setitem(AUGMENTATIONS, "broken", module._per_image(broken, "broken", ""))
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    with pytest.raises(OSError, match="stop"):
        make("broken")(noise(2), torch.arange(2), 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", PER_IMAGE)
def test_no_device_but_the_cpu_is_seeded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody would hand the state of a GPU's generator back.
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    make(name)(noise(2), torch.arange(2), 0)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_the_global_seed_does_not_matter(name: str) -> None:
    images, indices = noise(8), torch.arange(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = make(name)(images, indices, 0)
        torch.manual_seed(2)
        assert torch.equal(make(name)(images, indices, 0), first)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_torchvision_runs_on_one_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A sum over a large image depends on how many threads share it: a mean of 700 x 700 pixels differed in its last bit
    # between one thread and two, and color-jitter's contrast starts from that mean.
    seen: list[int] = []
    derive = seeding.derive

    def spy(seed: int, purpose: str, *counters: int) -> int:
        seen.append(torch.get_num_threads())
        return derive(seed, purpose, *counters)

    monkeypatch.setattr(seeding, "derive", spy)
    images = noise(2, height=300, width=310)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(make(name)(images, torch.arange(2), 0))
    torch.set_num_threads(before)
    assert set(seen) == {1}
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ALL)
def test_it_can_be_sent_to_a_process_that_is_not_forked(name: str) -> None:
    augment = make("flip", name)
    again = pickle.loads(pickle.dumps(augment))
    assert torch.equal(again(noise(4), torch.arange(4), 2), augment(noise(4), torch.arange(4), 2))


def test_all_unknown_names_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        make("flip", "flop", "mixup", "spin")
    assert len(caught.value.problems) == 2
    assert "Did you mean 'flip'?" in caught.value.problems[0]
    assert "cutmix" in caught.value.problems[0]


def test_augmentations_follow_one_another() -> None:
    images, indices = noise(8), torch.arange(8)
    config = AugmentConfig(transforms=("flip", "rotation", "shift"))
    expected = images
    for place, name in enumerate(config.transforms):
        expected = AUGMENTATIONS[name](expected, Draw(indices, 4, 7, 10, config, place))
    assert torch.equal(Augment(config, 10, 7)(images, indices, 4), expected)


def test_what_is_named_twice_is_drawn_twice() -> None:
    images, indices = noise(1).expand(200, -1, -1, -1), torch.arange(200)
    twice = make("flip", "flip")(images, indices, 0)
    mirrored = (twice == images.flip(-1)).flatten(1).all(1).sum()
    assert 60 < int(mirrored) < 140, "two equal draws would cancel out"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["flip", "shift", "flip-crop"])
def test_a_gpu_gives_the_same_bits(name: str) -> None:
    images, indices = noise(50), torch.arange(50)
    found = make(name)(images.cuda(), indices.cuda(), 1)
    assert torch.equal(found.cpu(), make(name)(images, indices, 1))


# --- one by one ------------------------------------------------------------------------------------------------------


def test_nothing_stays_the_same() -> None:
    images = noise(3)
    for augment in (make("none"), make()):
        assert torch.equal(augment(images, torch.arange(3), 0), images)


def test_flip_equals_torchvision() -> None:
    from torchvision.transforms.v2 import functional as v2

    images, indices = noise(50, height=7, width=9), torch.arange(50) * 11
    wanted = draws(indices, 6, 3, "flip", 1)[:, 0] < 0.5
    expected = torch.stack([v2.horizontal_flip(i) if w else i for i, w in zip(images, wanted, strict=True)])
    assert torch.equal(make("flip", seed=3)(images, indices, 6), expected)
    assert 10 < int(wanted.sum()) < 40


@pytest.mark.parametrize(
    ("pad", "height", "width", "size"), [(2, 10, 10, 10), (4, 14, 14, 10), (0, 13, 13, 10), (3, 9, 14, 8)]
)
def test_shift_equals_padding_and_cropping_each_image(pad: int, height: int, width: int, size: int) -> None:
    from torchvision.transforms.v2 import functional as v2

    images, indices = noise(60, height=height, width=width), torch.arange(60) + 1000
    expected = []
    for image, (u, v) in zip(images, draws(indices, 2, 5, "shift", 2).tolist(), strict=True):
        top, left = int(u * (height + 2 * pad - size + 1)), int(v * (width + 2 * pad - size + 1))
        expected.append(v2.crop(F.pad(image, (pad, pad, pad, pad)), top, left, size, size))
        assert torch.equal(expected[-1], v2.crop(v2.pad(image, [pad] * 4), top, left, size, size))
    assert torch.equal(make("shift", size_px=size, seed=5, pad_px=pad)(images, indices, 2), torch.stack(expected))


def test_shift_reaches_every_place_and_no_other() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 2] = 255
    shifted = make("shift", size_px=5, pad_px=1)(image.expand(500, -1, -1, -1), torch.arange(500), 0)
    places = {tuple(place[2:].tolist()) for place in shifted.nonzero()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_flip_crop_is_flip_then_shift() -> None:
    images, indices = noise(20), torch.arange(20)
    draw = Draw(indices, 1, 0, 10, AugmentConfig())
    expected = AUGMENTATIONS["shift"](AUGMENTATIONS["flip"](images, draw), draw)
    assert torch.equal(make("flip-crop")(images, indices, 1), expected)


def torchvision_by_hand(name: str, purpose: str, images: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    from torchvision.transforms import v2

    transform = {
        "random-resized-crop": v2.RandomResizedCrop(10, scale=(0.35, 1.0), antialias=True),
        "rotation": v2.RandomRotation([-15.0, 15.0], interpolation=v2.InterpolationMode.BILINEAR),
        "color-jitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "randaugment": v2.RandAugment(),
        "trivialaugment": v2.TrivialAugmentWide(),
        "random-erasing": v2.RandomErasing(p=0.25, value=127.0),
    }[name]
    results = []
    with torch.random.fork_rng(devices=[]):
        for image, index in zip(images, indices, strict=True):
            torch.manual_seed(seeding.derive(9, f"augment/{purpose}", 2, 0, index))
            results.append(transform(image))
    return torch.stack(results)


@pytest.mark.parametrize(("name", "purpose"), PURPOSES.items())
def test_the_others_equal_torchvision_under_the_same_seed(name: str, purpose: str) -> None:
    images, indices = noise(10), [3, 1, 4, 15, 9, 26, 5, 35, 8, 97]
    expected = torchvision_by_hand(name, purpose, images, indices)
    assert torch.equal(make(name, seed=9)(images, torch.tensor(indices), 2), expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("rotation", AugmentConfig(transforms=("rotation",), rotation_degrees=0.0)),
        ("color-jitter", AugmentConfig(transforms=("color-jitter",), jitter=0.0)),
        ("random-erasing", AugmentConfig(transforms=("random-erasing",), erasing_prob=0.0)),
    ],
)
def test_no_strength_is_no_change(name: str, config: AugmentConfig) -> None:
    images = noise(8)
    assert torch.equal(Augment(config, 12, 0)(images, torch.arange(8), 0), images)
    assert not torch.equal(make(name)(images, torch.arange(8), 0), images)


def test_erasing_paints_one_grey_rectangle() -> None:
    images = torch.zeros(20, 3, 12, 12, dtype=torch.uint8)
    erased = make("random-erasing", erasing_prob=1.0)(images, torch.arange(20), 0)
    assert erased.unique().tolist() == [0, 127]
    for image in erased:
        rows, columns = (image[0] == 127).any(1).nonzero(), (image[0] == 127).any(0).nonzero()
        box = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert bool((box == 127).all())
        assert int((image == 127).sum()) == box.numel()


def test_grey_images_keep_their_one_channel_under_jitter() -> None:
    images = noise(16, channels=1)
    jittered = make("color-jitter", jitter=0.9)(images, torch.arange(16), 0)
    assert jittered.shape == images.shape
    assert not torch.equal(jittered, images)


# --- mixing ----------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(module, "_beta", lambda alpha, seed: share)
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
    monkeypatch.setattr(module, "_beta", lambda alpha, seed: 0.75)
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
        mixed, share = module._paste(numbered(2, 1, 1), torch.tensor([1, 0]), 0.0, generator.manual_seed(seed))
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
    shares = np.array([module._beta(0.2, seeding.derive(0, "mix/lambda", 0, batch)) for batch in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.03
    # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
    assert abs(shares.var() - 1 / (4 * 1.4)) < 0.01
    assert all(0 <= module._beta(0.001, seed) <= 1 for seed in range(200))

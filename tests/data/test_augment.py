"""Augmentation: each draw a function of (seed, epoch, image) alone, distributed as torchvision's.

That what is drawn is done as torchvision does it is for `contracts/test_every_augmentation.py`.
"""

from __future__ import annotations

import pickle
import random
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tellapart import seeding
from tellapart.config import AugmentConfig
from tellapart.data.augment import AUGMENTATIONS, Augment, Draw
from tellapart.data.augment.threads import share_out
from tellapart.errors import ConfigError

ALL = tuple(name for name in AUGMENTATIONS if name != "none")


def noise(count: int, channels: int = 3, height: int = 12, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make(*names: str, size_px: int = 10, seed: int = 0, **options: float) -> Augment:
    return Augment(AugmentConfig(transforms=names, **options), size_px, seed)  # pyright: ignore[reportArgumentType]


def draws(indices: torch.Tensor, epoch: int, seed: int, purpose: str, num: int, place: int = 0) -> torch.Tensor:
    return seeding.uniform(indices, num, seed, f"augment/{purpose}", epoch, place)


# --- what all of them promise ----------------------------------------------------------------------------------------


def test_every_augmentation_says_in_a_line_what_it_does() -> None:
    lines = [(function.__doc__ or "").splitlines()[0] for function in AUGMENTATIONS.values()]
    assert all(line.endswith(".") for line in lines)
    assert len(set(lines)) == len(lines)


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
    nothing = make(name)(images[:0], torch.arange(0), 0)
    assert nothing.shape == (0, *result.shape[1:])


@pytest.mark.parametrize("name", ALL)
def test_floats_become_what_the_same_levels_become(name: str) -> None:
    levels, indices = noise(40, height=16, width=16), torch.arange(40)
    expected = make(name)(levels, indices, 0)
    found = make(name)(levels / 255, indices, 0)
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    # uint8 is cut off after each operation, and a whole level later falls on the other side of a threshold.
    apart = (found * 255 - expected).abs()
    assert float((apart > 3).float().mean()) < 0.02


@pytest.mark.parametrize("name", ALL)
def test_channels_last_gives_the_same_and_stays(name: str) -> None:
    images, indices = noise(9), torch.arange(9)
    expected = make(name)(images, indices, 1)
    found = make(name)(images.contiguous(memory_format=torch.channels_last), indices, 1)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.is_contiguous()
    assert expected.is_contiguous()


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


@pytest.mark.parametrize("name", ALL)
def test_the_global_seed_does_not_matter(name: str) -> None:
    images, indices = noise(8), torch.arange(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = make(name)(images, indices, 0)
        torch.manual_seed(2)
        assert torch.equal(make(name)(images, indices, 0), first)


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
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_the_same(name: str) -> None:
    images = noise(50, height=40, width=40)
    for indices in (torch.arange(50), torch.arange(50).cuda()):
        found = make(name, size_px=32)(images.cuda(), indices, 1)
        expected = make(name, size_px=32)(images, torch.arange(50), 1)
        assert found.is_cuda
        apart = (found.cpu().short() - expected.short()).abs()
        if name in ("flip", "shift", "flip-crop", "random-erasing"):
            assert int(apart.max()) == 0
        assert float((apart > 1).float().mean()) < 0.01


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


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 64, 65])
@pytest.mark.parametrize("numbers", [1, 2**20])
def test_every_image_is_worked_on_once(count: int, numbers: int) -> None:
    torch.set_num_threads(2)
    seen: list[int] = []
    share_out(count, 4, numbers, lambda start, stop: seen.extend(range(start, stop)))
    assert sorted(seen) == list(range(count))


def test_many_images_are_shared_among_threads_of_one_each() -> None:
    torch.set_num_threads(2)
    both, seen = threading.Barrier(2, timeout=20), set()

    def work(start: int, stop: int) -> None:
        both.wait()
        seen.add((threading.get_ident(), torch.get_num_threads()))

    share_out(2, 1, 2**20, work)
    assert len(seen) == 2
    assert {number for _, number in seen} == {1}
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("augment")]


def test_an_error_ends_the_work_and_leaves_the_threads_as_they_were() -> None:
    torch.set_num_threads(2)

    def work(start: int, stop: int) -> None:
        raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        share_out(8, 1, 2**20, work)
    assert torch.get_num_threads() == 2

"""Every batched operation equals torchvision's on one image, and gives an image the same bits in any company."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from tellapart.config import AugmentConfig
from tellapart.data.augment import AUGMENTATIONS, Draw, colour, crops, erasing, flips, policies, tones, warps
from tests.tolerances import tolerance

BILINEAR, NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST
Place = Callable[[np.ndarray, np.ndarray, float, int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A batched operation, torchvision's for one image, parameters to try, and how far the two may lie apart.

    `levels`, for uint8: where torchvision rounds once and we twice, what falls on a whole level may be cut off on
    either side of it. `factor`, for float32: times the tolerance of the dtype. `place`, for operations that take the
    nearest pixel: where they look for it; within a thousandth of the middle between two pixels it may be either.
    """

    batched: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    single: Callable[[torch.Tensor, Any], torch.Tensor]
    params: list[float]
    levels: int = 0
    factor: float = 1.0
    place: Place | None = None


def turned(x: np.ndarray, y: np.ndarray, degrees: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    x, y, angle = x - (width - 1) / 2, y - (height - 1) / 2, math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos - y * sin + (width - 1) / 2, x * sin + y * cos + (height - 1) / 2


def shear(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    angles = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return v2.affine(image, 0.0, [0, 0], 1.0, angles, interpolation=NEAREST, center=[0, 0])


def move(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    return v2.affine(image, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0], interpolation=NEAREST)


def solarized(image: torch.Tensor, threshold: float) -> torch.Tensor:
    return v2.solarize(image, threshold * (1.0 if image.is_floating_point() else 255.0))


ANGLES = [0.0, 0.4, -14.9, 30.0, 45.0, -90.0, 90.0, 135.0, -179.5, 180.0]
SLOPES = [0.0, 0.01, -0.09, 0.3, 0.99, -0.99, 0.21]
SHIFTS = [0.0, 1.0, -1.0, 3.7, -3.7, 7.0, -8.0, 32.0]
FACTORS = [0.0, 0.1, 0.6, 0.999, 1.0, 1.27, 1.4, 1.9]
TURNS = [0.0, 0.1, -0.1, 1 / 3, -0.5, 0.5, 0.01]

CASES = {
    "flip": Case(
        lambda i, p: flips.mirror(i, p > 0), lambda i, p: v2.horizontal_flip(i) if p > 0 else i, [0.0, 1.0, 1.0]
    ),
    "rotate": Case(warps.rotate, lambda i, p: v2.rotate(i, p, interpolation=BILINEAR), ANGLES, levels=1, factor=4),
    "rotate-nearest": Case(
        warps.rotate_nearest, lambda i, p: v2.rotate(i, p, interpolation=NEAREST), ANGLES, place=turned
    ),
    "shear-x": Case(
        warps.shear_x, lambda i, p: shear(i, p, 0), SLOPES, place=lambda x, y, p, h, w: (x + p * (y + 0.5), y)
    ),
    "shear-y": Case(
        warps.shear_y, lambda i, p: shear(i, 0, p), SLOPES, place=lambda x, y, p, h, w: (x, y + p * (x + 0.5))
    ),
    "translate-x": Case(warps.translate_x, lambda i, p: move(i, p, 0), SHIFTS),
    "translate-y": Case(warps.translate_y, lambda i, p: move(i, 0, p), SHIFTS),
    "brightness": Case(colour.adjust_brightness, v2.adjust_brightness, FACTORS),
    "contrast": Case(colour.adjust_contrast, v2.adjust_contrast, FACTORS, levels=1),
    "saturation": Case(colour.adjust_saturation, v2.adjust_saturation, FACTORS, levels=1),
    "hue": Case(colour.adjust_hue, v2.adjust_hue, TURNS, levels=1),
    "sharpness": Case(tones.adjust_sharpness, v2.adjust_sharpness, FACTORS, levels=1),
    "posterize": Case(
        lambda i, p: tones.posterize(i, p.long()), lambda i, p: v2.posterize(i, int(p)), [*map(float, range(9))]
    ),
    "solarize": Case(tones.solarize, solarized, [0.0, 0.3, 0.5, 128 / 255, 0.7001, 1.0]),
    "autocontrast": Case(lambda i, p: tones.autocontrast(i), lambda i, p: v2.autocontrast(i), [0.0, 0.0]),
    "equalize": Case(lambda i, p: tones.equalize(i), lambda i, p: v2.equalize(i), [0.0, 0.0]),
}


def policy_case(name: str) -> Case:
    """Return the case of an entry of the policies' table, whose strengths are factors less 1."""
    if name == "identity":
        return Case(policies.OPERATIONS[name], lambda image, p: image, [0.0, 0.3])
    case = CASES[{"color": "saturation", "rotate": "rotate-nearest"}.get(name, name)]
    if name not in ("brightness", "color", "contrast", "sharpness"):
        return replace(case, batched=policies.OPERATIONS[name])
    strengths = [factor - 1.0 for factor in FACTORS]
    return replace(
        case, batched=policies.OPERATIONS[name], single=lambda i, p: case.single(i, 1.0 + p), params=strengths
    )


CASES |= {f"policy-{name}": policy_case(name) for name in policies.OPERATIONS}


def pictures(count: int, channels: int, height: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Return images of three kinds: noise, few levels, and soft ones with flat channels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, height, width), generator=generator)
    images[1::3] = images[1::3] // 64 * 85
    images[2::3, 0] = 100 + torch.arange(width) % 60
    images[2::6, -1] = 77
    return images.to(torch.uint8) if dtype == torch.uint8 else images.to(dtype) / 255


def assert_equal_to_torchvision(case: Case, images: torch.Tensor, params: list[float]) -> None:
    before = images.clone()
    found = case.batched(images, torch.tensor(params, dtype=torch.float64))
    expected = torch.stack([case.single(image, p) for image, p in zip(images, params, strict=True)])
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(images, before), "the images were painted over"
    if case.place:
        height, width = images.shape[-2:]
        y, x = np.mgrid[:height, :width].astype(np.float64)
        for number, p in enumerate(params):
            halves = [place - np.floor(place) - 0.5 for place in case.place(x, y, p, height, width)]
            is_tie = torch.from_numpy(np.minimum(*np.abs(halves)) < 1e-3)
            found[number, :, is_tie] = expected[number, :, is_tie]
    if found.dtype == torch.uint8:
        apart = (found.short() - expected.short()).abs()
        assert int(apart.max()) <= case.levels
        # A rule, not an accident: nearly all are equal.
        assert float((apart > 0).double().mean()) < 0.02
    else:
        torch.testing.assert_close(found, expected, **tolerance(found.dtype, case.factor))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_each_equals_torchvision(name: str, channels: int, dtype: torch.dtype) -> None:
    case = CASES[name]
    for height, width in ((8, 8), (17, 30), (33, 20), (2, 3), (1, 1)):
        images = pictures(len(case.params), channels, height, width, dtype)
        assert_equal_to_torchvision(case, images, case.params)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("policy-")])
@settings(max_examples=8)
@given(data=st.data())
def test_each_equals_torchvision_for_any_size_and_parameters(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    height, width = (data.draw(st.integers(8, 64)) for _ in range(2))
    whole = all(p == int(p) for p in case.params)
    one = st.sampled_from(case.params) if whole else st.floats(min(case.params), max(case.params))
    params = data.draw(st.lists(one, min_size=3, max_size=3))
    dtype = data.draw(st.sampled_from([torch.uint8, torch.float32]))
    images = pictures(3, data.draw(st.sampled_from([1, 3])), height, width, dtype, data.draw(st.integers(0, 99)))
    assert_equal_to_torchvision(case, images, params)


# --- boxes -----------------------------------------------------------------------------------------------------------


@st.composite
def boxes_within(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    rows, columns = draw(st.integers(1, height)), draw(st.integers(1, width))
    return draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns)), rows, columns


@settings(max_examples=30)
@given(data=st.data())
def test_resized_crop_equals_torchvision(data: st.DataObject) -> None:
    height, width, size = (data.draw(st.integers(8, 64)) for _ in range(3))
    dtype = data.draw(st.sampled_from([torch.uint8, torch.float32]))
    images = pictures(3, data.draw(st.sampled_from([1, 3])), height, width, dtype)
    boxes = data.draw(st.lists(boxes_within(height, width), min_size=3, max_size=3))
    expected = torch.stack(
        [v2.resized_crop(i, *box, [size, size], antialias=True) for i, box in zip(images, boxes, strict=True)]
    )
    # Where the processor has no AVX2, torchvision goes by way of float32.
    levels = 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1
    for given_images in (images, images.contiguous(memory_format=torch.channels_last)):
        found = crops.resized_crop(given_images, torch.tensor(boxes), size)
        at_once = crops.resized_crop_at_once(given_images, torch.tensor(boxes), size)
        assert found.shape == at_once.shape == (3, images.shape[1], size, size)
        assert found.dtype == at_once.dtype == dtype
        if dtype == torch.uint8:
            assert int((found.short() - expected.short()).abs().max()) <= levels
            assert int((at_once.short() - expected.short()).abs().max()) <= 1
        else:
            torch.testing.assert_close(found, expected, **tolerance(dtype))
            torch.testing.assert_close(at_once, expected, **tolerance(dtype, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_floats_are_cropped_too(dtype: torch.dtype) -> None:
    images, boxes = pictures(2, 3, 20, 24, torch.float32), torch.tensor([[0, 2, 16, 11], [4, 8, 9, 16]])
    expected = crops.resized_crop(images, boxes, 12)
    for crop in (crops.resized_crop, crops.resized_crop_at_once):
        found = crop(images.to(dtype), boxes, 12)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, **tolerance(min(dtype, torch.float32, key=_precision)))


def _precision(dtype: torch.dtype) -> float:
    return -torch.finfo(dtype).eps


def test_a_crop_of_its_own_size_is_cut_out() -> None:
    images = pictures(3, 3, 20, 24, torch.uint8)
    boxes = torch.tensor([[0, 0, 16, 16], [4, 8, 16, 16], [3, 1, 16, 16]])
    for made in (crops.resized_crop(images, boxes, 16), crops.resized_crop_at_once(images, boxes, 16)):
        for image, (top, left, _, _), result in zip(images, boxes.tolist(), made, strict=True):
            assert torch.equal(result, image[:, top : top + 16, left : left + 16])


@settings(max_examples=30)
@given(data=st.data())
def test_erasing_equals_torchvision(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(1, 40)) for _ in range(2))
    dtype = data.draw(st.sampled_from([torch.uint8, torch.float32]))
    images = pictures(4, data.draw(st.sampled_from([1, 3])), height, width, dtype)
    boxes = [*data.draw(st.lists(boxes_within(height, width), min_size=3, max_size=3)), (0, 0, 0, 0)]
    value = torch.tensor([127 if dtype == torch.uint8 else 127 / 255]).to(dtype)[:, None, None]
    expected = torch.stack([v2.erase(i, *box, value) for i, box in zip(images, boxes, strict=True)])
    for erase in (erasing.erase, erasing.erase_at_once):
        assert torch.equal(erase(images, torch.tensor(boxes), 127), expected)


@settings(max_examples=30)
@given(data=st.data())
def test_pad_crop_equals_torchvision(data: st.DataObject) -> None:
    height, width, size = (data.draw(st.integers(1, 24)) for _ in range(3))
    pad = data.draw(st.integers(max(0, -(-(size - min(height, width)) // 2)), 40))
    images = pictures(3, data.draw(st.sampled_from([1, 3])), height, width, torch.uint8)
    top, left = (
        data.draw(st.lists(st.integers(0, side + 2 * pad - size), min_size=3, max_size=3)) for side in (height, width)
    )
    expected = torch.stack(
        [v2.crop(v2.pad(i, [pad] * 4), y, x, size, size) for i, y, x in zip(images, top, left, strict=True)]
    )
    for crop in (flips.pad_crop, flips.pad_crop_at_once):
        for given_images in (images, images.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(crop(given_images, torch.tensor(top), torch.tensor(left), pad, size), expected)


def test_mirroring_at_once_is_the_same() -> None:
    images, mirrored = pictures(5, 3, 9, 14, torch.uint8), torch.tensor([True, False, True, True, False])
    assert torch.equal(flips.mirror(images, mirrored), flips.mirror_at_once(images, mirrored))


# --- the policies' strengths and the whole of what is drawn -----------------------------------------------------------

# torchvision's name of each operation.
THEIRS = {
    **{name: name.capitalize() for name in policies.OPERATIONS},
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "autocontrast": "AutoContrast",
}


@pytest.mark.parametrize("size", [(32, 32), (224, 256), (7, 331)])
def test_strengths_equal_torchvisions(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2 as transforms

    for ours, theirs in (
        (policies.randaugment_strengths(*size), transforms.RandAugment._AUGMENTATION_SPACE),
        (policies.trivialaugment_strengths(), transforms.TrivialAugmentWide._AUGMENTATION_SPACE),
    ):
        assert sorted(THEIRS[name] for name in ours) == sorted(theirs)
        assert set(ours) == set(policies.OPERATIONS)
        for name, strengths in ours.items():
            make, signed = theirs[THEIRS[name]]
            expected = make(31, *size)
            assert signed == (name in policies.SIGNED)
            wanted = torch.zeros(31, dtype=torch.float64) if expected is None else expected.to(torch.float64)
            assert torch.equal(strengths, wanted), name


def applied_by_torchvision(image: torch.Tensor, name: str, strength: float) -> Any:
    from torchvision.transforms import v2 as transforms

    policy = transforms.RandAugment()
    return policy._apply_image_or_video_transform(image, THEIRS[name], strength, NEAREST, {torch.Tensor: None})  # pyright: ignore[reportArgumentType]


def drawn(purpose: str, num: int, count: int, config: AugmentConfig) -> tuple[Draw, list[list[float]]]:
    draw = Draw(torch.arange(count) * 13, 2, 5, 16, config, 1)
    return draw, draw.uniform(purpose, num).tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_apply_what_was_drawn(policy: str, channels: int) -> None:
    images = pictures(60, channels, 24, 24, torch.uint8)
    config = AugmentConfig(num_ops=3, magnitude=11)
    draw, rows = drawn(policy, 6 if policy == "randaugment" else 3, 60, config)
    found = AUGMENTATIONS[policy](images, draw)
    names, few = list(policies.OPERATIONS), 0
    for image, numbers, result in zip(images, rows, found, strict=True):
        if policy == "randaugment":
            steps = [(numbers[k], 11, numbers[k + 1]) for k in (0, 2, 4)]
            strengths = policies.randaugment_strengths(24, 24)
        else:
            steps, strengths = [(numbers[0], int(numbers[1] * 31), numbers[2])], policies.trivialaugment_strengths()
        expected = image
        for which, strength_bin, sign in steps:
            name = names[int(which * 14)]
            strength = float(strengths[name][strength_bin])
            strength = -strength if sign < 0.5 and name in policies.SIGNED else strength
            expected = applied_by_torchvision(expected, name, strength)
        # A level that one operation rounds the other way can become several in the next, and a tie another pixel.
        few += int((result != expected).sum())
    assert few < 0.01 * images.numel()


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_what_was_drawn_in_the_order_drawn(channels: int) -> None:
    images = pictures(40, channels, 20, 20, torch.uint8)
    draw, rows = drawn("jitter", 8, 40, AugmentConfig(jitter=0.4))
    found = AUGMENTATIONS["color-jitter"](images, draw)
    adjust = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue)
    wrong = 0
    for image, numbers, result in zip(images, rows, found, strict=True):
        factors = [*(0.6 + 0.8 * u for u in numbers[4:7]), -0.1 + 0.2 * numbers[7]]
        expected = image
        for number in np.argsort(numbers[:4]):
            expected = adjust[number](expected, factors[number])
        assert int((result.short() - expected.short()).abs().max()) <= 4
        wrong += int((result != expected).sum())
    assert wrong < 0.01 * images.numel()


# --- the same bits in any company -------------------------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


RUNS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    **{name: case.batched for name, case in CASES.items()},
    "resized-crop": lambda images, boxes: crops.resized_crop(images, boxes, 20),
    "erase": lambda images, boxes: erasing.erase(images, boxes, 127),
    "pad-crop": lambda images, boxes: flips.pad_crop(images, boxes[:, 0], boxes[:, 1], 3, 20),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("name", RUNS)
def test_an_image_gets_the_same_bits_in_any_company(
    name: str, dtype: torch.dtype, threads: Callable[[int], None]
) -> None:
    count, run = 23, RUNS[name]
    images = pictures(count, 3, 21, 27, dtype)
    if name in CASES:
        params = torch.tensor(CASES[name].params, dtype=torch.float64).repeat(count)[:count]
    else:
        params = torch.stack((torch.arange(count) % 7, torch.arange(count) % 5, *[torch.arange(count) % 9 + 5] * 2), 1)
    whole = run(images, params)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for number in (1, 2):
        threads(number)
        assert torch.equal(run(images, params), whole)
        assert torch.equal(run(images[order], params[order]), whole[order])
        for part in (slice(0, 1), slice(5, 8), slice(8, 23)):
            assert torch.equal(run(images[part], params[part]), whole[part])
    last = run(images.contiguous(memory_format=torch.channels_last), params)
    assert torch.equal(last, whole)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert whole.is_contiguous()
    nothing = run(images[:0], params[:0])
    assert nothing.shape == (0, *whole.shape[1:])
    assert nothing.dtype == dtype


@pytest.mark.parametrize("name", RUNS)
def test_large_images_get_the_same_bits_on_any_number_of_threads(name: str, threads: Callable[[int], None]) -> None:
    # Large enough to be shared out, by us among images and by torch within one.
    images = pictures(6, 3, 250, 260, torch.uint8)
    params = torch.tensor((CASES[name].params * 6)[:6] if name in CASES else [[5, 4, 150, 201]] * 6)
    params = params.double() if name in CASES else params
    threads(1)
    expected = torch.cat([RUNS[name](images[k : k + 1], params[k : k + 1]) for k in range(6)])
    for number in (1, 2, 3):
        threads(number)
        for given_images in (images, images.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(RUNS[name](given_images, params), expected)
        assert torch.get_num_threads() == number

"""torchvision transforms by name, for a Dataset of one's own."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart.data.preprocess import Preprocess
from tellapart.data.transforms import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TRAIN_TRANSFORMS,
    eval_transform,
    train_transform,
)
from tellapart.errors import ConfigError
from tests.tolerances import tolerance


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(height * width).integers(0, 256, shape, dtype=np.uint8)


def kinds_of(array: np.ndarray) -> list[Any]:
    """Return the same picture in every form that a transform must take."""
    tensor = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1).contiguous()
    return [Image.fromarray(array), tensor, array]


@pytest.mark.parametrize("name", TRAIN_TRANSFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_transform_gives_squares_of_the_size(name: str, channels: int) -> None:
    half = HALF[:channels]
    transform = train_transform(name, size_px=12, mean=half, std=half)
    for height, width in ((12, 12), (30, 17), (5, 8)):
        for image in kinds_of(pixels(height, width, channels)):
            result = transform(image)
            assert result.shape == (channels, 12, 12)
            assert result.dtype == torch.float32
            assert -1 <= float(result.min()) <= float(result.max()) <= 1


@pytest.mark.parametrize(("first", "second"), [*product(TRAIN_TRANSFORMS, repeat=2)])
def test_any_two_go_together(first: str, second: str) -> None:
    transform = train_transform(first, second, size_px=12)
    for height, width in ((30, 17), (2, 3)):
        assert transform(Image.fromarray(pixels(height, width))).shape == (3, 12, 12)


def test_no_names_change_nothing_but_size_and_scale() -> None:
    image = Image.fromarray(pixels(20, 14))
    for transform in (train_transform(size_px=8), train_transform("none", size_px=8)):
        assert torch.equal(transform(image), eval_transform(size_px=8)(image))


def test_values_by_hand() -> None:
    image = torch.full((1, 4, 4), 51, dtype=torch.uint8)
    for transform in (
        train_transform("flip", size_px=4, mean=[0.1], std=[0.2]),
        eval_transform(size_px=4, mean=[0.1], std=[0.2]),
    ):
        torch.testing.assert_close(transform(image), torch.full((1, 4, 4), 0.5), **tolerance(torch.float32))


@pytest.mark.parametrize(("height", "width"), [(37, 21), (16, 16), (5, 9), (100, 64)])
def test_evaluation_equals_the_preprocessing(height: int, width: int) -> None:
    image = torch.from_numpy(pixels(height, width)).permute(2, 0, 1)
    found = eval_transform(size_px=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)(image)
    expected = Preprocess(16, IMAGENET_MEAN, IMAGENET_STD)(image[None])[0]
    one_grey_level = 1 / 255 / min(IMAGENET_STD)
    assert float((found - expected).abs().max()) <= one_grey_level * 1.001


def test_imagenet_numbers_are_those_of_torchvisions_weights() -> None:
    from torchvision.models import ResNet18_Weights

    preset = ResNet18_Weights.DEFAULT.transforms()
    assert tuple(preset.mean) == IMAGENET_MEAN
    assert tuple(preset.std) == IMAGENET_STD


def test_flips_and_shifts_happen() -> None:
    torch.manual_seed(0)
    image = Image.fromarray(pixels(8, 8))
    plain = eval_transform(size_px=8)(image)
    results = [train_transform("flip-crop", size_px=8)(image) for _ in range(40)]
    assert len({result.numpy().tobytes() for result in results}) > 10
    flips = [train_transform("flip", size_px=8)(image) for _ in range(40)]
    assert {result.numpy().tobytes() for result in flips} == {plain.numpy().tobytes(), plain.flip(-1).numpy().tobytes()}


def test_all_unknown_names_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        train_transform("flip", "flipp", "spin")
    assert len(caught.value.problems) == 2
    assert "Did you mean 'flip'?" in caught.value.problems[0]
    assert "unknown transform 'spin'" in caught.value.problems[1]

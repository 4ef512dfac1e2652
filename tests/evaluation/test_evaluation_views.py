"""Views: the transformed images are those of plain numpy, the weights those of the record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tellapart.errors import ConfigError
from tellapart.evaluation.views import TTA, mean_over_views, views

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8))


def record_views(images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
    """Return the six views as the record makes them: by padding with the reflection, and by cutting two corners."""
    side = images.shape[-1]
    padded = F.pad(images.float(), (1,) * 4, "reflect").to(torch.uint8)
    first, last = padded[..., 0:side, 0:side], padded[..., 2 : side + 2, 2 : side + 2]
    pairs = [(0.25, images), (0.125, first), (0.125, last)]
    return [(weight, view) for weight, image in pairs for view in (image, image.flip(-1))]


def test_the_six_views_are_those_of_the_record() -> None:
    found = [(weight, view(IMAGES)) for weight, view in views("flip-shift")]
    expected = record_views(IMAGES)
    assert [weight for weight, _ in found] == [weight for weight, _ in expected]
    for (_, image), (_, wanted) in zip(found, expected, strict=True):
        assert image.dtype == torch.uint8
        assert torch.equal(image, wanted)


def test_against_numpys_reflection() -> None:
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    assert np.array_equal(TTA["flip-shift"][2][1](IMAGES).numpy(), padded[..., :8, :8])
    assert np.array_equal(TTA["flip-shift"][4][1](IMAGES).numpy(), padded[..., 2:, 2:])


@pytest.mark.parametrize("name", TTA)
def test_weights_add_up_to_one_and_no_view_comes_twice(name: str) -> None:
    assert sum(weight for weight, _ in views(name)) == 1
    seen = {view(IMAGES).numpy().tobytes() for _, view in views(name)}
    assert len(seen) == len(views(name))


def test_the_mean_is_weighted() -> None:
    values = iter([8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
    found = mean_over_views(lambda images: torch.full((len(images), 2), next(values)), IMAGES, "flip-shift")
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.full((3, 2), 0.25 * (8 + 16) + 0.125 * (32 + 64 + 128 + 256)))


def test_what_no_view_changes_gives_the_same() -> None:
    flat = torch.full((2, 1, 5, 5), 7, dtype=torch.uint8)
    for name in TTA:
        assert torch.equal(
            mean_over_views(lambda images: images.float().mean((2, 3)), flat, name), torch.full((2, 1), 7.0)
        )


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_images(side: int) -> None:
    images = IMAGES[..., :side, :side]
    for _, view in views("flip-shift"):
        assert view(images).shape == images.shape


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown tta 'flip-shft'\. Did you mean 'flip-shift'"):
        views("flip-shft")

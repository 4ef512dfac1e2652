"""Corruptions: the published formulas written out plainly, the draws a function of seed and index, and the batches."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart.errors import RunError
from tellapart.evaluation.blurs import disk
from tellapart.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt, parameters

SMALL, LARGE = 16, 72
DRAWN = ("gaussian-noise", "shot-noise", "impulse-noise", "motion-blur")


def pictures(count: int = 4, side: int = SMALL, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Return pictures with smooth parts and with edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, channels, 4, 4), dtype=np.uint8)
    return torch.from_numpy(np.kron(coarse, np.ones((1, 1, side // 4, side // 4), np.uint8)).copy())


def changed(images: torch.Tensor, name: str, strength: int, seed: int = 0) -> torch.Tensor:
    return corrupt(images, name, strength, indices=np.arange(len(images)), seed=seed)


def as_float(images: torch.Tensor) -> np.ndarray:
    """Return pictures as their code has them: float64 `(N, H, W, C)` from 0 to 1."""
    return images.numpy().transpose(0, 2, 3, 1) / 255.0


def cut(pictures: np.ndarray) -> np.ndarray:
    """Return uint8 `(N, C, H, W)`, cut off as their code does."""
    return np.minimum(np.clip(pictures, 0, 1) * 255 + 1e-3, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def assert_close(found: torch.Tensor, expected: np.ndarray, most: int = 1) -> None:
    """Fail where any number is off by more than a grey level, which cutting off can turn a rounding into."""
    difference = np.abs(found.numpy().astype(int) - expected.astype(int))
    assert difference.max() <= most
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 8, SMALL, LARGE])
def test_every_corruption_keeps_the_shape_and_leaves_the_given_images_alone(
    name: str, channels: int, side: int
) -> None:
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, channels, side, side), dtype=np.uint8))
    before = images.clone()
    for strength in (1, 5):
        found = changed(images, name, strength)
        assert found.shape == images.shape
        assert found.dtype == torch.uint8
    assert torch.equal(images, before)


@pytest.mark.parametrize("side", [32, LARGE + 56])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_greater_strength_changes_more(name: str, side: int) -> None:
    coarse = torch.rand((6, 3, 13, 13), generator=torch.Generator().manual_seed(0)) * 255
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)
    changes = [(changed(images, name, k).float() - images.float()).abs().mean() for k in (1, 3, 5)]
    assert changes[0] < changes[1] < changes[2]
    assert changes[2] > 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_drawn_depends_on_the_image_and_not_on_the_batch(name: str) -> None:
    images = pictures(6)
    indices = np.array([40, 7, 3, 9, 100, 0])
    whole = corrupt(images, name, 3, indices=indices, seed=5)
    for place in range(6):
        alone = corrupt(images[place : place + 1], name, 3, indices=indices[place : place + 1], seed=5)
        assert torch.equal(alone[0], whole[place])
    order = [3, 0, 5, 1, 4, 2]
    assert torch.equal(corrupt(images[order], name, 3, indices=indices[order], seed=5), whole[order])
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(corrupt(turned, name, 3, indices=indices, seed=5), whole)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_index_or_strength_draws_another(name: str) -> None:
    one = pictures(1, 32).expand(2, -1, -1, -1)
    found = corrupt(one, name, 2, indices=np.array([0, 1]), seed=0)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(corrupt(one, name, 2, indices=np.array([0, 1]), seed=1)[0], found[0])


@pytest.mark.parametrize("side", [32, 96])
def test_noises_have_the_published_spread(side: int) -> None:
    grey = torch.full((8, 3, side, side), 128, dtype=torch.uint8)
    for place, scale in enumerate(parameters("gaussian-noise", side)[:2]):
        noise = changed(grey, "gaussian-noise", place + 1).double() - grey
        assert float(noise.std()) == pytest.approx(255 * scale, rel=0.03)
        assert float(noise.mean()) == pytest.approx(-0.5, abs=1.2), "cut off, which takes half a level"
    for place, photons in enumerate(parameters("shot-noise", side)[:2]):
        noise = changed(grey, "shot-noise", place + 1).double() - grey
        assert float(noise.std()) == pytest.approx(255 * math.sqrt(128 / 255 / photons), rel=0.05)
    for place, amount in enumerate(parameters("impulse-noise", side)):
        found = changed(grey, "impulse-noise", place + 1)
        for level in (0, 255):
            assert float((found == level).double().mean()) == pytest.approx(amount / 2, rel=0.2)
        assert set(found.unique().tolist()) == {0, 128, 255}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_contrast_is_the_published_formula(side: int, strength: int) -> None:
    images = pictures(side=side)
    factor = {SMALL: (0.75, 0.5, 0.4, 0.3, 0.15), LARGE: (0.4, 0.3, 0.2, 0.1, 0.05)}[side][strength - 1]
    x = as_float(images)
    means = x.mean(axis=(1, 2), keepdims=True)
    assert_close(changed(images, "contrast", strength), cut((x - means) * factor + means))


@pytest.mark.parametrize("strength", [1, 5])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_brightness_adds_to_the_value_of_hsv(side: int, strength: int) -> None:
    images = pictures(2, side)
    images[0, :, :4, :4] = 0
    added = {SMALL: (0.05, 0.1, 0.15, 0.2, 0.3), LARGE: (0.1, 0.2, 0.3, 0.4, 0.5)}[side][strength - 1]
    x = as_float(images)
    expected = np.empty_like(x)
    for place in np.ndindex(x.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[place])
        expected[place] = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + added))
    assert_close(changed(images, "brightness", strength), cut(expected))


@pytest.mark.parametrize("strength", [1, 4, 5])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_defocus_is_the_published_filter(side: int, strength: int) -> None:
    from scipy.ndimage import correlate, gaussian_filter

    images = pictures(2, side)
    radius, blur = parameters("defocus-blur", side)[strength - 1]
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    x, y = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    # OpenCV's GaussianBlur with reflected borders is SciPy's with "mirror", cut off after so many pixels.
    kernel = gaussian_filter(kernel / kernel.sum(), blur, mode="mirror", radius=reach)
    np.testing.assert_allclose(disk(radius, blur), kernel, atol=1e-7)
    expected = correlate(as_float(images), kernel[None, :, :, None], mode="mirror")
    assert_close(changed(images, "defocus-blur", strength), cut(expected))


@pytest.mark.parametrize("strength", [1, 3, 5])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_zoom_is_the_published_mean_of_zooms(side: int, strength: int) -> None:
    from scipy.ndimage import zoom

    images = pictures(2, side)
    small = [np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)]
    large = [
        np.arange(1, end, by) for end, by in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ]
    factors = {SMALL: small, LARGE: large}[side][strength - 1]
    x = as_float(images)
    total = x.copy()
    for factor in factors:
        inner = math.ceil(side / factor)
        top = (side - inner) // 2
        part = x[:, top : top + inner, top : top + inner]
        larger = np.asarray(zoom(part, (1, factor, factor, 1), order=1))
        trim = (larger.shape[1] - side) // 2
        total += larger[:, trim : trim + side, trim : trim + side]
    assert_close(changed(images, "zoom-blur", strength), cut(total / (len(factors) + 1)))


@pytest.mark.parametrize("strength", [1, 5])
@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_motion_blur_is_imagemagicks_sum_over_a_line(side: int, strength: int) -> None:
    from tellapart.evaluation.blurs import motion_blur

    images = pictures(2, side)
    radius, sigma = parameters("motion-blur", side)[strength - 1]
    for angle in (-45.0, -10.0, 0.0, 33.3, 45.0):
        width = 2 * radius + 1
        weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
        expected = np.zeros(images.shape)
        rows, columns = np.arange(side), np.arange(side)
        for i, weight in enumerate(weights):
            down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
            right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
            y, x = np.clip(rows + down, 0, side - 1), np.clip(columns + right, 0, side - 1)
            expected += weight / sum(weights) * images.numpy()[:, :, y][:, :, :, x]
        found = motion_blur(images, radius, sigma, [angle, angle]).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "qualities"), [(SMALL, (80, 65, 58, 50, 40)), (LARGE, (25, 18, 15, 10, 7))])
def test_jpeg_is_pillows(side: int, qualities: tuple[int, ...], channels: int) -> None:
    images = pictures(2, side, channels)
    for strength, quality in zip(STRENGTHS, qualities, strict=True):
        found = changed(images, "jpeg", strength)
        for image, compressed in zip(images, found, strict=True):
            file = io.BytesIO()
            Image.fromarray(image.numpy().transpose(1, 2, 0).squeeze()).save(file, "JPEG", quality=quality)
            expected = np.asarray(Image.open(file)).reshape(side, side, channels)
            np.testing.assert_array_equal(compressed.numpy().transpose(1, 2, 0), expected)


def test_pixelate_is_a_box_down_and_up() -> None:
    images = pictures(1, LARGE)
    small = int(LARGE * 0.25)
    image = Image.fromarray(images[0].numpy().transpose(1, 2, 0))
    box = Image.Resampling.BOX
    expected = np.asarray(image.resize((small, small), box).resize((LARGE, LARGE), box))
    np.testing.assert_array_equal(changed(images, "pixelate", 5)[0].numpy().transpose(1, 2, 0), expected)


def test_the_parameters_change_above_64_pixels() -> None:
    for name in CORRUPTIONS:
        assert len(parameters(name, 64)) == len(parameters(name, 65)) == 5
        assert parameters(name, 8) is parameters(name, 64)
        assert parameters(name, 65) is parameters(name, 224)
        assert parameters(name, 64) != parameters(name, 65)


def test_many_images_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(7)
    whole = [changed(images, name, 2) for name in CORRUPTIONS]
    monkeypatch.setattr("tellapart.evaluation.corruptions._NUMBERS_AT_ONCE", 3 * images[0].numel())
    for name, expected in zip(CORRUPTIONS, whole, strict=True):
        assert torch.equal(changed(images, name, 2), expected)
    none = images[:0]
    assert changed(none, "jpeg", 1).shape == none.shape


def test_wrong_names_and_strengths_are_told() -> None:
    with pytest.raises(RunError, match=r"unknown corruption 'jpg'\. Did you mean 'jpeg'"):
        changed(pictures(1), "jpg", 1)
    with pytest.raises(RunError, match="strength: expected 1 to 5, found 6"):
        changed(pictures(1), "jpeg", 6)

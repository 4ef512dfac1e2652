"""What a camera, a transfer or the weather does to images: ten corruptions, each in five published strengths.

They are ten of the fifteen of the benchmarks CIFAR-10-C and ImageNet-C, with the published parameters: those of the
former for images of up to 64 pixels a side, those of the latter above. Snow, frost, fog, glass blur and the elastic
transform are left out, so a mean over these ten is not the published mean corruption error.

Source: Hendrycks and Dietterich (2019), "Benchmarking neural network robustness to common corruptions and
perturbations", section 3 (arXiv 1903.12261); the parameters from its public code, `ImageNet-C/create_c/`
`make_cifar_c.py` and `make_imagenet_c.py`. Numbers are cut off to whole grey levels, as there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.blurs import defocus_blur, motion_blur, zoom_blur
from tellapart.seeding import derive

STRENGTHS = (1, 2, 3, 4, 5)
# Up to this side the parameters are those for CIFAR's 32 pixels, above it those for ImageNet's 224.
LARGEST_SMALL_PX = 64

# Numbers of float32 worked on at a time: 2**22 are 16 MiB, and a few such arrays are alive at once.
_NUMBERS_AT_ONCE = 2**22

# For each corruption the five parameters of make_cifar_c.py, then those of make_imagenet_c.py.
_PARAMETERS: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "gaussian-noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot-noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse-noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus-blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "motion-blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom-blur": (
        # (the end of the zoom factors, their step): numpy's `arange(1, end, step)`.
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def corrupt(images: torch.Tensor, name: str, strength: int, *, indices: np.ndarray, seed: int) -> torch.Tensor:
    """Return images as a corruption leaves them; each a function of (seed, corruption, strength, its index) alone.

    Args:
        images: uint8 `(B, C, H, W)`, one or three channels, on the CPU; the order of the memory does not matter.
        name: a key of `CORRUPTIONS`.
        strength: 1 (faint) to 5.
        indices: the sample indices, `(B,)`.
        seed: of the draws.

    Returns:
        uint8 `(B, C, H, W)`.

    Raises:
        RunError: no such corruption or strength.
    """
    if name not in CORRUPTIONS:
        raise RunError(unknown_name("corruption", name, CORRUPTIONS))
    if strength not in STRENGTHS:
        raise RunError(f"strength: expected 1 to 5, found {strength}.")
    parameter = parameters(name, images.shape[-1])[strength - 1]
    size = max(1, _NUMBERS_AT_ONCE // max(1, images[:1].numel()))
    parts = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        # Made when a corruption asks: most draw nothing.
        draws = _Draws(seed, f"corruption-{name}", strength, indices[part])
        parts.append(CORRUPTIONS[name](images[part].contiguous(), parameter, draws))
    return torch.cat(parts) if parts else images


def parameters(name: str, side_px: int) -> Sequence[Any]:
    """Return the five published parameters of a corruption for images of this side.

    >>> parameters("jpeg", 32), parameters("jpeg", 224)
    ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
    """
    return _PARAMETERS[name][side_px > LARGEST_SMALL_PX]


class _Draws:
    """One random generator an image."""

    def __init__(self, seed: int, purpose: str, strength: int, indices: np.ndarray) -> None:
        self.seed, self.purpose, self.strength, self.indices = seed, purpose, strength, indices

    def __iter__(self) -> Any:
        for index in self.indices.tolist():
            yield np.random.Generator(np.random.PCG64(derive(self.seed, self.purpose, self.strength, index)))


def _cut(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 for numbers on the scale of 0 to 255: cut to it, and cut off to whole ones."""
    # Rounding errors of float32 must not take a level from what should be whole.
    return (images + 1e-3).clamp(0, 255).to(torch.uint8)


def _gaussian_noise(images: torch.Tensor, scale: float, draws: _Draws) -> torch.Tensor:
    shape = images.shape[1:]
    noise = np.stack([rng.standard_normal(shape, np.float32) for rng in draws])
    return _cut(images.float() + torch.from_numpy(noise) * (255 * scale))


def _shot_noise(images: torch.Tensor, photons: float, draws: _Draws) -> torch.Tensor:
    # A pixel of brightness x counts Poisson(x * photons) of them.
    expected = images.numpy() * (photons / 255)
    counts = np.stack([rng.poisson(image) for rng, image in zip(draws, expected, strict=True)])
    return _cut(torch.from_numpy(counts * (255 / photons)))


def _impulse_noise(images: torch.Tensor, amount: float, draws: _Draws) -> torch.Tensor:
    # Each number of each channel on its own, as in scikit-image's "s&p": black or white with equal chance.
    chance = torch.from_numpy(np.stack([rng.random(images.shape[1:], np.float32) for rng in draws]))
    white = torch.full_like(images, 255).where(chance < amount / 2, images)
    return torch.zeros_like(images).where((chance >= amount / 2) & (chance < amount), white)


def _defocus_blur(images: torch.Tensor, parameter: tuple[float, float], draws: _Draws) -> torch.Tensor:
    return _cut(defocus_blur(images.float(), *parameter))


def _motion_blur(images: torch.Tensor, parameter: tuple[float, float], draws: _Draws) -> torch.Tensor:
    angles = [rng.uniform(-45, 45) for rng in draws]
    return _cut(motion_blur(images, *parameter, angles))


def _zoom_blur(images: torch.Tensor, parameter: tuple[float, float], draws: _Draws) -> torch.Tensor:
    return _cut(zoom_blur(images.float(), np.arange(1, *parameter).tolist()))


def _brightness(images: torch.Tensor, added: float, draws: _Draws) -> torch.Tensor:
    # Hue and saturation stay: of a colour (r, g, b) with the value V = max(r, g, b) that is a factor on all three.
    numbers = images.float()
    value = numbers.amax(1, keepdim=True)
    brighter = (value + 255 * added).clamp(max=255)
    # In this order a number that is to stay whole does.
    return _cut(torch.where(value > 0, numbers * brighter / value.clamp(min=1), brighter))


def _contrast(images: torch.Tensor, factor: float, draws: _Draws) -> torch.Tensor:
    numbers = images.float()
    mean = numbers.mean((2, 3), keepdim=True)
    return _cut((numbers - mean) * factor + mean)


def _pixelate(images: torch.Tensor, factor: float, draws: _Draws) -> torch.Tensor:
    from PIL.Image import Resampling

    height, width = images.shape[-2:]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    return _through_pillow(
        images, lambda image: image.resize(small, Resampling.BOX).resize((width, height), Resampling.BOX)
    )


def _jpeg(images: torch.Tensor, quality: int, draws: _Draws) -> torch.Tensor:
    def through_jpeg(image: Any) -> Any:
        from PIL import Image

        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _through_pillow(images, through_jpeg)


def _through_pillow(images: torch.Tensor, change: Callable[[Any], Any]) -> torch.Tensor:
    """Return images that each went through a function of a Pillow picture, grey or RGB."""
    from PIL import Image

    result = torch.empty_like(images)
    rows = images.permute(0, 2, 3, 1).contiguous().numpy()
    for place, pixels in enumerate(rows):
        picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        changed = np.asarray(change(picture))
        result[place] = torch.from_numpy(changed.reshape(pixels.shape).transpose(2, 0, 1).copy())
    return result


CORRUPTIONS: dict[str, Callable[[torch.Tensor, Any, _Draws], torch.Tensor]] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "defocus-blur": _defocus_blur,
    "motion-blur": _motion_blur,
    "zoom-blur": _zoom_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}

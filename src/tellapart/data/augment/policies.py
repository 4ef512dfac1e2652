"""RandAugment and TrivialAugment: operations and strengths drawn from a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tellapart.data.augment.colour import adjust_brightness, adjust_contrast, adjust_saturation
from tellapart.data.augment.draw import Draw
from tellapart.data.augment.layout import apply_to_rows, laid_out_as, to_planes
from tellapart.data.augment.tones import adjust_sharpness, autocontrast, equalize, posterize, solarize
from tellapart.data.augment.warps import rotate_nearest, shear_x, shear_y, translate_x, translate_y

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# What an operation does with images `(B, C, H, W)` and the strength of each, float64 `(B,)`.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, strength: images,
    "shear-x": shear_x,
    "shear-y": shear_y,
    "translate-x": translate_x,
    "translate-y": translate_y,
    "rotate": rotate_nearest,
    "brightness": lambda images, strength: adjust_brightness(images, 1.0 + strength),
    "color": lambda images, strength: adjust_saturation(images, 1.0 + strength),
    "contrast": lambda images, strength: adjust_contrast(images, 1.0 + strength),
    "sharpness": lambda images, strength: adjust_sharpness(images, 1.0 + strength),
    "posterize": lambda images, strength: posterize(images, strength.long()),
    "solarize": solarize,
    "autocontrast": lambda images, strength: autocontrast(images),
    "equalize": lambda images, strength: equalize(images),
}
# These are as often turned the other way.
SIGNED = {
    *("shear-x", "shear-y", "translate-x", "translate-y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
}
NUM_STRENGTHS = 31


def randaugment(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Apply num-ops of 14 operations, one after another, at strength magnitude of 30.

    Source: Cubuk et al. 2019, arXiv 1909.13719, figure 2, with the operations and strengths of torchvision.
    """
    strengths = randaugment_strengths(*images.shape[-2:])
    draws = draw.uniform("randaugment", 2 * draw.config.num_ops).cpu()
    bins = torch.full((len(images),), draw.config.magnitude)
    result = to_planes(images)
    for number in range(draw.config.num_ops):
        _apply_drawn(result, strengths, draws[:, 2 * number], bins, draws[:, 2 * number + 1])
    return laid_out_as(result, images)


def trivialaugment(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Apply one of 14 operations at a random strength.

    Source: Müller and Hutter 2021, arXiv 2103.10158, section 3 and table 7 (wide), with torchvision's strengths.
    """
    draws = draw.uniform("trivialaugment", 3).cpu()
    result = to_planes(images)
    _apply_drawn(result, trivialaugment_strengths(), draws[:, 0], (draws[:, 1] * NUM_STRENGTHS).long(), draws[:, 2])
    return laid_out_as(result, images)


def _apply_drawn(
    images: torch.Tensor,
    strengths: Mapping[str, torch.Tensor],
    which: torch.Tensor,
    bins: torch.Tensor,
    signs: torch.Tensor,
) -> None:
    """Replace each image, in place, by what the operation that `which` in [0, 1) chose makes of it."""
    numbers = (which * len(OPERATIONS)).long()
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        rows = (numbers == number).nonzero()[:, 0]
        strength = strengths[name][bins[rows]]
        if name in SIGNED:
            strength = torch.where(signs[rows] < 0.5, -strength, strength)
        apply_to_rows(images, rows, lambda part, run=operation, strength=strength: run(part, strength))


def randaugment_strengths(height: int, width: int) -> dict[str, torch.Tensor]:
    """Return the 31 strengths of each operation, float64 `(31,)`, for images of a size in pixels."""
    return {
        **_strengths(0.3, 30.0, 0.9, 4),
        "translate-x": _evenly(150.0 / 331.0 * width),
        "translate-y": _evenly(150.0 / 331.0 * height),
    }


def trivialaugment_strengths() -> dict[str, torch.Tensor]:
    """Return the 31 strengths of each operation, float64 `(31,)`."""
    return {**_strengths(0.99, 135.0, 0.99, 6), "translate-x": _evenly(32.0), "translate-y": _evenly(32.0)}


def _strengths(slope: float, degrees: float, factor: float, bits_lost: int) -> dict[str, torch.Tensor]:
    steps = torch.arange(NUM_STRENGTHS)
    return {
        **dict.fromkeys(("identity", "autocontrast", "equalize"), torch.zeros(NUM_STRENGTHS, dtype=torch.float64)),
        **dict.fromkeys(("shear-x", "shear-y"), _evenly(slope)),
        "rotate": _evenly(degrees),
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), _evenly(factor)),
        "posterize": (8 - steps / ((NUM_STRENGTHS - 1) / bits_lost)).round().to(torch.float64),
        "solarize": torch.linspace(1.0, 0.0, NUM_STRENGTHS).to(torch.float64),
    }


def _evenly(most: float) -> torch.Tensor:
    # In float32 first, as torchvision does: a shift of 15.0 pixels is not to become one of 14.99999, which is 14.
    return torch.linspace(0.0, most, NUM_STRENGTHS).to(torch.float64)

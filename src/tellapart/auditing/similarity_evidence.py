"""What speaks for two aligned pictures being the same one, measured on pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from tellapart.auditing.similarity_alignment import IDENTITY, correlation, move, smooth

_WINDOW_PX = 7
# A window with less spread than this says nothing, in 1/255: compression alone makes as much.
_PLAIN = 8 / 255
_NOISE = 4 / 255
# Spread of colour, in 1/255, at which colour is half believed.
_COLOUR_NOISE = 3 / 255
# A logistic model of what people call the same picture, fitted to 800 pairs of CIFAR-10 judged by eye and to 2,000
# pairs made by cropping, moving, recolouring and recompressing. The odds are moved by `_CAUTION`, so that 0.5 means
# sure, and halved, so that scores spread over the whole range.
_INTERCEPT = -8.12
_WEIGHTS = {
    "agreeing": 2.74,
    "grain": 7.77,
    "chroma": 6.36,
    "moved": -3.62,
    "mirrored": -1.99,
    "contrast": -35.35,
    "breadth": 14.32,
}
_CAUTION = 5.0
_SOFTNESS = 2.0
# Pictures of 8 px have no detail to tell them apart by; of 1,797 digits at 8 x 8, 40% would else count as copies.
_ENLARGED_CAUTION = 8.0
# Above this the pairs it was fitted to say nothing.
_MOST_CONTRAST = 0.2
# Hue means something from here on, as a mean size of the two colour differences.
_COLOURFUL = 0.02
# The correlation of colour that speaks neither for nor against.
_NEUTRAL_CHROMA = 0.8
# What a person would notice, in the units of `Evidence`.
_NOTICEABLE = {
    "resized": 0.05,
    "shifted": 0.06,
    "turned": 0.05,
    "colour_gap": 0.025,
    "brightness_gap": 0.04,
    "gain": 0.18,
}


@dataclass(frozen=True)
class Evidence:
    """Measures of pairs, float32 `(N,)` each, all taken where the two overlap.

    Attributes:
        agreeing: share of the windows with something to see that correlate by more than 0.6.
        grain: correlation of the finest detail.
        chroma: correlation of the two colour differences.
        colour_gap: mean difference of the colour differences.
        colour: mean size of the colour differences, of the less colourful of the two.
        contrast: mean spread of brightness in a window.
        moved: how far the alignment is from none at all.
        mirrored: 1 where the second is mirrored.
        brightness_gap: difference of the mean brightness.
        breadth: how evenly what there is to see is spread over the picture; a lone outline on a plain ground is low.
        gain: contrast of the first over that of the second.
        resized: largest change of a side, as a share of it.
        shifted: largest shift, as a share of half a side.
        turned: largest shear or turn, in radians.
    """

    agreeing: torch.Tensor
    grain: torch.Tensor
    chroma: torch.Tensor
    colour_gap: torch.Tensor
    colour: torch.Tensor
    contrast: torch.Tensor
    moved: torch.Tensor
    mirrored: torch.Tensor
    brightness_gap: torch.Tensor
    breadth: torch.Tensor
    gain: torch.Tensor
    resized: torch.Tensor
    shifted: torch.Tensor
    turned: torch.Tensor

    def columns(self) -> dict[str, torch.Tensor]:
        """Return the measures by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def measure(first: torch.Tensor, second: torch.Tensor, motion: torch.Tensor, mirrored: torch.Tensor) -> Evidence:
    """Return the evidence for pairs of opponent-colour images `(N, 1 or 3, 32, 32)`, the second moved by `motion`."""
    second, mask = move(second, motion)
    spread, covariance, gain = _window_statistics(first[:, 0], second[:, 0], mask)
    change = (motion - torch.tensor(IDENTITY)).abs()
    weight = torch.maximum(spread[0], spread[1]).sqrt() * mask
    local = covariance / ((spread[0] + _NOISE**2) * (spread[1] + _NOISE**2)).sqrt()
    seen = (torch.maximum(spread[0], spread[1]) > _PLAIN**2).float() * mask
    chroma, gap, colour = _colour(first[:, 1:], second[:, 1:], mask)
    level = ((first[:, 0] - second[:, 0]) * mask).mean((1, 2)).abs() / mask.mean((1, 2)).clamp_min(1e-3)
    return Evidence(
        agreeing=((local > 0.6) * seen).sum((1, 2)) / (seen.sum((1, 2)) + 1),
        grain=correlation(_grain(first), _grain(second), mask),
        chroma=chroma,
        colour_gap=gap,
        colour=colour,
        contrast=weight.mean((1, 2)),
        moved=change.sum(1),
        mirrored=mirrored.float(),
        brightness_gap=level,
        breadth=weight.sum((1, 2)).square() / (weight.square().sum((1, 2)) * weight[0].numel() + 1e-6),
        gain=gain,
        resized=change[:, [0, 4]].amax(1),
        shifted=change[:, [2, 5]].amax(1),
        turned=change[:, [1, 3]].amax(1),
    )


def score(evidence: Evidence, known: float = 1.0) -> torch.Tensor:
    """Return how surely pairs show the same picture, float64 `(N,)` between 0 and 1.

    `known` is the side that the pictures came with over the side they are compared at, at most 1.
    """
    columns = evidence.columns()
    believed = (evidence.colour / _COLOURFUL).clamp(0, 1)
    columns["chroma"] = believed * (evidence.chroma - _NEUTRAL_CHROMA)
    columns["contrast"] = evidence.contrast.clamp(max=_MOST_CONTRAST)
    start = _INTERCEPT - _CAUTION - _ENLARGED_CAUTION * (1 - known)
    odds = torch.full(believed.shape, start, dtype=torch.float64)
    for name, weight in _WEIGHTS.items():
        odds = odds + weight * columns[name]
    return (odds / _SOFTNESS).sigmoid()


def relations(evidence: Evidence) -> list[str]:
    """Return what differs, in words, for each pair."""
    least = _NOTICEABLE
    recoloured = (evidence.colour_gap > least["colour_gap"]) | (evidence.brightness_gap > least["brightness_gap"])
    recoloured |= evidence.gain.log().abs() > least["gain"]
    seen = {
        "flipped": evidence.mirrored > 0,
        "rescaled": evidence.resized > least["resized"],
        "shifted": evidence.shifted > least["shifted"],
        "turned": evidence.turned > least["turned"],
        "recoloured": recoloured,
    }
    rows = torch.stack(list(seen.values()), 1).tolist()
    words = [[word for word, is_seen in zip(seen, row, strict=True) if is_seen] for row in rows]
    return ["+".join(found) or "recompressed" for found in words]


def _window_statistics(
    first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return variances `(2, N, S, S)`, covariance `(N, S, S)`, both with the contrast fitted, and the gain `(N,)`."""
    first_seen, second_seen = first * mask, second * mask
    maps = [mask, first_seen, second_seen, first * first_seen, second * second_seen, first * second_seen]
    sums = _window_mean(torch.stack(maps, 1))
    inside = sums[:, 0].clamp_min(1e-3)
    mean_first, mean_second = sums[:, 1] / inside, sums[:, 2] / inside
    spread_first = (sums[:, 3] / inside - mean_first * mean_first).clamp_min(0)
    spread_second = (sums[:, 4] / inside - mean_second * mean_second).clamp_min(0)
    covariance = sums[:, 5] / inside - mean_first * mean_second
    gain = (spread_first * mask).sum((1, 2)) / ((spread_second * mask).sum((1, 2)) + 1e-6)
    gain = gain.sqrt().clamp(0.2, 5.0)
    fitted = gain[:, None, None]
    spread = torch.stack([spread_first, spread_second * fitted * fitted])
    return spread, covariance * fitted, gain


def _window_mean(maps: torch.Tensor) -> torch.Tensor:
    reach = _WINDOW_PX // 2
    across = F.avg_pool2d(maps, (1, _WINDOW_PX), 1, (0, reach))
    return F.avg_pool2d(across, (_WINDOW_PX, 1), 1, (reach, 0))


def _grain(images: torch.Tensor) -> torch.Tensor:
    brightness = images[:, :1]
    return (brightness - smooth(brightness))[:, 0]


def _colour(
    first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return correlation, mean difference and mean size of the colour differences `(N, 0 or 2, S, S)`."""
    if not first.shape[1]:
        nothing = torch.zeros(len(mask))
        return nothing, nothing, nothing
    mask = mask[:, None]
    total = mask.sum((2, 3), keepdim=True).clamp_min(1)
    gap = ((first - second) * mask).abs().mean((1, 2, 3))
    size = torch.minimum((first * mask).abs().mean((1, 2, 3)), (second * mask).abs().mean((1, 2, 3)))
    first = (first - (first * mask).sum((2, 3), keepdim=True) / total) * mask
    second = (second - (second * mask).sum((2, 3), keepdim=True) / total) * mask
    energy = (first * first).sum((1, 2, 3)) * (second * second).sum((1, 2, 3))
    floor = 200 * _COLOUR_NOISE**2
    return (first * second).sum((1, 2, 3)) / (energy.sqrt() + floor), gap, size

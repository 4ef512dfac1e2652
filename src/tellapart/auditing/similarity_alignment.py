"""Finds how one small picture must be moved, scaled and sheared to lie on another.

Source: Baker, Matthews 2004, "Lucas-Kanade 20 years on: a unifying framework", section 2 (forwards additive steps),
with the contrast of the one fitted to the other, from coarse to fine, from three starting scales.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

# u = p0 x + p1 y + p2, v = p3 x + p4 y + p5, in coordinates from -1 to 1.
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SMALLEST = (0.6, -0.25, -0.5, -0.25, 0.6, -0.5)
_LARGEST = (1.6, 0.25, 0.5, 0.25, 1.6, 0.5)
_START_SCALES = (1.0, 0.8, 1.25)
_LARGEST_STEP = 0.25
# Steps and damping on pictures of 8, 16 and 32 px: the coarser, the less a picture says about a motion.
_STEPS = (4, 4, 2)
_DAMPING = (0.1, 0.03, 0.02)
# What is lost where the two do not overlap is charged, or a match of two corners would win.
_OVERLAP_PRICE = 0.3


def pyramid(luma: torch.Tensor) -> list[torch.Tensor]:
    """Return smoothed brightness at 8, 16 and 32 px from `(N, 1, 32, 32)`."""
    fine = smooth(luma)
    middle = F.avg_pool2d(fine, 2)
    return [smooth(F.avg_pool2d(smooth(middle), 2)), smooth(middle), fine]


def align_coarse(firsts: list[torch.Tensor], seconds: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return motions `(N, 6)` found at 16 px, and the correlation there, `(N,)`; takes two results of `pyramid`."""
    count, starts = len(firsts[0]), len(_START_SCALES)
    motion = torch.tensor(IDENTITY).repeat(starts, count, 1)
    motion *= torch.tensor(_START_SCALES)[:, None, None]
    many = [torch.cat([level] * starts) for level in (firsts[0], firsts[1], seconds[0], seconds[1])]
    motion = _descend(many[0], many[2], motion.flatten(0, 1), _STEPS[0], _DAMPING[0])
    moved, mask = move(many[3], motion)
    fit = correlation(many[1][:, 0], moved[:, 0], mask) - _OVERLAP_PRICE * (1 - mask.mean((1, 2)))
    best = fit.view(starts, count).argmax(0)
    motion = _descend(
        firsts[1], seconds[1], motion.view(starts, count, 6)[best, torch.arange(count)], _STEPS[1], _DAMPING[1]
    )
    moved, mask = move(seconds[1], motion)
    return motion, correlation(firsts[1][:, 0], moved[:, 0], mask)


def align_fine(first: torch.Tensor, second: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Return the motions `(N, 6)` refined on smoothed brightness `(N, 1, 32, 32)`."""
    return _descend(first, second, motion, _STEPS[2], _DAMPING[2])


def move(images: torch.Tensor, motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images `(N, C, S, S)` moved, and a mask `(N, S, S)` of 0 and 1 that says where they have pixels."""
    grid = F.affine_grid(motion.view(-1, 2, 3), [len(images), 1, *images.shape[2:]], align_corners=False)
    mask = (grid.abs() <= 1).all(-1).float()
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), mask


def correlation(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the correlation coefficient, `(N,)`, of two maps `(N, S, S)` where the mask is 1."""
    total = mask.sum((1, 2)).clamp_min(1)
    first = (first - ((first * mask).sum((1, 2)) / total)[:, None, None]) * mask
    second = (second - ((second * mask).sum((1, 2)) / total)[:, None, None]) * mask
    energy = (first * first).sum((1, 2)) * (second * second).sum((1, 2))
    return (first * second).sum((1, 2)) / (energy + 1e-8).sqrt()


def smooth(images: torch.Tensor) -> torch.Tensor:
    """Return `(N, C, S, S)` images smoothed by the weights 1/4, 1/2, 1/4 both ways."""
    padded = F.pad(images, (1, 1, 1, 1), "replicate")
    across = 0.25 * (padded[..., :-2] + padded[..., 2:]) + 0.5 * padded[..., 1:-1]
    return 0.25 * (across[..., :-2, :] + across[..., 2:, :]) + 0.5 * across[..., 1:-1, :]


def _descend(
    first: torch.Tensor, second: torch.Tensor, motion: torch.Tensor, num_steps: int, damping: float
) -> torch.Tensor:
    """Return the motions after damped Gauss-Newton steps on the squared difference of brightness."""
    side = first.shape[-1]
    middle = (torch.arange(side) + 0.5) / side * 2 - 1
    layers = torch.cat([second, *_slopes(second)], 1)
    for _ in range(num_steps):
        moved, mask = move(layers, motion)
        residual, slope_x, slope_y = _residual(first[:, 0], moved, mask)
        columns = [slope_x * middle, slope_x * middle[:, None], slope_x]
        columns += [slope_y * middle, slope_y * middle[:, None], slope_y]
        jacobian = torch.stack(columns, 1).flatten(2)
        jacobian -= jacobian.mean(2, keepdim=True)
        normal = jacobian @ jacobian.transpose(1, 2)
        ridge = damping * torch.diagonal(normal, dim1=1, dim2=2).mean(1) + 1e-6
        normal = normal + ridge[:, None, None] * torch.eye(6)
        step = torch.linalg.solve(normal, jacobian @ residual.flatten(1)[:, :, None])[:, :, 0]
        motion = motion + step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
        motion = torch.maximum(torch.minimum(motion, torch.tensor(_LARGEST)), torch.tensor(_SMALLEST))
    return motion


def _residual(
    first: torch.Tensor, moved: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the difference after fitting contrast and brightness, and the slopes in the fitted contrast."""
    total = mask.sum((1, 2)).clamp_min(1)
    second = moved[:, 0]
    first = (first - ((first * mask).sum((1, 2)) / total)[:, None, None]) * mask
    second = (second - ((second * mask).sum((1, 2)) / total)[:, None, None]) * mask
    side = first.shape[-1]
    gain = (first * second).sum((1, 2)) / ((second * second).sum((1, 2)) + 1e-4 * side * side)
    gain = gain.clamp(0.3, 3.0)[:, None, None]
    return first - gain * second, moved[:, 1] * mask * gain, moved[:, 2] * mask * gain


def _slopes(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivatives along x and y, per unit of the coordinates from -1 to 1."""
    padded = F.pad(images, (1, 1, 1, 1), "replicate")
    scale = images.shape[-1] / 4
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * scale, (
        padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    ) * scale

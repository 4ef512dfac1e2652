"""Descriptors of small pictures that change little when a picture is cropped, moved, compressed or recoloured.

A descriptor has an even and an odd part: mirroring the picture keeps the first and negates the second. So one search
finds a picture and its mirror image: the similarities of (a, b) and of (a, mirrored b) are `E + O` and `E - O`, with
`E` and `O` the inner products of the even and the odd parts.

Source: patch features after Coates, Lee, Ng 2011, "An analysis of single-layer networks in unsupervised feature
learning", sections 3.1 to 3.3 (whitened patches, learned filters, one-sided responses, pooled over a coarse grid). Here
the filters come in mirrored pairs, and the pooled responses are partly whitened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tellapart import seeding
from tellapart.auditing.similarity_alignment import smooth

# Every picture is compared at this size: enough to tell pictures apart, small enough for all pairs of 60,000.
SIDE_PX = 32
# ITU-R BT.601: luma, then the two differences of colour.
TO_OPPONENT = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
_PATCH_PX = 6
_STRIDE_PX = 2
_NUM_FILTERS = 64
# Variance, of values in [0, 1], below which a patch counts as plain: 10 / 255^2 as in Coates et al., section 3.1.
_PLAIN = 10 / 255**2
_ZCA_EPSILON = 0.1
# A response counts where the patch looks clearly like the filter.
_RESPONSE_THRESHOLD = 0.5
_NUM_PATCHES = 20_000
_NUM_ROUNDS = 10
# The components are divided by their standard deviation to this power: 0 lets plain skies decide, 1 noise.
_WHITENING = 0.75
# Directions with less than this share of the whole variance are noise, and are not blown up any further.
_NOISE_SHARE = 1e-3
_FIT_IMAGES = 8_000
_FIT_PARTS = 2_000
_FEWEST_FIT_IMAGES = 4_000
# What a batch needs stays in the processor's cache.
_BATCH = 64

Parts = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Basis:
    """The partly whitened principal components of one kind of features: means and projections per part."""

    mean: torch.Tensor
    even: torch.Tensor
    odd: torch.Tensor
    weight: float

    def project(self, parts: Parts) -> Parts:
        """Return the even and odd coordinates, together of length sqrt(weight)."""
        even, odd = (parts[0] - self.mean) @ self.even, parts[1] @ self.odd
        length = (even.square().sum(1) + odd.square().sum(1)).sqrt().clamp_min(1e-6) / self.weight**0.5
        return even / length[:, None], odd / length[:, None]


@dataclass(frozen=True)
class Descriptor:
    """Turns pictures into unit vectors; fitted to the pictures at hand by `fit_descriptor`."""

    kinds: tuple[Callable[[torch.Tensor], Parts], ...]
    bases: tuple[Basis, ...]

    def describe(self, images: torch.Tensor, advance: Callable[[int], None] | None = None) -> Parts:
        """Return the even and odd parts, float32 `(N, E)` and `(N, O)`, of uint8 images `(N, C, 32, 32)`."""
        rows: list[list[Parts]] = [[] for _ in self.kinds]
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH].float() / 255
            for kind, basis, kept in zip(self.kinds, self.bases, rows, strict=True):
                kept.append(basis.project(kind(batch)))
            if advance is not None:
                advance(len(batch))
        even = [torch.cat([even for even, _ in kept]) for kept in rows]
        odd = [torch.cat([odd for _, odd in kept]) for kept in rows]
        return torch.cat(even, 1), torch.cat(odd, 1)


def fit_descriptor(images: torch.Tensor) -> Descriptor:
    """Return the descriptor whose filters and components suit these images, uint8 `(N, C, 32, 32)`, N >= 1.

    The same images give the same descriptor.
    """
    sample, is_colour = _fit_sample(images), images.shape[1] == 3
    kinds: list[tuple[Callable[[torch.Tensor], Parts], int, float]] = [
        (PatchFeatures(_learn_filters(_soft_luma(sample)), _soft_luma), 128 if is_colour else 192, 0.4),
        (_layout, 64, 0.2),
    ]
    if is_colour:
        kinds.append((PatchFeatures(_learn_filters(sample), _as_is), 128, 0.4))
    bases = []
    for kind, num_components, weight in kinds:
        parts = [kind(sample[start : start + _BATCH]) for start in range(0, len(sample), _BATCH)]
        even, odd = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        bases.append(_fit_basis(even, odd, num_components, weight / sum(kind[2] for kind in kinds)))
    return Descriptor(tuple(kind for kind, _, _ in kinds), tuple(bases))


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness, `(N, 1, H, W)`, of `(N, 1 or 3, H, W)`."""
    if images.shape[1] == 1:
        return images
    return torch.einsum("c,nchw->nhw", torch.tensor(TO_OPPONENT[0]), images)[:, None]


def opponent(images: torch.Tensor) -> torch.Tensor:
    """Return luma and the two colour differences, `(N, 3, H, W)`, of RGB; grey images stay as they are."""
    return images if images.shape[1] == 1 else torch.einsum("kc,nchw->nkhw", torch.tensor(TO_OPPONENT), images)


def _soft_luma(images: torch.Tensor) -> torch.Tensor:
    """Return brightness without its finest detail, which a shift by one pixel changes wholly at a stride of two."""
    return smooth(luma(images))


def _as_is(images: torch.Tensor) -> torch.Tensor:
    return images


@dataclass(frozen=True)
class PatchFeatures:
    """How much each part of a picture looks like each filter, on a grid of 4 x 4 overlapping parts."""

    filters: torch.Tensor
    channels: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor) -> Parts:
        """Return even and odd features, `(N, K / 2 * 16)` each."""
        images = self.channels(images)
        mean = F.avg_pool2d(images.mean(1, keepdim=True), _PATCH_PX, _STRIDE_PX)
        square = F.avg_pool2d(images.square().mean(1, keepdim=True), _PATCH_PX, _STRIDE_PX)
        contrast = (square - mean * mean).clamp_min_(0).add_(_PLAIN).sqrt_()
        filters = self.filters.view(-1, images.shape[1], _PATCH_PX, _PATCH_PX)
        responses = F.conv2d(images, filters, stride=_STRIDE_PX).div_(contrast).sub_(_RESPONSE_THRESHOLD).relu_()
        pooled = F.avg_pool2d(responses, 5, 3)
        half = len(self.filters) // 2
        mirrored = torch.cat([pooled[:, half:], pooled[:, :half]], 1).flip(-1)
        return (pooled + mirrored)[:, :half].flatten(1), (pooled - mirrored)[:, :half].flatten(1)


def _layout(images: torch.Tensor) -> Parts:
    """Return the picture at 8 x 8 with brightness and contrast taken out, split in its even and odd half."""
    small = F.avg_pool2d(opponent(images), images.shape[-1] // 8)
    small = small - small.mean((2, 3), keepdim=True)
    small = small / (small[:, :1].std((2, 3), keepdim=True) + 0.02)
    left, right = small[..., :4], small.flip(-1)[..., :4]
    return (left + right).flatten(1), (left - right).flatten(1)


def _fit_sample(images: torch.Tensor) -> torch.Tensor:
    """Return the images that statistics are taken from, float32 in [0, 1], and random parts of them."""
    order = seeding.permutation(len(images), 0, "similarity/sample")[:_FIT_IMAGES]
    sample = images[order].float() / 255
    # A few hundred pictures span fewer directions than the descriptor has, and thousands of one scene differ by noise
    # alone; their parts are pictures as well.
    missing = max(_FEWEST_FIT_IMAGES - len(sample), _FIT_PARTS)
    chosen = sample[torch.arange(missing) % len(sample)]
    draws = seeding.uniform(torch.arange(missing), 3, 0, "similarity/parts").float()
    scale = 0.5 + 0.5 * draws[:, 0]
    matrix = torch.zeros(missing, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale
    matrix[:, :, 2] = (1 - scale)[:, None] * (2 * draws[:, 1:] - 1)
    grid = F.affine_grid(matrix, list(chosen.shape), align_corners=False)
    return torch.cat([sample, F.grid_sample(chosen, grid, padding_mode="border", align_corners=False)])


def _learn_filters(images: torch.Tensor) -> torch.Tensor:
    """Return filters `(K, C * 6 * 6)` for raw patches; filter k + K / 2 mirrors filter k."""
    patches = _random_patches(images)
    shape = patches.shape[1:]
    patches = torch.cat([patches, patches.flip(-1)]).flatten(1)
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.square().mean(1, keepdim=True) + _PLAIN).sqrt()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    whiten = (vectors * (values.clamp_min(0) + _ZCA_EPSILON).rsqrt()) @ vectors.T
    white = patches @ whiten

    def mirror(rows: torch.Tensor) -> torch.Tensor:
        return rows.view(-1, *shape).flip(-1).flatten(1)

    mirrored, half = mirror(white), _NUM_FILTERS // 2
    centres = white[seeding.permutation(len(white), 0, "similarity/centres")[:half]]
    for _ in range(_NUM_ROUNDS):
        centres = F.normalize(centres, dim=1)
        best = (white @ torch.cat([centres, mirror(centres)]).T).argmax(1)
        member = F.one_hot(best % half, half).float()
        # One matrix product instead of index_add keeps the order of additions, so the same bits, on any machine.
        centres = member.T @ torch.where((best < half)[:, None], white, mirrored) + 1e-3 * centres
    centres = F.normalize(centres, dim=1)
    filters = torch.cat([centres, mirror(centres)]) @ whiten
    return filters - filters.mean(1, keepdim=True)


def _random_patches(images: torch.Tensor) -> torch.Tensor:
    """Return patches `(P, C, 6, 6)` from random places of random images."""
    draws = seeding.uniform(torch.arange(_NUM_PATCHES), 3, 0, "similarity/patches")
    room = images.shape[-1] - _PATCH_PX + 1
    which = (draws[:, 0] * len(images)).long()
    top, left = (draws[:, 1] * room).long(), (draws[:, 2] * room).long()
    reach = torch.arange(_PATCH_PX)
    rows, columns = (top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None, :]
    return images[which[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def _fit_basis(even: torch.Tensor, odd: torch.Tensor, num_components: int, weight: float) -> Basis:
    mean = even.mean(0)
    solved = [torch.linalg.eigh(part.T @ part / len(part)) for part in (even - mean, odd)]
    values = torch.cat([part[0] for part in solved]).sort(descending=True).values
    floor = max(float(values[min(num_components, len(values)) - 1]), 1e-7)
    noise = _NOISE_SHARE * float(values.clamp_min(0).sum())

    def scaled(found: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, found >= floor] * (found[found >= floor] + noise) ** (-_WHITENING / 2)

    return Basis(mean, scaled(*solved[0]), scaled(*solved[1]), weight)

"""Finds pictures that are there twice though their pixels differ: rescaled, recompressed, moved, mirrored, recoloured.

Descriptors propose pairs, all of them compared with all; then each proposed pair is laid one picture on the other and
judged on its pixels. On 60,000 pictures this takes about a minute on two cores; the search grows with the square of the
number of pictures, so 500,000 take about 20 minutes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from tellapart.auditing.neighbours import Proposals, nearest_pairs
from tellapart.auditing.similarity import SIDE_PX, fit_descriptor, luma, opponent
from tellapart.auditing.similarity_alignment import align_coarse, align_fine, pyramid
from tellapart.auditing.similarity_evidence import Evidence, measure, relations, score

Advance = Callable[[int], None]

# On CIFAR-10 none of 125 pairs looked at between 0.50 and 0.58 was wrong; of 60 between 0.25 and 0.35 three or four
# were, and some of the others were of one series rather than one photograph.
DEFAULT_THRESHOLD = 0.5
_NEIGHBOURS = 8
_FLOOR = 0.38
# Judged are the best proposals, so many per picture, and at least so many.
_JUDGED_PER_IMAGE = 0.6
_FEWEST_JUDGED = 5_000
# Proposals as near as this are judged however many there are.
_SURE_SIMILARITY = 0.6
# Pairs that do not even correlate when laid on each other at 16 px are dropped; of 430 true pairs 1% lie below 0.87.
_LEAST_COARSE = 0.8
_BLANK = 2 / 255
_BATCH = 256


@dataclass(frozen=True)
class DuplicatePair:
    """Two positions, `first < second`, that show the same picture.

    Attributes:
        score: 0 to 1, higher is surer; 1 where the pixels are equal.
        relation: what differs: "same", or one or more of "recompressed", "flipped", "rescaled", "shifted", "turned"
            and "recoloured" joined by "+".
    """

    first: int
    second: int
    score: float
    relation: str


def find_near_duplicates(
    images: torch.Tensor | np.ndarray, *, threshold: float = DEFAULT_THRESHOLD, advance: Advance | None = None
) -> list[DuplicatePair]:
    """Return the pairs that show the same picture, surest first; the same images give the same pairs.

    Of pictures with equal pixels the first stands for all: it is paired with each of them, and it alone with others. A
    picture has at most eight proposals of its own, so of a large cluster not every pair is reported, but enough to
    connect it (see `group_pairs`). Pictures of one colour are near duplicates only where their pixels are equal.

    Args:
        images: uint8 `(N, C, S, S)` with C 1 or 3; compared at 32 x 32.
        threshold: the least score; lower finds more, and more that only look alike.
        advance: called with a number of images as work goes on; the numbers add up to N.

    Raises:
        ValueError: the images are not uint8 `(N, 1 or 3, H, W)`.
    """
    if isinstance(images, np.ndarray):
        # torch takes neither read-only nor reversed arrays; others are not copied.
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"near duplicates need uint8 (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}")
    progress = _Progress(len(images), advance)
    with torch.inference_mode():
        chosen, pairs = _collapse(images)
        if len(chosen) > 1:
            chosen = chosen[_with_detail(images[chosen])]
        if len(chosen) > 1:
            pairs += _search(images[chosen], chosen.tolist(), threshold, progress)
    progress.finish()
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second))


def group_pairs(pairs: Sequence[DuplicatePair], count: int) -> np.ndarray:
    """Return the cluster of each of `count` images, int64 `(count,)`: 0, 1, ... by first member, -1 for the unpaired.

    >>> group_pairs([DuplicatePair(1, 3, 1.0, "same"), DuplicatePair(3, 4, 0.9, "shifted")], 6).tolist()
    [-1, 0, -1, 0, 0, -1]
    """
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for pair in pairs:
        first, second = sorted((root(pair.first), root(pair.second)))
        parent[second] = first
    roots = np.array([root(index) for index in range(count)], dtype=np.int64)
    sizes = np.bincount(roots, minlength=count)
    clusters = np.full(count, -1, dtype=np.int64)
    paired = sizes[roots] > 1 if count else np.zeros(0, dtype=bool)
    clusters[paired] = np.unique(roots[paired], return_inverse=True)[1]
    return clusters


def _collapse(images: torch.Tensor) -> tuple[torch.Tensor, list[DuplicatePair]]:
    """Return the first position of each set of equal pixels, int64, and the pairs of these with their equals."""
    seen: dict[bytes, int] = {}
    pairs = []
    for index, image in enumerate(images.contiguous().numpy()):
        key = hashlib.blake2b(image, digest_size=16).digest()
        first = seen.setdefault(key, index)
        if first != index:
            pairs.append(DuplicatePair(first, index, 1.0, "same"))
    return torch.tensor(list(seen.values()), dtype=torch.int64), pairs


def _reduce(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 `(N, C, 32, 32)`, N >= 1."""
    if images.shape[2:] == (SIDE_PX, SIDE_PX):
        return images
    is_larger = min(images.shape[2:]) >= SIDE_PX
    parts = []
    for part in images.split(1024):
        if is_larger:
            resized = F.interpolate(part.float(), (SIDE_PX, SIDE_PX), mode="area")
        else:
            resized = F.interpolate(part.float(), (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
        parts.append(resized.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _with_detail(images: torch.Tensor) -> torch.Tensor:
    """Return the positions of the images that are not of one colour."""
    spread = [luma(part.float() / 255).flatten(1).std(1, correction=0) for part in images.split(1024)]
    return (torch.cat(spread) > _BLANK).nonzero()[:, 0]


def _search(images: torch.Tensor, positions: list[int], threshold: float, progress: _Progress) -> list[DuplicatePair]:
    """Return the pairs among images of which no two are equal; `positions` are what the pairs will name."""
    known = min(1.0, min(images.shape[2:]) / SIDE_PX)
    images = _reduce(images)
    descriptor = fit_descriptor(images)
    even, odd = descriptor.describe(images, progress.stage(0.35, len(images)))
    proposals = nearest_pairs(
        even, odd, most_per_row=_NEIGHBOURS, floor=_FLOOR, advance=progress.stage(0.3, len(images))
    )
    proposals = _worth_judging(proposals, len(images))
    report = progress.stage(0.35, len(proposals))
    pairs = []
    for start in range(0, len(proposals), _BATCH):
        batch = proposals.take(torch.arange(start, min(start + _BATCH, len(proposals))))
        kept, evidence = _judge(images, batch)
        scores, words = score(evidence, known), relations(evidence)
        for row in (scores >= threshold).nonzero()[:, 0].tolist():
            first, second = positions[int(kept.first[row])], positions[int(kept.second[row])]
            pairs.append(DuplicatePair(first, second, float(scores[row]), words[row]))
        report(len(batch))
    return pairs


def _worth_judging(proposals: Proposals, count: int) -> Proposals:
    """Return the proposals that stand out from the neighbourhoods of their two pictures, best first.

    Pictures of planes in plain skies have hundreds of near neighbours; a copy is much nearer than the eighth neighbour.

    Source: Conneau et al. 2018, "Word translation without parallel data", section 2.3, with the eighth similarity in
    the place of the mean and half the correction.
    """
    eighth = torch.full((count,), _FLOOR)
    ends = torch.cat([proposals.first, proposals.second])
    values = torch.cat([proposals.similarity, proposals.similarity])
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(ends[order], stable=True)]
    begin = torch.searchsorted(ends[order], torch.arange(count)) + _NEIGHBOURS - 1
    inside = begin < torch.searchsorted(ends[order], torch.arange(count), right=True)
    eighth[inside] = values[order[begin[inside]]]
    standing_out = proposals.similarity - 0.25 * (eighth[proposals.first] + eighth[proposals.second])
    order = torch.argsort(standing_out, descending=True, stable=True)
    is_best = torch.zeros(len(proposals), dtype=torch.bool)
    is_best[order[: max(_FEWEST_JUDGED, int(_JUDGED_PER_IMAGE * count))]] = True
    return proposals.take((is_best | (proposals.similarity > _SURE_SIMILARITY)).nonzero()[:, 0])


def _judge(images: torch.Tensor, pairs: Proposals) -> tuple[Proposals, Evidence]:
    """Return the pairs that can be laid on each other at all, and the evidence for them."""
    first, second = images[pairs.first], images[pairs.second]
    second = torch.where(pairs.mirrored[:, None, None, None], second.flip(-1), second)
    first, second = opponent(first.float() / 255), opponent(second.float() / 255)
    levels_first, levels_second = pyramid(first[:, :1]), pyramid(second[:, :1])
    motion, fit = align_coarse(levels_first, levels_second)
    kept = (fit > _LEAST_COARSE).nonzero()[:, 0]
    motion = align_fine(levels_first[2][kept], levels_second[2][kept], motion[kept])
    return pairs.take(kept), measure(first[kept], second[kept], motion, pairs.mirrored[kept])


class _Progress:
    """Turns work of several stages into numbers of images that add up to the total."""

    def __init__(self, total: int, advance: Advance | None) -> None:
        self._total, self._advance = total, advance
        self._share = 0.0
        self._reported = 0

    def stage(self, share: float, count: int) -> Advance:
        """Return what to call with the work done of `count`, which is this share of the whole."""

        def done(number: int) -> None:
            self._share += share * number / max(count, 1)
            self._report(min(int(self._share * self._total), self._total))

        return done

    def finish(self) -> None:
        self._report(self._total)

    def _report(self, number: int) -> None:
        if self._advance is not None and number > self._reported:
            self._advance(number - self._reported)
            self._reported = number

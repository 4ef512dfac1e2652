"""Which pairs of many vectors are most alike: an exact search, in blocks, that looks at every pair once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

_ROWS = 2048
_COLUMNS = 4096
# Sorting what was found is put off until it is worth it; this many pairs take 100 MB.
_FEWEST_HELD = 4_000_000


@dataclass(frozen=True)
class Proposals:
    """Pairs `first < second`, int64 `(P,)` each, their similarity, and whether the second is mirrored."""

    first: torch.Tensor
    second: torch.Tensor
    similarity: torch.Tensor
    mirrored: torch.Tensor

    def __len__(self) -> int:
        return len(self.first)

    def take(self, where: torch.Tensor) -> Proposals:
        """Return the pairs that an index or a mask picks."""
        return Proposals(self.first[where], self.second[where], self.similarity[where], self.mirrored[where])


def nearest_pairs(
    even: torch.Tensor,
    odd: torch.Tensor,
    *,
    most_per_row: int,
    floor: float,
    advance: Callable[[int], None] | None = None,
) -> Proposals:
    """Return the pairs that are among the nearest of either of the two, by descending similarity.

    Two products per pair are compared, `E + O` and `E - O` (see `similarity`), and the larger one counts.

    Args:
        even: float32 `(N, E)`.
        odd: float32 `(N, O)`.
        most_per_row: how many neighbours a row can propose.
        floor: the least similarity of interest.
        advance: called with the number of rows just finished.
    """
    found, held, bound = [_empty()], 0, _FEWEST_HELD
    for start in range(0, len(even), _ROWS):
        stop = min(start + _ROWS, len(even))
        for left in range(start, len(even), _COLUMNS):
            found.append(_block(even, odd, start, stop, left, most_per_row, floor))
            held += len(found[-1])
            if held > bound:
                found = [_nearest(_join(found), most_per_row)]
                held = len(found[0])
                bound = max(_FEWEST_HELD, 2 * held)
        if advance is not None:
            advance(stop - start)
    return _nearest(_join(found), most_per_row)


def _block(
    even: torch.Tensor, odd: torch.Tensor, start: int, stop: int, left: int, most: int, floor: float
) -> Proposals:
    """Return the pairs of rows `start:stop` with rows from `left` on that are above the floor."""
    right = min(left + _COLUMNS, len(even))
    product = torch.mm(odd[start:stop], odd[left:right].T)
    mirrored = product < 0
    similarity = product.abs_().addmm_(even[start:stop], even[left:right].T)
    if left < stop:
        similarity.masked_fill_(torch.arange(left, right)[None, :] <= torch.arange(start, stop)[:, None], -1.0)
    wanted = similarity > floor
    if int(wanted.sum()) > 4 * most * (stop - start + right - left):
        # Pictures that are all alike would otherwise give every pair.
        wanted &= _among_best(similarity, most) | _among_best(similarity.T, most).T
    first, second = wanted.nonzero(as_tuple=True)
    return Proposals(first + start, second + left, similarity[first, second], mirrored[first, second])


def _among_best(similarity: torch.Tensor, most: int) -> torch.Tensor:
    chosen = similarity.topk(min(most, similarity.shape[1]), 1).indices
    return torch.zeros(similarity.shape, dtype=torch.bool).scatter_(
        1, chosen, torch.ones_like(chosen, dtype=torch.bool)
    )


def _nearest(pairs: Proposals, most: int) -> Proposals:
    """Return the pairs that are among the `most` nearest of their first or of their second, best first."""
    order = torch.argsort(pairs.second, stable=True)
    order = order[torch.argsort(pairs.first[order], stable=True)]
    pairs = pairs.take(order)
    pairs = pairs.take(torch.argsort(pairs.similarity, descending=True, stable=True))
    ends = torch.stack([pairs.first, pairs.second], 1).reshape(-1)
    return pairs.take((_occurrence(ends) < most).view(-1, 2).any(1))


def _occurrence(values: torch.Tensor) -> torch.Tensor:
    """Return how often each value has come before, so `[7, 5, 7]` gives `[0, 0, 1]`."""
    order = torch.argsort(values, stable=True)
    ordered = values[order]
    place = torch.arange(len(values))
    is_new = torch.ones(len(values), dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    begin = torch.cummax(torch.where(is_new, place, 0), 0).values if len(values) else place
    return torch.empty_like(place).scatter_(0, order, place - begin)


def _join(parts: list[Proposals]) -> Proposals:
    return Proposals(
        torch.cat([part.first for part in parts]),
        torch.cat([part.second for part in parts]),
        torch.cat([part.similarity for part in parts]),
        torch.cat([part.mirrored for part in parts]),
    )


def _empty() -> Proposals:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Proposals(nothing, nothing, torch.zeros(0), torch.zeros(0, dtype=torch.bool))

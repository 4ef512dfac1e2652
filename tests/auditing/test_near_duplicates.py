"""Near duplicates: what is planted is found, what only looks alike is not, and odd inputs neither fail nor explode."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from tellapart.auditing import neighbours
from tellapart.auditing.near_duplicates import DuplicatePair, find_near_duplicates, group_pairs
from tellapart.auditing.neighbours import nearest_pairs
from tellapart.auditing.similarity import fit_descriptor
from tellapart.auditing.similarity_alignment import IDENTITY, align_coarse, align_fine, move, pyramid

CIFAR = Path(__file__).parents[2] / "../shared/data/cifar10/test-00000-of-00001.parquet"
NUM_PICTURES = 80


def scene(number: int, side_px: int = 40) -> np.ndarray:
    """Return a picture with structure at all scales, as a photograph has, uint8 `(S, S, 3)`."""
    generator = np.random.default_rng(number)
    total = np.zeros((side_px, side_px, 3))
    for cells in (3, 5, 9, 17, 33):
        grey = generator.normal(size=(cells, cells, 1)) + 0.4 * generator.normal(size=(cells, cells, 3))
        for channel in range(3):
            layer = Image.fromarray(grey[..., channel].astype(np.float32))
            total[..., channel] += np.asarray(layer.resize((side_px, side_px), Image.Resampling.BICUBIC)) / cells**0.6
    return np.clip(128 + 70 * total, 0, 255).astype(np.uint8)


def view(picture: np.ndarray, left: float = 4, top: float = 4, side: float = 32, to_px: int = 32) -> np.ndarray:
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(picture).resize((to_px, to_px), Image.Resampling.BICUBIC, box=box))


def recompressed(pixels: np.ndarray) -> np.ndarray:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=40)
    return np.asarray(Image.open(encoded))


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.3))


# The other view of a picture of 40 px, and a word that says what was done.
CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "recompressed": (lambda picture: recompressed(view(picture)), "recompressed"),
    "shifted": (lambda picture: view(picture, left=6, top=3), "shifted"),
    "rescaled": (lambda picture: view(picture, left=5.5, top=5.5, side=29), "rescaled"),
    "flipped": (lambda picture: view(picture)[:, ::-1], "flipped"),
    "recoloured": (lambda picture: brighter(view(picture)), "recoloured"),
    "faded": (lambda picture: (view(picture) * 0.6 + 60).astype(np.uint8), "recoloured"),
    "flipped, shifted and recompressed": (lambda picture: recompressed(view(picture, left=5))[:, ::-1], "flipped"),
}
EACH = 6


def channels_first(pictures: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def planted() -> np.ndarray:
    """80 pictures, then 6 copies changed in each way: copy j is of picture j."""
    originals = [view(scene(number)) for number in range(NUM_PICTURES)]
    copies = [
        change(scene(place * EACH + number))
        for place, (change, _) in enumerate(CHANGES.values())
        for number in range(EACH)
    ]
    return channels_first(originals + copies)


@pytest.fixture(scope="module")
def found(planted: np.ndarray) -> list[DuplicatePair]:
    return find_near_duplicates(planted)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found_and_named(name: str, found: list[DuplicatePair]) -> None:
    place = list(CHANGES).index(name) * EACH
    relations = {(pair.first, pair.second): pair.relation for pair in found}
    seen = [relations.get((number, NUM_PICTURES + number)) for number in range(place, place + EACH)]
    assert sum(relation is not None for relation in seen) >= EACH - 1, seen
    assert sum(relation is not None and CHANGES[name][1] in relation.split("+") for relation in seen) >= EACH - 2, seen


def test_nothing_else_is_reported(found: list[DuplicatePair]) -> None:
    assert [pair for pair in found if pair.second != pair.first + NUM_PICTURES] == []


def test_best_first_and_ordered(found: list[DuplicatePair]) -> None:
    scores = [pair.score for pair in found]
    assert scores == sorted(scores, reverse=True)
    assert all(pair.first < pair.second and 0.5 <= pair.score < 1.0 for pair in found)


def test_the_same_images_give_the_same_bits_and_progress_adds_up(
    planted: np.ndarray, found: list[DuplicatePair]
) -> None:
    steps: list[int] = []
    assert find_near_duplicates(torch.from_numpy(planted), advance=steps.append) == found
    assert sum(steps) == len(planted)
    assert min(steps) > 0


def test_grey_pictures_of_another_size() -> None:
    pictures = [view(scene(number, 80), 4, 4, 72, 64).mean(-1, keepdims=True) for number in range(30)]
    pictures += [view(scene(number, 80), 6, 1, 72, 64)[:, ::-1].mean(-1, keepdims=True) for number in range(6)]
    pairs = find_near_duplicates(channels_first(pictures).astype(np.uint8))
    assert {(pair.first, pair.second) for pair in pairs} == {(number, 30 + number) for number in range(6)}
    assert all("flipped" in pair.relation for pair in pairs)


def test_equal_pixels_are_paired_with_the_first_alone() -> None:
    pictures = channels_first([view(scene(1)), view(scene(2)), view(scene(1)), view(scene(1)), view(scene(2))])
    same = [DuplicatePair(first, second, 1.0, "same") for first, second in ((0, 2), (0, 3), (1, 4))]
    assert find_near_duplicates(pictures) == same


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_pair(count: int) -> None:
    steps: list[int] = []
    assert find_near_duplicates(np.zeros((count, 3, 32, 32), np.uint8), advance=steps.append) == []
    assert sum(steps) == count


def test_thousands_of_copies_give_a_pair_each() -> None:
    pairs = find_near_duplicates(np.repeat(channels_first([view(scene(0))]), 3000, axis=0))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, number) for number in range(1, 3000)]


def test_pictures_of_one_colour_pair_only_where_equal() -> None:
    colours = np.arange(200, dtype=np.uint8)[:, None, None, None] % 150
    pairs = find_near_duplicates(np.broadcast_to(colours, (200, 3, 32, 32)))
    assert {(pair.first, pair.second, pair.score) for pair in pairs} == {(n, n + 150, 1.0) for n in range(50)}


@pytest.mark.parametrize(
    "images", [np.zeros((2, 3, 8, 8)), np.zeros((2, 4, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)]
)
def test_other_arrays_are_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        find_near_duplicates(images)


def test_mirroring_negates_the_odd_part() -> None:
    images = torch.from_numpy(channels_first([view(scene(number)) for number in range(12)]))
    descriptor = fit_descriptor(images)
    even, odd = descriptor.describe(images)
    even_mirrored, odd_mirrored = descriptor.describe(images.flip(-1))
    torch.testing.assert_close(even_mirrored, even, atol=1e-4, rtol=0)
    torch.testing.assert_close(odd_mirrored, -odd, atol=1e-4, rtol=0)
    torch.testing.assert_close(even.square().sum(1) + odd.square().sum(1), torch.ones(12))


@pytest.mark.parametrize(
    ("motion", "tolerance"), [((1, 0, 0.15, 0, 1, -0.1), 0.02), ((0.85, 0, 0.05, 0, 0.9, 0), 0.03)]
)
def test_a_known_motion_is_recovered(motion: tuple[float, ...], tolerance: float) -> None:
    pictures = channels_first([view(scene(number)) for number in range(8)])
    second = torch.from_numpy(pictures).float().mean(1, keepdim=True) / 255
    wanted = torch.tensor(motion, dtype=torch.float32).repeat(8, 1)
    first, _ = move(second, wanted)
    levels_first, levels_second = pyramid(first), pyramid(second)
    coarse, fit = align_coarse(levels_first, levels_second)
    got = align_fine(levels_first[2], levels_second[2], coarse)
    assert float((got - wanted).abs().median(0).values.max()) < tolerance
    assert float(fit.min()) > 0.9
    assert float((got - torch.tensor(IDENTITY)).abs().max()) > 0.05


@pytest.mark.parametrize(("floor", "most"), [(0.1, 3), (-2.0, 2), (-2.0, 40)])
def test_search_equals_sorting_all_pairs(floor: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_ROWS", 16), ("_COLUMNS", 24), ("_FEWEST_HELD", 50)):
        monkeypatch.setattr(neighbours, name, value)
    generator = torch.Generator().manual_seed(0)
    even, odd = torch.randn(70, 6, generator=generator), torch.randn(70, 5, generator=generator)
    even, odd = even / 4, odd / 4
    got = nearest_pairs(even, odd, most_per_row=most, floor=floor)
    product = (odd @ odd.T).double()
    whole = (even @ even.T).double() + product.abs()
    whole.fill_diagonal_(-9)
    best = whole.argsort(1, descending=True)[:, :most]
    wanted = {
        (min(row, column), max(row, column))
        for row in range(70)
        for column in best[row].tolist()
        if row != column and whole[row, column] > floor
    }
    assert set(zip(got.first.tolist(), got.second.tolist(), strict=True)) == wanted
    assert got.mirrored.tolist() == (product[got.first, got.second] < 0).tolist()
    torch.testing.assert_close(got.similarity.double(), whole[got.first, got.second], atol=1e-5, rtol=0)
    assert (got.similarity.diff() <= 0).all()


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda pair: pair[0] != pair[1]), max_size=14))
def test_groups_are_what_pairs_connect(links: list[tuple[int, int]]) -> None:
    pairs = [DuplicatePair(min(link), max(link), 0.9, "shifted") for link in links]
    reach = np.eye(12, dtype=bool)
    for first, second in links:
        reach[first, second] = reach[second, first] = True
    for _ in range(4):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    groups = group_pairs(pairs, 12)
    assert groups.dtype == np.int64
    for one in range(12):
        assert (groups[one] == -1) == (reach[one].sum() == 1)
        for other in range(one):
            is_together = groups[one] == groups[other] and groups[one] >= 0
            assert is_together == bool(reach[one, other])
    met = [group for group in groups.tolist() if group >= 0]
    assert list(dict.fromkeys(met)) == list(range(len(set(met))))


def test_no_images_no_groups() -> None:
    assert group_pairs([], 0).shape == (0,)


def test_photographs_cropped_and_recompressed() -> None:
    if not CIFAR.is_file():
        pytest.skip("CIFAR-10 is not in ../shared/data")
    import pyarrow.parquet

    rows = next(pyarrow.parquet.ParquetFile(CIFAR).iter_batches(300, columns=["image"])).column("image").to_pylist()
    photographs = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]
    copies = [recompressed(view(photographs[number], 1, 2, 29)) for number in range(40)]
    pairs = find_near_duplicates(channels_first(photographs + copies), threshold=0.25)
    planted_pairs = [pair for pair in pairs if pair.second == pair.first + 300]
    assert len(planted_pairs) >= 34
    assert len(pairs) - len(planted_pairs) <= 1

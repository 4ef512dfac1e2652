"""Batches: the same bits from memory, from the cache and from any number of processes, each image once an epoch."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tellapart import hardware
from tellapart.config import AugmentConfig
from tellapart.data.augment import AUGMENTATIONS, Augment
from tellapart.data.cache import ImageCache
from tellapart.data.loader import Batch, MemoryLoader, Order, WorkerLoader, num_epoch_batches, take
from tellapart.data.preprocess import Preprocess
from tellapart.data.reading import ReducedImages
from tellapart.data.scan import scan
from tellapart.data.sources import FolderSource, Source
from tellapart.errors import DataError, RunError

# torch's advice on a machine of two cores, and Python 3.12's on forking beside OpenMP's threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SIZE, STORED = 10, 12
ROWS = np.array([0, 2, 3, 4, 6, 7, 9, 10, 12])
BLANK = Preprocess(SIZE, [0.0] * 3, [1.0] * 3, resize_px=STORED)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Source:
    """Return 14 images of four sizes in two classes."""
    root = tmp_path_factory.mktemp("loader") / "images"
    return FolderSource(write_images(root, {"ant": 8, "bee": 6}, sizes=((9, 7), (12, 12), (40, 31), (16, 33))))


@pytest.fixture(scope="module")
def images(source: Source) -> torch.Tensor:
    found = scan(source, BLANK, keep=True).images
    assert found is not None
    return found


def augmentation(*names: str, seed: int = 0) -> Augment:
    return Augment(AugmentConfig(transforms=names, erasing_prob=0.7, pad_px=2), SIZE, seed)


def from_memory(
    source: Source, images: torch.Tensor, *names: str, batch_size: int = 4, rows: np.ndarray = ROWS, seed: int = 0
) -> MemoryLoader:
    targets = torch.from_numpy(source.targets)
    return MemoryLoader(
        images, targets, rows, batch_size=batch_size, augment=augmentation(*names, seed=seed), order=Order(seed)
    )


def from_workers(
    source: Source | ReducedImages,
    *names: str,
    workers: int,
    batch_size: int = 4,
    rows: np.ndarray = ROWS,
    timeout_s: float = 60.0,
) -> WorkerLoader:
    images = source if isinstance(source, ReducedImages) else ReducedImages(source, BLANK)
    return WorkerLoader(
        images,
        torch.from_numpy(images.source.targets),
        rows,
        batch_size=batch_size,
        augment=augmentation(*names),
        order=Order(0),
        device=CPU,
        num_workers=workers,
        timeout_s=timeout_s,
    )


def assert_same(found: Iterator[Batch], expected: Iterator[Batch]) -> int:
    count = 0
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.indices, two.indices)
        assert torch.equal(one.targets, two.targets)
        assert torch.equal(one.images, two.images)
        assert one.images.dtype == torch.uint8
        count += 1
    return count


# --- the order of an epoch -------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 3))
def test_every_image_comes_once_an_epoch(num_images: int, batch_size: int, epoch: int) -> None:
    batches = Order(0).batches(num_images, batch_size, epoch)
    assert sorted(torch.cat(batches).tolist()) == list(range(num_images))
    assert len(batches) == num_epoch_batches(num_images, batch_size)
    *full, last = [len(batch) for batch in batches]
    assert set(full) <= {batch_size}
    assert 1 <= last <= batch_size + 1
    assert last > 1 or batch_size == 1 or num_images == 1, "batch norm cannot train on one image"


@pytest.mark.parametrize(
    ("num_images", "batch_size", "expected"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (3, 2, [3]),
        (3, 128, [3]),
        (1, 128, [1]),
        (4, 1, [1] * 4),
        (5, 4, [5]),
        (2, 1, [1, 1]),
    ],
)
def test_sizes_of_batches(num_images: int, batch_size: int, expected: list[int]) -> None:
    assert [len(batch) for batch in Order(0).batches(num_images, batch_size, 0)] == expected


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    orders = [
        torch.cat(Order(seed).batches(40, size, epoch)) for seed in (0, 1) for epoch in (0, 1) for size in (7, 40)
    ]
    for first, second in zip(orders[::2], orders[1::2], strict=True):
        assert torch.equal(first, second), "the size of a batch changed the order"
    assert len({tuple(order.tolist()) for order in orders}) == 4


@pytest.mark.parametrize("window", [0, 2, 100])
def test_shards_are_read_in_a_row_by_every_loader(source: Source, images: torch.Tensor, window: int) -> None:
    order, targets, augment = (
        Order(3, blocks=ROWS // 5, window=window),
        torch.from_numpy(source.targets),
        augmentation(),
    )
    memory = MemoryLoader(images, targets, ROWS, batch_size=2, augment=augment, order=order)
    worker = WorkerLoader(
        ReducedImages(source, BLANK),
        targets,
        ROWS,
        batch_size=2,
        augment=augment,
        order=order,
        device=CPU,
        num_workers=1,
    )
    whole = list(memory.epoch(1))
    assert assert_same(worker.epoch(1, start=1), iter(whole[1:])) == 3
    seen = torch.cat([batch.indices for batch in whole]).numpy()
    assert sorted(seen.tolist()) == ROWS.tolist()
    if window == 0:
        assert np.count_nonzero(np.diff(seen // 5)) == 2, "three shards, one after another"


# --- both loaders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_workers_give_the_bits_that_memory_gives(source: Source, images: torch.Tensor, name: str, workers: int) -> None:
    memory, worker = from_memory(source, images, name), from_workers(source, name, workers=workers)
    assert assert_same(worker.epoch(1), memory.epoch(1)) == memory.num_batches == worker.num_batches == 2


def test_a_whole_recipe_gives_the_same_bits(source: Source, images: torch.Tensor) -> None:
    names = ("rotation", "random-resized-crop", "flip", "color-jitter", "randaugment", "random-erasing")
    for epoch in (0, 5):
        expected = from_memory(source, images, *names)
        assert_same(from_workers(source, *names, workers=2).epoch(epoch), expected.epoch(epoch))


def test_large_images_give_the_same_bits(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    # Large enough that torch shares one image among its threads, which a worker does not have.
    source = FolderSource(write_images(tmp_path, {"a": 2, "b": 2}, sizes=((400, 520),)))
    preprocess, rows = Preprocess(320, [0.0] * 3, [1.0] * 3), np.arange(4)
    augment = Augment(AugmentConfig(transforms=("color-jitter", "rotation", "trivialaugment")), 320, 0)
    stored = scan(source, preprocess, keep=True).images
    assert stored is not None
    targets = torch.from_numpy(source.targets)
    memory = MemoryLoader(stored, targets, rows, batch_size=2, augment=augment, order=Order(0))
    reduced = ReducedImages(source, preprocess)
    worker = WorkerLoader(
        reduced, targets, rows, batch_size=2, augment=augment, order=Order(0), device=CPU, num_workers=1
    )
    assert_same(worker.epoch(0), memory.epoch(0))


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_an_epoch_can_be_begun_anywhere(source: Source, images: torch.Tensor, workers: int | None) -> None:
    names = ("flip-crop", "color-jitter")
    if workers is None:
        loader = from_memory(source, images, *names, batch_size=2)
    else:
        loader = from_workers(source, *names, workers=workers, batch_size=2)
    whole = list(from_memory(source, images, *names, batch_size=2).epoch(3))
    assert len(whole) == 4
    for start in range(6):
        assert assert_same(loader.epoch(3, start=start), iter(whole[start:])) == max(0, 4 - start)


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_batches_hold_what_they_say(source: Source, images: torch.Tensor, workers: int | None) -> None:
    loader = from_memory(source, images) if workers is None else from_workers(source, workers=workers)
    assert loader.num_images == len(ROWS)
    seen = []
    for batch in loader.epoch(0):
        assert len(batch) == len(batch.images) == len(batch.indices)
        assert torch.equal(batch.images, images[batch.indices])
        assert batch.targets.tolist() == source.targets[batch.indices.numpy()].tolist()
        seen += batch.indices.tolist()
    assert sorted(seen) == ROWS.tolist()
    assert seen != ROWS.tolist()
    again = [index for batch in loader.epoch(1) for index in batch.indices.tolist()]
    assert sorted(again) == sorted(seen)
    assert again != seen


def test_what_happens_to_an_image_does_not_depend_on_the_batch_size(source: Source, images: torch.Tensor) -> None:
    results = []
    for batch_size in (2, 5, 100):
        loader = from_memory(source, images, "flip-crop", "rotation", batch_size=batch_size)
        batches = list(loader.epoch(2))
        order = torch.cat([batch.indices for batch in batches]).argsort()
        results.append(torch.cat([batch.images for batch in batches])[order])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_other_images_do_not_change_what_happens_to_one(source: Source, images: torch.Tensor) -> None:
    few = from_memory(source, images, "flip-crop", rows=ROWS[3:5], batch_size=9)
    many = from_memory(source, images, "flip-crop", batch_size=9)
    of_many = {int(i): image for b in many.epoch(0) for i, image in zip(b.indices, b.images, strict=True)}
    (batch,) = few.epoch(0)
    for index, image in zip(batch.indices, batch.images, strict=True):
        assert torch.equal(image, of_many[int(index)])


def test_epochs_and_seeds_differ(source: Source, images: torch.Tensor) -> None:
    def whole(loader: MemoryLoader, epoch: int) -> bytes:
        return b"".join(batch.images.numpy().tobytes() for batch in loader.epoch(epoch))

    first, other = from_memory(source, images, "shift"), from_memory(source, images, "shift", seed=1)
    assert len({whole(first, 0), whole(first, 1), whole(other, 0)}) == 3
    assert whole(first, 0) == whole(first, 0)


@pytest.mark.parametrize("targets", [torch.eye(14)[:, :3], torch.linspace(-1, 1, 14)[:, None]], ids=["many", "number"])
def test_float_targets(source: Source, images: torch.Tensor, targets: torch.Tensor) -> None:
    augment = augmentation("flip")
    memory = MemoryLoader(images, targets, ROWS, batch_size=4, augment=augment, order=Order(0))
    reduced = ReducedImages(source, BLANK)
    worker = WorkerLoader(
        reduced, targets, ROWS, batch_size=4, augment=augment, order=Order(0), device=CPU, num_workers=1
    )
    assert_same(worker.epoch(0), memory.epoch(0))
    for batch in memory.epoch(0):
        assert batch.targets.dtype == torch.float32
        assert torch.equal(batch.targets, targets[batch.indices])


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_the_global_generator_is_left_alone(source: Source, images: torch.Tensor, workers: int | None) -> None:
    loader = (
        from_memory(source, images, "rotation")
        if workers is None
        else from_workers(source, "rotation", workers=workers)
    )
    state = torch.get_rng_state()
    list(loader.epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_worker_gets_survives_pickling(source: Source, images: torch.Tensor) -> None:
    # macOS starts processes without forking, and so does Python 3.14 everywhere.
    reduced = pickle.loads(pickle.dumps(ReducedImages(source, BLANK)))
    assert_same(
        from_workers(reduced, "flip-crop", "rotation", workers=0).epoch(2),
        from_memory(source, images, "flip-crop", "rotation").epoch(2),
    )


def test_minus_one_worker_is_one_a_core(source: Source) -> None:
    assert from_workers(source, workers=-1).num_workers == hardware.num_cpus()
    assert from_workers(source, workers=0).timeout_s == 0.0


def test_an_epoch_that_is_left_early_stops_its_workers(source: Source) -> None:
    loader = from_workers(source, workers=2, batch_size=1)
    batches = loader.epoch(0)
    next(batches)
    started_at = time.monotonic()
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert time.monotonic() - started_at < 20
    assert len(list(loader.epoch(0))) == len(ROWS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_bits(source: Source, images: torch.Tensor) -> None:
    cuda, targets = torch.device("cuda"), torch.from_numpy(source.targets)
    augment = augmentation("flip-crop")
    memory = MemoryLoader(images.to(cuda), targets.to(cuda), ROWS, batch_size=4, augment=augment, order=Order(0))
    for workers in (0, 1):
        reduced = ReducedImages(source, BLANK)
        worker = WorkerLoader(
            reduced, targets, ROWS, batch_size=4, augment=augment, order=Order(0), device=cuda, num_workers=workers
        )
        assert_same(worker.epoch(0), memory.epoch(0))


# --- from the cache --------------------------------------------------------------------------------------------------


class Unread(Source):
    """The same samples, of which none may be read again."""

    def __init__(self, like: Source) -> None:
        super().__init__("unread", classes=like.classes, paths=like.paths, targets=like.targets)

    def read(self, index: int) -> bytes:
        raise AssertionError(f"image {index} was read although it is in the cache")


def cached(source: Source, folder: Path, *, left_out: Sequence[int] = ()) -> ReducedImages:
    """Return a source's images with all but some in a new cache."""
    cache = ImageCache(folder, "test", (STORED, STORED, 3), 10**9)
    places = cache.find(scan(source, BLANK, keep=False, cache=cache).content_hashes)
    assert (places >= 0).all()
    places[list(left_out)] = -1
    return ReducedImages(source, BLANK, cache, places)


@pytest.mark.parametrize("workers", [-1, 0, 1, 3])
@pytest.mark.parametrize("left_out", [(), (2,), tuple(range(14))], ids=["all", "all but one", "none"])
def test_the_cache_gives_the_bits_that_memory_gives(
    source: Source, images: torch.Tensor, tmp_path: Path, workers: int, left_out: tuple[int, ...]
) -> None:
    loader = from_workers(cached(source, tmp_path, left_out=left_out), "flip-crop", workers=workers, batch_size=2)
    assert loader.reads_ahead == (workers < 0 and not left_out)
    expected = list(from_memory(source, images, "flip-crop", batch_size=2).epoch(3))
    for start in (0, 1, 3, 4):
        assert assert_same(loader.epoch(3, start=start), iter(expected[start:])) == max(0, 4 - start)


@pytest.mark.parametrize("workers", [-1, 0, 2])
def test_what_is_in_the_cache_is_not_read_again(
    source: Source, images: torch.Tensor, tmp_path: Path, workers: int
) -> None:
    known = cached(source, tmp_path)
    reduced = ReducedImages(Unread(source), BLANK, known.cache, known.places)
    loader = from_workers(reduced, "rotation", workers=workers)
    assert_same(loader.epoch(0), from_memory(source, images, "rotation").epoch(0))


def test_only_the_rows_that_are_trained_on_have_to_be_cached(source: Source, tmp_path: Path) -> None:
    not_trained_on = tuple(set(range(14)) - set(ROWS.tolist()))
    loader = from_workers(cached(source, tmp_path, left_out=not_trained_on), workers=-1)
    assert loader.reads_ahead
    assert loader.num_workers == 0
    assert not from_workers(cached(source, tmp_path / "2", left_out=[int(ROWS[4])]), workers=-1).reads_ahead


@pytest.mark.parametrize("workers", [-1, 0, 1])
def test_a_slab_that_goes_during_an_epoch_is_decoded_instead(
    source: Source, images: torch.Tensor, tmp_path: Path, workers: int
) -> None:
    reduced = cached(source, tmp_path)
    assert reduced.cache is not None
    expected = from_memory(source, images, "flip", batch_size=1).epoch(0)
    batches = from_workers(reduced, "flip", workers=workers, batch_size=1).epoch(0)
    found = [next(batches)]
    for slab in tmp_path.rglob("*.slab"):
        slab.unlink()
    found += batches
    assert assert_same(iter(found), expected) == len(ROWS)
    # A later run's process, which has the slab not open any more, finds it gone.
    again = pickle.loads(pickle.dumps(reduced))
    assert not again.cache.read(0, np.empty((STORED, STORED, 3), np.uint8))
    assert_same(from_workers(again, "flip", workers=workers).epoch(0), from_memory(source, images, "flip").epoch(0))


def test_reading_ahead_is_bounded_and_ends_with_the_epoch(source: Source, tmp_path: Path) -> None:
    reduced = cached(source, tmp_path)
    seen: list[int] = []
    cache = reduced.cache
    assert cache is not None
    read = cache.read
    cache.read = lambda place, out: seen.append(place) or read(place, out)  # pyright: ignore[reportAttributeAccessIssue]
    batches = from_workers(reduced, workers=-1, batch_size=1).epoch(0)
    next(batches)
    time.sleep(0.05)
    assert len(seen) <= 4
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_an_image_lost_from_cache_and_disk_is_named(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    source = FolderSource(write_images(tmp_path / "images", {"a": 5, "b": 5}))
    reduced = cached(source, tmp_path / "cache")
    for slab in (tmp_path / "cache").rglob("*.slab"):
        slab.write_bytes(bytes(slab.stat().st_size))
    (tmp_path / "images" / "b" / "002.png").unlink()
    loader = from_workers(reduced, workers=-1, rows=np.arange(10))
    assert loader.reads_ahead
    with pytest.raises(DataError, match=r"^b/002\.png: could be read before training and cannot any more: "):
        list(loader.epoch(0))


# --- in memory -------------------------------------------------------------------------------------------------------


def test_batches_from_memory_lie_channels_last(source: Source, images: torch.Tensor, tmp_path: Path) -> None:
    loaders = [from_memory(source, images), from_workers(source, workers=0), from_workers(source, workers=1)]
    loaders.append(from_workers(cached(source, tmp_path), workers=-1))
    for loader in loaders:
        for batch in loader.epoch(0):
            assert batch.images.permute(0, 2, 3, 1)[:, :, :, 0].stride()[-1] == 3


@given(st.lists(st.integers(0, 5), max_size=9), st.sampled_from([1, 3]), st.booleans())
def test_take_is_indexing(rows: list[int], channels: int, is_channels_last: bool) -> None:
    images = torch.arange(6 * channels * 4 * 4, dtype=torch.int32).reshape(6, channels, 4, 4)
    images = images.contiguous(memory_format=torch.channels_last) if is_channels_last else images
    chosen = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(take(images, chosen), images[chosen])


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_an_image_that_vanishes_is_named(
    tmp_path: Path, write_images: Callable[..., Path], workers: int, damage: str
) -> None:
    source = FolderSource(write_images(tmp_path, {"a": 5, "b": 5}))
    assert not scan(source, BLANK, keep=False).errors
    lost = tmp_path / "b" / "002.png"
    lost.unlink() if damage == "gone" else lost.write_bytes(lost.read_bytes()[:60])
    loader = from_workers(source, "flip", workers=workers, rows=np.arange(10))
    with pytest.raises(DataError, match=r"^b/002\.png: could be read before training and cannot any more: ") as caught:
        list(loader.epoch(0))
    assert "Traceback" not in str(caught.value)
    assert "resume" in str(caught.value)


class Trouble(Source):
    """Fourteen images, one of which does something to whoever reads it."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__("t", classes=("a", "b"), paths=[f"{i}" for i in range(14)], targets=np.arange(14) % 2)
        self.action = action

    def read(self, index: int) -> np.ndarray:
        if index == 7:
            self.action()
        return np.zeros((9, 9, 3), np.uint8)


def test_a_worker_that_dies_ends_the_run_in_words() -> None:
    here = os.getpid()

    def die() -> None:
        assert os.getpid() != here
        os._exit(137)

    with pytest.raises(RunError, match=r"a process that reads images ended .*Resume the run"):
        list(from_workers(Trouble(die), workers=1).epoch(0))


def test_a_worker_that_falls_silent_ends_the_run_in_words() -> None:
    with pytest.raises(RunError, match=r"no images came from the reading processes for 1 s"):
        list(from_workers(Trouble(lambda: time.sleep(2.5)), workers=1, timeout_s=1.0).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_our_own_mistakes_keep_their_traceback(workers: int) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(from_workers(Trouble(fail), workers=workers).epoch(0))

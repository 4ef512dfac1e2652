"""Large Parquet data: read a row group at a time, bounded in bytes, from threads, forks and copies."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tellapart.data.sources.tables import row_groups
from tellapart.data.sources.tables.parquet import ParquetSource
from tellapart.data.sources.tables.row_groups import RowGroups
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")

ROWS, GROUP, SIZE = 60, 8, 1000


def image(row: int) -> bytes:
    return np.random.default_rng(row).bytes(SIZE)


def write(path: Path, first: int = 0, *, nested: bool = True, **options: Any) -> Path:
    """Write `ROWS` rows in row groups of `GROUP`."""
    images: list[Any] = [image(first + row) for row in range(ROWS)]
    if nested:
        images = [{"bytes": raw, "path": f"{first + row}.png"} for row, raw in enumerate(images)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    table = pa.table({"image": images, "label": [row % 2 for row in range(ROWS)]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=GROUP, **options)
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(2):
        write(tmp_path / f"train-{number}.parquet", number * ROWS)
    return tmp_path


@pytest.fixture
def large(shards: Path, monkeypatch: pytest.MonkeyPatch) -> ParquetSource:
    """Two shards that count as large, of which two row groups may be kept."""
    monkeypatch.setattr(row_groups, "HOLD_BYTES", 0)
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 2 * GROUP * (SIZE + 50))
    return ParquetSource(shards)


def loads_of(groups: RowGroups, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every row group is added that is read from its file."""
    loads: list[int] = []
    load = groups._load

    def counted(group: int) -> Any:
        loads.append(group)
        return load(group)

    monkeypatch.setattr(groups, "_load", counted)
    return loads


def test_small_data_are_held_and_large_are_not(shards: Path, large: ParquetSource) -> None:
    assert large.blocks is not None
    assert large.blocks.dtype == np.int64
    assert np.bincount(large.blocks).tolist() == [8, 8, 8, 8, 8, 8, 8, 4] * 2
    assert (np.diff(large.blocks) >= 0).all()


def test_what_is_held_is_read_once_at_the_start(shards: Path) -> None:
    source = ParquetSource(shards)
    assert source.blocks is None
    for path in shards.iterdir():
        path.unlink()
    assert [source.read(row) for row in range(2 * ROWS)] == [image(row) for row in range(2 * ROWS)]


def test_every_row_in_any_order(large: ParquetSource) -> None:
    for row in np.random.default_rng(0).permutation(2 * ROWS):
        assert large.read(int(row)) == image(row)


def test_no_more_is_kept_than_the_bound(large: ParquetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = loads_of(large._bytes, monkeypatch)
    for row in range(2 * ROWS):
        large.read(row)
        assert large._bytes.num_kept_bytes <= row_groups.KEEP_BYTES
    assert loads == list(range(16)), "in order, each row group is read once"
    loads.clear()
    for row in (0, 8, 1, 9, 2, 16, 3, 10):
        large.read(row)
    assert loads == [0, 1, 2, 1], "the one that was used longest ago was forgotten"


def test_one_row_group_is_kept_even_over_the_bound(large: ParquetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 1)
    loads = loads_of(large._bytes, monkeypatch)
    for row in range(16):
        large.read(row)
    assert loads == [0, 1]


def test_threads_read_a_row_group_once(large: ParquetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "KEEP_BYTES", 2**20)
    loads = loads_of(large._bytes, monkeypatch)
    barrier = threading.Barrier(8)

    def work(number: int) -> list[bytes]:
        barrier.wait()
        return [large.read((row * 7 + number * 13) % (2 * ROWS)) for row in range(2 * ROWS)]

    with ThreadPoolExecutor(8) as pool:
        for number, read in enumerate(pool.map(work, range(8))):
            assert read == [image((row * 7 + number * 13) % (2 * ROWS)) for row in range(2 * ROWS)]
    assert sorted(loads) == list(range(16))


def test_threads_and_a_bound_together(large: ParquetSource) -> None:
    def work(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, 2 * ROWS, 100)
        return all(large.read(int(row)) == image(row) for row in rows)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert large._bytes.num_kept_bytes <= row_groups.KEEP_BYTES
    assert large._bytes.num_kept_bytes == sum(f.result().nbytes for f in large._bytes._kept.values())


def test_a_copy_opens_its_own_files_and_carries_no_images(large: ParquetSource, shards: Path) -> None:
    large.read(3)
    raw = pickle.dumps(large)
    assert image(3) not in raw
    assert pickle.loads(raw).read(70) == image(70)
    held = pickle.dumps(ParquetSource(shards))
    assert image(3) not in held
    assert pickle.loads(held).read(70) == image(70)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_fork_goes_on_although_another_thread_was_reading(
    large: ParquetSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that holds the lock, and the one that was to deliver a row group, are not there in the child."""
    large.read(0)
    started, release = threading.Event(), threading.Event()
    load = large._bytes._load

    def slow(group: int) -> Any:
        if group == 3 and not release.is_set():
            started.set()
            assert release.wait(30)
        return load(group)

    monkeypatch.setattr(large._bytes, "_load", slow)
    thread = threading.Thread(target=large.read, args=(3 * GROUP,))
    thread.start()
    assert started.wait(30)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        release.set()
        sender.send([large.read(row) == image(row) for row in (0, 3 * GROUP, 100)])

    with large._bytes._lock:
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
    assert receiver.poll(30), "the worker hangs"
    assert receiver.recv() == [True] * 3
    worker.join(10)
    worker.close()
    receiver.close()
    sender.close()
    release.set()
    thread.join(30)
    assert large.read(3 * GROUP) == image(3 * GROUP)


def test_what_happens_to_the_files_later_is_an_unreadable_image(large: ParquetSource, shards: Path) -> None:
    (shards / "train-1.parquet").unlink()
    assert large.read(0) == image(0)
    with pytest.raises(ImageError, match="its row group cannot be read as Parquet"):
        large.read(ROWS)
    write(shards / "train-1.parquet", ROWS)
    assert large.read(ROWS) == image(ROWS), "a failure is not remembered"


def test_damage_in_a_row_group_is_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[raw.index(image(2 * GROUP)) + 500] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        ParquetSource(path)
    monkeypatch.setattr(row_groups, "HOLD_BYTES", 0)
    source = ParquetSource(path)
    assert source.read(0) == image(0)
    with pytest.raises(ImageError, match="its row group cannot be read as Parquet"):
        source.read(2 * GROUP)


@pytest.mark.parametrize("nested", [True, False])
def test_the_bytes_are_counted_before_they_are_read(tmp_path: Path, nested: bool) -> None:
    groups = RowGroups([write(tmp_path / "a.parquet", nested=nested)], "image")
    assert groups.num_null == 0
    assert groups.lengths.tolist() == [8] * 7 + [4]
    assert ROWS * SIZE <= groups.num_bytes < ROWS * SIZE * 1.4
    assert groups.num_kept_bytes == 0
    assert groups.read(59) == image(59)

"""The cache of decoded images: what is in it is right or not found, whoever writes, dies, deletes or damages."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.data import cache as module
from tellapart.data.cache import FACTS, ImageCache, checksum, image_caches

# Python 3.12's advice on forking beside OpenMP's threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks"),
]

SHAPE = (6, 5, 3)
IMAGE_BYTES = 90
SLAB = 4  # images
# With more, slabs become larger, so that they do not become too many.
MAX_BYTES = module._MAX_SLABS * SLAB * IMAGE_BYTES


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLAB_BYTES", SLAB * IMAGE_BYTES)
    monkeypatch.setattr(module, "_SPARED_BYTES", 0)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def content(number: int) -> str:
    return f"{number:032x}"


def facts(number: int) -> np.void:
    pixels = picture(number)
    made: Any = np.zeros((), FACTS)
    made["content"], made["pixels"] = content(number), content(number + 1000)
    made["sums"], made["square_sums"] = number, number + 1
    made["checksum"] = checksum(pixels)
    return made[()]


def opened(root: Path, kind: str = "test", max_bytes: int = MAX_BYTES) -> ImageCache:
    return ImageCache(root, kind, SHAPE, max_bytes)


def put(cache: ImageCache, *numbers: int) -> ImageCache:
    for number in numbers:
        cache.add(facts(number), picture(number))
    return cache


def filled(root: Path, *numbers: int, kind: str = "test", max_bytes: int = MAX_BYTES) -> ImageCache:
    cache = put(opened(root, kind, max_bytes), *numbers)
    cache.commit()
    return cache


def held(cache: ImageCache, numbers: range | list[int]) -> list[int]:
    """Return which of the numbers can be read, after making sure that those are right."""
    found = []
    out = np.empty(SHAPE, np.uint8)
    for number, place in zip(numbers, cache.find([content(number) for number in numbers]).tolist(), strict=True):
        if place >= 0 and cache.read(place, out):
            assert np.array_equal(out, picture(number))
            assert cache.facts(np.array([place]))[0] == facts(number)
            found.append(number)
    return found


def names(root: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in root.rglob(pattern))


def total_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*.slab"))


def assert_tidy(root: Path) -> None:
    """Every slab has its index, and nothing half written is left."""
    assert names(root, ".*.writing") == []
    assert [Path(name).stem for name in names(root, "*.slab")] == [Path(name).stem for name in names(root, "*.facts")]


def in_a_fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process and return its id; the process ends with 0 if `work` returned."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def exit_code(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_yourself(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


# --- what goes in comes out ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=14), st.lists(st.booleans(), min_size=14, max_size=14))
@settings(max_examples=30)
def test_what_was_committed_is_found_by_everybody(numbers: list[int], commits: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = opened(Path(folder))
        for number, is_time in zip(numbers, commits, strict=False):
            put(cache, number)
            if is_time:
                cache.commit()
        cache.commit()
        expected = sorted(set(numbers))
        for each in (cache, opened(Path(folder)), pickle.loads(pickle.dumps(cache))):
            assert held(each, range(31)) == expected
            assert len(each) == len(numbers)
        assert_tidy(Path(folder))
        assert total_bytes(Path(folder)) == len(numbers) * IMAGE_BYTES


def test_nothing_is_found_before_it_is_durable(tmp_path: Path) -> None:
    cache = put(opened(tmp_path), 1, 2)
    assert (len(cache), held(cache, [1, 2])) == (0, [])
    put(cache, 3, 4)  # a full slab is committed by itself
    assert held(cache, [1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    cache.commit()
    cache.commit()
    assert len(names(tmp_path, "*.slab")) == 1


def test_slabs_of_a_large_cache_are_few(tmp_path: Path) -> None:
    cache = put(opened(tmp_path, max_bytes=module._MAX_SLABS * 10 * IMAGE_BYTES), *range(25))
    assert held(cache, range(25)) == list(range(20))
    cache.commit()
    assert len(names(tmp_path, "*.slab")) == 3


def test_an_empty_cache_makes_no_files(tmp_path: Path) -> None:
    cache = opened(tmp_path / "none")
    cache.commit()
    assert cache.find(["", content(1)]).tolist() == [-1, -1]
    assert cache.find([]).tolist() == []
    assert not (tmp_path / "none").exists()


def test_what_has_no_content_is_never_found(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    nameless = facts(1)
    nameless["content"] = ""
    cache.add(nameless, picture(1))
    put(cache, 2)
    cache.commit()
    assert cache.find(["", content(2), content(2)[:-1]]).tolist() == [-1, 1, -1]


def test_images_of_another_kind_are_not_found(tmp_path: Path) -> None:
    filled(tmp_path, 1, kind="8px-3-crop-white")
    assert held(opened(tmp_path, "8px-3-crop-black"), [1]) == []
    assert held(opened(tmp_path, "8px-3-crop-white"), [1]) == [1]


def test_images_of_another_version_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1)
    monkeypatch.setattr(module, "_VERSION", module._VERSION + 1)
    assert held(opened(tmp_path), [1]) == []


def test_images_of_another_shape_in_the_same_folder_are_not_read(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    other = ImageCache(tmp_path, "test", (6, 5, 1), 10**6)
    assert len(other) == 0


def test_the_folder_is_the_users_unless_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert image_caches("") == tmp_path / "tellapart" / "images"
    assert image_caches("~/kept") == tmp_path / "home" / "kept"


# --- several processes and threads -----------------------------------------------------------------------------------


def test_two_processes_fill_one_cache_at_a_time(tmp_path: Path) -> None:
    def fill(numbers: range) -> Callable[[], None]:
        def work() -> None:
            cache = opened(tmp_path)
            for number in numbers:
                put(cache, number)
                time.sleep(0.001)
            cache.commit()
            assert held(cache, numbers) == list(numbers)

        return work

    processes = [in_a_fork(fill(range(start, start + 40))) for start in (0, 0, 20, 30)]
    while_filling = [len(opened(tmp_path)) for _ in range(20)]
    assert [exit_code(process) for process in processes] == [0] * 4
    assert while_filling == sorted(while_filling)
    assert held(opened(tmp_path), range(80)) == list(range(70))
    assert_tidy(tmp_path)


@pytest.mark.parametrize("step", ["add", "fsync slab", "fsync index", "rename slab", "rename index", "enter"])
def test_a_process_killed_while_filling_loses_only_its_last_slab(tmp_path: Path, step: str) -> None:
    def work() -> None:
        cache = filled(tmp_path, *range(SLAB))
        put(cache, 10, 11)
        assert cache._file is not None
        cache._file.flush()
        if step == "add":
            kill_yourself()
        name, count = step.split()[0] if step != "enter" else "_enter", 1 if "index" in step else 0
        owner = {"fsync": os, "rename": Path, "_enter": cache}[name]
        actual: Callable[..., Any] = getattr(owner, name)
        calls: list[int] = []

        def dying(*args: Any) -> Any:
            calls.append(1)
            return kill_yourself() if len(calls) == count + 1 else actual(*args)

        setattr(owner, name, dying)
        # An index is synced before its slab is renamed.
        cache.commit()

    process = in_a_fork(work)
    assert exit_code(process) == -signal.SIGKILL
    if step != "enter":
        assert names(tmp_path, ".*.writing"), "the killed process left nothing to tidy: the test proves nothing"
    cache = opened(tmp_path)
    assert names(tmp_path, ".*.writing") == []
    assert held(cache, range(20)) == [*range(SLAB), *((10, 11) if step == "enter" else ())]
    put(cache, 10, 11, 12).commit()
    assert held(opened(tmp_path), range(20)) == [*range(SLAB), 10, 11, 12]


def test_a_slab_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    writer = put(opened(tmp_path), 1)
    assert len(names(tmp_path, ".*.writing")) == 1
    ready, go_on = os.pipe()

    def look() -> None:
        opened(tmp_path)
        os.write(go_on, b"x")

    process = in_a_fork(look)
    assert os.read(ready, 1) == b"x"
    assert exit_code(process) == 0
    os.close(ready)
    os.close(go_on)
    opened(tmp_path)
    assert len(names(tmp_path, ".*.writing")) == 1
    writer.commit()
    assert held(opened(tmp_path), [1]) == [1]


def test_a_file_taken_for_abandoned_before_it_was_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = module._lock, []

    def slow(file: Any) -> None:
        calls.append(file.name)
        if len(calls) == 1:
            module._remove(Path(file.name))  # as another process that opens the cache would
        if len(calls) == 2:
            raise BlockingIOError
        lock(file)

    monkeypatch.setattr(module, "_lock", slow)
    cache = filled(tmp_path, 1, 2)
    assert len(set(calls)) == len(calls) == 4
    assert not cache.is_full
    monkeypatch.undo()
    assert held(opened(tmp_path), [1, 2]) == [1, 2]
    assert_tidy(tmp_path)


def test_a_forked_process_and_its_parent_read_the_same_object(tmp_path: Path) -> None:
    cache = filled(tmp_path, *range(20))
    assert held(cache, range(10)) == list(range(10))

    def read() -> None:
        for _ in range(20):
            assert held(cache, range(20)) == list(range(20))

    processes = [in_a_fork(read) for _ in range(3)]
    read()
    assert [exit_code(process) for process in processes] == [0, 0, 0]


def test_a_pickled_cache_opens_its_files_itself(tmp_path: Path) -> None:
    cache = filled(tmp_path, *range(6))
    held(cache, range(6))
    again = pickle.loads(pickle.dumps(cache))
    assert again._files == {}
    del cache
    assert held(again, range(6)) == list(range(6))
    put(again, 7).commit()
    assert held(opened(tmp_path), range(9)) == [*range(6), 7]


def test_a_half_filled_cache_is_not_handed_over(tmp_path: Path) -> None:
    cache = put(opened(tmp_path), 1)
    with pytest.raises(AssertionError, match="commit before"):
        pickle.dumps(cache)
    cache.commit()
    assert held(pickle.loads(pickle.dumps(cache)), [1]) == [1]


def test_threads_find_and_read_while_another_commits(tmp_path: Path) -> None:
    cache, is_done, errors = filled(tmp_path, *range(8)), threading.Event(), []

    def look() -> None:
        try:
            while not is_done.is_set():
                assert held(cache, range(8)) == list(range(8))
                later = held(cache, range(8, 100))
                assert later == list(range(8, 8 + len(later)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    put(cache, *range(8, 100)).commit()
    is_done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert held(cache, range(100)) == list(range(100))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to count open files")
def test_a_cache_that_is_dropped_closes_its_files(tmp_path: Path) -> None:
    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    filled(tmp_path, *range(40))
    before = num_open()
    for _ in range(3):
        cache = opened(tmp_path)
        assert held(cache, range(40)) == list(range(40))
        assert num_open() == before + 10
        del cache
        assert num_open() == before


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x10
    path.write_bytes(raw)


def test_every_damaged_byte_of_a_slab_is_noticed(tmp_path: Path) -> None:
    for position in range(0, 3 * IMAGE_BYTES, 7):
        root = tmp_path / str(position)
        filled(root, 0, 1, 2)
        (slab,) = root.rglob("*.slab")
        flip(slab, position)
        assert held(opened(root), range(3)) == [number for number in range(3) if number != position // IMAGE_BYTES]


def test_a_damaged_slab_is_thrown_out_and_replaced(tmp_path: Path) -> None:
    filled(tmp_path, 0, 1, 2)
    (slab,) = tmp_path.rglob("*.slab")
    flip(slab, IMAGE_BYTES + 3)
    cache = opened(tmp_path)
    assert held(cache, range(3)) == [0, 2]
    put(cache, 1).commit()
    assert not slab.exists()
    again = opened(tmp_path)
    assert held(again, range(3)) == [1]
    assert len(again) == 1
    assert_tidy(tmp_path)


def test_every_damaged_byte_of_an_index_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path, 0, 1)
    (index,) = tmp_path.rglob("*.facts")
    whole = index.read_bytes()
    for position in range(len(whole)):
        flip(index, position)
        assert len(opened(tmp_path)) == 0, position
        index.write_bytes(whole)
    for length in range(0, len(whole), 11):
        index.write_bytes(whole[:length])
        assert len(opened(tmp_path)) == 0


FOREIGN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not numpy"),
    "pickle": lambda path: path.write_bytes(pickle.dumps([1, 2, 3])),
    "numpy's own": lambda path: path.write_bytes(npy(path)),
    "another's facts": lambda path: path.write_bytes(np.zeros(2, FACTS).tobytes()),
    "an empty one with the right name": lambda path: named_right(path, b""),
    "half a fact with the right name": lambda path: named_right(path, path.read_bytes()[:-1]),
    "one fact too many with the right name": lambda path: named_right(path, path.read_bytes() * 2),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def npy(path: Path) -> bytes:
    np.save(path.with_suffix(".npy"), np.frombuffer(path.read_bytes(), FACTS))
    return path.with_suffix(".npy").read_bytes()


def named_right(index: Path, raw: bytes) -> None:
    stem = f"{'0' * 32}-{xxhash.xxh3_64_hexdigest(raw)}"
    index.with_suffix(".slab").rename(index.with_name(f"{stem}.slab"))
    index.unlink()
    index.with_name(f"{stem}.facts").write_bytes(raw)


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_index_is_passed_over(tmp_path: Path, kind: str) -> None:
    filled(tmp_path, 0, 1)
    (index,) = tmp_path.rglob("*.facts")
    FOREIGN[kind](index)
    cache = opened(tmp_path)
    assert (len(cache), held(cache, range(3))) == (0, [])
    put(cache, 0, 2).commit()
    assert held(opened(tmp_path), range(3)) == [0, 2]


@pytest.mark.parametrize("damage", ["truncated", "longer", "gone", "a folder"])
def test_a_slab_that_is_not_whole_is_passed_over(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, 0, 1)
    (slab,) = tmp_path.rglob("*.slab")
    raw = slab.read_bytes()
    slab.unlink()
    if damage == "a folder":
        slab.mkdir()
    elif damage != "gone":
        slab.write_bytes(raw[:-1] if damage == "truncated" else raw + b"x")
    cache = opened(tmp_path)
    assert held(cache, range(3)) == []
    put(cache, 1).commit()
    assert held(opened(tmp_path), range(3)) == [1]


def test_a_slab_that_is_cut_or_deleted_while_the_cache_is_open(tmp_path: Path) -> None:
    cache, other = filled(tmp_path, *range(SLAB)), opened(tmp_path)
    assert held(cache, [0]) == [0]
    (slab,) = tmp_path.rglob("*.slab")
    os.truncate(slab, 2 * IMAGE_BYTES + 5)
    assert held(cache, range(SLAB)) == [0, 1]
    slab.unlink(missing_ok=True)
    assert held(other, range(SLAB)) == []


def test_a_cache_folder_that_is_a_file_does_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cache = filled(tmp_path / "file", 0, 1)
    assert cache.is_full
    assert (tmp_path / "file").read_text() == "mine"


# --- limits ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 14 * IMAGE_BYTES), st.integers(0, 20))
@settings(max_examples=60)
def test_the_slabs_never_take_more_than_they_may(max_bytes: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache = opened(root, max_bytes=max_bytes)
        for number in range(count):
            put(cache, number)
            assert total_bytes(root) + sum(path.stat().st_size for path in root.rglob(".*.writing")) <= max_bytes
        cache.commit()
        assert total_bytes(root) <= max_bytes
        kept = held(opened(root, max_bytes=max_bytes), range(count))
        assert kept == list(range(len(kept)))
        assert kept or not count or max_bytes < IMAGE_BYTES, "a small limit is no reason to keep nothing"
        assert len(kept) == count or (cache.is_full and len(kept) * IMAGE_BYTES > max_bytes - SLAB * IMAGE_BYTES)
        assert_tidy(root)


def age(root: Path, kind: str, seconds: float) -> None:
    for slab in (root / f"{kind}-v{module._VERSION}").glob("*.slab"):
        os.utime(slab, (time.time() - seconds, time.time() - seconds))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    limit = 4 * SLAB * IMAGE_BYTES
    for kind, seconds in (("old", 500), ("older", 900), ("newer", 100)):
        filled(tmp_path, *range(SLAB), kind=kind, max_bytes=limit)
        age(tmp_path, kind, seconds)
    cache = filled(tmp_path, *range(SLAB), kind="own", max_bytes=limit)
    age(tmp_path, "own", 10_000)

    def kinds() -> set[str]:
        return {path.parent.name.removesuffix(f"-v{module._VERSION}") for path in tmp_path.rglob("*.slab")}

    assert kinds() == {"old", "older", "newer", "own"}
    put(cache, 10)
    assert kinds() == {"old", "newer", "own"}
    put(cache, *range(11, 18))
    assert kinds() == {"newer", "own"}
    put(cache, *range(18, 40))
    cache.commit()
    assert kinds() == {"own"}
    assert cache.is_full
    assert held(cache, range(40)) == [*range(SLAB), *range(10, 22)], "its own are never thrown out"
    assert_tidy(tmp_path)


def test_opening_counts_as_use(tmp_path: Path) -> None:
    limit = 2 * SLAB * IMAGE_BYTES
    for kind in ("one", "two"):
        filled(tmp_path, *range(SLAB), kind=kind, max_bytes=limit)
        age(tmp_path, kind, 900 if kind == "one" else 500)
    opened(tmp_path, "one", limit)
    filled(tmp_path, *range(SLAB), kind="three", max_bytes=limit)
    assert len(opened(tmp_path, "one", limit)) == SLAB
    assert len(opened(tmp_path, "two", limit)) == 0


def test_a_slab_that_cannot_be_deleted_makes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2 * SLAB * IMAGE_BYTES
    filled(tmp_path, *range(2 * SLAB), kind="other", max_bytes=limit)
    monkeypatch.setattr(module, "_remove", lambda path: False)
    cache = put(opened(tmp_path, "own", limit), 1)
    assert cache.is_full
    assert total_bytes(tmp_path) == limit


def test_slabs_that_another_process_deletes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, *range(8), kind="other")
    status = module._status

    def gone(path: Path) -> os.stat_result | None:
        path.unlink()
        return status(path)

    monkeypatch.setattr(module, "_status", gone)
    cache = filled(tmp_path, 1)
    assert not cache.is_full
    assert held(cache, [1]) == [1]


def test_a_nearly_full_disk_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 2**30 + SLAB * IMAGE_BYTES - 1))
    monkeypatch.setattr(module, "_SPARED_BYTES", 2 * 2**30)
    cache = put(opened(tmp_path), 1)
    assert cache.is_full
    assert names(tmp_path, "*") == []


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size
        return self.file.write(data)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, IMAGE_BYTES, 3 * IMAGE_BYTES + 1])
def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    filled(tmp_path, *range(SLAB))
    new_file = module._new_file
    monkeypatch.setattr(module, "_new_file", lambda folder: FullDisk(new_file(folder), room))
    cache = put(opened(tmp_path), *range(10, 20))
    cache.commit()
    assert cache.is_full
    assert held(cache, range(20)) == list(range(SLAB))
    assert_tidy(tmp_path)
    monkeypatch.undo()
    assert held(opened(tmp_path), range(20)) == list(range(SLAB))


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_disk_that_fills_while_committing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    cache = filled(tmp_path, *range(SLAB))
    put(cache, 10, 11)
    owner: Any = os if step == "fsync" else Path
    actual, calls = getattr(owner, step), []

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return actual(*args)

    monkeypatch.setattr(owner, step, failing)
    cache.commit()
    assert cache.is_full
    assert_tidy(tmp_path)
    assert held(cache, range(20)) == list(range(SLAB))
    put(cache, 12).commit()
    monkeypatch.undo()
    assert held(opened(tmp_path), range(20)) == list(range(SLAB))


def test_the_systems_own_limit_on_files_is_no_error(tmp_path: Path) -> None:
    filled(tmp_path, *range(SLAB))

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * IMAGE_BYTES + 7, resource.RLIM_INFINITY))
        cache = put(opened(tmp_path), *range(10, 20))
        cache.commit()
        assert cache.is_full
        assert held(cache, range(20)) == list(range(SLAB))

    assert exit_code(in_a_fork(work)) == 0
    assert_tidy(tmp_path)
    assert held(opened(tmp_path), range(20)) == list(range(SLAB))


def test_somebody_elses_folder_is_read_and_left_as_it_is() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        filled(root, *range(SLAB))
        before = names(root, "*")
        for path in (Path(folder), root, *root.iterdir()):
            path.chmod(0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)  # nobody; root may write anywhere
            for slab in root.rglob("*.slab"):
                with pytest.raises(OSError):
                    slab.unlink()
            cache = put(opened(root), 10, 11)
            cache.commit()
            assert cache.is_full
            assert held(cache, range(20)) == list(range(SLAB))
            other = put(opened(root, "other"), 10)
            assert other.is_full

        code = exit_code(in_a_fork(work))
        for path in (Path(folder), root, *root.iterdir()):
            path.chmod(0o755)
        assert code == 0
        assert names(root, "*") == before

"""What every kind of source promises, over one small instance of each."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tellapart.data.decode import decode, image_size, pixel_hash
from tellapart.data.sources import DATASETS, SOURCES, TASKS, ArraySource, Source, change_task, open_source
from tellapart.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("error")

NAMES = ("ant", "bee", "cat")


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (4 + index % 3, 5, 3), dtype=np.uint8)


def encoded(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "PNG")
    return buffer.getvalue()


def squares(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 4)):
        images, labels = squares(count, 28, 28), (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


def digits(root: Path) -> Source:
    return open_source("digits", data_dir=str(root))


def mnist(root: Path) -> Source:
    write_idx(root / "MNIST" / "raw")
    return open_source("mnist", data_dir=str(root))


def fashion_mnist(root: Path) -> Source:
    write_idx(root / "FashionMNIST" / "raw")
    return open_source("fashion-mnist", data_dir=str(root))


def cifar10(root: Path) -> Source:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(b"\x03" + bytes(3072) + b"\x09" + bytes(3072))
    (folder / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)))
    return open_source("cifar10", data_dir=str(root))


def cifar100(root: Path) -> Source:
    folder = root / "cifar-100-binary"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(b"\x00\x03" + bytes(3072) + b"\x00\x63" + bytes(3072))
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{number}" for number in range(100)))
    return open_source("cifar100", data_dir=str(root))


def write_folder(root: Path, *parts: str) -> Path:
    for index in range(12):
        path = root / parts[index % len(parts)] / NAMES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index))
    return root


def folder(root: Path) -> Source:
    return open_source(write_folder(root / "insects", ""))


def folder_in_parts(root: Path) -> Source:
    return open_source(write_folder(root / "insects", "train", "train", "val", "train", "test"))


def write_parquet(path: Path, first: int) -> Path:
    rows = [{"bytes": encoded(index), "path": None} for index in range(first, first + 6)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
    table = pa.table({"image": rows, "label": [index % 3 for index in range(6)]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)
    return path


def parquet(root: Path) -> Source:
    return open_source(write_parquet(root / "all.parquet", 0))


def parquet_shards(root: Path) -> Source:
    write_parquet(root / "train-0.parquet", 0)
    write_parquet(root / "test-0.parquet", 6)
    return open_source(root)


def npz(root: Path) -> Source:
    labels = np.array(NAMES)[np.arange(6) % 3]
    np.savez(root / "a.npz", images=squares(6, 4, 4, 3), labels=labels, split=["train"] * 4 + ["val", "test"])
    return open_source(root / "a.npz")


def arrays(root: Path) -> Source:
    return open_source((squares(6, 4, 4), [0, 1, 2, 0, 1, 2]))


def list_of_arrays(root: Path) -> Source:
    return open_source(([picture(index) for index in range(6)], ["a", "b"] * 3))


def multilabel(root: Path) -> Source:
    return ArraySource(squares(4, 3, 5, 5), [[0, 1], [1, 1], [0, 0], [1, 0]], classes=["wet", "warm"])


def regression(root: Path) -> Source:
    return ArraySource(squares(4, 5, 5, 4), [[0.5, 1], [1.5, 2], [2.5, 3], [3, 4]])


KINDS: dict[str, Callable[[Path], Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
    "folder in parts": folder_in_parts,
    "parquet": parquet,
    "parquet shards": parquet_shards,
    "npz": npz,
    "arrays": arrays,
    "list of arrays": list_of_arrays,
    "multilabel": multilabel,
    "regression": regression,
}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return KINDS[request.param](tmp_path)


def some_rows(source: Source) -> list[int]:
    return sorted({0, 1, len(source) // 2, len(source) - 1})


def same_reading(one: Source, two: Source) -> bool:
    return all(pixel_hash(decode(one.read(row), 3)) == pixel_hash(decode(two.read(row), 3)) for row in some_rows(one))


def test_every_name_is_covered_and_described() -> None:
    assert SOURCES.keys() <= KINDS.keys()
    assert SOURCES.keys() == DATASETS.keys()
    for line in DATASETS.values():
        assert len(line) < 100
        assert "\n" not in line


def test_there_is_one_of_everything_a_sample_has(source: Source) -> None:
    assert len(source) > 1
    assert len(source.paths) == len(source.targets) == len(source.parts) == len(source)
    assert source.name
    assert source.num_channels in (1, 3)
    assert all(isinstance(note, str) and note.endswith(".") for note in source.notes)


def test_paths_are_unique_and_storable(source: Source) -> None:
    assert len(set(source.paths)) == len(source)
    for path in source.paths:
        assert path
        path.encode("utf-8")


def test_parts_are_of_the_known_three_or_none(source: Source) -> None:
    assert set(source.parts) <= {"train", "val", "test", ""}


def test_targets_have_the_form_of_their_task(source: Source) -> None:
    assert source.task in TASKS
    assert isinstance(source.classes, tuple)
    assert len(set(source.classes)) == len(source.classes)
    if source.task == "multiclass":
        assert (source.targets.dtype, source.targets.ndim) == (np.int64, 1)
        assert len(source.classes) >= 2
        assert source.targets.min() >= 0
        assert source.targets.max() < len(source.classes)
    else:
        assert (source.targets.dtype, source.targets.ndim) == (np.float32, 2)
        assert len(source.classes) == (source.targets.shape[1] if source.task == "multilabel" else 0)
        assert np.isfinite(source.targets).all()


def test_label_names_say_the_target(source: Source) -> None:
    for row in some_rows(source):
        name, target = source.label_name(row), source.targets[row]
        if source.task == "multiclass":
            assert source.classes.index(name) == target
        elif source.task == "multilabel":
            assert [label in name.split("|") for label in source.classes] == target.astype(bool).tolist()
        else:
            assert [float(value) for value in name.split(", ")] == target.tolist()


def test_every_image_decodes_and_its_size_is_known_before(source: Source) -> None:
    for row in some_rows(source):
        raw = source.read(row)
        width, height = image_size(raw)
        for num_channels in (1, 3):
            pixels = decode(raw, num_channels)
            assert (pixels.dtype, pixels.shape) == (np.uint8, (num_channels, height, width))


def test_images_in_memory_are_those_that_are_read(source: Source) -> None:
    if source.images is None:
        return
    assert source.images.dtype == np.uint8
    assert len(source.images) == len(source)
    for row in some_rows(source):
        assert np.array_equal(source.images[row], np.asarray(source.read(row)))
    assert source.num_channels == (1 if source.images.ndim == 3 else 3)


def test_opening_twice_gives_the_same(tmp_path: Path, source: Source, request: pytest.FixtureRequest) -> None:
    again = tmp_path / "again"
    again.mkdir()
    other = KINDS[request.node.callspec.params["source"]](again)
    assert (other.paths, other.classes, other.parts, other.notes) == (
        source.paths, source.classes, source.parts, source.notes,
    )  # fmt: skip
    assert np.array_equal(other.targets, source.targets)
    assert same_reading(source, other)


def test_a_source_survives_pickling(source: Source) -> None:
    copy = pickle.loads(pickle.dumps(source))
    for field in ("name", "task", "classes", "paths", "parts", "num_channels", "notes"):
        assert getattr(copy, field) == getattr(source, field), field
    assert np.array_equal(copy.targets, source.targets)
    assert same_reading(source, copy)


def hash_of(source: Source, row: int) -> str:
    return pixel_hash(decode(source.read(row), 3))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_worker_reads_the_same(source: Source) -> None:
    def work() -> None:
        sender.send([hash_of(source, row) for row in some_rows(source)])

    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    assert receiver.poll(30), "the worker hangs"
    assert receiver.recv() == [hash_of(source, row) for row in some_rows(source)]
    worker.join(10)
    receiver.close()
    sender.close()
    worker.close()


def test_another_task_is_given_or_refused_in_words(source: Source) -> None:
    for task in TASKS:
        copy = pickle.loads(pickle.dumps(source))
        try:
            change_task(copy, task)
        except ConfigError as error:
            assert f"task='{task}' does not fit {source.name}" in str(error)
            assert np.array_equal(copy.targets, source.targets), "a refusal leaves the source as it was"
        else:
            test_targets_have_the_form_of_their_task(copy)
            assert copy.task == task

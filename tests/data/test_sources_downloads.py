"""MNIST, Fashion-MNIST and CIFAR from small made-up files in every layout; downloads with the network replaced."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from tellapart.data.sources import SOURCES, open_source
from tellapart.data.sources.cifar import load_plain_pickle, open_cifar10, open_cifar100
from tellapart.data.sources.downloads import data_folder
from tellapart.data.sources.mnist import CLOTHES, open_fashion_mnist, open_mnist, read_idx
from tellapart.errors import DataError, MissingError

pytestmark = pytest.mark.filterwarnings("error")

RANDOM = np.random.default_rng(0)
TRAIN, TEST = (
    RANDOM.integers(0, 256, (12, 28, 28), dtype=np.uint8),
    RANDOM.integers(0, 256, (5, 28, 28), dtype=np.uint8),
)
# Two images a batch, values in CIFAR's order: all red, all green, all blue.
BATCHES = RANDOM.integers(0, 256, (6, 2, 3072), dtype=np.uint8)
NAMES_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fail)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True)
    for part, images in (("train", TRAIN), ("t10k", TEST)):
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return folder


def write_cifar10_python(folder: Path, protocol: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number, values in enumerate(BATCHES):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        entry = {"data": values, "labels": [number, 9], "batch_label": "x", "filenames": ["a.png", "b.png"]}
        (folder / name).write_bytes(pickle.dumps(entry, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES_10, "num_vis": 3072}, protocol))
    return folder


def write_cifar10_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, values in enumerate(BATCHES):
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        (folder / name).write_bytes(bytes([number]) + values[0].tobytes() + b"\x09" + values[1].tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES_10) + "\n\n")
    return folder


def check_cifar10(source: Any) -> None:
    assert source.classes == tuple(NAMES_10)
    assert source.targets.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert source.parts == ["train"] * 10 + ["test"] * 2
    assert (source.paths[0], source.paths[10]) == ("cifar10/train/0000", "cifar10/test/0000")
    assert source.num_channels == 3
    assert source.images.shape == (12, 32, 32, 3)
    red, green, blue = BATCHES[2, 1].reshape(3, 32, 32)
    assert np.array_equal(source.read(5), np.dstack([red, green, blue]))


# --- IDX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("place", "named"), [("MNIST/raw", ""), ("MNIST/raw", "MNIST"), ("MNIST/raw", "MNIST/raw")])
def test_mnist_from_disk(tmp_path: Path, zipped: bool, place: str, named: str) -> None:
    write_mnist(tmp_path / place, zipped=zipped)
    source = open_mnist(str(tmp_path / named))
    assert source.classes == tuple("0123456789")
    assert source.num_channels == 1
    assert np.array_equal(np.asarray(source.images), np.concatenate([TRAIN, TEST]))
    assert source.targets.tolist() == [*range(10), 0, 1, *range(5)]
    assert source.parts == ["train"] * 12 + ["test"] * 5
    assert source.paths[11:13] == ["mnist/train/0011", "mnist/test/0000"]


def test_mnist_equals_torchvisions_reader(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    write_mnist(tmp_path / "MNIST" / "raw")
    reference, source = MNIST(str(tmp_path), train=True), open_mnist(str(tmp_path))
    assert np.array_equal(reference.data.numpy(), np.asarray(source.images)[:12])
    assert reference.targets.tolist() == source.targets[:12].tolist()


def test_fashion_mnist_names_its_classes_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST

    write_mnist(tmp_path / "FashionMNIST" / "raw")
    source = open_fashion_mnist(str(tmp_path))
    assert source.classes == CLOTHES == tuple(FashionMNIST.classes)
    assert source.name == "fashion-mnist"


def test_every_damage_to_an_idx_file_is_named(tmp_path: Path) -> None:
    raw = idx(TRAIN)
    cases = {
        "short": raw[:-1],
        "long": raw + b"\0",
        "empty": b"",
        "header": raw[:10],
        "axes": idx(TRAIN[0]),
        "type": raw[:2] + b"\x0d" + raw[3:],
        "html": b"<html>not here</html>",
        "short.gz": gzip.compress(raw)[:-20],
        "text.gz": b"no gzip at all",
        "flipped.gz": gzip.compress(raw)[:5000] + b"\xff\xff\xff" + gzip.compress(raw)[5003:],
    }
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=name):
            read_idx(tmp_path / name, num_axes=3)
    (tmp_path / "whole").write_bytes(raw)
    assert np.array_equal(read_idx(tmp_path / "whole", num_axes=3), TRAIN)


def test_a_truncated_file_gives_its_size(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "MNIST" / "raw")
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: expected 3,936 bytes .* found 3,929"):
        open_mnist(str(tmp_path))


def test_labels_must_fit_the_images(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "MNIST" / "raw")
    for labels in (np.arange(11), np.array([10] * 12)):
        (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
        with pytest.raises(DataError, match="expected one label from 0 to 9 for each of the 12 images"):
            open_mnist(str(tmp_path))


# --- CIFAR ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("named", ["", "cifar-10-batches-py"])
def test_cifar10_from_python_batches(tmp_path: Path, named: str, protocol: int) -> None:
    write_cifar10_python(tmp_path / "cifar-10-batches-py", protocol)
    check_cifar10(open_cifar10(str(tmp_path / named)))


def test_cifar10_from_pickles_as_python_2_wrote_them(tmp_path: Path) -> None:
    folder = write_cifar10_python(tmp_path / "cifar-10-batches-py")
    for number, values in enumerate(BATCHES):
        text = pickle.STRING + repr(values.tobytes())[1:].encode() + b"\n"
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI3072\ntcnumpy\ndtype\n"
            b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n" + text + b"tb"
        )
        raw = b"(dS'data'\n" + array + b"sS'labels'\n(lI" + str(number).encode() + b"\naI9\nas."
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        (folder / name).write_bytes(raw)
    check_cifar10(open_cifar10(str(tmp_path)))


@pytest.mark.parametrize("named", ["", "cifar-10-batches-bin"])
def test_cifar10_from_binary_batches(tmp_path: Path, named: str) -> None:
    write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    check_cifar10(open_cifar10(str(tmp_path / named)))


def test_cifar100_takes_the_fine_labels_in_both_layouts(tmp_path: Path) -> None:
    fine_names = [f"fine{number}" for number in range(100)]
    python, binary = tmp_path / "a" / "cifar-100-python", tmp_path / "b" / "cifar-100-binary"
    python.mkdir(parents=True)
    binary.mkdir(parents=True)
    for name, values in (("train", BATCHES[0]), ("test", BATCHES[1])):
        entry = {"data": values, "fine_labels": [3, 99], "coarse_labels": [0, 19]}
        (python / name).write_bytes(pickle.dumps(entry, 2))
        records = b"\x00\x03" + values[0].tobytes() + b"\x13\x63" + values[1].tobytes()
        (binary / f"{name}.bin").write_bytes(records)
    meta = {"fine_label_names": fine_names, "coarse_label_names": ["c"] * 20}
    (python / "meta").write_bytes(pickle.dumps(meta, 2))
    (binary / "fine_label_names.txt").write_text("\n".join(fine_names))
    one, two = open_cifar100(str(tmp_path / "a")), open_cifar100(str(tmp_path / "b"))
    assert one.classes == two.classes == tuple(fine_names)
    assert one.targets.tolist() == two.targets.tolist() == [3, 99, 3, 99]
    assert np.array_equal(np.asarray(one.images), np.asarray(two.images))
    assert one.paths == two.paths


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cannot_run_code(tmp_path: Path, protocol: int) -> None:
    folder = write_cifar10_python(tmp_path / "cifar-10-batches-py")
    trace = tmp_path / "ran"
    raw = pickle.dumps({"data": BATCHES[0], "labels": [0, 1], "extra": _Trap(trace)}, protocol)
    (folder / "data_batch_3").write_bytes(raw)
    with pytest.raises(DataError, match=r"data_batch_3: refused or damaged: it asks to run"):
        open_cifar10(str(tmp_path))
    assert not trace.exists()
    pickle.loads(raw)
    assert trace.exists(), "the trap itself must work, or the test proves nothing"


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"c_codecs\nlookup\n.",
        b"cnumpy\nndarray.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        b"(S'x'\nios\nsystem\n.",
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
        b"Pid\n.",
        b"\x82\x01.",
    ],
)
def test_every_other_way_to_name_code_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "batch").write_bytes(raw)
    with pytest.raises(DataError, match="batch: refused or damaged"):
        load_plain_pickle(tmp_path / "batch")


def test_arrays_of_objects_or_floats_are_refused(tmp_path: Path) -> None:
    for values in (np.array([{}], object), np.zeros(3), np.zeros(3, np.int8)):
        (tmp_path / "batch").write_bytes(pickle.dumps({"data": values}, 2))
        with pytest.raises(DataError, match="not of uint8"):
            load_plain_pickle(tmp_path / "batch")


def test_damaged_batches_are_named(tmp_path: Path) -> None:
    folder = write_cifar10_python(tmp_path / "cifar-10-batches-py")
    whole = (folder / "data_batch_2").read_bytes()
    bad_entries = [
        {"labels": [0, 1]},
        {"data": [1, 2], "labels": [0, 1]},
        {"data": BATCHES[0][:, :-1], "labels": [0, 1]},
        {"data": BATCHES[0], "labels": [0]},
        {"data": BATCHES[0], "labels": [0, 10]},
        {"data": BATCHES[0], "labels": [0, -1]},
        {"data": BATCHES[0], "labels": [0, "1"]},
        {"data": BATCHES[0]},
        [1, 2],
    ]
    for raw in (b"", b"text", whole[:-1000], *(pickle.dumps(entry, 2) for entry in bad_entries)):
        (folder / "data_batch_2").write_bytes(raw)
        with pytest.raises(DataError, match="data_batch_2"):
            open_cifar10(str(tmp_path))
    (folder / "data_batch_2").write_bytes(whole)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": "abc"}))
    with pytest.raises(DataError, match=r"batches\.meta: expected the names"):
        open_cifar10(str(tmp_path))


def test_a_binary_batch_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    folder = write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    path = folder / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected records of 3073 bytes, found 6,145"):
        open_cifar10(str(tmp_path))


@pytest.mark.parametrize("protocol", range(5))
def test_what_is_plain_reads_as_with_pickle(tmp_path: Path, protocol: int) -> None:
    entry = {
        "data": BATCHES[0],
        "turned": np.asfortranarray(BATCHES[1]),
        "labels": [1, 2],
        "nested": {"a": [1.5, None]},
    }
    (tmp_path / "batch").write_bytes(pickle.dumps(entry, protocol))
    found = load_plain_pickle(tmp_path / "batch")
    assert found.keys() == entry.keys()
    assert np.array_equal(found["data"], BATCHES[0])
    assert np.array_equal(found["turned"], BATCHES[1])
    assert (found["labels"], found["nested"]) == (entry["labels"], entry["nested"])


# --- where the files are, and downloads ----------------------------------------------------------------------------


def test_the_data_folder_follows_the_xdg_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder("") == tmp_path / "home/.cache/tellapart/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder("") == tmp_path / "cache/tellapart/data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_folder("") == tmp_path / "home/.cache/tellapart/data"
    assert data_folder("~/mine") == tmp_path / "home/mine"


def test_the_default_folder_is_looked_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_mnist(tmp_path / "tellapart/data/MNIST/raw")
    assert len(open_source("mnist")) == 17


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits"}))
def test_without_files_and_network_the_error_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        open_source(name, data_dir=str(tmp_path))
    message = str(caught.value)
    for part in (f"'{name}'", "no network in tests", str(tmp_path), "--data-dir", "Parquet", "folder of images"):
        assert part in message


def test_an_incomplete_set_counts_as_missing(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "MNIST" / "raw")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingError, match="train-labels-idx1-ubyte"):
        open_mnist(str(tmp_path))


def test_downloads_use_torchvisions_addresses_and_checksums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10, MNIST

    calls: list[tuple[str, str | None]] = []

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        calls.append((url, md5))
        if url == CIFAR10.url:
            write_cifar10_python(Path(root) / "cifar-10-batches-py")
        elif not Path(root).exists():
            write_mnist(Path(root))

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    check_cifar10(open_cifar10(str(tmp_path)))
    assert calls == [(CIFAR10.url, CIFAR10.tgz_md5)]
    calls.clear()
    assert len(open_mnist(str(tmp_path))) == 17
    assert calls == [(f"{MNIST.mirrors[0]}{file}", md5) for file, md5 in MNIST.resources]
    calls.clear()
    open_mnist(str(tmp_path))
    assert calls == [], "what is on disk is not fetched again"


def test_the_next_mirror_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    def fetch(url: str, root: str, **_: object) -> None:
        if url.startswith(MNIST.mirrors[0]):
            raise URLError("down")
        if not Path(root).exists():
            write_mnist(Path(root))

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    assert len(open_mnist(str(tmp_path))) == 17


def test_a_download_that_brings_something_else_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", lambda *_, **__: None)
    with pytest.raises(MissingError, match="does not hold the expected files"):
        open_cifar10(str(tmp_path))


def test_a_silent_server_cannot_hang_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    limits = []
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_and_extract_archive",
        lambda *_, **__: limits.append(socket.getdefaulttimeout()),
    )
    with pytest.raises(MissingError):
        open_cifar10(str(tmp_path))
    assert limits == [30.0]
    assert socket.getdefaulttimeout() is None

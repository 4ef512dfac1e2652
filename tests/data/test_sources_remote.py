"""Shards behind an address: the same samples as on a disk, parts of files only, and a network that fails."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from tellapart.data.sources import open_source
from tellapart.data.sources.tar.index import write_index
from tellapart.data.sources.tar.remote import NotThereError, RemoteFiles
from tellapart.data.sources.tar.remote_system import shown
from tellapart.data.sources.tar.source import TarSource
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError, MissingError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Server:
    """A web server on this machine that counts what it is asked for, and can be made to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranges, self.num_whole = folder, [], 0
        self.gives_parts = True
        self.failures: list[int] = []
        self.cut_short = 0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 2**16  # an answer in one packet: two would wait for each other

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                owner.answer(self, with_body=False)

            def do_GET(self) -> None:
                owner.answer(self, with_body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = self.folder / request.path.partition("?")[0].lstrip("/")
        asked = request.headers.get("Range") if self.gives_parts else None
        with self.lock:
            failure = self.failures.pop() if self.failures and with_body else 0
            is_cut = bool(self.cut_short and with_body)
            self.cut_short -= is_cut
        if failure or not path.is_file():
            self.send(request, failure or 404, b"no", {}, with_body)
            return
        data, headers, status = path.read_bytes(), {"ETag": f'"{path.stat().st_mtime_ns}"'}, 200
        if asked:
            start, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[start : end + 1], 206
        if with_body:
            with self.lock:
                self.ranges += [len(data)] if asked else []
                self.num_whole += not asked
        self.send(request, status, data[: len(data) // 2] if is_cut else data, headers, with_body)

    def send(self, request: Any, status: int, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        try:
            request.wfile.write(data if with_body else b"")
        except OSError:
            request.close_connection = True

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def no_waits_and_an_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tellapart.data.sources.tar.remote.time.sleep", lambda seconds: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "web").mkdir()
    server = Server(tmp_path / "web")
    yield server
    server.close()


def image(number: int) -> bytes:
    return bytes([number]) * (1000 + number)


def shard(first: int, count: int, size: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(first, first + count):
            for name, data in (
                (f"{number:04d}.jpg", image(number).ljust(size, b"\1")),
                (f"{number:04d}.cls", b"%d" % (number % 2)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def shards(server: Server) -> str:
    for number in range(3):
        (server.folder / f"train-{number:04d}.tar").write_bytes(shard(10 * number, 10))
    (server.folder / "classes.json").write_text('{"task": "multiclass", "classes": ["ant", "bee"]}')
    return f"{server.address}/train-{{0000..0002}}.tar"


EXPECTED = [image(number) for number in range(30)]


def contents(source: TarSource) -> list[bytes]:
    return [source.read(index) for index in range(len(source))]


# --- the web ---------------------------------------------------------------------------------------------------------


def test_the_same_samples_as_on_a_disk(server: Server, shards: str) -> None:
    source, local = open_source(shards), TarSource(server.folder)
    assert isinstance(source, TarSource)
    for name in ("paths", "parts", "classes", "task", "notes"):
        assert getattr(source, name) == getattr(local, name), name
    assert source.classes == ("ant", "bee")
    assert source.targets.tolist() == local.targets.tolist()
    assert source.blocks is not None
    assert source.blocks.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert contents(source) == EXPECTED
    assert source.read_many([29, 0, 7, 7]) == [EXPECTED[number] for number in (29, 0, 7, 7)]


def test_the_index_is_kept_and_belongs_to_what_the_server_has(server: Server, shards: str) -> None:
    TarSource(shards)
    asked = sum(server.ranges)
    assert contents(TarSource(shards)) == EXPECTED
    assert sum(server.ranges) - asked < 2 * len(shard(0, 30))
    path = server.folder / "train-0000.tar"
    path.write_bytes(shard(50, 10))
    os.utime(path, ns=(1, 1))
    assert TarSource(shards).read(0) == image(50)


def test_an_index_beside_the_shard_spares_reading_it(server: Server) -> None:
    path = server.folder / "big.tar"
    path.write_bytes(shard(0, 10, size=200_000))
    (server.folder / "page.tar").write_bytes(shard(0, 3))
    write_index(path)
    source = TarSource(f"{server.address}/big.tar?token=secret")
    assert max(server.ranges) <= 512
    assert source.read(3) == image(3).ljust(200_000, b"\1")
    assert source.paths[0] == "big.tar/0000.jpg"
    # Some servers give a page, not an error, for what is not there.
    (server.folder / "page.tar.index").write_text("<html>not found</html>")
    (server.folder / "classes.txt").write_text("<!DOCTYPE html>\n<p>not found</p>")
    assert TarSource(f"{server.address}/page.tar").notes == []


def test_a_query_is_sent_and_never_shown(server: Server, shards: str) -> None:
    source = TarSource(f"{shards}?token=secret")
    assert contents(source) == EXPECTED
    assert source.name == "train-{0000..0002}.tar"
    assert not any("secret" in path for path in source.paths)
    for wrong in ("nothing-{0..1}.tar?token=secret", "classes.json?x=/a.tar&token=secret"):
        with pytest.raises(DataError) as error:
            TarSource(f"{server.address}/{wrong}")
        assert "secret" not in str(error.value)
    assert shown("https://me:password@example.org/a.tar") == "https://example.org/a.tar"


def test_missing_shards_are_named_at_once(server: Server, shards: str) -> None:
    with pytest.raises(DataError, match=r"2 of 5 shards are not there: http\S*train-0003.tar, http\S*train-0004.tar\."):
        TarSource(shards.replace("0002", "0004"))
    with pytest.raises(DataError, match=r"expected tar shards there, such as http\S*/none/train-\{0000\.\.0127\}\.tar"):
        TarSource(f"{server.address}/none/")


def test_a_server_without_parts_is_refused_before_a_shard_is_fetched(server: Server, shards: str) -> None:
    server.gives_parts = False
    with pytest.raises(DataError, match="the server gives only whole files"):
        TarSource(shards)


def test_a_failure_that_passes_is_not_noticed(server: Server, shards: str) -> None:
    source = TarSource(shards)
    server.failures = [503, 500, 429]
    assert source.read(4) == image(4)
    assert server.failures == []
    server.cut_short = 2
    assert source.read_many(range(8, 12)) == EXPECTED[8:12]


def test_a_failure_that_stays_is_no_bad_image(server: Server, shards: str) -> None:
    source = TarSource(shards)
    server.failures = [503] * 100
    for read in (lambda: source.read(4), lambda: source.read_many([4, 5])):
        with pytest.raises(
            DataError, match=r"train-0000.tar: could not be read in 4 attempts: ClientResponseError: 503"
        ) as error:
            read()
        assert not isinstance(error.value, ImageError)
    server.failures = [403]
    with pytest.raises(DataError, match="cannot be read: ClientResponseError: 403"):
        source.read(4)
    assert server.failures == []
    (server.folder / "train-0000.tar").unlink()
    with pytest.raises(NotThereError, match=r"train-0000\.tar: there is no such file"):
        source.read(4)


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tellapart.data.sources.tar.remote.time.sleep", waits.append)
    with pytest.raises(
        DataError, match=r"http://127.0.0.1:9/a.tar: could not be read in 4 attempts: ClientConnectorError"
    ):
        RemoteFiles().facts("http://127.0.0.1:9/a.tar")
    assert waits == [0.5, 1.0, 2.0]


# --- what is fetched -------------------------------------------------------------------------------------------------


@pytest.fixture
def large(server: Server) -> str:
    data = np.random.default_rng(0).bytes(200_000)
    (server.folder / "large.tar").write_bytes(data)
    return f"{server.address}/large.tar"


def test_reading_in_a_row_fetches_each_block_once_and_ahead(server: Server, large: str) -> None:
    files, whole = RemoteFiles(block_bytes=2**14), (server.folder / "large.tar").read_bytes()
    files.facts(large)
    assert b"".join(files.read(large, start, 1000) for start in range(0, 200_000, 1000)) == whole
    assert sum(server.ranges) <= 200_000 + 2000
    assert max(server.ranges) == 2**14
    assert len(server.ranges) <= 16


def test_reading_far_apart_fetches_what_is_needed(server: Server, large: str) -> None:
    files, whole = RemoteFiles(block_bytes=2**14, num_blocks=4), (server.folder / "large.tar").read_bytes()
    files.facts(large)
    starts = np.random.default_rng(1).permutation(199)[:80] * 1000
    assert all(files.read(large, int(start), 500) == whole[start : start + 500] for start in starts)
    # The first reads may be taken for neighbours.
    assert sum(server.ranges) < 80 * 500 + 5 * 2**14


def test_no_more_blocks_are_held_than_said(server: Server, large: str) -> None:
    files = RemoteFiles(block_bytes=2**12, num_blocks=5)
    files.facts(large)
    for start in range(0, 200_000, 500):
        files.read(large, start, 500)
        assert len(files._state.get().blocks) <= 5


def test_edges_of_blocks_and_of_the_file(server: Server, large: str) -> None:
    files, whole = RemoteFiles(block_bytes=1000), (server.folder / "large.tar").read_bytes()
    files.facts(large)
    for start, size in (
        (0, 0),
        (0, 1000),
        (999, 2),
        (1000, 1000),
        (500, 2500),
        (199_000, 1000),
        (199_999, 1),
        (0, 200_000),
    ):
        for _ in range(3):
            assert files.read(large, start, size) == whole[start : start + size]
    with pytest.raises(DataError, match="could not be read in 4 attempts"):
        files.read(large, 199_500, 1000)


def test_threads_read_the_same_bytes(server: Server, large: str) -> None:
    files, whole = RemoteFiles(block_bytes=2**14, num_blocks=2), (server.folder / "large.tar").read_bytes()
    files.facts(large)
    starts = [*range(0, 190_000, 2000), *np.random.default_rng(2).integers(0, 190_000, 50).tolist()]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda start: files.read(large, start, 1500), starts))
    assert found == [whole[start : start + 1500] for start in starts]


# --- processes -------------------------------------------------------------------------------------------------------


class _Bytes(Dataset[bytes]):
    def __init__(self, source: TarSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> bytes:
        return self.source.read(index)


def test_forked_workers_read_the_same_bytes(shards: str) -> None:
    source = TarSource(shards)
    assert contents(source) == EXPECTED  # the connections and blocks of this process are open now
    for _ in range(2):
        loader = DataLoader(_Bytes(source), batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork")
        assert list(loader) == EXPECTED
    assert contents(source) == EXPECTED


def test_a_source_survives_pickling(shards: str) -> None:
    source = TarSource(shards)
    contents(source)
    raw = pickle.dumps(source)
    assert len(raw) < 10_000
    assert contents(pickle.loads(raw)) == EXPECTED


# --- other stores ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    system = fsspec.filesystem("memory")
    yield lambda path, data: system.pipe_file(path, data)
    system.rm("/tellapart", recursive=True)


def test_memory(memory: Callable[[str, bytes], None]) -> None:
    for number in range(3):
        memory(f"/tellapart/train/{number}.tar", shard(10 * number, 10))
    memory("/tellapart/train/classes.txt", b"ant\nbee")
    patterns = ("train/{0..2}.tar", "train", "train/", "", "train/*.tar", "*/{0..2}.tar")
    for pattern in patterns:
        source = TarSource(f"memory://tellapart/{pattern}")
        assert contents(source) == EXPECTED
        assert source.parts == ["train" if pattern == "" else ""] * 30
        assert source.classes == ("ant", "bee")
    with pytest.raises(DataError, match=r"1 of 1 shards are not there: memory://tellapart/x\.tar"):
        TarSource("memory://tellapart/x.tar")
    with pytest.raises(DataError, match="expected tar shards there, found no"):
        TarSource("memory://tellapart/x*.tar")


class Store(Server):
    """As much of S3 as reading takes: objects by key, and lists of keys by prefix."""

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" not in query:
            super().answer(request, with_body=with_body)
            return
        bucket = parts.path.strip("/")
        keys = [str(path.relative_to(self.folder / bucket)) for path in (self.folder / bucket).rglob("*.tar")]
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "\0")
        keys = sorted(key for key in keys if key.startswith(prefix))
        folders = {
            prefix + key.removeprefix(prefix).split(delimiter)[0] + "/"
            for key in keys
            if "/" in key.removeprefix(prefix)
        }
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        listed = "".join(
            f"<Contents><Key>{key}</Key><Size>{(self.folder / bucket / key).stat().st_size}</Size>"
            f'<LastModified>{now}</LastModified><ETag>"1"</ETag></Contents>'
            for key in keys
            if delimiter not in key.removeprefix(prefix)
        )
        listed += "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders))
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{space}"><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{listed}'
        self.send(request, 200, f"{text}</ListBucketResult>".encode(), {"Content-Type": "application/xml"}, with_body)


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    (tmp_path / "store" / "bucket" / "d").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "store" / "bucket" / "d" / f"train-{number}.tar").write_bytes(shard(10 * number, 10))
    store = Store(tmp_path / "store")
    try:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": store.address, "anon": True})
        for address in ("s3://bucket/d/train-{0..2}.tar", "s3://bucket/d", "s3://bucket/d/train-*.tar", "s3://bucket"):
            source = TarSource(address)
            assert contents(source) == EXPECTED
            assert source.paths[0] == ("d/" if address == "s3://bucket" else "") + "train-0.tar/0000.jpg"
        assert source.read_many([3, 20]) == [EXPECTED[3], EXPECTED[20]]
        assert store.num_whole == 0
        loader = DataLoader(_Bytes(source), batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork")
        assert list(loader) == EXPECTED
        with pytest.raises(DataError, match=r"1 of 4 shards are not there: s3://bucket/d/train-3\.tar"):
            TarSource("s3://bucket/d/train-{0..3}.tar")
        store.failures = [403] * 9
        with pytest.raises(DataError, match=r"s3://bucket/d/train-0.tar: cannot be read: .*FSSPEC_S3_ANON=true"):
            source.read_many([0])
    finally:
        store.close()


def test_what_is_not_installed_and_what_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, "gs", raising=False)
    monkeypatch.setitem(registry.known_implementations, "gs", {"class": "no_such_module.System", "err": "Install it"})
    with pytest.raises(MissingError, match=r"gs://b/a.tar: .*pip install 'tellapart\[remote\]' \(it needs gcsfs\)"):
        TarSource("gs://b/a.tar")
    with pytest.raises(DataError, match=r"unknown kind of address 'htps'\. Did you mean 'http"):
        TarSource("htps://example.org/a.tar")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingError, match=r"pip install 'tellapart\[remote\]' \(it needs s3fs\)"):
        TarSource("s3://b/a.tar")

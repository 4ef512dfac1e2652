"""hf:// addresses: against a local stand-in for the Hub, through the real client."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tellapart.data.sources import open_source
from tellapart.data.sources.hub import Address, choose_files, parse
from tellapart.errors import DataError, MissingError

SHA = "0123456789abcdef0123456789abcdef01234567"


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(*labels: str, first: int = 0) -> bytes:
    buffer = io.BytesIO()
    rows = [{"bytes": png(first + row), "path": f"{first + row}.png"} for row in range(len(labels))]
    pq.write_table(pa.table({"image": rows, "label": list(labels)}), buffer)
    return buffer.getvalue()


class Hub:
    """What the stand-in has: the files of each data set, and how it answers."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.sha = SHA
        self.refusal: tuple[int, str] | None = None
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.refusal is not None:
            status, code = self.refusal
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "datasets"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            if repo not in self.repos:
                return 401, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
            if rest[:1] == ["revision"] and rest[1] not in ("main", self.sha):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            if rest[:1] == ["tree"]:
                return 200, {}, json.dumps(self.tree(repo)).encode()
            return 200, {}, json.dumps({"id": repo, "sha": self.sha, "siblings": []}).encode()
        repo, file = "/".join(parts[1:3]), "/".join(parts[5:])
        raw = self.repos[repo].get(file)
        if raw is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{abs(hash((repo, file, raw))):x}"', "X-Repo-Commit": self.sha}, raw

    def tree(self, repo: str) -> list[dict[str, Any]]:
        files = self.repos[repo]
        folders = {"/".join(file.split("/")[:depth]) for file in files for depth in range(1, file.count("/") + 1)}
        rows = [{"type": "directory", "path": folder, "oid": "0"} for folder in sorted(folders)]
        return rows + [
            {"type": "file", "path": file, "size": len(raw), "oid": "0" * 40} for file, raw in sorted(files.items())
        ]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, raw = found.answer(urlsplit(self.path).path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(raw)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *_: object) -> None: ...

    # Its constants are read from the environment once, and are to be those of the real Hub for the tests after these.
    pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield found
    server.shutdown()
    server.server_close()


def open_hub(text: str, tmp_path: Path) -> Any:
    return open_source(text, data_dir=str(tmp_path / "data"))


def test_shards_of_parquet_are_fetched_and_opened(hub: Hub, tmp_path: Path) -> None:
    hub.repos["ann/pets"] = {
        "README.md": b"about",
        "assets/example.png": png(9),
        "data/train-0.parquet": parquet("cat", "dog"),
        "data/test-0.parquet": parquet("dog", first=7),
    }
    source = open_hub("hf://ann/pets", tmp_path)
    assert (source.name, source.classes, source.parts) == ("ann/pets", ("cat", "dog"), ["train", "train", "test"])
    assert source.read(2) == png(7)
    assert source.notes[0].startswith(f"hf://ann/pets at commit {SHA[:10]}, 2 files in {tmp_path}")
    assert not any("README" in path or "example" in path for path in hub.asked), "nothing else is fetched"


def test_a_second_time_nothing_is_fetched_and_without_a_network_the_copy_serves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["ann/pets"] = {"train.parquet": parquet("cat", "dog")}
    open_hub("hf://ann/pets", tmp_path)
    hub.asked.clear()
    source = open_hub("hf://ann/pets", tmp_path)
    assert len(hub.asked) == 1
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = open_hub("hf://ann/pets", tmp_path)
    assert again.notes[0].endswith("(the Hub could not be reached; this copy was fetched before).")
    assert again.paths == source.paths
    next((tmp_path / "data" / "hub").glob("*/snapshots/*/train.parquet")).unlink()
    with pytest.raises(MissingError, match=r"ann/pets: could not be fetched .* Without a network, copy the data set"):
        open_hub("hf://ann/pets", tmp_path)


def test_a_new_commit_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repos["ann/pets"] = {"train.parquet": parquet("cat", "dog")}
    open_hub("hf://ann/pets", tmp_path)
    hub.sha = SHA[::-1]
    hub.repos["ann/pets"] = {"train.parquet": parquet("cat", "dog", "eel")}
    assert open_hub("hf://ann/pets", tmp_path).classes == ("cat", "dog", "eel")


def test_a_folder_of_images_with_a_table(hub: Hub, tmp_path: Path) -> None:
    hub.repos["ann/pets"] = {
        "train/metadata.csv": b"file_name,label\n0.PNG,cat\n1.PNG,dog\n",
        "train/0.PNG": png(0),
        "train/1.PNG": png(1),
        "test/metadata.csv": b"file_name,label\n2.PNG,cat\n",
        "test/2.PNG": png(2),
        "video.mp4": b"",
    }
    source = open_hub("hf://ann/pets", tmp_path)
    assert sorted(zip(source.paths, source.parts, strict=True)) == [
        ("test/2.PNG", "test"),
        ("train/0.PNG", "train"),
        ("train/1.PNG", "train"),
    ]


def test_more_images_than_are_asked_for_by_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellapart.data.sources.hub._MAX_NAMED", 2)
    hub.repos["ann/pets"] = {f"pets/{label}/[{row}].png": png(row) for label in ("cat", "dog") for row in range(2)}
    hub.repos["ann/pets"]["notes.txt"] = b""
    source = open_hub("hf://ann/pets/pets", tmp_path)
    assert (source.name, source.paths[0], len(source)) == ("ann/pets/pets", "cat/[0].png", 4)
    assert not any("notes" in path for path in hub.asked)


def test_a_revision_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.repos["ann/pets"] = {"train.parquet": parquet("cat", "dog")}
    assert len(open_hub(f"hf://ann/pets@{SHA}", tmp_path)) == 2
    with pytest.raises(DataError, match="ann/pets: there is no branch, tag or commit 'v9'"):
        open_hub("hf://ann/pets@v9", tmp_path)


def test_what_the_hub_refuses_is_said_in_words(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set, or it is private"):
        open_hub("hf://ann/nothing", tmp_path)
    hub.refusal = (403, "GatedRepo")
    with pytest.raises(DataError, match="its owner asks who uses it"):
        open_hub("hf://ann/pets", tmp_path)
    hub.refusal = (500, "")
    with pytest.raises(MissingError, match=r"hf://ann/pets: could not be fetched \(HfHubHTTPError"):
        open_hub("hf://ann/pets", tmp_path)
    hub.refusal, hub.repos["ann/pets"] = None, {"data/train.parquet": parquet("cat", "dog")}
    with pytest.raises(DataError, match=r"no such folder. Did you mean data"):
        open_hub("hf://ann/pets/date", tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingError, match=r"pip install 'tellapart\[hub\]'"):
        open_hub("hf://ann/pets", tmp_path)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://a/b", Address("a/b", "main", "")),
        ("hf://datasets/a/b/", Address("a/b", "main", "")),
        ("hf://a/b@v1/x/y", Address("a/b", "v1", "x/y")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize("text", ["hf://", "hf://a", "hf://a/b/../c", "hf://a/b@"])
def test_addresses_of_another_form(text: str) -> None:
    with pytest.raises(DataError, match="expected hf://OWNER/NAME"):
        parse(text)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["data/train-0.parquet", "x.tar", "a/1.jpg"], ["data/train-0.parquet"]),
        (["train/0.parquet", "test/0.parquet"], ["train/0.parquet", "test/0.parquet"]),
        (["default/train/0.parquet", "default/test/0.parquet"], ["default/train/0.parquet", "default/test/0.parquet"]),
        (["a.tar", "b/c.tar", ".cache/d.tar"], ["a.tar"]),
        (["metadata.parquet", "images/1.jpg"], ["images/1.jpg", "metadata.parquet"]),
        (["train.csv", "images/1.jpg", "other.csv"], ["images/1.jpg", "train.csv"]),
    ],
)
def test_which_files_are_chosen(files: list[str], chosen: list[str]) -> None:
    assert choose_files(files, "hf://a/b") == chosen


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cats/train-0.parquet", "dogs/train-0.parquet"], "several data sets, one a folder: cats, dogs. Name one"),
        (["data/images.zip"], r"found data/images.zip. It has archives \(data/images.zip\): download and unpack"),
        (["b.py", "README.md"], "scripts are never run; a copy in Parquet may be at hf://a/b@refs%2Fconvert%2Fparquet"),
        ([], "found nothing"),
    ],
)
def test_what_cannot_be_chosen(files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_files(files, "hf://a/b")

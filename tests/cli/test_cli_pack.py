"""`tellapart pack`: what it prints, how it is stopped and goes on, and what it exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tellapart
from tellapart.cli import pack as verb
from tellapart.data.sources import open_source
from tellapart.errors import Interrupted

SOURCE = Path(tellapart.__file__).parents[1]
# Slowed down after each shard, so that a test can stop it where it wants to.
SLOWLY = """
import sys, time
from tellapart.cli import main
from tellapart.data.packing.folder import Folder
keep = Folder.keep
def slowly(*arguments):
    keep(*arguments)
    time.sleep(0.3)
Folder.keep = slowly
main.VERBS["pack"] = ""
main.main(sys.argv[1:])
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An npz file of 4.4 MB of noise, which makes four shards of 1 MiB and more."""
    images = np.random.default_rng(0).integers(0, 256, (90, 128, 128, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.array(["ant", "bee", "cat"] * 30))
    return tmp_path / "data.npz"


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    arguments = ["pack", str(data), str(out), "--shard-mib", "1", "--num-workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def shards_kept(out: Path) -> list[Path]:
    return list(out.glob(".packing/*.parquet.json"))


def wait_for_shards(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + 240
    while len(shards_kept(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no shards come"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes as Linux lists them")
def test_killed_and_interrupted_it_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = start(data, out)
    wait_for_shards(killed, out, 1)
    workers = children(killed.pid)
    assert len(workers) == 2
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [path.name for path in out.iterdir()] == [".packing"], "nothing that looks like a data set"

    stopped = start(data, out)
    wait_for_shards(stopped, out, len(shards_kept(out)) + 1)
    assert not [worker for worker in workers if is_alive(worker)], "the killed process's workers are gone"
    first = time.monotonic()
    os.killpg(stopped.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    printed, problems = stopped.communicate(timeout=120)
    assert time.monotonic() - first < 30
    assert stopped.returncode == 75
    assert "of 4 shards are there already." in printed
    assert problems == f"tellapart pack: stopped; what is whole is kept in {out}, and the same command goes on.\n"

    for folder in (out, tmp_path / "fresh"):
        assert verb.run([str(data), str(folder), "--shard-mib", "1", "--num-workers", "0"]) == 0
    assert contents(out) == contents(tmp_path / "fresh")


def test_it_says_what_it_saved(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert verb.run([str(data), str(out), "--max-size", "64", "--encode", "jpeg"]) == 0
    printed, problems = capsys.readouterr()
    assert "90 images, 4.4 MB -> " in printed
    assert f"90 scaled down to 64 px; 1 shard in {out}.\nTrain with: tellapart train {out}\n" in printed
    assert problems == ""


def test_json_on_stdout_and_all_else_on_stderr(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(data), str(tmp_path / "out"), "--json", "--format", "webdataset", "--no-shuffle"]
    assert verb.run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_images"], found["num_encoded"], found["shards"]) == (90, 90, ["data-00000.tar"])
    assert verb.run(arguments) == 0
    printed, problems = capsys.readouterr()
    assert json.loads(printed) == found
    assert "1 of 1 shards are there already." in problems


def test_options_reach_the_packing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = "--max-size 0 --encode webp --quality 30 --shard-mib 7 --seed 5 --bad-images skip --num-workers 0"
    assert verb.run([str(data), str(out), *options.split()]) == 0
    capsys.readouterr()
    assert json.loads((out / "pack.json").read_text())["plan"]["settings"] == {
        "format": "parquet",
        "max_size_px": 0,
        "encode": "webp",
        "quality": 30,
        "shard_mib": 7,
        "shuffle": True,
        "seed": 5,
    }
    assert len(open_source(out)) == 90


def test_an_interruption_is_told_apart_from_a_failure(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tellapart.api.pack.pack", interrupt)
    with pytest.raises(Interrupted, match="the same command goes on"):
        verb.run([str(data), str(tmp_path / "out")])


@pytest.mark.parametrize("option", [["--format", "zip"], ["--max-size", "big"], ["--encode", "gif"]])
def test_wrong_values_exit_with_2(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        verb.run(["digits", "out", *option])
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err

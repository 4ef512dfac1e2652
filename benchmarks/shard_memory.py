"""Memory while an epoch is streamed from tar shards that are far larger than it.

    python benchmarks/shard_memory.py [--gib 10] [--work DIR] [--workers 2] [--json]

Shards of the given total size are made up in DIR (kept there, and used again, if it is given): JPEGs of about 100 KB,
few different pictures, each copy with a comment of its own. Then one whole epoch is read through a source and the
loader with worker processes, at 64 px and without a cache. What is sampled is the sum, over this process and all its
workers, of the proportional set size (each shared page divided by the number of processes that share it); pages of
files that the system caches do not count, because it gives them back. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMAGE_PX, NUM_PICTURES, NUM_CLASSES = 400, 200, 10
SHARD_BYTES, SIZE_PX, BATCH_SIZE = 2**28, 64, 128
SAMPLE_EVERY_S = 0.2
TARGET_GIB = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=10.0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.stream:
        print(json.dumps(stream(found.stream, found.workers)))
        return
    work = found.work or Path(tempfile.mkdtemp(prefix="shard-memory-"))
    try:
        made_s = make_shards(work / "shards", round(found.gib * 2**30))
        # In a process of its own, so that what made the shards does not count.
        command = [sys.executable, __file__, "--stream", str(work / "shards"), "--workers", str(found.workers)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
        out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        if found.work is None:
            shutil.rmtree(work, ignore_errors=True)
    result = {**json.loads(out.splitlines()[-1]), "made_s": round(made_s, 1)}
    print(json.dumps(result) if found.json else report(result))


def report(result: dict[str, Any]) -> str:
    """Return the result in words."""
    verdict = "under" if result["peak_gib"] < TARGET_GIB else "OVER"
    return (
        f"{result['num_images']:,} images, {result['gib']} GiB in {result['num_shards']} shards, "
        f"{result['num_workers']} workers\n"
        f"indexed in {result['first_open_s']} s, opened again in {result['open_s']} s, "
        f"epoch in {result['epoch_s']} s ({result['images_per_s']:,} images/s)\n"
        f"peak memory {result['peak_gib']} GiB ({result['before_gib']} GiB before the epoch): "
        f"{verdict} {TARGET_GIB} GiB"
    )


# --- the shards ------------------------------------------------------------------------------------------------------


def make_shards(folder: Path, num_bytes: int) -> float:
    """Write shards of `num_bytes` in all, unless they are there; return the seconds that it took."""
    start, done = time.perf_counter(), folder / "done"
    if done.is_file() and done.read_text() == str(num_bytes):
        return 0.0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pictures = make_pictures()
    number = written = shard = 0
    while written < num_bytes:
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as tar:
            held = 0
            while held < min(SHARD_BYTES, num_bytes - written):
                held += add_sample(tar, number, pictures[number % NUM_PICTURES])
                number += 1
        written, shard = written + held, shard + 1
    done.write_text(str(num_bytes))
    return time.perf_counter() - start


def make_pictures() -> list[bytes]:
    """Return different JPEGs of about 100 KB: noise, which JPEG cannot make small."""
    import numpy as np
    from PIL import Image

    found = []
    for number in range(NUM_PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", quality=70)
        found.append(buffer.getvalue())
    return found


def add_sample(tar: tarfile.TarFile, number: int, picture: bytes) -> int:
    """Write a picture with a comment of its own behind its first marker, and its label; return the bytes it took."""
    comment = b"\xff\xfe" + (2 + 8).to_bytes(2, "big") + number.to_bytes(8, "big")
    taken = 0
    for ending, data in (("jpg", picture[:2] + comment + picture[2:]), ("cls", b"%d" % (number * 7 % NUM_CLASSES))):
        member = tarfile.TarInfo(f"{number:09d}.{ending}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        taken += 512 + -(-len(data) // 512) * 512
    return taken


# --- the epoch -------------------------------------------------------------------------------------------------------


def stream(folder: Path, num_workers: int) -> dict[str, Any]:
    """Read one epoch and return what it took."""
    import torch

    from tellapart.config import AugmentConfig
    from tellapart.data import Augment, Preprocess, WorkerLoader
    from tellapart.data.loader import Order
    from tellapart.data.reading import ReducedImages
    from tellapart.data.sources.tar.source import TarSource

    start = time.perf_counter()
    TarSource(folder)
    first_open_s = time.perf_counter() - start
    start = time.perf_counter()
    source = TarSource(folder)
    open_s = time.perf_counter() - start
    preprocess = Preprocess(SIZE_PX, [0.0] * 3, [1.0] * 3)
    loader = WorkerLoader(
        ReducedImages(source, preprocess),
        torch.from_numpy(source.targets),
        torch.arange(len(source)).numpy(),
        batch_size=BATCH_SIZE,
        augment=Augment(AugmentConfig(), SIZE_PX, 0),
        order=Order(0, source.blocks),
        device=torch.device("cpu"),
        num_workers=num_workers,
    )
    before, count = memory_bytes(), 0
    start = time.perf_counter()
    with peak_memory() as peak:
        for batch in loader.epoch(0):
            count += len(batch)
    seconds = time.perf_counter() - start
    assert count == len(source)
    shards = sorted(folder.glob("*.tar"))
    return {
        "num_images": count,
        "num_shards": len(shards),
        "gib": round(sum(path.stat().st_size for path in shards) / 2**30, 3),
        "num_workers": num_workers,
        "first_open_s": round(first_open_s, 2),
        "open_s": round(open_s, 2),
        "epoch_s": round(seconds, 1),
        "images_per_s": round(count / seconds),
        "before_gib": round(before / 2**30, 3),
        "peak_gib": round(max(peak) / 2**30, 3),
        "num_samples": len(peak),
        "target_gib": TARGET_GIB,
    }


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Sample the memory in a thread; what is yielded fills up with the samples."""
    samples, stopped = [memory_bytes()], threading.Event()

    def sample() -> None:
        while not stopped.wait(SAMPLE_EVERY_S):
            samples.append(memory_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()


def memory_bytes() -> int:
    """Return the proportional set size of this process and all below it."""
    return sum(proportional_bytes(process) for process in family(os.getpid()))


def family(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The parent's number is the second field behind the name, which may hold anything.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def proportional_bytes(process: int) -> int:
    """Return the proportional set size of one process, 0 where it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()

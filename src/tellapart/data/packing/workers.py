"""Images read and encoded in processes, handed over in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from tellapart import hardware
from tellapart.data.packing.encode import Encoded, Reduction, encode_samples
from tellapart.data.sources import Source
from tellapart.errors import RunError

# What a worker process works with; set once when it starts, so that no task carries the source with it.
_given: list[tuple[Source, Reduction]] = []


def encode_in_order(
    source: Source, chunks: Iterable[Sequence[int]], reduction: Reduction, num_workers: int
) -> Generator[list[Encoded], None, None]:
    """Yield the encoded images of each chunk of sample numbers, in order.

    Args:
        source: what to read; processes that are forked share its memory.
        chunks: taken no further ahead than two a process.
        reduction: how images are stored.
        num_workers: processes; 0 works in this one; -1 is one a core.

    Raises:
        RunError: a process ended.
    """
    num_workers = hardware.num_cpus() if num_workers < 0 else num_workers
    if num_workers == 0:
        for chunk in chunks:
            yield encode_samples(source, chunk, reduction)
        return
    # Only Linux can fork a process that has loaded its system's graphics and linear algebra.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start, initargs=(source, reduction))
    waiting: deque[Future[list[Encoded]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_encode_chunk, list(chunk)))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process that encodes images ended; often the machine is out of memory. What is whole is kept: the same "
            "command goes on from there, and with a smaller --num-workers it needs less memory."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(source: Source, reduction: Reduction) -> None:
    _given.append((source, reduction))
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool's process waits for work for ever when its parent has been killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _encode_chunk(rows: list[int]) -> list[Encoded]:
    source, reduction = _given[0]
    return encode_samples(source, rows, reduction)

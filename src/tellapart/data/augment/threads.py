"""The images of a batch shared out among threads, for what torch itself does not share out well on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Below, starting threads takes longer than they save.
_LEAST_NUMBERS = 2**20


def share_out(count: int, step: int, numbers_each: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` for every `step` of `count` images, on as many threads as torch uses, one thread each.

    Whatever is done to one image at a time gives the same bits on any number of threads. The threads last as long as
    the call, so that nothing of them is left where a process is forked.

    Args:
        count: how many images there are.
        step: how many of them `work` gets at a time.
        numbers_each: how many numbers make an image; few images of few numbers stay on this thread.
        work: must be safe to call from several threads at once.
    """
    starts = iter(range(0, count, step))

    def run() -> None:
        for start in starts:
            work(start, min(start + step, count))

    before = torch.get_num_threads()
    # Where a loader prepares whole batches on threads of its own, the cores are shared out already.
    is_main = threading.current_thread() is threading.main_thread()
    num_threads = min(before, -(-count // step)) if is_main else 1
    if num_threads <= 1 or count * numbers_each < _LEAST_NUMBERS:
        run()
        return
    try:
        # Of their own, torch's threads would wait for each other at every step of every image.
        with ThreadPoolExecutor(num_threads, "augment", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for running in [pool.submit(run) for _ in range(num_threads)]:
                running.result()
    finally:
        torch.set_num_threads(before)

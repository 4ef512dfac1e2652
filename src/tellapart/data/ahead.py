"""Do things in threads a little ahead of whoever needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], *, num_threads: int, num_ahead: int, name: str = "ahead"
) -> Iterator[T]:
    """Yield `function(item)` in order, computed in threads no further ahead than `num_ahead` items.

    >>> list(map_ahead(abs, [-1, 2, -3], num_threads=2, num_ahead=1))
    [1, 2, 3]
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix=name) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

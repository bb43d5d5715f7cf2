"""Reading ahead: the next batches are read and decoded by threads while the model works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(items: Iterable[T], read: Callable[[T], R], *, threads: int = 2, ahead: int = 4) -> Iterator[R]:
    """`read(item)` of every item, in order, up to `ahead` of them beyond the one in use.

    Decoding lets go of the interpreter, so threads are enough. An exception of `read` is raised in its place.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

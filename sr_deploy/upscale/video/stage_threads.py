"""Stages that work beside each other, each in a thread, with little between them.

Decoding, converting and encoding are FFmpeg's work, and inference a backend's: none holds Python's lock, so threads are
enough. A stage that is slower than the others makes them wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

_Item = TypeVar("_Item")
_BYTES_BETWEEN = 256_000_000
_MAX_BETWEEN = 8


class Clock:
    """How long each stage has worked, without the time it waited."""

    def __init__(self, stages: Mapping[str, int]) -> None:
        """`stages`: their names, and how many threads share the work of each."""
        self._threads = dict(stages)
        self._lock = threading.Lock()
        self.seconds = dict.fromkeys(stages, 0.0)
        """Of each stage, shared out among its threads."""

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Count the time of this block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            taken = (time.perf_counter() - started) / self._threads[stage]
            with self._lock:
                self.seconds[stage] += taken

    @property
    def slowest(self) -> str:
        """The stage that the others wait for."""
        return max(self.seconds, key=self.seconds.__getitem__)


def count_between(item_bytes: int) -> int:
    """How many items of that size may wait between two stages: 256 MB of them, 1 to 8."""
    return max(1, min(_MAX_BETWEEN, _BYTES_BETWEEN // max(item_bytes, 1)))


@contextmanager
def prefetch(items: Iterator[_Item], queue_depth: int) -> Iterator[Iterator[_Item]]:
    """Run an iterator in a thread, with a queue of `queue_depth` items; what it raises is raised here."""
    with ThreadPoolExecutor(1, "prefetch") as thread:

        def read() -> Iterator[_Item]:
            waiting: deque[Future[_Item | None]] = deque()
            while True:
                while len(waiting) <= queue_depth:
                    waiting.append(thread.submit(next, items, None))
                item = waiting.popleft().result()
                if item is None:
                    return
                yield item

        try:
            yield read()
        finally:
            thread.shutdown(cancel_futures=True)


class WriteBehind(Generic[_Item]):
    """Hands items to a function in a thread of its own, in order; what it raises is raised by a later call here."""

    def __init__(self, write: Callable[[_Item], None], queue_depth: int) -> None:
        """`queue_depth`: items that may wait to be written."""
        self._write = write
        self._queue_depth = queue_depth
        self._waiting: deque[Future[None]] = deque()
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "write behind")

    def put(self, item: _Item) -> None:
        """Hand over the next item; waits while too many are waiting."""
        while len(self._waiting) >= self._queue_depth:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._run, item))

    def finish(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait until all items are written, even if another stage failed."""
        self._thread.shutdown()

    def _run(self, item: _Item) -> None:
        if self._failed:  # what follows a hole must not be written
            return
        try:
            self._write(item)
        except BaseException:
            self._failed = True
            raise

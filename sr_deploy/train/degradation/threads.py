"""Parts of a batch side by side on a CPU's cores, one thread each.

torch splits every operation among its threads and waits for all of them at its end. Whole parts side by side wait once,
also share what torch does in one thread (random numbers, look-ups), and suffer less from other work on the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of each item, in order, on as many threads as torch has; at once where that is one."""
    count = torch.get_num_threads()
    if count == 1 or len(items) == 1:
        return [work(item) for item in items]
    return list(_start_threads(count).map(work, items))


@lru_cache(maxsize=2)
def _start_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch's operations do not split."""
    barrier = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)  # holds for this thread, and for those that start later
        torch.get_num_threads()  # a thread takes that over once, at its first use: now it is 1, below no more
        barrier.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="degradation")
    for _ in range(count):
        pool.submit(start)
    barrier.wait()
    torch.set_num_threads(count)  # as it was, for this thread and for those that start later
    return pool

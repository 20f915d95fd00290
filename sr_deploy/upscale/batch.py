"""How many windows go through a network at once: as many as make each of them cheapest, by measurement.

A CPU is busy with one window. A GPU may be idle for much of a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sr_deploy.bundle.profile import Profile
from sr_deploy.errors import OutOfMemoryError

SIZES = (1, 2, 4, 8)
"""Batches that are tried."""
SLACK = 1.03
"""A batch has to be faster than a smaller one by more than 3 % for each window."""
MIN_WINDOWS = 64
"""Windows that have to follow for a measurement to pay: it takes the time of 15 where batches do not pay."""


def choose_batch(time_call: Callable[[int], float], max_batch: int | None = None) -> int:
    """The smallest batch that is within `SLACK` of the best time for each window.

    A batch that is no faster than half of it ends the search: what is larger still would not be.

    Args:
        time_call: seconds that a call with so many windows takes.
        max_batch: largest batch that the runner takes; None: any.
    """
    seconds: dict[int, float] = {}
    for size in SIZES:
        if max_batch is not None and size > max_batch:
            break
        try:
            seconds[size] = time_call(size) / size
        except OutOfMemoryError:
            break
        if size > 1 and seconds[size] * SLACK >= seconds[size // 2]:
            break
    best = min(seconds.values(), default=0.0)
    return next((size for size, each in seconds.items() if each <= best * SLACK), 1)


def find_max_batch(profiles: Sequence[Profile], height: int, width: int) -> int | None:
    """How many windows of that size a runner takes at once; None: any number.

    Args:
        profiles: the runner's; none: it takes any shape.
        height: of each.
        width: of each.
    """
    if not profiles:
        return None
    fitting = [
        profile.max.n
        for profile in profiles
        if profile.min.n <= 1 and profile.min.h <= height <= profile.max.h and profile.min.w <= width <= profile.max.w
    ]
    return max(fitting, default=1)


def describe_batch(asked: int | None, device: str) -> tuple[int, ...]:
    """What of the batch asked for decides on the bytes of a result, for hashes: sums may be taken in another order.

    Args:
        asked: by the caller; None: automatic.
        device: that computes; on a CPU windows go through one by one by default.
    """
    return () if asked is None or (asked == 1 and device == "cpu") else (asked,)

"""How many windows go through a network at once: as many as make each of them cheapest, by measurement.

A CPU is busy with one window. A GPU may be idle for much of a small one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from sr_deploy.bundle.profile import Profile
from sr_deploy.errors import OutOfMemoryError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.measure.timer import time_turn
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.inference import Network, runs_on_device

SIZES = (1, 2, 4, 8)
"""Batches that are tried."""
SLACK = 1.03
"""A batch has to be faster than a smaller one by more than 3 % for each window."""
MIN_WINDOWS = 64
"""Windows that have to follow for a measurement to pay: it takes the time of 15 where batches do not pay."""
_MEASURED: WeakKeyDictionary[Runner, dict[tuple[int, ...], int]] = WeakKeyDictionary()
"""Batches that were measured in this process: for each runner and shape of a window."""
_WARM_UPS, _TIMED = 2, 3  # calls; a CUDA graph is captured in the second one


def choose_batch(
    network: Network, window: Pixels, *, asked: int | None, to_come: int, limits: Iterable[int | None] = ()
) -> int:
    """How many windows go through a network at once.

    Args:
        network: what computes.
        window: of their shape and type; what is in it does not matter.
        asked: by the caller; None: what a measurement finds on a GPU, 1 on a CPU.
        to_come: how many there will be, which decides whether a measurement pays.
        limits: how many there are, or fit into memory; None: any number.
    """
    runner = network.runner
    takes = find_max_batch(runner.spec.profiles, *window.shape[:2])
    batch = asked or 1
    if asked is None and runs_on_device(runner, window):
        measured = _MEASURED.setdefault(runner, {})
        if window.shape not in measured and to_come >= MIN_WINDOWS:
            measured[window.shape] = measure_batch(lambda size: _time_batch(network, window, size), takes)
        batch = measured.get(window.shape, 1)
    return min(most for most in (batch, takes, *limits) if most is not None)


def measure_batch(time_call: Callable[[int], float], max_batch: int | None = None) -> int:
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


def _time_batch(network: Network, window: Pixels, size: int) -> float:
    """Mean seconds from so many windows of noise on the host to their results where they are computed."""
    highest = np.iinfo(window.dtype).max
    noise = np.random.default_rng(0).integers(0, highest, window.shape, window.dtype, endpoint=True)

    def call() -> None:
        network.start([noise] * size)[-1].crop(slice(0, 1), slice(0, 1)).read()  # waits for it

    for _ in range(_WARM_UPS):
        call()
    return statistics.mean(time_turn(call, _TIMED, primed=False))


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

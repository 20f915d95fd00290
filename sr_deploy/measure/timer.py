"""Seconds of calls and memory of this process."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

_STATUS = Path("/proc/self/status")


def time_call(call: Callable[[], object]) -> float:
    """Seconds that `call` takes, by the clock that never steps back."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def time_turn(call: Callable[[], object], calls: int, primed: bool) -> list[float]:
    """Time `calls` calls, in seconds each, with the garbage collector at rest; one more goes before if `primed`."""
    with resting_collector():
        if primed:
            call()
        return [time_call(call) for _ in range(calls)]


@contextlib.contextmanager
def resting_collector() -> Iterator[None]:
    """The garbage collector does nothing inside."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def resident_mib(moment: Literal["now", "peak"]) -> float:
    """Resident memory of this process in MiB, now or at its greatest; the greatest where the system tells no more."""
    field = "VmRSS:" if moment == "now" else "VmHWM:"
    if _STATUS.exists():
        # Not ru_maxrss: Linux hands that figure down from the parent, through fork and exec.
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024  # "123456 kB"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)

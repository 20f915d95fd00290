"""Time and memory of this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_deploy.errors import InputError

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class TimingSummary:
    """What many timings of the same thing come to."""

    median_ms: float
    """Half of the calls took less, in milliseconds."""
    p95_ms: float
    """95 of 100 calls took less, in milliseconds."""
    min_ms: float
    """The fastest call, in milliseconds."""
    spread: float
    """Interquartile range over the median: 0.02 is a quiet machine; above 0.1, take the figures with care."""


def summarize_timings(seconds: Sequence[float]) -> TimingSummary:
    """Summarise timings.

    Args:
        seconds: one positive value for each call.

    Raises:
        InputError: no timings, or one that is not positive.
    """
    if not seconds or min(seconds) <= 0:
        raise InputError(f"a summary needs timings above 0 s, not {list(seconds)[:5]}")
    low, median, high, p95 = (float(value) for value in np.percentile(seconds, (25, 50, 75, 95)))
    return TimingSummary(
        median_ms=1000 * median,
        p95_ms=1000 * p95,
        min_ms=1000 * min(seconds),
        spread=(high - low) / median,
    )


def time_call(call: Callable[[], object]) -> float:
    """Seconds that `call` takes, by the clock that never steps back."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def peak_memory_bytes() -> int:
    """Greatest resident memory of this process since it began, or since `reset_peak_memory`; 0 if unknown."""
    try:
        # Not ru_maxrss: Linux hands that figure down from the parent, through fork and exec.
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # another system than Linux: asked below
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> bool:
    """Let the peak begin anew at the present use. Returns whether the system can (Linux, if allowed)."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True

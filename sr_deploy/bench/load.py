"""How busy others kept the processors while something was measured: a table from a busy machine has to say so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class LoadSample:
    """Processor time used up to a moment, in seconds."""

    moment: float
    """When, on a steady clock."""
    busy: float
    """Of all processes, on the processors that this process may use."""
    own: float
    """Of the processes that were named."""


def sample_load(processes: Iterable[int]) -> LoadSample | None:
    """Look now; None where the system does not tell (not Linux).

    Args:
        processes: ids of those that are not "others", this one's excepted, which never is.
    """
    if not _STAT.exists() or not hasattr(os, "sched_getaffinity"):
        return None
    ours = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    lines = [line.split() for line in _STAT.read_text().splitlines()]
    # cpuN user nice system idle iowait irq softirq steal ...: all but idle and iowait is work.
    ticks = sum(
        sum(int(value) for index, value in enumerate(fields[1:9]) if index not in (3, 4))
        for fields in lines
        if fields[0] in ours
    )
    tick = os.sysconf("SC_CLK_TCK")
    own = sum(_process_ticks(process) for process in {os.getpid(), *processes})
    return LoadSample(time.monotonic(), ticks / tick, own / tick)


def others_load(before: LoadSample | None, after: LoadSample | None) -> float | None:
    """Mean number of processors that other processes kept busy between two samples."""
    if before is None or after is None or after.moment <= before.moment:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others / (after.moment - before.moment))


def _process_ticks(process: int) -> int:
    try:
        text = (_PROCESSES / str(process) / "stat").read_text()
    except OSError:
        return 0  # it has ended
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[11]) + int(fields[12])  # user and system time of all its threads

"""Clocks, power and throttling while something is measured, as far as the machine tells. No torch here."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

Result = TypeVar("Result")

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_INTERVAL_SECONDS = 0.5
_GPU_FIELDS = ("name", "clocks.sm", "clocks.max.sm", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
# Reasons that slow a GPU down for heat or power (NVML's bits); idling and clocks that a user set are none of them.
_IDLE = 0x01
_SLOWED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80


class GpuConditions(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One GPU."""

    name: str
    """As the driver spells it."""
    clock_mhz: float | None
    """Median clock of its multiprocessors."""
    clock_most_mhz: float | None
    """The highest that they may have."""
    clock_lowest_mhz: float | None = None
    """Their lowest clock at any look at which the GPU was not idle."""
    clock_highest_mhz: float | None = None
    """Their highest clock at these looks."""
    power_watts: float | None
    """Mean power drawn, in watts; None where the driver does not tell."""
    temperature_c: float | None
    """Highest temperature of the chip, in degrees Celsius; None where the driver does not tell."""
    throttled: float
    """Share of the looks, 0 to 1, at which heat or power kept its clock down."""


class Conditions(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a machine did while something was measured."""

    cpu_mhz: float | None
    """Median clock of the CPU over all cores and looks; None where the system does not tell. A virtual machine may tell
    a constant."""
    cpu_lowest_mhz: float | None
    """Lowest mean over the cores at any look."""
    cpu_throttled: int | None
    """How often heat slowed a core down; None where unknown."""
    cpu_watts: float | None
    """Mean power of the first processor package; None where unknown (Linux tells the superuser alone)."""
    gpus: tuple[GpuConditions, ...]
    """NVIDIA GPUs that nvidia-smi sees; empty without it."""


class Watch:
    """Looks at the machine twice a second while something runs, as often as it is asked to."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._looks: list[list[float]] = []
        self._gpu_lines: list[str] = []
        self._throttled: float | None = 0
        self._joules: float | None = 0.0
        self._seconds = 0.0

    def during(self, call: Callable[[], Result]) -> Result:
        """Call, and look on."""
        self._looks.append(read_clocks())
        ended = threading.Event()

        def look_on() -> None:
            while not ended.wait(_INTERVAL_SECONDS):
                self._looks.append(read_clocks())

        thread = threading.Thread(target=look_on, daemon=True)
        throttled, energy, started = _count_throttling(), _read_number(_ENERGY), time.monotonic()
        with _watch_gpus() as gpu_lines:
            thread.start()
            try:
                result = call()
            finally:
                ended.set()
                thread.join()
        self._looks.append(read_clocks())
        self._gpu_lines += gpu_lines
        self._seconds += time.monotonic() - started
        self._throttled = _add(self._throttled, throttled, _count_throttling())
        self._joules = _add(self._joules, energy, _read_number(_ENERGY), 1e-6)
        return result

    def summarize(self) -> Conditions:
        """All that was seen."""
        known = [clocks for clocks in self._looks if clocks]
        return Conditions(
            cpu_mhz=statistics.median(clock for clocks in known for clock in clocks) if known else None,
            cpu_lowest_mhz=min(map(statistics.mean, known)) if known else None,
            cpu_throttled=None if self._throttled is None else int(self._throttled),
            cpu_watts=None if self._joules is None or self._seconds <= 0 else self._joules / self._seconds,
            gpus=summarize_gpus(self._gpu_lines),
        )


def read_clocks() -> list[float]:
    """MHz of each core now; empty where the system does not tell."""
    files = sorted(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if files:
        return [number / 1e3 for number in map(_read_number, files) if number is not None]
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def summarize_gpus(lines: Sequence[str]) -> tuple[GpuConditions, ...]:
    """One for each GPU of nvidia-smi's answers to `_GPU_FIELDS`, a line for each GPU at each look, by index."""
    looks: dict[str, list[list[str]]] = {}
    for line in lines:
        index, *values = (value.strip() for value in line.split(","))
        if len(values) == len(_GPU_FIELDS):
            looks.setdefault(index, []).append(values)
    return tuple(_summarize_gpu(values) for _, values in sorted(looks.items()))


def _summarize_gpu(looks: Sequence[Sequence[str]]) -> GpuConditions:
    clocks, highest, power, heat = ([_parse(look[place]) for look in looks] for place in range(1, 5))
    busy = _known([clock for clock, look in zip(clocks, looks, strict=True) if not _parse_bits(look[5]) & _IDLE])
    return GpuConditions(
        name=looks[0][0],
        clock_mhz=statistics.median(known) if (known := _known(clocks)) else None,
        clock_most_mhz=max(_known(highest), default=None),
        clock_lowest_mhz=min(busy, default=None),
        clock_highest_mhz=max(busy, default=None),
        power_watts=statistics.mean(known) if (known := _known(power)) else None,
        temperature_c=max(_known(heat), default=None),
        throttled=sum(bool(_parse_bits(look[5]) & _SLOWED) for look in looks) / len(looks),
    )


@contextlib.contextmanager
def _watch_gpus() -> Iterator[list[str]]:
    """Lines of nvidia-smi, complete after the block; empty where there is none."""
    lines: list[str] = []
    command = shutil.which("nvidia-smi")
    if command is None:
        yield lines
        return
    query = [
        *(command, f"--query-gpu=index,{','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"),
        f"--loop-ms={int(1000 * _INTERVAL_SECONDS)}",
    ]
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as answers:
        process = subprocess.Popen(query, stdout=answers, stderr=subprocess.DEVNULL)
        try:
            yield lines
        finally:
            process.terminate()
            process.wait()
            answers.seek(0)
            lines += answers.read().splitlines()


def _count_throttling() -> int | None:
    counts = [_read_number(path) for path in _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = _known(counts)
    return int(sum(known)) if known else None


def _add(total: float | None, before: float | None, after: float | None, factor: float = 1) -> float | None:
    """What a counter rose by, added; None where it is unknown, or started again at its end, this time or before."""
    if total is None or before is None or after is None or after < before:
        return None
    return total + (after - before) * factor


def _read_number(path: Path) -> float | None:
    try:
        return _parse(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None  # absent, or for the superuser


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # nvidia-smi says [N/A]


def _parse_bits(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]

"""How much main memory this process may still take."""

from __future__ import annotations

import contextlib
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def find_available_memory() -> int | None:
    """Bytes: the least of what the machine has left, a container, and `ulimit -v`; None if the system does not tell."""
    known = [_read_available(), _read_limit(), *(_read_cgroup(*files) for files in _CGROUPS)]
    return min((size for size in known if size is not None), default=None)


def _read_available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _read_limit() -> int | None:
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        return None if limit == resource.RLIM_INFINITY else max(limit - taken, 0)
    return None


def _read_cgroup(limit: Path, now: Path) -> int | None:
    """What a container leaves of its limit."""
    try:
        return max(int(limit.read_text(encoding="ascii")) - int(now.read_text(encoding="ascii")), 0)
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return None

"""How much main memory this process may still take, and what becomes of the memory that it freed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def find_available_memory() -> int | None:
    """Bytes: the least of what the machine has left, a container, and `ulimit -v`; None if the system does not tell."""
    release_freed_memory()
    known = [_read_available(), _read_limit(), *(_read_cgroup(*files) for files in _CGROUPS)]
    return min((size for size in known if size is not None), default=None)


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc give freed memory to the next who asks in this process; other systems are left as they are.

    Without that it hands blocks of more than 32 MiB back to the kernel, which clears every page of the next one:
    feature maps of PyTorch at each layer, half the time of a batch of 16 (docs/cost-curves.md).
    """
    libc = _load_glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
    """Hand freed memory that was kept back to the system."""
    libc = _load_glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _load_glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


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

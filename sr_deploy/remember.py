"""What a file holds, read once for as long as nobody writes to it."""

from __future__ import annotations

import functools
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")
_SETTLED_NS = 3_000_000_000
"""File systems tell times to two seconds at worst: a file that was written less than three ago may change unseen."""
_MOST = 256


def remember_per_file(read: Callable[[Path], Answer]) -> Callable[[Path], Answer]:
    """Give the last answer again while the file has the same identity, size and times. Errors are not kept.

    The answer must be immutable, and depend on nothing but the file.
    """
    known: dict[tuple[object, ...], Answer] = {}

    @functools.wraps(read)
    def ask(path: Path) -> Answer:
        key = _identify(path)
        if key is not None and key in known:
            return known[key]
        answer = read(path)
        if key is not None and key == _identify(path):
            if len(known) >= _MOST:
                known.clear()
            known[key] = answer
        return answer

    return ask


def _identify(path: Path) -> tuple[object, ...] | None:
    """What is another after each write; None if a write could go unseen, or it is not a regular file."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return None  # whoever reads it says why
    written = max(seen.st_mtime_ns, seen.st_ctime_ns)
    if not stat.S_ISREG(seen.st_mode) or time.time_ns() - written < _SETTLED_NS:
        return None
    return os.fspath(path), seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns

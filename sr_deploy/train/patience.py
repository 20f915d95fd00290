"""Reading pictures from a place that may be gone for a minute: a network drive, a disk that wakes up."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TypeVar

from sr_deploy.errors import ImageError, InputError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_WAITS = (1, 2, 4, 8, 15, 30, 30, 30)
"""Seconds between attempts."""
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET",
        "ECONNREFUSED", "ECONNABORTED", "EREMOTEIO", "ENODEV", "ENXIO", "EAGAIN", "EMFILE", "ENFILE",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors that may go by, of a place more than of a file."""


class PatientReader:
    """Reads pictures for several threads. One line says that a place is gone, one that it is back."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """`paths`: all that may be read; it counts as gone where the folder of them all is missing or empty."""
        folders = {os.path.dirname(path) for path in paths}
        try:
            self._root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
        except ValueError:  # there is none, as on several drives
            self._root = os.path.abspath(os.sep)
        self._lock = threading.Lock()
        self._gone_at: float | None = None

    def read(self, path: Path, decode: Callable[[Path], T], abandoned: threading.Event | None = None) -> T:
        """What `decode` gives of a picture; where its place is gone, it is tried again for two minutes.

        Args:
            path: one of the paths.
            decode: raises ImageError or OSError.
            abandoned: ends waiting when it is set.

        Raises:
            ImageError: the picture cannot be used.
            InputError: the folder of all pictures is gone, and did not come back.
            CancelledError: abandoned.
        """
        for seconds in (*_WAITS, None):
            try:
                found = decode(path)
            except (ImageError, OSError) as error:
                reason = self._why_gone(path, error)
                if reason is None or seconds is None:
                    raise self._give_up(path, error) from error
                self._tell_gone(path, reason)
                if (abandoned or threading.Event()).wait(seconds):
                    raise CancelledError from error
            else:
                self._tell_back(path)
                return found
        raise AssertionError  # the last attempt returns or raises

    def _why_gone(self, path: Path, error: Exception) -> str | None:
        """Why the place of a file may come back; None where it is the file that is missing or damaged."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            return os.strerror(cause.errno or 0)
        if os.path.exists(path):
            return None
        nearest = next((str(folder) for folder in path.parents if os.path.exists(folder)), os.sep)
        return "its folder is gone" if _is_empty(self._root) or _is_empty(nearest) else None

    def _give_up(self, path: Path, error: Exception) -> InputError:
        if _is_empty(self._root):
            return InputError(
                f"cannot read {path}: {self._root} has been gone for {sum(_WAITS):.0f} s; bring it back, then: "
                "sr-deploy train --resume"
            )
        return error if isinstance(error, ImageError) else ImageError(f"cannot read {path}: {error}")

    def _tell_gone(self, path: Path, reason: str) -> None:
        with self._lock:
            if self._gone_at is not None:
                return
            self._gone_at = time.monotonic()
        _LOG.warning("cannot read %s (%s); trying again for %.0f s", path, reason, sum(_WAITS))

    def _tell_back(self, path: Path) -> None:
        with self._lock:
            gone_at, self._gone_at = self._gone_at, None
        if gone_at is not None:
            _LOG.warning("%s can be read again after %.0f s", path, time.monotonic() - gone_at)


def _is_empty(folder: str) -> bool:
    """Whether nothing is there: no folder, one that does not answer, or one without entries."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True

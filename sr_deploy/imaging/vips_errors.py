"""What libvips says of a file that it cannot decode.

It keeps one text for all threads: each failure adds to it, and pyvips empties it whenever it raises an error. Where two
threads fail at once, one of them gets the words of both, and the other one none.
"""

from __future__ import annotations

import mmap
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.untrusted import open_regular

if TYPE_CHECKING:
    import pyvips

# Lines that tell nothing of the file: those around what the codec says, and those of pyvips, which looks methods up as
# properties first.
_NOT_TELLING = re.compile("^$|^unable to|load error$|: no property named `")
_NO_REASON = "it gave no reason"


class _SharedLock:
    """Many threads side by side, or one alone."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._inside = 0
        self._exclusive = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._exclusive)
            self._inside += 1
        try:
            yield
        finally:
            with self._change:
                self._inside -= 1
                self._change.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._exclusive)
            self._exclusive = True  # nobody begins any more
            self._change.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._change:
                self._exclusive = False
                self._change.notify_all()


_LOCK = _SharedLock()


def decoding() -> AbstractContextManager[None]:
    """Goes around each call of libvips that may fail because of a file; `find_reason` waits for its end."""
    return _LOCK.shared()


def find_reason(path: Path, fail_on: str, error: pyvips.Error) -> str:
    """What the codec says of a damaged file, when no other thread decodes: the file is decoded once more for it.

    Args:
        path: the file.
        fail_on: as of its `Format`.
        error: what it was seen by, whose text may be of other files. Not raised within `decoding`.
    """
    import pyvips

    with _LOCK.exclusive():
        pyvips.vips_lib.vips_error_clear()
        try:
            with open_regular(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                source = pyvips.Source.new_from_memory(content)
                image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on=fail_on)
                image.avg()  # reads all samples and keeps none
        except pyvips.Error as again:
            return describe_failure(again)
        except (OSError, ValueError):  # gone meanwhile, or empty
            pass
    return describe_failure(error)


def describe_failure(error: Exception) -> str:
    """The line in which the codec itself speaks; libvips wraps it in lines of its own."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if not _NOT_TELLING.search(line)]
    return telling[0] if telling else _NO_REASON

"""What systems do differently when files are flushed, renamed and removed.

On Linux and other systems with POSIX calls a name can be exchanged under whoever has the file open, and a folder can be
flushed as a file can. On Windows both fail: another program that has a file open, were it a virus scanner for a moment,
keeps it from being replaced, and only a handle that may write can be flushed. macOS flushes to the drive, which may
still lose what it holds; another call reaches the disk itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RENAME_EXCHANGE, _AT_WORKING_FOLDER = 2, -100  # of Linux's renameat2
_ON_WINDOWS = os.name == "nt"
_PATIENCE_SECONDS = 3.0
"""How long another program may hold a file before it counts as in the way."""
_NO_FLUSHING = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that flush folders, or drives, by themselves or not at all."""


def flush_file(path: Path) -> None:
    """Bring a file's content to the disk.

    Raises:
        OSError: it cannot be written there.
    """
    # Windows flushes through handles that may write only; nothing is written here.
    handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        flush_handle(handle)
    finally:
        os.close(handle)


def flush_handle(handle: int) -> None:
    """Bring what was written through a handle to the disk.

    Raises:
        OSError: it cannot be written there.
    """
    whole = getattr(fcntl, "F_FULLFSYNC", None)  # macOS
    if whole is not None:
        with contextlib.suppress(OSError):  # a network's volume has none
            fcntl.fcntl(handle, whole)
            return
    os.fsync(handle)


def flush_folder(path: Path) -> None:
    """Bring a folder's names to the disk, where the system can.

    Raises:
        OSError: it cannot be written there.
    """
    if _ON_WINDOWS:
        return  # the journal of NTFS keeps names; there is no call for it
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # one may write there without seeing what is in it
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSHING:
            raise
    finally:
        os.close(handle)


def rename_over(new: Path, old: Path) -> None:
    """Give `new` the name of `old`, whose file is gone then, in one step.

    Raises:
        OSError: it cannot be done; on Windows also where another program holds `old` for more than some seconds.
    """
    _insist(lambda: os.replace(new, old))


def rename(path: Path, name: Path) -> None:
    """Give a file or folder a name that is free.

    Raises:
        OSError: as `rename_over`.
    """
    _insist(lambda: os.rename(path, name))


def exchange_folders(first: Path, second: Path) -> bool:
    """Give two folders each other's names in one step; false where the system, or the file system, cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):  # glibc before 2.28
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(libc.renameat2(_AT_WORKING_FOLDER, names[0], _AT_WORKING_FOLDER, names[1], _RENAME_EXCHANGE) == 0)


def remove_file(path: Path) -> None:
    """Remove a temporary file as far as that goes: what cannot be removed stays, and hides no other error."""
    with contextlib.suppress(OSError):
        _insist(lambda: path.unlink(missing_ok=True))


def remove_folder(path: Path) -> None:
    """Remove a temporary folder with all that is in it, as far as that goes; of a link, the link alone."""
    if path.is_symlink():
        remove_file(path)
        return
    shutil.rmtree(path, ignore_errors=True)
    if _ON_WINDOWS and path.exists():  # it removes no file that is marked as read-only
        for inner in path.rglob("*"):
            with contextlib.suppress(OSError):
                inner.chmod(stat.S_IWRITE)
        shutil.rmtree(path, ignore_errors=True)


def _insist(call: Callable[[], None]) -> None:
    """Call; on Windows again and again while another program holds the file.

    Raises:
        OSError: the call's own; on Windows EBUSY after some seconds.
    """
    waited = 0.0
    pause = 0.01
    while True:
        try:
            call()
        except PermissionError as error:
            if not _ON_WINDOWS:
                raise
            if waited >= _PATIENCE_SECONDS:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), error.filename) from error
            time.sleep(pause)
            waited += pause
            pause = min(2 * pause, 0.25)
        else:
            return

"""Folders that one process writes into: it holds a lock meanwhile, and another one is told who has it.

The lock is the operating system's on an open file, so it ends with its process, however that ends. The file says who
holds it, for people, and goes when it is released.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sr_deploy.errors import LockedError, OutputError
from sr_deploy.files import clear_partial_folder, output_error, owner_key, partial_owner

LOCK_NAME = ".lock"
"""Of the lock inside a folder that is written into."""

_LOG = logging.getLogger(__name__)
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_POLL_SECONDS = 0.05
_ATTEMPTS = 20
_LONGEST_NOTE = 1000
_BEYOND = 1 << 30
"""Where Windows locks a byte: what it locks nobody else can read, and the note is to be read."""


@contextlib.contextmanager
def hold_lock(path: Path, what: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, made if there is none, while `what` is written.

    Args:
        path: the lock file; its folder is made too.
        what: what it locks, for the message.
        patience: seconds to wait for another process that holds it.

    Raises:
        LockedError: another process holds it; the message says which one and since when.
        OutputError: it cannot be made.
    """
    handle = _take(path, what, patience)
    try:
        yield
    finally:
        if os.name == "posix" and _is_at(handle, path):
            _remove(path)
        os.close(handle)
        if os.name != "posix":  # which removes no open file, and none that another process has opened since
            _remove(path)


@contextlib.contextmanager
def hold_place(folder: Path) -> Iterator[None]:
    """Hold a folder that is made aside and then given its place (`replacing_folder`), whether it is there or not.

    What killed processes left beside it goes first: of this folder, and of all others that nobody is making.

    Raises:
        LockedError: another process is making it.
        OutputError: nothing can be written there.
    """
    ours = owner_key(folder.name)
    with hold_lock(_beside(folder, ours), folder):
        for path in folder.parent.glob(".*"):
            owner = partial_owner(path)
            if owner == ours:
                clear_partial_folder(path)
            elif owner is not None:
                with contextlib.suppress(LockedError), hold_lock(_beside(folder, owner), path):
                    clear_partial_folder(path)
        yield


def _beside(folder: Path, owner: str) -> Path:
    return folder.with_name(f".{owner}{LOCK_NAME}")


def _take(path: Path, what: Path, patience: float) -> int:
    """The open and locked file."""
    until = time.monotonic() + patience
    while True:
        handle = _open(path)
        locked = _lock(handle, path)
        if locked and _is_at(handle, path):
            _sign(handle)
            return handle
        os.close(handle)
        if locked:
            continue  # who held it before has removed it
        if time.monotonic() >= until:
            raise LockedError(f"{what} is being written by {_describe_holder(path)}; wait for it, or stop it")
        time.sleep(_POLL_SECONDS)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError as error:  # who held it is removing the folder at this moment
            if attempt == _ATTEMPTS - 1:
                raise output_error(path, error) from error
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise output_error(path, error) from error
        else:
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
                return handle
            os.close(handle)
            what = "no regular file" if not stat.S_ISREG(status.st_mode) else "another file under a second name"
            raise OutputError(f"cannot lock {path}: it is {what}; remove it, or choose another folder")
    raise AssertionError  # the last attempt returns or raises


def _lock(handle: int, path: Path) -> bool:
    """Whether the lock is this process's now."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(handle, _BEYOND, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        _LOG.warning("%s: this file system has no locks (%s); start no second job there", path.parent, error.strerror)
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sign(handle: int) -> None:
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(" ", "seconds")}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(note).encode())


def _describe_holder(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            note = json.loads(stream.read(_LONGEST_NOTE))
        return f"another sr-deploy (process {note['pid']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has not signed yet, or could not
        return "another sr-deploy"

"""Hashes and writes that are seen whole or not at all.

A file is written beside its place under a temporary name, flushed to the disk and renamed; a folder likewise. Whoever
looks sees the old content or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.disk import exchange_folders, flush_file, flush_folder, remove_file, remove_folder, rename, rename_over
from sr_deploy.errors import InputError, OutputError, PlaceLostError
from sr_deploy.names import keep_suffix, lengthen, why_not_writable
from sr_deploy.remember import remember_per_file
from sr_deploy.untrusted import is_regular, open_regular

_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1024  # of their specification
_TEMPORARY_PREFIX = ".partial-"
_ASIDE = ".old"
_PARTIAL_FOLDER = re.compile(rf"{re.escape(_TEMPORARY_PREFIX)}(.+)-[0-9a-f]{{8}}(?:{re.escape(_ASIDE)})?", re.DOTALL)
_LONGEST_KEY = 200
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN)
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted; choose a folder that you may write to",
    errno.ENOENT: "there is no such folder and none can be made there; choose another one",
    errno.EBUSY: "permission denied, or another program has it open; close it there, or choose another name",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EISDIR: "a folder stands where a file is needed; choose another path",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.EEXIST: "a file stands where a folder is needed; choose another path",
}


@remember_per_file
def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is a device, a pipe or a socket.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def output_error(path: Path, error: OSError) -> OutputError:
    """The plain-words form of an operating-system error met while writing `path`."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    kind = PlaceLostError if error.errno in _LOST else OutputError
    return kind(f"cannot write {path}: {reason}")


class KeptFolder:
    """A folder that results go into, as it is now. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Remember which folder has that name.

        Raises:
            PlaceLostError: none has it any more.
        """
        self.path = path
        try:
            self._status = path.stat()
        except OSError as error:
            raise lost_folder(path) from error

    def require(self) -> None:
        """Check that it is still there: what is written now would go nowhere, or into another one, if it is not.

        Raises:
            PlaceLostError: it was removed, moved, or its disk is gone.
        """
        try:
            same = os.path.samestat(self._status, self.path.stat())
        except OSError:
            same = False
        if not same:
            raise lost_folder(self.path)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Within it, what fails because the folder is gone says so, whatever else it would have said.

        Raises:
            PlaceLostError: it is gone, before or when something failed.
        """
        self.require()
        try:
            yield
        except Exception:
            self.require()
            raise

    def make_below(self, folder: Path) -> None:
        """Make a folder in it, with those on the way there, but never this one anew.

        Raises:
            OSError: it cannot be made.
            PlaceLostError: this folder is gone.
        """
        self.require()
        missing = []
        while folder != self.path and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(exist_ok=True)


def lost_folder(path: Path) -> PlaceLostError:
    """What to say of a folder that vanished while results went into it."""
    return PlaceLostError(
        f"the folder {path} was removed, moved or unmounted while results went there; bring it back, or choose another"
    )


def require_file(path: Path, what: str) -> Path:
    """Return `path` if it is a file that can be read, with `what` naming its role in the error.

    Raises:
        InputError: there is nothing, or a folder, a device or a pipe; the file cannot be read, or only stands for one
            that Git LFS keeps.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, but {what} must be a file")
    if not path.exists():
        raise InputError(f"{path} does not exist; give {what}")
    if not is_regular(path):
        raise InputError(f"{path} is a device, a pipe or a socket, but {what} must be a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (permission denied); give {what} that you may read")
    if path.stat().st_size <= _MAX_POINTER_BYTES and path.read_bytes().startswith(_POINTER):
        command = f"git -C {shlex.quote(str(path.parent))} lfs pull --include {shlex.quote(path.name)}"
        raise InputError(f"{path} is a Git LFS pointer, which stands for {what}, not the file itself; run: {command}")
    return path


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        OutputError: it cannot be created, or a file has its name.
    """
    _require_writable_name(path)
    try:
        lengthen(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextlib.contextmanager
def replacing_file(path: Path, within: KeptFolder | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the place of `path` if the block succeeds.

    Args:
        path: to write; its folder is made.
        within: a folder that has to be there still, of which `path` is some file; None: all folders are made.

    Raises:
        OutputError: the folder or the file cannot be written; nothing is left behind.
        PlaceLostError: `within` is gone, or nothing more can be written to the disk.
    """
    place = lengthen(path)
    try:
        _require_writable_name(path)
        if within is None:
            place.parent.mkdir(parents=True, exist_ok=True)
        else:
            within.make_below(path.parent)
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = _name_beside(place, keep_suffix(place))
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield temporary
        flush_file(temporary)
        rename_over(temporary, place)
        flush_folder(place.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        remove_file(temporary)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes the place of `path` if the block succeeds.

    Raises:
        OutputError: the folder cannot be written, or a file has its name; nothing is left behind.
    """
    place = lengthen(path)
    try:
        _require_writable_name(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        temporary = _name_folder_beside(place)
        temporary.mkdir()
    except OSError as error:
        raise output_error(path, error) from error
    try:
        try:
            yield temporary
        except OutputError as error:  # name the place that the user knows
            raise type(error)(str(error).replace(str(temporary), str(path))) from error
        for inner in (*temporary.rglob("*"), temporary):
            (flush_folder if inner.is_dir() else flush_file)(inner)
        _swap_folder(temporary, place)
        flush_folder(place.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        remove_folder(temporary)


def remove_partial_files(folder: Path) -> None:
    """Remove what `replacing_file` left in `folder` when a process was killed; nobody may be writing there.

    Raises:
        OutputError: one cannot be removed.
    """
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        try:
            if path.is_file():
                path.unlink()
        except OSError as error:
            raise output_error(path, error) from error


def owner_key(name: str) -> str:
    """What stands for the name of a folder in those of its temporary ones: itself, or a hash of one that is long."""
    raw = os.fsencode(name)
    return name if len(raw) <= _LONGEST_KEY else hashlib.sha256(raw).hexdigest()[:32]


def partial_owner(path: Path) -> str | None:
    """The `owner_key` of the folder that a folder of `replacing_folder` was to become; None: it is none of those."""
    matched = _PARTIAL_FOLDER.fullmatch(path.name)
    return matched[1] if matched and path.is_dir() else None


def clear_partial_folder(path: Path) -> None:
    """Remove a folder that `replacing_folder` left when a process was killed; nobody may be writing it.

    One that stepped aside and was not replaced goes back to its place.
    """
    owner = partial_owner(path)
    if owner is not None and path.name.endswith(_ASIDE) and not os.path.lexists(path.with_name(owner)):
        with contextlib.suppress(OSError):
            rename(path, path.with_name(owner))
            return
    remove_folder(path)


def write_text(path: Path, text: str, within: KeptFolder | None = None) -> None:
    """Write a text file atomically, UTF-8; `within` as `replacing_file` has it.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing_file(path, within) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _swap_folder(new: Path, path: Path) -> None:
    if not path.exists():
        rename(new, path)
        return
    if exchange_folders(new, path):
        return
    # In two steps then: the old one steps aside, and returns if the new one fails, or this process does (see below).
    aside = _name_folder_beside(path, _ASIDE)
    rename(path, aside)
    try:
        rename(new, path)
    except OSError:
        rename(aside, path)
        raise
    remove_folder(aside)


def _require_writable_name(path: Path) -> None:
    reason = why_not_writable(path)
    if reason is not None:
        raise OutputError(f"cannot write {path}: {reason}")


def _name_beside(path: Path, suffix: str = "") -> Path:
    """A hidden name that nobody has, in the same folder: made without a mode of its own, it gets the user's umask."""
    return path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"


def _name_folder_beside(path: Path, suffix: str = "") -> Path:
    """A hidden name that nobody has and that says whose it is: `partial_owner` gives that back."""
    return path.parent / f"{_TEMPORARY_PREFIX}{owner_key(path.name)}-{secrets.token_hex(4)}{suffix}"

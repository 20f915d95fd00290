"""Names of files: what systems and libraries do not take of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePath, PureWindowsPath

_ON_WINDOWS = os.name == "nt"
_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{number}" for port in ("COM", "LPT") for number in "123456789\u00b9\u00b2\u00b3"]
)
_WINDOWS_MARKS = '<>:"|?*'
_WINDOWS_LONGEST = 240
"""Characters of a path that every program on Windows takes, with some to spare for a temporary name."""
_LONGEST_SUFFIX = 16


def why_not_writable(path: PurePath) -> str | None:
    """Why this system would not make a file of exactly that name; None: it would.

    Windows takes some names for devices, whatever their ending, cuts dots and spaces off the end, and writes what
    stands behind a colon into a hidden part of a file.
    """
    if not _ON_WINDOWS:
        return None
    parts = path.parts[1:] if path.anchor else path.parts
    return next(filter(None, map(why_not_on_windows, parts)), None)


def why_not_on_windows(name: str) -> str | None:
    """Why Windows would not make a file or folder of exactly that name; None: it would."""
    if name in (".", ".."):
        return None
    if name.partition(".")[0].rstrip(" ").upper() in _WINDOWS_DEVICES:
        return f"Windows takes {name!r} for a device; take another name"
    if name.endswith((".", " ")):
        return f"Windows cuts dots and spaces off the end of {name!r}; take another name"
    marks = sorted({mark for mark in name if mark in _WINDOWS_MARKS or mark < " "})
    if marks:
        return f"Windows takes no {' '.join(map(repr, marks))} in names such as {name!r}; take another name"
    return None


def lengthen(path: Path) -> Path:
    r"""The path in the form that Windows takes at any length (`\\?\C:\...`) where it is long; others as they are."""
    if not _ON_WINDOWS:
        return path
    return Path(lengthen_on_windows(os.path.abspath(path)))


def lengthen_on_windows(path: str) -> str:
    """The same for the text of an absolute path."""
    if len(path) < _WINDOWS_LONGEST or path.startswith("\\\\?\\"):
        return path
    whole = str(PureWindowsPath(path))
    return f"\\\\?\\UNC\\{whole[2:]}" if whole.startswith("\\\\") else f"\\\\?\\{whole}"


def fold_name(path: PurePath) -> str:
    """Equal for paths that are one file where the system tells neither capitals nor spellings of accents apart."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def tells_capitals_apart(folder: Path) -> bool:
    """Whether `a` and `A` are two files in a folder, found out with a temporary file.

    Raises:
        OSError: nothing may be written there.
    """
    name = f".partial-{secrets.token_hex(8)}-a"
    path = folder / name
    path.touch(exist_ok=False)
    try:
        return not (folder / name.upper()).exists()
    finally:
        path.unlink()


def keep_suffix(path: PurePath) -> str:
    """The ending of a name, for a temporary one: encoders choose the format by it."""
    return path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""


@contextlib.contextmanager
def lend_path(path: Path) -> Iterator[Path]:
    """A path of the same file for libraries that take only UTF-8: itself, or one by way of a temporary link.

    Names of bytes that are no UTF-8 are found on Linux and its like, which have links. The link is gone afterwards.

    Raises:
        OSError: a link is needed and cannot be made.
    """
    if _fits_utf8(str(path)):
        yield path
        return
    whole = path.absolute()
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        link = Path(folder, "link")
        if _fits_utf8(whole.name):  # the folder, so that files beside it are found too
            link.symlink_to(whole.parent, target_is_directory=True)
            yield link / whole.name
        else:
            link = link.with_suffix(keep_suffix(whole) if _fits_utf8(whole.suffix) else "")
            link.symlink_to(whole)
            yield link


@contextlib.contextmanager
def lend_url(path: Path) -> Iterator[str]:
    """A URL under which FFmpeg finds exactly that file; what it opens must be open when the block ends.

    FFmpeg reads the beginning of a name up to a colon as a protocol (`Movie: Part 1.mkv`, `file:plain.mkv`), and takes
    UTF-8 only.

    Raises:
        OSError: as `lend_path`.
    """
    with lend_path(path) as lent:
        yield f"file:{lent.absolute()}"


def _fits_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

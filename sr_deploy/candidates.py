"""Which of several folders to take: the newest that can be read. Those that cannot are named, and not in silence."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sr_deploy.errors import InputError, NothingFoundError

_LOG = logging.getLogger(__name__)

Found = TypeVar("Found")


def read_each(
    folder: Path, manifest: str, read: Callable[[Path], Found]
) -> tuple[list[tuple[Found, Path]], list[InputError]]:
    """What the folders in `folder` say of themselves, and what is wrong with those that cannot be read.

    Names that begin with a dot are nobody's: half-written things and locks. What is wrong is told, on stderr in a
    command.

    Args:
        folder: where they lie side by side; it may be missing.
        manifest: name of the file that makes a folder one of them, whatever that file is.
        read: takes one of them.

    Raises:
        InputError: `folder` is not a folder, or cannot be listed.
    """
    found: list[tuple[Found, Path]] = []
    faults: list[InputError] = []
    for name in _list_names(folder):
        place = folder / name
        try:
            if name.startswith(".") or not _is_there(place / manifest):
                continue
            found.append((read(place), place))
        except OSError as error:
            faults.append(InputError(f"{place} cannot be read: {error.strerror or error}"))
        except InputError as error:
            faults.append(error)
    for fault in faults:
        _LOG.warning("skipped: %s", fault)
    return found, faults


def require_any(found: list[Found], faults: list[InputError], nothing: str) -> list[Found]:
    """Return `found` if there is one.

    Raises:
        NothingFoundError: there is none, and there was nothing that could be one; the message is `nothing`.
        InputError: there is none that can be read.
    """
    if found:
        return found
    if not faults:
        raise NothingFoundError(nothing)
    more = f", and {len(faults) - 1} more like it" if len(faults) > 1 else ""
    raise InputError(f"{faults[0]}{more}; repair it, move it away, or name the one to use")


def _list_names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot look into {folder}: {error.strerror or error}; name what to take") from error


def _is_there(path: Path) -> bool:
    """Whether something of any kind has that name; what may not be looked at is an error, unlike in `lexists`."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

"""What files of unknown origin say: names of other files, and JSON. All of it goes through here first.

A bundle, a record, a recipe or a journal comes from anywhere. A name in it counts as a place inside the folder that it
was read from and nowhere else, whatever links lie there; a file is opened only if it is a plain one, never a device or
a pipe; JSON is bounded in size and depth and says each thing once.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
import unicodedata
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import NoReturn, TextIO

from sr_deploy.errors import InputError, UnsafePathError
from sr_deploy.legible import shorten, show_value
from sr_deploy.names import why_not_writable

MAX_JSON_BYTES = 32 * 2**20
"""Largest JSON document that is read; the record of a network with a thousand layers has a thirtieth of it."""
MAX_TOML_BYTES = 2**18
"""Longest TOML document that is read; the longest recipe has a sixtieth of it."""
_MAX_DEPTH = 32
_MAX_TEXT = 2**16
_MAX_ITEMS = 100_000
_MAX_NAME = 255
_MAX_PATH = 4096
_KEY_PART = r"(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')"
_MANY_PARTS = re.compile(rf"(?<![\w-]){_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART}){{{_MAX_DEPTH}}}")
_TEXT_CONTROLS = frozenset("\t\n")


def check_relative(name: str) -> str:
    """Return a name of a file as it may stand in somebody's file: relative, downwards only, written one way only.

    Raises:
        ValueError: anything else; the message says what.
    """
    path = PurePosixPath(name)
    if not name or len(name) > _MAX_PATH:
        raise ValueError(f"a file's name has 1 to {_MAX_PATH} characters, not {len(name)}")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{show_value(name)} leads out of its folder; a name of a file is relative, without '..'")
    if "\0" in name or (os.sep == "\\" and os.sep in name) or str(path) != name or name == ".":
        raise ValueError(f"{show_value(name)} is not a plain name of a file, as in engines/0123456789abcdef.engine")
    reason = why_not_writable(path)
    if reason is not None:
        raise ValueError(reason)
    return name


def check_component(name: str) -> str:
    """Return a name that can be one folder's: no separator, no dot in front, nothing that does not show.

    Names with a dot in front are those of half-written things and locks, which come and go.

    Raises:
        ValueError: anything else; the message says what.
    """
    fits = 0 < len(name.encode(errors="replace")) <= _MAX_NAME
    if not fits or name.startswith(".") or any(one in "/\\" or _is_control(one) for one in name):
        raise ValueError(
            f"{show_value(name)} is not a name of a folder: up to {_MAX_NAME} bytes, no / or \\, no dot in front"
        )
    return name


def make_component(name: str) -> str:
    """The nearest to a name that `check_component` takes: `_` for what it does not, cut after 255 bytes of UTF-8."""
    kept = "".join("_" if one in "/\\" or _is_control(one) else one for one in name)
    short = kept.encode()[:_MAX_NAME].decode(errors="ignore")
    return short if short not in ("", ".", "..") else f"_{short}"


def make_text(text: str) -> str:
    """The nearest to a text that `parse_json` takes: `\ufffd` for what does not show and what is no character."""
    if text.isprintable() and len(text) <= _MAX_TEXT:
        return text
    kept = ("\ufffd" if _is_control(one) and one not in _TEXT_CONTROLS else one for one in shorten(text, _MAX_TEXT))
    return "".join(kept)


def find_inside(folder: Path, name: str, error: type[InputError] = UnsafePathError) -> Path:
    """The place that a name read from a file means: `folder / name`, if it lies in the folder once links are followed.

    It may not be there; what is there may be of any kind (`require_regular`).

    Args:
        folder: that names are relative to. What it is itself a link to does not matter: the user named it.
        name: as it was read, or of the program's own choice where a link could stand in its place.
        error: what to raise.

    Raises:
        InputError: of the kind `error`; the name is not plain, or a link on the way leads out of the folder.
    """
    try:
        path = folder / check_relative(name)
    except ValueError as reason:
        raise error(f"{folder}: {reason}") from reason
    root, place = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([root, place]) != root:
        raise error(f"{path} is a link that leads out of {folder}; put the file itself there")
    return path


def refuse_link(path: Path, error: type[InputError] = UnsafePathError) -> Path:
    """Return a path that is no link, for a folder of the program's own beside files of the user's.

    Raises:
        InputError: of the kind `error`; it is one.
    """
    if path.is_symlink():
        raise error(f"{path} is a link; put a folder there, or nothing")
    return path


def is_regular(path: Path) -> bool:
    """Whether a plain file is there: no folder, device, pipe or socket, and no link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BufferedReader:
    """Open a plain file for reading; what else is there is not even opened, since that alone can hang or do harm.

    Raises:
        OSError: it cannot be opened, or is a folder, a device, a pipe or a socket.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a plain file, but a folder, a device, a pipe or a socket")
    # Without O_NONBLOCK a pipe that took the file's place a moment ago would wait for a writer for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    stream = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        stream.close()
        raise OSError(f"{path} is not a plain file any more")
    return stream


def read_head(path: Path, size: int) -> tuple[os.stat_result, bytes]:
    """Status and first bytes, at most `size`, of a plain file, with as few calls of the system as there can be.

    Raises:
        OSError: it cannot be read, or is a folder, a device, a pipe or a socket.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a plain file, but a folder, a device, a pipe or a socket")
    # No second look as in `open_regular`: so few bytes do not wait with O_NONBLOCK, whatever took the file's place.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return status, os.read(handle, size)
    finally:
        os.close(handle)


def open_for_appending(path: Path) -> TextIO:
    """Open a plain file to add lines to, UTF-8; it is made if it is not there.

    Raises:
        OSError: it cannot be opened or made, or a link, a folder, a device or a pipe has its name.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags, 0o666)
    stream = os.fdopen(handle, "a", encoding="utf-8")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        stream.close()
        raise OSError(f"{path} is not a plain file, but a device or a pipe")
    return stream


def read_json(path: Path, error: type[InputError] = InputError) -> object:
    """Read a JSON document of a file; see `parse_json`.

    Raises:
        InputError: of the kind `error`; no plain file, too large, or no JSON that is taken.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
    except OSError as reason:
        raise error(f"{path} is damaged: {reason.strerror or reason}") from reason
    try:
        return parse_json(content)
    except ValueError as reason:
        raise error(f"{path} is damaged: {reason}") from reason


def parse_json(content: bytes | str, *, any_text: bool = False) -> object:
    """Parse JSON of unknown origin.

    Args:
        content: UTF-8, or text.
        any_text: let texts hold what does not show and what is no character, as names of files may.

    Raises:
        ValueError: no JSON, too large or too deep, a key twice in an object, a number that is infinite or NaN, or a
            text with control characters. The message is one line.
    """
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        document = json.loads(
            text, object_pairs_hook=_to_object, parse_float=_to_float, parse_constant=_refuse_constant
        )
    except RecursionError as reason:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels") from reason
    _check_document(document, any_text)
    return document


def parse_toml(content: bytes | str) -> dict[str, object]:
    """Parse TOML of unknown origin.

    Raises:
        ValueError: no TOML, too large, nested too deep, or with a number of thousands of digits. The message is one
            line.
    """
    if len(content) > MAX_TOML_BYTES:
        raise ValueError(f"it has more than {MAX_TOML_BYTES >> 10} KiB")
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    if _MANY_PARTS.search(text):  # the time for such a key grows with the square of its parts
        raise ValueError(f"a key of it has more than {_MAX_DEPTH} parts")
    try:
        document = tomllib.loads(text)
    except RecursionError as reason:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels") from reason
    _check_document(document, any_text=True)
    return document


def _to_object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {show_value(twice)} occurs twice in one object")
    return document


def _to_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {shorten(text, 40)} is too large")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check_document(document: object, any_text: bool) -> None:
    level = [document]
    for _ in range(_MAX_DEPTH):
        below: list[object] = []
        for one in level:
            if isinstance(one, str):
                _check_text(one, any_text)
            elif isinstance(one, dict | list):
                if len(one) > _MAX_ITEMS:
                    raise ValueError(f"a list of it has {len(one)} items; {_MAX_ITEMS} are allowed")
                below += [*one, *one.values()] if isinstance(one, dict) else one
        if not below:
            return
        level = below
    raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")


def _check_text(text: str, any_text: bool) -> None:
    if len(text) > _MAX_TEXT:
        raise ValueError(f"a text of it has {len(text)} characters; {_MAX_TEXT} are allowed")
    if not any_text and not text.isprintable() and any(_is_control(one) for one in text if one not in _TEXT_CONTROLS):
        raise ValueError(f"the text {show_value(text)} holds control characters")


def _is_control(character: str) -> bool:
    """Whether a terminal could take it as a command, or nothing could print it: controls and lone surrogates."""
    return unicodedata.category(character) in ("Cc", "Cs") or character in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"

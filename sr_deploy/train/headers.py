"""Headers of all training pictures: read side by side, and kept beside the run, so that going on reads none anew."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, TypeVar

from sr_deploy.files import replacing_file
from sr_deploy.imaging.dimensions import HEAD_BYTES, parse_dimensions
from sr_deploy.run_folder import HEADERS_NAME
from sr_deploy.untrusted import open_regular, read_head

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_THREADS = 16  # they wait for the disk or the network
_AT_ONCE = 200
_TOLD_SECONDS = 10.0
_LONGEST_LINE = 1 << 16
_MOST_LINES = 10_000_000


class FileHeader(NamedTuple):
    """What is known of a picture before it is decoded."""

    path: str
    size: int
    """Bytes of its file; -1: it could not be looked at."""
    modified: int
    """Time of its last change, in nanoseconds."""
    width: int = 0
    """As stored, in pixels; 0: only a decoder can tell."""
    height: int = 0

    @property
    def identity(self) -> tuple[str, int]:
        """What stays where pictures are moved: the name of the file and its size."""
        return os.path.basename(self.path), self.size


def read_headers(paths: Sequence[Path], known: Iterable[FileHeader] = ()) -> list[FileHeader]:
    """The headers of files, in their order; a line says how far it is every ten seconds.

    Args:
        paths: of pictures.
        known: of before; those of files of the same name, size and time are taken as they are.
    """
    sizes = {(*one.identity, one.modified): (one.width, one.height) for one in known if one.width}
    parts = [paths[first : first + _AT_ONCE] for first in range(0, len(paths), _AT_ONCE)]
    found: list[FileHeader] = []
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="headers")
    try:
        for part in tell_progress(
            pool.map(lambda part: [_read_header(path, sizes) for path in part], parts),
            lambda count: f"read the headers of {min(count * _AT_ONCE, len(paths)):,} of {len(paths):,} pictures",
        ):
            found += part
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return found


def tell_progress(items: Iterable[T], describe: Callable[[int], str]) -> Iterator[T]:
    """The items; a line is logged every ten seconds, unless there is no other item.

    Args:
        items: to pass on.
        describe: the line, by how many have passed.
    """
    told = time.monotonic()
    for count, item in enumerate(items):
        if time.monotonic() >= told + _TOLD_SECONDS:
            told = time.monotonic()
            _LOG.info("%s", describe(count))
        yield item


def write_headers(run: Path, headers: Iterable[FileHeader]) -> None:
    """Keep headers in the folder of a run: a JSON array a line.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing_file(run / HEADERS_NAME) as temporary, temporary.open("w", encoding="ascii") as stream:
        stream.writelines(json.dumps(one) + "\n" for one in headers)


def read_kept_headers(run: Path) -> list[FileHeader] | None:
    """What `write_headers` kept; None where it is missing or damaged."""
    try:
        with open_regular(run / HEADERS_NAME) as stream:
            found = [_parse_header(line) for line in _read_lines(stream)]
    except (OSError, ValueError, RecursionError):
        return None
    return found


def _read_lines(stream: BufferedReader) -> Iterator[bytes]:
    for count, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE + 1), b"")):
        if len(line) > _LONGEST_LINE or count >= _MOST_LINES:
            raise ValueError("it is longer than any list of pictures")
        yield line


def _parse_header(line: bytes) -> FileHeader:
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != len(FileHeader._fields):
        raise ValueError("no header")
    path, *numbers = values
    if not isinstance(path, str) or not all(type(one) is int for one in numbers):
        raise ValueError("no header")
    return FileHeader(path, *numbers)


def _read_header(path: Path, known: Mapping[tuple[str, int, int], tuple[int, int]]) -> FileHeader:
    try:
        if known:
            status = path.stat()
            sides = known.get((path.name, status.st_size, status.st_mtime_ns))
            if sides is not None:
                return FileHeader(str(path), status.st_size, status.st_mtime_ns, *sides)
        for size in HEAD_BYTES:
            status, head = read_head(path, size)
            sides = parse_dimensions(head)
            if sides is not None or len(head) < size:
                break
    except OSError:
        return FileHeader(str(path), -1, 0)
    return FileHeader(str(path), status.st_size, status.st_mtime_ns, *(sides or (0, 0)))

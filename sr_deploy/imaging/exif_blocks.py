"""Where the EXIF lies in a file, found before a decoder sees the file: libvips parses it as soon as it opens one.

Layouts: JPEG (ITU-T T.81, B.1.1.2), PNG (third edition, 5.3), RIFF of WebP (RFC 9649), ISO base media files of AVIF and
HEIF (ISO/IEC 14496-12, 8.11).
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from sr_deploy.errors import ImageError
from sr_deploy.imaging.exif import is_tangled

Content = bytes | mmap.mmap
"""All bytes of a file, in memory or mapped."""
_TIFF_HEADERS = (b"II*\x00", b"MM\x00*")
_MOST_PARTS = 10_000
"""Segments of a JPEG before its scan, or boxes inside one another's level; real files have some hundred at most."""
_MOST_EXIF = 1 << 24
_MOST_BLOCKS = 16
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


class TangledFileError(ValueError):
    """The file is built so that its EXIF cannot be found with bounded work."""


def refuse_tangled_exif(path: Path, find: Callable[[Content], Iterator[bytes]] | None, content: Content) -> None:
    """Refuse a file whose EXIF would occupy its decoder without end.

    Args:
        path: for messages.
        find: how its format has EXIF found; None: its decoder parses none.
        content: the file.

    Raises:
        ImageError: directories that lead to one another, or more blocks or parts than any picture has.
    """
    try:
        blocks = [] if find is None else list(itertools.islice(find(content), _MOST_BLOCKS + 1))
        tangled = len(blocks) > _MOST_BLOCKS or any(map(is_tangled, blocks))
    except TangledFileError:
        tangled = True
    if tangled:
        raise ImageError(
            f"{path} is damaged: its EXIF directories lead to one another, or there are more of them than any camera "
            "writes; remove them, as with: exiftool -all= FILE"
        )


def find_in_png(content: Content) -> Iterator[bytes]:
    """Every block that libvips may take for EXIF, as all functions of that name find them.

    Yields:
        Each from its TIFF header or the word Exif on.

    Raises:
        TangledFileError: it takes too many steps to find them.
    """
    return _find_chunks(content, b"eXIf", ">")


def find_in_webp(content: Content) -> Iterator[bytes]:
    """As `find_in_png`."""
    return _find_chunks(content, b"EXIF", "<")


def find_in_heif(content: Content) -> Iterator[bytes]:
    """As `find_in_png`, of AVIF too."""
    for item in _read_items(content, b"Exif"):
        starts = [at for header in _TIFF_HEADERS if (at := item.find(header)) >= 0]
        yield from (item[at:] for at in starts)


def find_in_jpeg(content: Content) -> Iterator[bytes]:
    """As `find_in_png`, of segments before the first scan; bytes between segments are passed over, as libjpeg does."""
    at = 2
    for _ in range(_MOST_PARTS):
        at = content.find(b"\xff", at)
        while 0 <= at < len(content) and content[at] == 0xFF:
            at += 1
        if at < 0 or at + 3 > len(content) or content[at] in (_START_OF_SCAN, _END):
            return
        kind = content[at]
        at += 1
        if kind == 0 or kind in _ALONE:
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        if kind == 0xE1:
            segment = content[at + 2 : at + length]
            place = segment.find(b"Exif\x00\x00")
            if place >= 0:
                yield segment[place:]
        at += max(length, 2)
    raise TangledFileError


def _find_chunks(content: Content, name: bytes, order: str) -> Iterator[bytes]:
    """Chunks of a name, and what looks like one inside the samples: to look at more than is needed does no harm."""
    at = content.find(name)
    while at >= 0:
        length_at = at - 4 if order == ">" else at + 4
        begin = at + 4 if order == ">" else at + 8
        if 0 <= length_at <= len(content) - 4:
            length: int = struct.unpack(order + "I", content[length_at : length_at + 4])[0]
            yield content[begin : begin + min(length, _MOST_EXIF)]
        at = content.find(name, at + 4)


def _read_items(content: Content, kind: bytes) -> Iterator[bytes]:
    """Items of a kind in an ISO base media file, their pieces joined."""
    for name, begin, end in _read_boxes(content, 0, len(content)):
        if name != b"meta":
            continue
        boxes = list(_read_boxes(content, begin + 4, end))
        wanted = {number for box in boxes if box[0] == b"iinf" for number in _find_items(content, box[1:], kind)}
        stored = b"".join(content[box[1] : box[2]] for box in boxes if box[0] == b"idat")
        for box in boxes:
            if wanted and box[0] == b"iloc":
                yield from _Locations(content[box[1] : box[2]]).read(wanted, content, stored)


def _read_boxes(content: Content, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, and where the content begins and ends, of each box."""
    count = 0
    while at + 8 <= end:
        size, name = struct.unpack(">I4s", content[at : at + 8])
        begin = at + 8
        if size == 1:
            size, begin = int.from_bytes(content[at + 8 : at + 16], "big"), at + 16
        stop = end if size == 0 else min(at + size, end)
        if stop < begin or count == _MOST_PARTS:
            raise TangledFileError
        yield name, begin, stop
        at, count = stop, count + 1


def _find_items(content: Content, place: tuple[int, int], kind: bytes) -> Iterator[int]:
    """Numbers of the items of a kind, from the box `iinf`."""
    begin, end = place
    skip = 6 if content[begin : begin + 1] == b"\0" else 8
    for name, start, _ in _read_boxes(content, begin + skip, end):
        width = 4 if content[start : start + 1] == b"\x03" else 2
        number_at = start + 4
        if name == b"infe" and content[number_at + width + 2 : number_at + width + 6] == kind:
            yield int.from_bytes(content[number_at : number_at + width], "big")


class _Locations:
    """The box `iloc`: where the pieces of each item lie."""

    def __init__(self, box: bytes) -> None:
        self._box = box
        self._at = 0

    def read(self, wanted: set[int], content: Content, stored: bytes) -> Iterator[bytes]:
        """The items of those numbers, from the file or from the box `idat`."""
        version, _, sizes, more = (self._take(width) for width in (1, 3, 1, 1))
        widths = sizes >> 4, sizes & 15, more >> 4, more & 15 if version in (1, 2) else 0
        for _ in range(self._take(4 if version == 2 else 2)):
            number = self._take(4 if version == 2 else 2)
            method = self._take(2) & 15 if version in (1, 2) else 0
            self._take(2)
            base = self._take(widths[2])
            pieces = []
            for _ in range(self._take(2)):
                self._take(widths[3])
                pieces.append((base + self._take(widths[0]), self._take(widths[1])))
            if number in wanted:
                yield _join(pieces, stored if method == 1 else content, method)

    def _take(self, width: int) -> int:
        if self._at + width > len(self._box):
            raise TangledFileError
        self._at += width
        return int.from_bytes(self._box[self._at - width : self._at], "big")


def _join(pieces: list[tuple[int, int]], source: Content, method: int) -> bytes:
    if method not in (0, 1) or sum(length for _, length in pieces) > _MOST_EXIF:
        raise TangledFileError
    # A length of 0 means: up to the end.
    return b"".join(source[begin : begin + length if length else len(source)] for begin, length in pieces)

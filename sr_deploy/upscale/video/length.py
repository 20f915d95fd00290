"""How long a file says it is: one that was cut ends before. Duration tells it too, but not to the frame."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"moof", b"mfra", b"sidx", b"styp")
"""What MP4 and QuickTime files consist of."""
_LARGE = 1
"""In place of a size: it follows the name, in 8 bytes."""
_SHORTEST_BOX, _LONGEST_HEAD = 8, 16


def count_missing_bytes(path: Path) -> int:
    """Bytes that a Matroska, WebM, MP4 or QuickTime file lacks of what it says it has; 0 for others."""
    there = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        stream.seek(0)
        if start.startswith(_EBML):
            said = _find_matroska_end(stream)
        elif start[4:] in _BOXES:
            said = _find_boxes_end(stream, there)
        else:
            return 0
    return max(0, said - there)


def _find_matroska_end(stream: BinaryIO) -> int:
    """Where its one segment ends; 0: it does not say, as in broadcasts."""
    stream.seek(len(_EBML))
    head = _read_size(stream)
    if head is None:
        return 0
    stream.seek(head, 1)
    if stream.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    size = _read_size(stream)
    return 0 if size is None else stream.tell() + size


def _read_size(stream: BinaryIO) -> int | None:
    """A number of EBML; None: not known."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + stream.read(more))
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _find_boxes_end(stream: BinaryIO, there: int) -> int:
    """Where the last of its boxes ends; what follows that is no box does not count."""
    end = 0
    while end < there:
        stream.seek(end)
        head = stream.read(_LONGEST_HEAD)
        size = int.from_bytes(head[:4])
        if size == _LARGE:
            size = int.from_bytes(head[8:])
        if head[4:8] not in _BOXES or size < _SHORTEST_BOX:  # 0: it goes on to the end
            return end
        end += size
    return end

"""What a picture's EXIF says about its orientation and resolution, read and corrected in place.

Tags are changed in place: all else (maker notes with their absolute offsets, GPS, copyright) stays byte for byte.
Layout: EXIF 2.32, section 4.5 and TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PREFIX = b"Exif\x00\x00"
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_SHORT, _RATIONAL = 3, 5
_POINTERS = (0x8769, 0x8825, 0xA005)
"""Tags that say where another directory is: of EXIF, GPS and interoperability."""
_MOST_DIRECTORIES = 16
_MOST_ENTRIES = 4096
_INCHES_PER_UNIT = {2: 1.0, 3: 2.54}
"""Units per inch: 2 are inches, 3 centimeters; 1 is not a unit."""


@dataclass(frozen=True)
class _Entry:
    """One tag of the first directory."""

    tag: int
    kind: int
    value_at: int
    """Where its four bytes of value or offset stand."""


def set_upright(exif: bytes) -> bytes:
    """The same EXIF for a picture that was turned upright: orientation 1, and no thumbnail (it lies on its side).

    What cannot be read as EXIF comes back as it is.
    """
    start, order = _find_header(exif)
    if not order:
        return exif
    mended = bytearray(exif)
    for entry in _entries(exif, start, order):
        if entry.tag == _ORIENTATION and entry.kind == _SHORT:
            struct.pack_into(order + "H", mended, entry.value_at, 1)
    next_at = _after_entries(exif, start, order)
    if next_at is not None:
        struct.pack_into(order + "I", mended, next_at, 0)
    return bytes(mended)


def read_dpi(exif: bytes) -> tuple[float, float] | None:
    """Pixels per inch across and down; None where the EXIF does not say."""
    start, order = _find_header(exif)
    if not order:
        return None
    found: dict[int, float] = {}
    for entry in _entries(exif, start, order):
        if entry.tag in (_X_RESOLUTION, _Y_RESOLUTION) and entry.kind == _RATIONAL:
            at = start + struct.unpack_from(order + "I", exif, entry.value_at)[0]
            if at + 8 <= len(exif):
                above, below = struct.unpack_from(order + "II", exif, at)
                found[entry.tag] = above / below if below else 0.0
        elif entry.tag == _RESOLUTION_UNIT and entry.kind == _SHORT:
            found[entry.tag] = struct.unpack_from(order + "H", exif, entry.value_at)[0]
    unit = _INCHES_PER_UNIT.get(int(found.get(_RESOLUTION_UNIT, 2)))
    across, down = found.get(_X_RESOLUTION, 0.0), found.get(_Y_RESOLUTION, 0.0)
    return (across * unit, down * unit) if unit and across > 0 and down > 0 else None


def is_tangled(exif: bytes) -> bool:
    """Whether directories lead to one another in a ring or more than once, so that following them may not end.

    Four kilobytes of such pointers occupy libexif, through which libvips reads, for ten seconds; ten for hours. What
    cannot be read as EXIF is not tangled.
    """
    start, order = _find_header(exif)
    if not order:
        return False
    seen: set[int] = set()
    waiting = [struct.unpack_from(order + "I", exif, start + 4)[0]]
    while waiting:
        place = waiting.pop()
        if start + place + 2 > len(exif):
            continue
        entries = list(_entries_at(exif, start + place, order))
        if place in seen or len(seen) == _MOST_DIRECTORIES or len(entries) > _MOST_ENTRIES:
            return True
        waiting += [struct.unpack_from(order + "I", exif, one.value_at)[0] for one in entries if one.tag in _POINTERS]
        next_at = _after_entries(exif, start, order) if not seen else None
        if next_at is not None and (following := struct.unpack_from(order + "I", exif, next_at)[0]):
            waiting.append(following)
        seen.add(place)
    return False


def _find_header(exif: bytes) -> tuple[int, str]:
    """Where the TIFF header begins and its byte order for `struct`; an empty order: no such header."""
    start = len(_PREFIX) if exif.startswith(_PREFIX) else 0
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[start : start + 4], "")
    return start, order if len(exif) >= start + 8 else ""


def _entries(exif: bytes, start: int, order: str) -> Iterator[_Entry]:
    return _entries_at(exif, start + struct.unpack_from(order + "I", exif, start + 4)[0], order)


def _entries_at(exif: bytes, at: int, order: str) -> Iterator[_Entry]:
    if at + 2 > len(exif):
        return
    count = struct.unpack_from(order + "H", exif, at)[0]
    for position in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, position)
        yield _Entry(tag, kind, position + 8)


def _after_entries(exif: bytes, start: int, order: str) -> int | None:
    """Where the offset of the next directory (that of the thumbnail) stands."""
    at = start + struct.unpack_from(order + "I", exif, start + 4)[0]
    if at + 2 > len(exif):
        return None
    after: int = at + 2 + 12 * struct.unpack_from(order + "H", exif, at)[0]
    return after if after + 4 <= len(exif) else None

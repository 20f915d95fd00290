"""ZIP archives as `torch.save` writes them, or as somebody packed them anew: some published weights are compressed.

Layout: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sr_deploy.errors import CheckpointError

MAX_MEMBERS = 100_000
"""Most members; `torch.save` writes one for each tensor."""
MAX_GROWTH = 4
"""What all members may take, in sizes of the archive: weights shrink by a tenth when they are compressed, not more."""
_MAX_DIRECTORY = 1 << 25
_SMALL = 1 << 20
_DEFLATED = 8
_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH4xIIIHHH8xI")
_END = struct.Struct("<4s6xHII2x")
_END_64 = struct.Struct("<4s28xQQQ")
_LOCATOR = struct.Struct("<4s4xQ4x")
_FULL = 0xFFFFFFFF
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    at: int
    """Where its bytes begin in the archive."""
    size: int
    """How many there are, once unpacked."""
    packed: int
    """How many there are in the archive."""
    deflated: bool
    checksum: int
    """CRC-32 of them, unpacked."""


def list_members(stream: BinaryIO) -> dict[str, Member]:
    """Every member by name.

    Args:
        stream: the archive, open for reading.

    Raises:
        CheckpointError: damaged, encrypted, or larger than a checkpoint when unpacked (no file name in it).
    """
    size = stream.seek(0, os.SEEK_END)
    try:
        count, length, start = _find_directory(stream, size)
        if count > MAX_MEMBERS or length > _MAX_DIRECTORY:
            raise CheckpointError(
                f"refused: an archive with {count} members, of which a checkpoint has {MAX_MEMBERS} at most"
            )
        members = dict(_read_members(stream, _read(stream, start, length), count))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"damaged or truncated archive ({error}); copy or download it again") from error
    if len(members) != count:
        raise CheckpointError("damaged archive (two members have one name); copy or download it again")
    for name, member in members.items():
        if member.at + member.packed > size:
            raise CheckpointError(
                f"damaged or truncated archive ({name[:80]!r} ends after the file); copy or download it again"
            )
    unpacked = sum(member.size for member in members.values())
    if unpacked > MAX_GROWTH * size + _SMALL:
        raise CheckpointError(
            f"refused: an archive of {size} bytes that says to hold {unpacked}; weights do not compress that much"
        )
    return members


def read_member(stream: BinaryIO, member: Member) -> bytearray:
    """The bytes of a member, unpacked and compared with its checksum.

    Raises:
        CheckpointError: they were changed.
        MemoryError: there is no room for them.
    """
    content = bytearray(member.size)
    view = memoryview(content)
    stream.seek(member.at)
    unpack = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
    at, left = 0, member.packed
    try:
        while left and (part := stream.read(min(left, _CHUNK))):
            left -= len(part)
            # One byte more than fits is asked for, so that a member that is longer than it says is seen to be.
            part = part if unpack is None else unpack.decompress(part, member.size - at + 1)
            view[at : at + len(part)] = part
            at += len(part)
    except (ValueError, zlib.error):
        at = -1
    if at != member.size or zlib.crc32(content) != member.checksum:
        raise CheckpointError(
            "damaged or truncated (a size or checksum of its archive does not fit); copy or download it again"
        )
    return content


def _find_directory(stream: BinaryIO, size: int) -> tuple[int, int, int]:
    """Entries of the central directory, its length in bytes, and where it begins."""
    start = max(size - 0xFFFF - _END.size - _LOCATOR.size, 0)
    tail = _read(stream, start, size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("its end is missing")
    _, count, length, place = _END.unpack_from(tail, at)
    locator = at - _LOCATOR.size
    if locator >= 0 and tail.startswith(b"PK\x06\x07", locator):
        end_64 = _LOCATOR.unpack_from(tail, locator)[1]
        mark, count, length, place = _END_64.unpack(_read(stream, end_64, _END_64.size))
        if mark != b"PK\x06\x06":
            raise ValueError("its directory is not where it should be")
    return count, length, place


def _read_members(stream: BinaryIO, directory: bytes, count: int) -> Iterator[tuple[str, Member]]:
    at = 0
    for _ in range(count):
        mark, flags, method, checksum, packed, size, name_length, extra_length, note_length, local = (
            _CENTRAL.unpack_from(directory, at)
        )
        at += _CENTRAL.size
        if mark != b"PK\x01\x02":
            raise ValueError("its directory is damaged")
        name = directory[at : at + name_length].decode()
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + note_length
        size, packed, local = _widen(extra, [size, packed, local])
        if flags & 1 or method not in (0, _DEFLATED) or (method == 0 and packed != size):
            raise CheckpointError(
                f"refused: {name[:80]!r} is encrypted in its archive, or compressed in a rare way; unpack it, or save "
                "the network's state_dict() anew"
            )
        mark, local_name, local_extra = _LOCAL.unpack(_read(stream, local, _LOCAL.size))
        if mark != b"PK\x03\x04":
            raise ValueError("a member is not where it should be")
        begin = local + _LOCAL.size + local_name + local_extra
        yield name, Member(begin, size, packed, method == _DEFLATED, checksum)


def _widen(extra: bytes, numbers: list[int]) -> list[int]:
    """Sizes and places of 64 bits, which stand apart where those of 32 are full."""
    if _FULL not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{numbers.count(_FULL)}Q", extra, at + 4))
            return [next(wide) if number == _FULL else number for number in numbers]
        at += 4 + length
    raise ValueError("a size of 64 bits is missing")


def _read(stream: BinaryIO, at: int, count: int) -> bytes:
    try:
        stream.seek(at)
        content = stream.read(count)
    except (OverflowError, ValueError):  # a place that no file has
        content = b""
    if len(content) != count:
        raise ValueError("it breaks off")
    return content

"""Width and height of a picture by the first bytes of its file, for folders of a hundred thousand files.

PNG (third edition, 5.2 and 11.2.1) and JPEG (ITU-T T.81, B.2.2), without libvips. Only plain files get an answer here;
whatever is unusual in the least is left to a decoder, whose word counts.
"""

from __future__ import annotations

import struct
import zlib

HEAD_BYTES = (1 << 12, 1 << 18)
"""Of a file that are enough mostly, and where it begins with metadata."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per sample by color type."""
_PALETTE = 3
_LEFT_TO_DECODER = (b"acTL", b"")
"""Animations, and where the head ends."""
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of Huffman-coded frames in baseline, extended and progressive mode."""
_BEFORE_FRAME = frozenset({0xDB, 0xC4, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Markers of segments that may stand before a frame: tables, restart interval, comment, applications."""
_MOST_PARTS = 200
_LARGEST = 1 << 25
"""Pixels, above which a file is examined for being a decompression bomb."""


def parse_dimensions(head: bytes) -> tuple[int, int] | None:
    """Width and height of a plain PNG or JPEG file, as stored: an EXIF orientation may exchange them.

    Args:
        head: first bytes of the file.

    Returns:
        None where a decoder has to be asked: another format, an unusual or damaged header, more than 33 megapixels, or
        a head that is too short.
    """
    found = _parse_png(head) if head.startswith(_PNG) else _parse_jpeg(head) if head.startswith(_JPEG) else None
    return found if found is not None and 0 < found[0] * found[1] <= _LARGEST else None


def _parse_png(head: bytes) -> tuple[int, int] | None:
    """From its header, if samples follow it and nothing before them is for a decoder to judge."""
    if len(head) < 33 or head[8:16] != b"\0\0\0\x0dIHDR":
        return None
    width, height, depth, color, compression, filtering, interlace, checksum = struct.unpack_from(">IIBBBBBI", head, 16)
    if checksum != zlib.crc32(head[12:29]) or compression or filtering or interlace > 1:
        return None
    at, palette = 33, color != _PALETTE
    for _ in range(_MOST_PARTS):
        name = head[at + 4 : at + 8]
        if name == b"IDAT":
            return (width, height) if palette and depth in _DEPTHS.get(color, ()) else None
        if name in _LEFT_TO_DECODER:
            return None
        palette = palette or name == b"PLTE"
        at += 12 + int.from_bytes(head[at : at + 4], "big")
    return None


def _parse_jpeg(head: bytes) -> tuple[int, int] | None:
    """From its frame header, if it has one or three components of 8 bit."""
    at = 2
    for _ in range(_MOST_PARTS):
        if len(head) < at + 10 or head[at] != 0xFF:
            return None
        marker, length, depth, height, width, components = struct.unpack_from(">BHBHHB", head, at + 1)
        if marker in _FRAMES:
            plain = depth == 8 and components in (1, 3) and length == 8 + 3 * components
            return (width, height) if plain else None
        if marker not in _BEFORE_FRAME or length < 2:
            return None
        at += 2 + length
    return None

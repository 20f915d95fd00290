"""Hostile pictures, each made by a function: small files that ask for much memory or time, or for a crash.

`CASES` has them by name. What a decoder takes is made by Pillow and changed, or put together byte by byte.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Sequence

from PIL import Image

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005


def directory(entries: Sequence[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF directory of tag, type, count and value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def exif(*directories: bytes) -> bytes:
    """EXIF of directories one after another, the first at 8."""
    return b"II*\0\x08\0\0\0" + b"".join(directories)


def tangled_exif(pointers: int = 100) -> bytes:
    """Three directories that lead to one another by many pointers each: 3.7 kB occupy libexif for ten seconds."""
    size = 2 + 12 * pointers + 4
    tags = (EXIF, INTEROPERABILITY, GPS)
    places = (8 + size, 8 + 2 * size, 8)
    return exif(*(directory([(tag, 4, 1, place)] * pointers) for tag, place in zip(tags, places, strict=True)))


def plain_exif(size: int = 0) -> bytes:
    """What cameras write: a model, EXIF, GPS and interoperability, a thumbnail's directory."""
    # Each directory: 2 bytes of count, 12 for each entry, 4 for the one that follows.
    first = directory([(0x0110, 2, 1, 0), (EXIF, 4, 1, 50), (GPS, 4, 1, 80)], 98)
    second = directory([(0x9003, 2, 4, 0x30303230), (INTEROPERABILITY, 4, 1, 116)])
    gps, thumbnail, last = (directory([(tag, 4, 1, 1)]) for tag in (1, 0x0103, 2))
    return exif(first, second, gps, thumbnail, last) + bytes(size)


def encode(form: str, width: int = 16, height: int = 16, **options: object) -> bytes:
    """A black picture."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, form, **options)
    return stream.getvalue()


def jpeg(block: bytes) -> bytes:
    """With EXIF."""
    whole, payload = encode("JPEG"), b"Exif\0\0" + block
    return whole[:2] + segment(0xE1, payload) + whole[2:]


def segment(kind: int, payload: bytes) -> bytes:
    """Of a JPEG."""
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(payload) + 2) + payload


def png(block: bytes) -> bytes:
    """With EXIF."""
    whole = encode("PNG")
    return whole[:33] + chunk(b"eXIf", block) + whole[33:]


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def webp(block: bytes) -> bytes:
    """With EXIF."""
    return encode("WEBP", exif=b"Exif\0\0" + block)


def avif(block: bytes) -> bytes:
    """With EXIF, put in afterwards: the encoder refuses what is no EXIF."""
    sound = b"II*\0\x08\0\0\0\x01\0" + b"\xa5\x5a" * max(8, -(-len(block) // 2))
    content = encode("AVIF", exif=b"Exif\0\0" + sound)
    assert sound in content
    return content.replace(sound, block.ljust(len(sound), b"\0"))


def png_of(width: int, height: int, *, bits: int = 8, kind: int = 2, extra: bytes = b"") -> bytes:
    """A black PNG, packed as far as it goes."""
    row = 1 + width * {2: 3, 6: 4}[kind] * bits // 8
    packer = zlib.compressobj(9)
    rows = 1 << 8
    packed = [packer.compress(bytes(row * min(rows, height - top))) for top in range(0, height, rows)]
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    samples = b"".join(packed) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", samples) + chunk(b"IEND", b"")


def bmp(width: int, height: int, samples: bytes = b"", *, bits: int = 24, packing: int = 0) -> bytes:
    """With a header of 40 bytes."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(samples), 0, 0, 54) + head + samples


def tiff(width: int, height: int, tags: dict[int, tuple[int, int, int]] | None = None, following: int = 0) -> bytes:
    """One strip of gray samples, black, with other tags (type, count, value)."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1),
               273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, width * height)}  # fmt: skip
    entries |= tags or {}
    whole = exif(directory([(tag, *entries[tag]) for tag in sorted(entries)], following))
    return whole + bytes(200 - len(whole) + min(width * height, 1 << 16))


def many_pages(count: int) -> bytes:
    """A TIFF of that many directories with one pixel each."""
    tags = {256: (4, 1, 1), 257: (4, 1, 1), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 4), 279: (4, 1, 1)}
    size = 2 + 12 * len(tags) + 4
    places = [8 + (number + 1) * size for number in range(count - 1)]
    return exif(*(directory([(tag, *tags[tag]) for tag in sorted(tags)], place) for place in [*places, 0]))


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG, gray, each of whose scans after the first passes over all blocks in a few bytes."""
    blocks = -(-width // 8) * -(-height // 8)
    head = (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    )
    # One code for a difference of 0; one for "nothing in the next 2^14 and more blocks", one for "nothing in this one".
    head += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1\1" + bytes(14) + b"\xe0\0")
    runs, rest = divmod(blocks, 32767)
    passing = _pack_bits("0" * 1 + "1" * 14, runs, "10" * rest)
    scan = [segment(0xDA, b"\1\1\0\0\0\0") + _pack_bits("", 0, "0" * blocks)]
    for bit in range(13, -1, -1):
        before = 0 if bit == 13 else bit + 1
        scan += [segment(0xDA, bytes([1, 1, 0, one, one, before << 4 | bit])) + passing for one in range(1, 64)]
    return head + b"".join(scan[:scans]) + b"\xff\xd9"


def _pack_bits(run: str, count: int, rest: str) -> bytes:
    bits = run * count + rest
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def gif(width: int, height: int, frames: int) -> bytes:
    """Of frames with one pixel each."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def box(name: bytes, content: bytes) -> bytes:
    """Of an ISO base media file."""
    return struct.pack(">I4s", len(content) + 8, name) + content


def scattered_avif(block: bytes, pieces: int) -> bytes:
    """The boxes of an AVIF whose EXIF lies in several pieces, some in the file, in the order of their places."""
    content = b"\0\0\0\6Exif\0\0" + block
    size = -(-len(content) // pieces)
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    head = box(b"ftyp", b"avif\0\0\0\0avifmif1")
    infe = box(b"infe", b"\2\0\0\0\0\1\0\0Exif\0")
    entry = struct.pack(">HHHH", 1, 0, 0, len(parts))
    iloc = b"\1\0\0\0\x44\x00\0\1" + entry
    meta_size = len(head) + 12 + len(box(b"iinf", b"\0\0\0\0\0\1" + infe)) + 8 + len(iloc) + 8 * len(parts)
    places, at = [], meta_size + 8
    for part in parts:
        places.append(struct.pack(">II", at, len(part)))
        at += len(part) + 16
    boxes = box(b"iinf", b"\0\0\0\0\0\1" + infe) + box(b"iloc", iloc + b"".join(places))
    return head + box(b"meta", b"\0\0\0\0" + boxes) + box(b"mdat", b"".join(part + bytes(16) for part in parts))


_TANGLED = "directories lead to one another"
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "tangled EXIF in JPEG": (lambda: jpeg(tangled_exif()), _TANGLED),
    "tangled EXIF in PNG": (lambda: png(tangled_exif()), _TANGLED),
    "tangled EXIF in WebP": (lambda: webp(tangled_exif()), _TANGLED),
    "tangled EXIF in AVIF": (lambda: avif(tangled_exif()), _TANGLED),
    "much tangled EXIF in JPEG": (lambda: jpeg(tangled_exif(1500)), _TANGLED),
    "much tangled EXIF in PNG": (lambda: png(tangled_exif(1200)), _TANGLED),
    "EXIF of one directory in itself": (lambda: png(exif(directory([(EXIF, 4, 1, 8)] * 3000))), _TANGLED),
    "EXIF behind filling bytes": (
        lambda: jpeg(tangled_exif()).replace(b"\xff\xe1", b"\xff\xff\xff\xff\xe1", 1),
        _TANGLED,
    ),
    "EXIF in the second segment": (
        lambda: jpeg(plain_exif())[:2] + segment(0xE1, b"Exif\0\0" + tangled_exif()) + jpeg(plain_exif())[2:],
        _TANGLED,
    ),
    "EXIF in pieces": (lambda: scattered_avif(tangled_exif(), 7), _TANGLED),
    "segments without end": (lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 200_000, "damaged"),
    "chunks of EXIF": (lambda: png(plain_exif())[:33] + b"eXIf" * 500_000, "damaged"),
    "boxes of nothing": (lambda: box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"free", b"") * 200_000, "damaged"),
    "PNG of 2^31 sides": (
        lambda: (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b"")
        ),
        "damaged",
    ),
    "PNG of 96 megapixels": (lambda: png_of(12_000, 8_000), "more than 250 times as many"),
    "PNG of 48 megapixels and 64 bit": (
        lambda: png_of(8_000, 6_000, bits=16, kind=6),
        "more than 250 times as many",
    ),
    "WebP of 96 megapixels": (
        lambda: encode("WEBP", 12_000, 8_000, lossless=True, method=0),
        "more than 250 times as many",
    ),
    "AVIF of 96 megapixels": (lambda: encode("AVIF", 12_000, 8_000, speed=10), "more than 250 times as many"),
    "JPEG of 65500 sides": (lambda: encode("JPEG").replace(b"\0\x10\0\x10\3", b"\xff\xdc\xff\xdc\3"), "megapixels"),
    "JPEG of 190 megapixels, cut": (
        lambda: encode("JPEG").replace(b"\0\x10\0\x10\3", b"\x2e\xe0\x3e\x80\3"),
        "more than 250 times as many",
    ),
    "JPEG of 800 scans": (lambda: many_scans(8_000, 6_000, 800), "800 scans"),
    "BMP of negative width": (lambda: bmp(-5, 5, bytes(100)), "-5x5 pixels"),
    "BMP of the least width": (lambda: bmp(-(2**31), -(2**31), bytes(100)), "-2147483648x2147483648 pixels"),
    "BMP of no width": (lambda: bmp(0, 5, bytes(100)), "0x5 pixels"),
    "BMP larger than its file": (lambda: bmp(13_000, 13_000, bytes(100)), "take more than its 154 bytes"),
    "BMP packed": (lambda: bmp(13_000, 13_000, bytes(3000), bits=8, packing=1), "damaged"),
    "BMP of 65535 bits": (lambda: bmp(5, 5, bytes(100), bits=65535), "take more than"),
    "BMP cut": (lambda: b"BM" + bytes(16), "cut short"),
    "TIFF of 2^31 sides": (lambda: tiff(2**31 - 1, 2**31 - 1, {279: (4, 1, 8), 278: (4, 1, 1)}), ""),
    "TIFF with a large tile": (
        lambda: tiff(16, 16, {322: (4, 1, 65536), 323: (4, 1, 65536), 324: (4, 1, 8), 325: (4, 1, 16)}),
        "damaged",
    ),
    "TIFF of many strips": (lambda: tiff(1, 100_000_000, {278: (4, 1, 1)}), ""),
    "TIFF with a long list of strips": (lambda: tiff(16, 16, {273: (4, 2**30, 8)}), ""),
    "TIFF of 65535 samples": (lambda: tiff(16, 16, {277: (3, 1, 65535)}), ""),
    "TIFF of 50000 pages": (lambda: many_pages(50_000), "several pages (50000)"),
    "GIF of 200000 frames": (lambda: gif(1, 1, 200_000), "several pages (200000)"),
    "SVG": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
        "not a picture that can be read",
    ),
    "SVG, packed": (lambda: b"\x1f\x8b\x08" + zlib.compress(b"<svg>" + bytes(1000)), "not a picture that can be read"),
    "PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "not a picture that can be read",
    ),
    "PDF": (lambda: b"%PDF-1.4\n", "not a picture that can be read"),
    "PPM": (lambda: b"P6 4 4 255 " + bytes(48), "not a picture that can be read"),
    "a matrix": (lambda: b"MATLAB 5.0 MAT-file" + bytes(200), "not a picture that can be read"),
}
"""By name: what makes the file, and words of the line that refuses it; none where it may be taken."""

TAKEN: dict[str, Callable[[], bytes]] = {
    "TIFF whose directories make a ring": lambda: tiff(16, 16, following=8),
    "PNG whose profile unpacks to 1 GB": lambda: png_of(4, 4, extra=chunk(b"iCCP", b"x\0\0" + _zeros(1 << 30))),
    "PNG whose texts unpack to 5 GB": lambda: png_of(
        4, 4, extra=b"".join(chunk(b"zTXt", b"%d\0\0" % n + _zeros(1 << 28)) for n in range(20))
    ),
    "PNG of many texts": lambda: png_of(4, 4, extra=b"".join(chunk(b"tEXt", b"%d\0x" % n) for n in range(100_000))),
    "PNG of many chunks": lambda: png_of(4, 4, extra=chunk(b"abCd", b"") * 500_000),
    "GIF of 65535 sides": lambda: gif(65535, 65535, 1),
    "JPEG with a profile of 16 MB": lambda: (
        encode("JPEG")[:2]
        + b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, 250]) + bytes(65519)) for n in range(250))
        + encode("JPEG")[2:]
    ),
    "JPEG of 90 scans": lambda: many_scans(8_000, 6_000, 90),
    "EXIF of 5000 tags": lambda: png(exif(directory([(tag + 1, 7, 4, 8) for tag in range(4000)]))),
    "EXIF of long tags": lambda: png(exif(directory([(tag + 1, 7, 30_000, 8) for tag in range(2000)])) + bytes(40_000)),
    "EXIF as cameras write it": lambda: jpeg(plain_exif(50_000)),
}
"""By name: what makes a file that is strange, and is read within the limits."""


@functools.cache
def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    part = bytes(1 << 24)
    return b"".join(packer.compress(part) for _ in range(count >> 24)) + packer.flush()

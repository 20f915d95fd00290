"""Damaged pictures: sound files of every format that is read, changed byte by byte, EXIF structures, and false claims.

`make_case(seed)` gives the same file for the same seed; what is hostile by design is in `picture_cases`.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.fuzz import picture_cases
from tests.fuzz.mutate import damage_bytes

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}
_DIRECTORIES = (picture_cases.EXIF, picture_cases.GPS, picture_cases.INTEROPERABILITY)
_TAGS = (0x0100, 0x010F, 0x0112, 0x011A, 0x0128, 0x0132, 0x9286, 0x927C, 0xA002, 0x4746, 0xFFFF, 0x0201, 0x0202)
_COUNTS = (0, 1, 2, 7, 255, 65535, 2**31 - 1, 2**32 - 1)
_SEGMENT = 65_000
"""Bytes of EXIF that a JPEG takes."""


def make_case(seed: int) -> tuple[str, str, bytes]:
    """One file: what it is, its suffix, its bytes."""
    draw = random.Random(seed)
    form = draw.choice(_FORMATS)
    suffix = _SUFFIXES.get(form, form.lower())
    roll = draw.random()
    if roll < 0.2:
        wrap, suffix = draw.choice(
            (
                (picture_cases.jpeg, "jpg"),
                (picture_cases.png, "png"),
                (picture_cases.webp, "webp"),
                (picture_cases.avif, "avif"),
            )
        )
        return f"exif-{suffix}", suffix, wrap(make_exif(draw)[:_SEGMENT])
    if roll < 0.3:
        return draw.choice((_bomb_png, _claim_png, _claim_bmp, _claim_tiff, _write_svg))(draw)
    content = _base(form, draw.randrange(4))
    if roll < 0.35:
        content = content[: draw.randrange(len(content))]
    return f"bytes-{form}", suffix, damage_bytes(draw, content, head=draw.choice((None, None, 64, 400)))


@cache
def _base(form: str, kind: int) -> bytes:
    """A sound picture: RGB, gray, with alpha, or with everything that goes beside samples."""
    shade = np.add.outer(np.arange(24) * 7, np.arange(32) * 3)
    samples = np.stack([shade % 256, (shade * 2) % 256, 255 - shade % 256], axis=2).astype(np.uint8)
    image = Image.fromarray(samples)
    if kind == 1:
        image = image.convert("L")
    elif kind == 2 and form != "JPEG":
        image = image.convert("RGBA")
    target = io.BytesIO()
    more: dict[str, object] = {}
    if kind == 3 and form in ("JPEG", "PNG", "WEBP", "AVIF"):
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "maker", 6
        more = {"exif": exif.tobytes(), "icc_profile": b"\x00" * 40 + b"acsp" + b"\x00" * 84}
    if kind == 3 and form == "JPEG":
        more["progressive"] = True
    if kind == 3 and form == "TIFF":
        more["compression"] = "tiff_lzw"
    image.save(target, form, **more)
    return target.getvalue()


def make_exif(draw: random.Random) -> bytes:
    """A TIFF structure: directories that point at each other, with entries of any type, count and place."""
    order, mark = draw.choice((("<", b"II"), (">", b"MM")))
    content = bytearray(mark + struct.pack(f"{order}HI", 42, 8))
    directories = draw.choice((1, 2, 3, 10, 300))
    size = draw.choice((1, 2, 4, 12))
    starts = [8 + index * (2 + size * 12 + 4) for index in range(directories)]
    end = starts[-1] + 2 + size * 12 + 4
    for _ in starts:
        content += struct.pack(f"{order}H", size if draw.random() < 0.95 else draw.choice((0, 1, 65535)))
        for _ in range(size):
            if draw.random() < 0.5:
                tag, kind, count = draw.choice(_DIRECTORIES), 4, 1
                place = draw.choice(starts) if draw.random() < 0.9 else draw.choice(_COUNTS)
            else:
                tag, kind = draw.choice(_TAGS), draw.choice((1, 2, 3, 4, 5, 7, 9, 12, 13, 0, 200))
                count, place = draw.choice(_COUNTS), draw.choice((end, 0, 6, 2**32 - 1, draw.choice(starts)))
            content += struct.pack(f"{order}HHII", tag, kind, count, place)
        content += struct.pack(f"{order}I", draw.choice((0, 0, draw.choice(starts), 2**32 - 4)))
    content += draw.randbytes(draw.choice((0, 16, 200)))
    return damage_bytes(draw, bytes(content)) if draw.random() < 0.2 else bytes(content)


def _bomb_png(draw: random.Random) -> tuple[str, str, bytes]:
    """A small picture with a text or a profile that unpacks to many megabytes."""
    size = draw.choice((10**5, 10**7, 3 * 10**8))
    kind, head = draw.choice(((b"zTXt", b"c\0\0"), (b"iCCP", b"p\0\0"), (b"iTXt", b"c\0\1\0\0\0")))
    extra = picture_cases.chunk(kind, head + zlib.compress(bytes(size), 9)) * draw.choice((1, 1, 3))
    return f"bomb-{size}", "png", picture_cases.png_of(16, 16, extra=extra)


def _claim_png(draw: random.Random) -> tuple[str, str, bytes]:
    """A header that claims any size, depth and color, over few samples."""
    sides = [draw.choice((0, 1, 16, 65535, 10**6, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    depth, kind, woven = draw.choice((1, 8, 16, 3)), draw.choice((0, 2, 3, 4, 6, 7)), draw.choice((0, 1))
    content = picture_cases.png_of(16, draw.choice((1, 16, 4000)))
    header = picture_cases.chunk(b"IHDR", struct.pack(">IIBBBBB", *sides, depth, kind, 0, 0, woven))
    return "claim-png", "png", content[:8] + header + content[8 + len(header) :]


def _claim_bmp(draw: random.Random) -> tuple[str, str, bytes]:
    """A BMP of any sides, negative ones too, any depth and any packing."""
    width, height = (draw.choice((0, 1, 8, -1, -8, 65536, 2**31 - 1, -(2**31))) for _ in range(2))
    bits, packing = draw.choice((1, 4, 8, 16, 24, 32, 0, 255)), draw.choice((0, 1, 2, 3, 9))
    content = picture_cases.bmp(width, height, b"\x7f" * draw.choice((0, 64, 400)), bits=bits, packing=packing)
    return "claim-bmp", "bmp", content if draw.random() < 0.7 else damage_bytes(draw, content, head=54)


def _claim_tiff(draw: random.Random) -> tuple[str, str, bytes]:
    """A TIFF whose directories come round again, or that claims strips, channels and packings that it has not."""
    packing, sense = draw.choice((1, 5, 7, 8, 50000)), draw.choice((0, 1, 2, 3, 6, 8))
    many, rows, size = draw.choice((1, 3, 65535)), draw.choice((1, 2**31)), draw.choice((16, 2**32 - 1))
    values = {259: packing, 262: sense, 277: many, 278: rows, 279: size}
    tags = {tag: (4, 1, value) for tag, value in values.items() if draw.random() < 0.5}
    return "claim-tiff", "tif", picture_cases.tiff(16, 16, tags, draw.choice((0, 0, 8, 9, 2**32 - 1)))


def _write_svg(draw: random.Random) -> tuple[str, str, bytes]:
    """XML, which some libraries take for a picture, with entities and links to files."""
    inside = draw.choice(('<image href="/etc/passwd" width="9" height="9"/>', "&a;" * 1000, "<g>" * 20000))
    head = '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">]>'
    return "svg", "svg", f'{head}<svg width="99999" height="99999">{inside}</svg>'.encode()

"""Damaged videos: short sound ones of each container, changed where containers keep their tables."""

from __future__ import annotations

import io
import random
from functools import cache

import av
import numpy as np

from tests.fuzz.mutate import damage_bytes

_KINDS = {
    "mkv": ("matroska", "libx264"),
    "mp4": ("mp4", "libx264"),
    "mov": ("mov", "libx264"),
    "avi": ("avi", "mpeg4"),
    "webm": ("webm", "libvpx"),
    "ts": ("mpegts", "libx264"),
}
_SIDE, _FRAMES = 64, 4


def make_case(seed: int) -> tuple[str, str, bytes]:
    """One file: what it is, its suffix, its bytes."""
    draw = random.Random(seed)
    suffix = draw.choice((*_KINDS, "y4m"))
    content = _y4m(draw) if suffix == "y4m" else _base(suffix)
    roll = draw.random()
    if roll < 0.15:
        content = content[: draw.randrange(len(content))]
    elif roll < 0.5 and len(content) > 800:
        tail = damage_bytes(draw, content[-800:])
        return f"tail-{suffix}", suffix, content[:-800] + tail
    return f"bytes-{suffix}", suffix, damage_bytes(draw, content, head=draw.choice((None, 64, 800)))


@cache
def _base(suffix: str) -> bytes:
    form, codec = _KINDS[suffix]
    target = io.BytesIO()
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(_FRAMES):
            samples = np.full((_SIDE, _SIDE, 3), number * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(samples, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def _y4m(draw: random.Random) -> bytes:
    words = [
        draw.choice(("YUV4MPEG2", "YUV4MPEG2", "YUV4MPEG")),
        f"W{draw.choice((16, 16, 0, -1, 2**31, 'x'))}",
        f"H{draw.choice((16, 16, 0, 99999))}",
        f"F{draw.choice(('25:1', '25:0', '0:1', '1:99999999999', '', '-1:1'))}",
        draw.choice(("Ip", "It", "I?", "")),
        draw.choice(("C420", "C444", "C420p10", "Cmono", "Cxyz", "")),
    ]
    return " ".join(words).encode() + b"\n" + (b"FRAME\n" + b"\x80" * 384) * draw.choice((0, 1, 3))

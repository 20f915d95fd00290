"""Streams of raw frames, in memory."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sr_deploy.errors import InputError, OutputError, VideoError
from sr_deploy.upscale.video.pipe import upscale_pipe

CHROMA = {"C420mpeg2": (2, 2), "C420jpeg": (2, 2), "C422": (1, 2), "C444": (1, 1), "Cmono": None, "C420p10": (2, 2)}


def make_stream(chroma: str, words: str = "F30000:1001 Ip A4:3", size=(33, 65), frames=4) -> bytes:
    """A flat picture for each number, and the head of yuv4mpeg."""
    height, width = size
    dtype = np.uint16 if "p10" in chroma else np.uint8
    step = 4 if "p10" in chroma else 1
    content = f"YUV4MPEG2 W{width} H{height} {words} {chroma}\n".encode()
    for number in range(frames):
        content += b"FRAME\n" + np.full((height, width), (40 + 40 * number) * step, dtype).tobytes()
        if CHROMA[chroma]:
            down, across = CHROMA[chroma]
            plane = np.full((-(-height // down), -(-width // across)), 120 * step, dtype)
            content += 2 * plane.tobytes()
    return content


@pytest.mark.parametrize("chroma", CHROMA)
def test_frames_come_out_larger_with_the_same_head(upscaler, chroma):
    target = io.BytesIO()
    result = upscale_pipe(upscaler, io.BytesIO(make_stream(chroma)), target, "y4m")
    expected = make_stream(chroma, size=(66, 130))
    assert (result.frames, result.duplicates, result.target.kind.width) == (4, 0, 130)
    content = target.getvalue()
    head = expected.index(b"FRAME")
    assert content[:head] == expected[:head]
    assert len(content) == len(expected)
    dtype = np.uint16 if "p10" in chroma else np.uint8  # "FRAME\n" is even
    samples, wanted = np.frombuffer(content[head:], dtype), np.frombuffer(expected[head:], dtype)
    assert np.abs(samples.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("chroma", ["420", "420p10", "422p12", "444p14", "420p16", "mono16"])
def test_heads_as_vspipe_writes_them(upscaler, chroma):
    bits = int(chroma[-2:]) if chroma[-3:-2] in "po" and not chroma.isdecimal() else 8
    dtype, step = (np.uint8, 1) if bits == 8 else (np.uint16, 2 ** (bits - 8))
    sizes = {
        "420": [(16, 12), (8, 6), (8, 6)],
        "422": [(16, 12), (16, 6), (16, 6)],
        "444": [(16, 12)] * 3,
        "mon": [(16, 12)],
    }
    frame = [np.full(size, value * step, dtype) for size, value in zip(sizes[chroma[:3]], (60, 120, 140), strict=False)]
    source = f"YUV4MPEG2 C{chroma} W12 H16 F24000:1001 Ip A0:0 XLENGTH=1\n".encode() + b"FRAME\n"
    target = io.BytesIO()
    assert upscale_pipe(upscaler, io.BytesIO(source + b"".join(map(bytes, frame))), target, "y4m").frames == 1
    head, _, content = target.getvalue().partition(b"FRAME\n")
    assert head == f"YUV4MPEG2 W24 H32 C{chroma} F24000:1001 Ip A0:0 XLENGTH=1\n".encode()
    samples, wanted = np.frombuffer(content, dtype), np.concatenate([np.repeat(plane.ravel(), 4) for plane in frame])
    assert np.abs(samples.astype(int) - wanted).max() <= step


@pytest.mark.parametrize("chunk", [1000, None])
def test_bare_rgb(upscaler, chunk):
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    frames[1] = frames[0]
    target = io.BytesIO()
    source = io.BufferedReader(Drops(frames.tobytes(), chunk)) if chunk else io.BytesIO(frames.tobytes())
    result = upscale_pipe(upscaler, source, target, "rgb24", "30x20")
    assert (result.frames, result.duplicates) == (3, 1)
    assert target.getvalue() == np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2).tobytes()


class Drops(io.RawIOBase):
    """Gives a few bytes at a time, as pipes do."""

    def __init__(self, content: bytes, size: int) -> None:
        self._stream = io.BytesIO(content)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        part = self._stream.read(min(self._size, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize(
    ("content", "name", "size", "written"),
    [
        (make_stream("C444")[:-1], "y4m", None, 3),
        (make_stream("C444", frames=2) + b"FRAME\n", "y4m", None, 2),
        (bytes(30 * 20 * 3 + 1), "rgb24", "30x20", 1),
    ],
)
def test_streams_that_break_off_are_named_and_what_came_is_written(upscaler, content, name, size, written):
    target = io.BytesIO()
    with pytest.raises(VideoError, match=rf"ends in the middle of frame {written};"):
        upscale_pipe(upscaler, io.BytesIO(content), target, name, size)
    frame = 33 * 65 * 3 * 4 + len(b"FRAME\n") if name == "y4m" else 30 * 20 * 3 * 4
    head = target.getvalue().index(b"FRAME") if name == "y4m" else 0
    assert len(target.getvalue()) == head + written * frame


@pytest.mark.parametrize(
    ("content", "name", "size", "message"),
    [
        (b"RIFF....", "y4m", None, r"begins with b'RIFF....', not with YUV4MPEG2; .* ffmpeg -i IN -f yuv4mpegpipe -"),
        (b"YUV4MPEG2 W8 H8 C411\n", "y4m", None, r"has format C411, which is not known; known: 420, 420jpeg"),
        (b"YUV4MPEG2 W8 H8 It\n", "y4m", None, r"is interlaced \(It\)"),
        (b"YUV4MPEG2 W8\n", "y4m", None, r"does not say its size, .*: YUV4MPEG2 W8"),
        (make_stream("C444") + b"MORE\n", "y4m", None, r"frame 4 of the stream begins with b'MORE"),
        (b"", "rgb24", None, r"give it with --size, as in 640x360 .*, not None"),
        (b"", "rgb24", "30x0", r"not '30x0'"),
        (b"", "yuv", None, r"a stream is y4m or rgb24: say which with --format, not yuv"),
    ],
)
def test_other_streams_are_refused(upscaler, content, name, size, *, message):
    with pytest.raises(InputError, match=message):
        upscale_pipe(upscaler, io.BytesIO(content), io.BytesIO(), name, size)


def test_readers_that_end_early_are_named(upscaler):
    class Closed(io.BytesIO):
        def write(self, content) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(OutputError, match=r"their reader has ended \(Broken pipe\)"):
        upscale_pipe(upscaler, io.BytesIO(make_stream("C444")), Closed(), "y4m")


def test_full_range_is_read_from_the_head(upscaler):
    """Two readings of the same numbers: the network of one that inverts would tell them apart, its input does."""
    seen = []
    for words in ("F25:1 Ip", "F25:1 Ip XCOLORRANGE=FULL"):
        runner = upscaler._runner
        original = runner.infer
        runner.infer = lambda lr, original=original: (seen.append(float(lr.mean())), original(lr))[1]
        try:
            upscale_pipe(upscaler, io.BytesIO(make_stream("Cmono", words, frames=1)), io.BytesIO(), "y4m")
        finally:
            del runner.infer
    assert seen == pytest.approx([(40 - 16) / 219, 40 / 255], abs=0.003)

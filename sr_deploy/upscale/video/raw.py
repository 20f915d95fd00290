"""Frames without compression, one behind the other: yuv4mpeg, as ffmpeg and vspipe write it, and bare RGB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.errors import InputError, OutputError, VideoError
from sr_deploy.imaging.limits import MAX_PIXELS
from sr_deploy.legible import shorten, show_value
from sr_deploy.upscale.video.colors import RGB, UNSPECIFIED, Colors, guess_matrix
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.pixel_formats import view_planes

if TYPE_CHECKING:
    from av import VideoFrame


_MAGIC = b"YUV4MPEG2"
_LONGEST_LINE = 4096
_SIZES = f"sides of up to five digits, {MAX_PIXELS / 1e6:g} megapixels at most"
_DEEP = (10, 12, 14, 16)
_PIXEL_FORMATS = {
    "420": ("yuv420p", "center"),
    "420jpeg": ("yuv420p", "center"),
    "420mpeg2": ("yuv420p", "left"),
    "420paldv": ("yuv420p", "topleft"),
    "422": ("yuv422p", "left"),
    "444": ("yuv444p", "left"),
    "mono": ("gray", "left"),
    **{f"{chroma}p{bits}": (f"yuv{chroma}p{bits}le", "left") for chroma in (420, 422, 444) for bits in _DEEP},
    **{f"mono{bits}": (f"gray{bits}le", "left") for bits in _DEEP},
}
"""What y4m calls the format, as FFmpeg names it, and where chroma lies."""


@dataclass(frozen=True)
class RawFormat:
    """What every frame of a stream is."""

    kind: FrameKind
    """Size, format and colors."""
    words: tuple[str, ...] | None = None
    """What else the head of a y4m stream says, which is kept word for word; None: the stream has no head."""

    def enlarge(self, scale: int) -> RawFormat:
        """The same at another size."""
        kind = replace(self.kind, width=self.kind.width * scale, height=self.kind.height * scale)
        return replace(self, kind=kind)

    @property
    def head(self) -> bytes:
        """The line before the first frame."""
        if self.words is None:
            return b""
        size = f"W{self.kind.width} H{self.kind.height}"
        return b" ".join([_MAGIC, size.encode(), *(word.encode() for word in self.words)]) + b"\n"


class RawReader:
    """Frames from a stream that cannot be read twice."""

    def __init__(self, stream: BinaryIO, form: RawFormat) -> None:
        """`stream` stands behind the head."""
        self._stream = stream
        self._form = form
        self.cut_short = False
        """Whether the stream ended in the middle of a frame; known once all were read."""

    def frames(self) -> Iterator[VideoFrame]:
        """PyAV's frames; their times count them.

        Raises:
            VideoError: something else stands where a frame is due.
        """
        av = require("av", "upscaling videos")
        kind, number = self._form.kind, 0
        while self._form.words is None or self._begin_frame(number):
            frame = av.VideoFrame(kind.width, kind.height, kind.pixel_format)
            planes = view_planes(frame)
            content = self._stream.read(sum(plane.nbytes for plane in planes))
            if not _fill_planes(planes, content):
                self.cut_short = bool(content) or self._form.words is not None
                return
            frame.pts = number
            yield frame
            number += 1

    def _begin_frame(self, number: int) -> bool:
        line = self._stream.readline(_LONGEST_LINE)
        if line and not line.startswith(b"FRAME"):
            raise VideoError(f"frame {number} of the stream begins with {line[:16]!r}, not with FRAME")
        return bool(line)


def read_format(stream: BinaryIO, name: str | None, size: str | None) -> RawFormat:
    """What every frame of a stream is.

    Args:
        stream: at its beginning; left behind its head.
        name: `y4m` or `rgb24`.
        size: of the frames where the format does not say it, as in `640x360`.

    Raises:
        InputError: another name, or no size.
        VideoError: the stream is not of that format.
    """
    if name == "y4m":
        return _read_y4m_head(stream)
    if name == "rgb24":
        return _describe_rgb24(size)
    raise InputError(f"a stream is y4m or rgb24: say which with --format, not {name}")


def _read_y4m_head(stream: BinaryIO) -> RawFormat:
    line = stream.readline(_LONGEST_LINE)
    if not line.startswith(_MAGIC):
        raise VideoError(
            f"the stream begins with {line[:16]!r}, not with {_MAGIC.decode()}; write it as in: ffmpeg -i IN -f "
            "yuv4mpegpipe -"
        )
    words = line.decode("ascii", "replace").split()[1:]
    said = {word[0]: word[1:] for word in words}
    chroma = said.get("C", "420")
    if chroma not in _PIXEL_FORMATS:
        raise VideoError(f"the stream has format C{chroma}, which is not known; known: {', '.join(_PIXEL_FORMATS)}")
    if said.get("I", "p") not in ("p", "?"):
        raise VideoError(
            f"the stream is interlaced (I{said['I']}), and networks take whole pictures; deinterlace it first"
        )
    pixel_format, location = _PIXEL_FORMATS[chroma]
    size = _read_size(said.get("W", ""), said.get("H", ""))
    if size is None:
        raise VideoError(
            f"the stream does not say its size, or one that is not taken ({_SIZES}): "
            f"{shorten(line.decode('ascii', 'replace').strip(), 200)}"
        )
    width, height = size
    colors = Colors(guess_matrix(width, height), "XCOLORRANGE=FULL" in words, UNSPECIFIED, UNSPECIFIED)
    kept = tuple(word for word in words if word[0] not in "WH")
    return RawFormat(FrameKind(width, height, pixel_format, colors, location), kept)


def _describe_rgb24(size: str | None) -> RawFormat:
    numbers = (size or "").lower().split("x")
    found = _read_size(*numbers) if len(numbers) == 2 else None
    if found is None:
        raise InputError(
            f"rgb24 streams do not say their size: give it with --size, as in 640x360 ({_SIZES}), not "
            f"{show_value(size)}"
        )
    return RawFormat(FrameKind(*found, "rgb24", Colors(RGB, True, UNSPECIFIED, UNSPECIFIED)))


def _read_size(width: str, height: str) -> tuple[int, int] | None:
    """None: no integers, or a frame that is larger than any picture that is read."""
    if not all(re.fullmatch("[0-9]{1,5}", side) for side in (width, height)):
        return None
    size = int(width), int(height)
    return size if 0 < size[0] * size[1] <= MAX_PIXELS else None


def write_head(stream: BinaryIO, form: RawFormat) -> None:
    """Write what stands before the first frame.

    Raises:
        OutputError: the reader of the stream has ended, or its disk is full.
    """
    _write(stream, [form.head])


def write_frame(stream: BinaryIO, frame: VideoFrame, form: RawFormat) -> None:
    """Write a frame of that format.

    Raises:
        OutputError: the reader of the stream has ended, or its disk is full.
    """
    mark = [] if form.words is None else [b"FRAME\n"]
    _write(stream, [*mark, *(np.ascontiguousarray(plane).data for plane in view_planes(frame))])


def _write(stream: BinaryIO, pieces: Sequence[bytes | memoryview]) -> None:
    try:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
    except OSError as error:
        why = "their reader has ended" if isinstance(error, BrokenPipeError) else "there is no room for them"
        raise OutputError(f"the frames cannot be written: {why} ({error.strerror})") from error


def _fill_planes(planes: list[NDArray[Any]], content: bytes) -> bool:
    """Whether there was enough for all."""
    if len(content) < sum(plane.nbytes for plane in planes):
        return False
    start = 0
    for plane in planes:
        plane[:] = np.frombuffer(content, plane.dtype, plane.size, start).reshape(plane.shape)
        start += plane.nbytes
    return True

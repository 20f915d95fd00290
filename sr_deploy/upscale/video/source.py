"""A video file: what is in it, and its frames one after the other."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sr_deploy.deps import require
from sr_deploy.errors import VideoError
from sr_deploy.files import require_file
from sr_deploy.imaging.limits import MAX_PIXELS
from sr_deploy.names import lend_url
from sr_deploy.upscale.video.colors import MasteringLight, read_colors, read_mastering_light
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.length import count_missing_bytes
from sr_deploy.upscale.video.pixel_formats import has_transparency
from sr_deploy.upscale.video.random_access import RandomAccessFinder, RandomAccessPoint

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


_ATTACHED_PICTURE = 1 << 10
_CENTERED_CHROMA = ("mjpeg", "mpeg1video")
"""Codecs whose chroma lies between pixels; PyAV does not tell what a file says of it."""
_SHORT_BY = Fraction(1, 4)  # seconds that a file may end before its header says so

_NOT_FILES = frozenset(
    {
        *(
            "concat",
            "dash",
            "hls",
            "image2",
            "imf",
            "rtp",
            "rtsp",
            "sap",
            "sdp",
            "smoothstreaming",
            "webm_dash_manifest",
        ),
        *(
            "alsa",
            "avisynth",
            "fbdev",
            "kmsgrab",
            "lavfi",
            "oss",
            "v4l2",
            "vapoursynth",
            "video4linux2,v4l2",
            "x11grab",
        ),
    }
)
"""What FFmpeg reads that names other files, addresses or devices: a playlist without end keeps it busy for minutes."""


@dataclass(frozen=True)
class StreamSpan:
    """One stream, as its packets say."""

    index: int
    """Index of the stream in the file."""
    kind: str
    """`video`, `audio`, `subtitle`, `data`, `attachment`."""
    codec: str
    """FFmpeg's name; empty if unknown."""
    time_base: Fraction
    """Seconds per unit of its times."""
    packets: int = 0
    """Packets that are not empty."""
    start: Fraction | None = None
    """Time of the first, in seconds; None: none has a time."""
    last: Fraction | None = None
    """Time of the last."""
    end: Fraction | None = None
    """When the last is over."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself."""

    path: Path
    index: int
    """Of the stream that is upscaled."""
    kind: FrameKind
    """Of its frames, as they are stored."""
    light: MasteringLight
    time_base: Fraction
    """Seconds per unit of the times of its frames."""
    rate: Fraction
    """Frames per second, on average."""
    aspect: Fraction
    """Width of a pixel over its height."""
    display_matrix: tuple[int, ...]
    """How players turn or mirror frames, nine numbers; empty: not at all."""
    interlaced: bool
    """Whether its frames are two half pictures of different times."""
    start: Fraction
    """When the file begins, in seconds."""
    streams: tuple[StreamSpan, ...] = ()
    times: tuple[int, ...] = field(default=(), repr=False)
    """Of the video's packets that are to be shown, sorted."""
    random_access_points: tuple[RandomAccessPoint, ...] = field(default=(), repr=False)
    """Where a decoder can begin as well as at the first packet, sorted."""
    damage: str | None = None
    """What is wrong with the file before anything is decoded; None: nothing."""

    @property
    def span(self) -> StreamSpan:
        """Of the stream that is upscaled."""
        return self.streams[self.index]

    @property
    def last_duration(self) -> int:
        """How long the last frame is shown, in units of the time base; by the rate where the file does not say."""
        end = self.span.end
        said = 0 if end is None or not self.times else round(end / self.time_base) - self.times[-1]
        return said if said > 0 else max(1, round(1 / self.rate / self.time_base))


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file with PyAV.

    Raises:
        InputError: no such file.
        VideoError: FFmpeg cannot read it, or it is a list of other files or addresses.
        MissingDependencyError: PyAV is not installed.
    """
    require_file(path, "a video")
    av = require("av", "upscaling videos")
    try:
        with lend_url(path) as url:
            container = av.open(url, options=_allow_files_alone(), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} is not a video that can be read, or damaged at its head, and nothing of it can be recovered "
            f"({error.strerror})"
        ) from error
    with container:
        yield container


@cache
def _list_formats() -> str:
    av = require("av", "upscaling videos")
    return ",".join(sorted(av.formats_available - _NOT_FILES))


def _allow_files_alone() -> dict[str, str]:
    """FFmpeg's options for what it may open, and as what."""
    return {"protocol_whitelist": "file", "format_whitelist": _list_formats()}


def read_video_info(path: Path) -> VideoInfo:
    """Read the headers, every packet and one frame of a file; nothing else is decoded.

    Raises:
        InputError: no such file.
        VideoError: no video, no frame that can be decoded, transparency, or colors that are not known.
    """
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        frame = _decode_one(container, stream, path)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        info = VideoInfo(
            path=path,
            index=stream.index,
            kind=FrameKind(
                frame.width,
                frame.height,
                frame.format.name,
                read_colors(frame),
                "center" if stream.codec_context.name in _CENTERED_CHROMA else "left",
            ),
            light=read_mastering_light(frame),
            time_base=stream.time_base or Fraction(1, 1000),
            rate=rate,
            aspect=stream.sample_aspect_ratio or Fraction(1),
            display_matrix=_read_display_matrix(frame),
            interlaced=frame.interlaced_frame,
            start=Fraction(container.start_time or 0, 1_000_000),
        )
    return _read_packets(info)


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream to upscale.

    Raises:
        VideoError: there is none, or its frames are larger than any picture that is read.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & _ATTACHED_PICTURE or stream.codec_context is None:
        raise VideoError(f"{path} has no video that can be decoded; give a file with one")
    context = cast("VideoStream", stream).codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(
            f"{path} has frames of {context.width}x{context.height}; {MAX_PIXELS / 1e6:g} megapixels are taken at most"
        )
    return cast("VideoStream", stream)


def _decode_one(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    av = require("av", "upscaling videos")
    for packet in container.demux(stream):
        with contextlib.suppress(av.FFmpegError):  # the next packet may be sound
            for frame in packet.decode():
                if has_transparency(frame.format):
                    raise VideoError(
                        f"{path} has transparency ({frame.format.name}), which is not upscaled; put it on a "
                        "background first, as in: ffmpeg -i IN -vf format=yuv420p OUT"
                    )
                return frame
    raise VideoError(f"{path} has a video ({stream.name}) of which no frame can be decoded: nothing can be recovered")


def _read_display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            return struct.unpack_from("=9i", bytes(side))
    return ()


def _read_packets(info: VideoInfo) -> VideoInfo:
    """With spans, times, and what the packets tell of damage."""
    av = require("av", "upscaling videos")
    times: list[int] = []
    random_access_points: list[RandomAccessPoint] = []
    damage: list[str] = []
    with open_video(info.path) as container:
        spans = [
            StreamSpan(
                stream.index,
                stream.type,
                stream.codec_context.name if stream.codec_context else "",
                stream.time_base or Fraction(1),
            )
            for stream in container.streams
        ]
        is_random_access = RandomAccessFinder(container.streams[info.index].codec_context)
        corrupt = 0
        try:
            for packet in container.demux():
                if not packet.size:
                    continue
                corrupt += packet.is_corrupt
                spans[packet.stream_index] = _widen(spans[packet.stream_index], packet)
                if packet.stream_index == info.index and packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                    if is_random_access(packet):
                        random_access_points.append(
                            RandomAccessPoint(packet.pts, packet.pts if packet.dts is None else packet.dts)
                        )
        except av.FFmpegError as error:
            damage.append(f"reading stops with: {error.strerror}")
        if corrupt:
            damage.append(f"{corrupt} packets are cut short")
        end = max((span.end for span in spans if span.end is not None), default=Fraction(0)) - info.start
        declared = Fraction(container.duration or 0, 1_000_000)
        if declared - end > _SHORT_BY:
            damage.append(f"it ends after {float(end):.2f} s of {float(declared):.2f} s")
    lacks = count_missing_bytes(info.path)
    if lacks:
        damage.append(f"the file lacks its last {lacks} bytes")
    times.sort()
    for before, after in itertools.pairwise(times):
        if before == after:
            raise VideoError(
                f"{info.path} has two frames at {float(before * info.time_base):.3f} s; give each a time of its own, "
                "as in: ffmpeg -i IN -fps_mode vfr OUT"
            )
    return replace(
        info,
        streams=tuple(spans),
        times=tuple(times),
        random_access_points=tuple(sorted(random_access_points)),
        damage="; ".join(damage) or None,
    )


def _widen(span: StreamSpan, packet: Packet) -> StreamSpan:
    if packet.pts is None:
        return replace(span, packets=span.packets + 1)
    start = packet.pts * packet.time_base
    end = start + (packet.duration or 0) * packet.time_base
    return replace(
        span,
        packets=span.packets + 1,
        start=start if span.start is None else min(span.start, start),
        last=start if span.last is None else max(span.last, start),
        end=end if span.end is None else max(span.end, end),
    )

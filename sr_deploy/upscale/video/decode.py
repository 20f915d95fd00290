"""Frames of a video file in the order they are shown, and what could not be decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.deps import require
from sr_deploy.errors import VideoError
from sr_deploy.upscale.video.random_access import RandomAccessPoint
from sr_deploy.upscale.video.source import VideoInfo, find_video_stream, open_video

if TYPE_CHECKING:
    from av import Packet, VideoFrame


@dataclass
class Losses:
    """What a decoder met on its way."""

    missing: int = 0
    """Frames that were to be shown and could not be decoded."""
    damaged: int = 0
    """Frames that were decoded with errors; they are kept, with the errors that the decoder concealed."""
    first: float | None = None
    """Time of the first of them, in seconds; None: there is none."""

    def note(self, time: float) -> None:
        """Remember where it began."""
        self.first = time if self.first is None else min(self.first, time)

    def describe(self) -> str | None:
        """In words; None: nothing was lost."""
        parts = []
        if self.missing:
            parts.append(f"{self.missing} frames could not be decoded")
        if self.damaged:
            parts.append(f"{self.damaged} frames have errors")
        return f"{' and '.join(parts)}, the first at {self.first:.2f} s" if parts else None


class FrameReader:
    """Decodes a video from its beginning to its end, once."""

    def __init__(self, info: VideoInfo) -> None:
        """`info`: of the file."""
        self._info = info
        self.losses = Losses()
        """Complete once all frames were read."""

    def frames(self, access_point: RandomAccessPoint | None = None) -> Iterator[VideoFrame]:
        """PyAV's frames, each with a time later than the one before.

        Args:
            access_point: one of `VideoInfo.random_access_points`, to begin there; no frame where it is not found. None:
                from the first packet.

        Raises:
            VideoError: frames without times, times that go back, or another frame size midway.
        """
        seen: set[int] = set()
        latest: int | None = None
        for frame in self._decode(access_point):
            if frame.pts is None:
                raise VideoError(
                    f"{self._info.path} has frames without times; give them some, as in: ffmpeg -fflags +genpts -i IN "
                    "-c copy OUT"
                )
            if access_point is not None and frame.pts < access_point.time:
                continue
            time = float(frame.pts * self._info.time_base)
            if latest is not None and frame.pts <= latest:
                raise VideoError(
                    f"{self._info.path} goes back in time at {time:.3f} s; repair it, as in: ffmpeg -i IN OUT"
                )
            self._require_kind(frame, time)
            if frame.is_corrupt:
                self.losses.damaged += 1
                self.losses.note(time)
            latest = frame.pts
            seen.add(frame.pts)
            yield frame
        self._find_missing(seen)

    def _require_kind(self, frame: VideoFrame, time: float) -> None:
        kind = self._info.kind
        if (frame.width, frame.height, frame.format.name) != (kind.width, kind.height, kind.pixel_format):
            raise VideoError(
                f"{self._info.path} changes at {time:.3f} s from {kind.width}x{kind.height} {kind.pixel_format} to "
                f"{frame.width}x{frame.height} {frame.format.name}; give one kind of frames throughout, as in: ffmpeg "
                "-i IN -vf scale=WIDTH:HEIGHT,format=yuv420p OUT"
            )

    def _decode(self, access_point: RandomAccessPoint | None) -> Iterator[VideoFrame]:
        av = require("av", "upscaling videos")
        with open_video(self._info.path) as container:
            stream = find_video_stream(container, self._info.path)
            stream.thread_type = "AUTO"
            packets: Iterator[Packet] = container.demux(stream)
            if access_point is not None:
                try:
                    container.seek(access_point.seek_time, stream=stream)
                except av.FFmpegError:
                    return
                packets = itertools.dropwhile(lambda packet: packet.pts != access_point.time, packets)
            while True:
                try:
                    packet = next(packets, None)
                except av.FFmpegError:
                    return  # `read_video_info` met it too, and noted it
                if packet is None:
                    return
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    continue  # its frame will be found missing

    def _find_missing(self, seen: set[int]) -> None:
        """Packets without a frame. Half pictures come in pairs of packets, and open ends begin with some of no use."""
        if self._info.interlaced or not seen:
            return
        first = min(seen)
        for time in self._info.times:
            if time >= first and time not in seen:
                self.losses.missing += 1
                self.losses.note(float(time * self._info.time_base))

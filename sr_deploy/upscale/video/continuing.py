"""Going on where an earlier run ended, without decoding all that it had: exactly, or from the beginning."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.errors import VideoError
from sr_deploy.upscale.video.convert import ToPixels
from sr_deploy.upscale.video.decode import FrameReader, Losses
from sr_deploy.upscale.video.frames import Timed
from sr_deploy.upscale.video.random_access import RandomAccessPoint
from sr_deploy.upscale.video.source import VideoInfo

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class Done:
    """What earlier runs have finished."""

    times: tuple[int, ...]
    """Of the frames, sorted."""
    check: int | None
    """Checksum of the samples that the last of them was made from; None: not known, or some frame had errors."""


class LastFrames:
    """Checksums of the source's frames, taken while they are on their way to the network."""

    def __init__(self, reader: FrameReader, first: int, every: int, total: int) -> None:
        """Remember the last frame of each segment.

        Args:
            reader: where the frames come from.
            first: number of the first frame.
            every: frames in a segment.
            total: frames in the video.
        """
        self._reader = reader
        self._total = total
        self._first = first
        self._every = every
        self._checks: dict[int, int] = {}

    def watch(self, decoded: Iterator[Timed]) -> Iterator[Timed]:
        """The same frames."""
        for number, timed in enumerate(decoded, self._first + 1):
            ends = number % self._every == 0 or number == self._total
            if ends and timed.pixels is not None:
                self._checks[timed.time] = zlib.crc32(timed.pixels.data)
            yield timed

    def take(self, time: int) -> int | None:
        """That of the frame with this time; None where it ends no segment, or a frame up to it had errors."""
        check = self._checks.pop(time, None)
        return None if self._reader.losses.damaged else check


def continue_frames(info: VideoInfo, reader: FrameReader, to_pixels: ToPixels, done: Done) -> Iterator[VideoFrame]:
    """The frames behind those that are done.

    Decoding begins at the last random access point before them, if from there to the last frame that is done every
    frame comes at its time, undamaged, and that last one is equal to that of the run before in every sample. Else it
    begins at the first frame, as for sources that are damaged before that point: all errors are then reported again.
    """
    access_point = find_random_access(info, done)
    if access_point is not None:
        frames = reader.frames(access_point)
        known = info.times[bisect.bisect_left(info.times, access_point.time) : len(done.times)]
        last = _read_known(frames, known)
        if last is not None and not reader.losses.damaged and zlib.crc32(to_pixels(last).data) == done.check:
            yield from frames
            return
        reader.losses = Losses()
    yield from itertools.islice(reader.frames(), len(done.times), None)


def find_random_access(info: VideoInfo, done: Done) -> RandomAccessPoint | None:
    """Where decoding may begin; None: at the first frame."""
    if not done.times or done.check is None or done.times != info.times[: len(done.times)]:
        return None
    points = info.random_access_points
    index = bisect.bisect_right(points, done.times[-1], key=lambda point: point.time) - 1
    return points[index] if index >= 0 and points[index].time > info.times[0] else None


def _read_known(frames: Iterator[VideoFrame], times: Sequence[int]) -> VideoFrame | None:
    """The last of the frames that come at these times; None: some do not."""
    last = None
    try:
        for time in times:
            last = next(frames, None)
            if last is None or last.pts != time:
                return None
    except VideoError:
        return None
    return last

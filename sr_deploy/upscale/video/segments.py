"""Encoded pieces of a video, each begun afresh, kept until all are there.

A segment is a file of packets, one behind the other, and a JSON file that says where each ends and when it is shown; it
counts once the JSON file stands. Not a container of FFmpeg's: those move times, round them, or refuse some codecs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, NonNegativeInt, TypeAdapter

from sr_deploy.deps import require
from sr_deploy.errors import InputError, OutputError, VideoError
from sr_deploy.files import KeptFolder, output_error, write_text
from sr_deploy.untrusted import is_regular, open_regular, read_json
from sr_deploy.upscale.video.encoders import EncoderPlan, make_encoder

if TYPE_CHECKING:
    from av import Packet, VideoFrame


@dataclass(frozen=True)
class Segment:
    """One finished piece."""

    path: Path
    """File of the packets, one after the other."""
    times: tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], ...]
    """Of its frames in the order of the packets, in units of the time base."""
    sizes: tuple[NonNegativeInt, ...]
    """Of its packets, in bytes."""
    keys: tuple[bool, ...]
    """Whether a player can begin at a packet."""
    extradata: str
    """What a decoder needs before the first packet, in hexadecimal."""
    duplicates: int
    """Frames that repeat the one before, and were not computed."""
    check: int | None = None
    """Of the samples that its last frame was made from; see `continuing.Done`."""

    def packets(self) -> Iterator[bytes]:
        """In the order of decoding.

        Raises:
            OutputError: the file is not what it was.
        """
        try:
            if self.path.stat().st_size != sum(self.sizes):
                raise OutputError(f"{self.path} was changed; remove its folder and run the command again")
            with open_regular(self.path) as stream:
                for size in self.sizes:
                    yield stream.read(size)
        except OSError as error:
            raise OutputError(f"cannot read {self.path}: {error.strerror or error}") from error


class SegmentStore:
    """The segments of one video: those that are there, and the one that is being encoded."""

    def __init__(self, folder: Path, plan: EncoderPlan, segment_frames: int) -> None:
        """Find what earlier runs have finished.

        Args:
            folder: of the segments.
            plan: of the encoder.
            segment_frames: in each segment but the last.
        """
        self.plan = plan
        self.segment_frames = segment_frames
        self.folder = folder
        self._kept = KeptFolder(folder)
        self._writer: _SegmentWriter | None = None
        self.segments = _read_segments(folder)
        """Finished ones, in order."""

    @property
    def frames(self) -> int:
        """In the finished segments."""
        return sum(len(segment.times) for segment in self.segments)

    @property
    def times(self) -> tuple[int, ...]:
        """Of their frames, sorted."""
        return tuple(sorted(time for segment in self.segments for time in segment.times))

    def add(self, frame: VideoFrame, time: int, *, duplicate: bool, check: int | None = None) -> None:
        """Encode the next frame; a segment that is full is finished, and keeps the `check` of its last one.

        Raises:
            InputError: the encoder does not open.
            VideoError: the encoder failed.
            PlaceLostError: the folder is gone, and with it the finished segments.
            OutputError: it cannot be written.
        """
        with self._kept.blamed():
            if self._writer is None:
                self._writer = _SegmentWriter(_segment_path(self.folder, len(self.segments)), self.plan, self._kept)
            self._writer.add(frame, time, duplicate=duplicate, check=check)
        if self._writer.frames == self.segment_frames:
            self.finish()

    def finish(self) -> None:
        """Finish the segment at hand, if there is one.

        Raises:
            VideoError: the encoder failed.
            OutputError: it cannot be written.
        """
        if self._writer is not None:
            with self._kept.blamed():
                self.segments.append(self._writer.finish())
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Drop the segment at hand."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what could not be written before, cannot be now
                self._writer.close()


class _SegmentWriter:
    """Encodes one segment into a file."""

    def __init__(self, path: Path, plan: EncoderPlan, kept: KeptFolder) -> None:
        self.frames = 0
        self._kept = kept
        self._path = path
        self._time_base = plan.time_base
        self._encoder = make_encoder(plan)
        self._times: list[int] = []
        self._sizes: list[int] = []
        self._keys: list[bool] = []
        self._duplicates = 0
        self._check: int | None = None
        try:
            path.unlink(missing_ok=True)  # a link there would lead the writing elsewhere
            self._stream = path.open("xb")
        except OSError as error:
            raise output_error(path, error) from error

    def add(self, frame: VideoFrame, time: int, *, duplicate: bool, check: int | None) -> None:
        frame.pts, frame.time_base = time, self._time_base
        self.frames += 1
        self._duplicates += duplicate
        self._check = check
        self._write(self._encode(frame))

    def finish(self) -> Segment:
        """Encode what the encoder holds back, and make the segment count."""
        self._write(self._encode(None))
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise output_error(self._path, error) from error
        self.close()
        lists = {"times": self._times, "sizes": self._sizes, "keys": self._keys}
        extradata = (self._encoder.extradata or b"").hex()
        document = {**lists, "extradata": extradata, "duplicates": self._duplicates, "check": self._check}
        write_text(self._path.with_suffix(".json"), json.dumps(document), self._kept)
        return _read_segment(self._path)

    def close(self) -> None:
        self._stream.close()

    def _encode(self, frame: VideoFrame | None) -> list[Packet]:
        av = require("av", "upscaling videos")
        try:
            return list(self._encoder.encode(frame))
        except av.FFmpegError as error:
            raise VideoError(
                f"the encoder {self._encoder.name} failed at frame {self.frames} of {self._path.stem} "
                f"({error.strerror}); take another --codec"
            ) from error

    def _write(self, packets: Sequence[Packet]) -> None:
        try:
            for packet in packets:
                self._stream.write(packet)
                self._times.append(packet.pts)
                self._sizes.append(packet.size)
                self._keys.append(packet.is_keyframe)
        except OSError as error:
            raise output_error(self._path, error) from error


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"segment-{number:06d}.packets"


def _read_segments(folder: Path) -> list[Segment]:
    """Those that are finished, up to the first that is not."""
    segments: list[Segment] = []
    while True:
        path = _segment_path(folder, len(segments))
        try:
            segments.append(_read_segment(path))
        except (InputError, OSError, ValueError):
            return segments


def _read_segment(path: Path) -> Segment:
    """A finished segment; whatever is raised, it is not one, and is encoded again."""
    document = read_json(path.with_suffix(".json"))
    if not isinstance(document, dict) or not is_regular(path):
        raise ValueError("no segment")
    segment = TypeAdapter(Segment).validate_python({**document, "path": path})
    if not len(segment.times) == len(segment.sizes) == len(segment.keys) or path.stat().st_size != sum(segment.sizes):
        raise ValueError("no whole segment")
    bytes.fromhex(segment.extradata)
    return segment

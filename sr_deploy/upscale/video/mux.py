"""The finished file: encoded segments one behind the other, and all else of the source as it is."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sr_deploy.deps import require
from sr_deploy.errors import OutputError, PlaceLostError, VideoError
from sr_deploy.files import output_error
from sr_deploy.names import lend_url
from sr_deploy.upscale.video.codecs import CODECS
from sr_deploy.upscale.video.encoders import VIDEO_SUFFIXES, EncoderPlan, configure_encoder, open_encoder
from sr_deploy.upscale.video.segments import Segment
from sr_deploy.upscale.video.source import StreamSpan, VideoInfo, open_video

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream
    from av.video.stream import VideoStream


_STALE_TAGS = ("DURATION", "ENCODER", "BPS", "NUMBER_OF_", "_STATISTICS", "MAJOR_BRAND", "MINOR_VERSION", "COMPATIBLE_")
"""Tags that told of the source's bytes and would lie about the result's."""
QUICKTIME = (".mp4", ".m4v", ".mov")
"""Files whose streams share a unit of time."""
QUICKTIME_UNITS = 90_000
"""Of it, in a second."""
_NEEDED = ("audio", "subtitle")
"""The result is useless without them: a target that cannot hold them is refused."""
_COPIED = (*_NEEDED, "attachment")


@dataclass(frozen=True)
class Copied:
    """What is copied besides the video."""

    streams: tuple[int, ...]
    """By their index in the source."""
    notes: tuple[str, ...]
    """What the target does not hold, in words."""


def plan_copies(info: VideoInfo, plan: EncoderPlan, target: Path, scratch: Path) -> Copied:
    """Find out what the target can hold, by opening a file of its kind.

    Args:
        info: the source.
        plan: the video's encoder.
        target: for its suffix, and for messages.
        scratch: a folder for the trial.

    Raises:
        VideoError: the target cannot hold the video, sound or subtitles.
    """
    copied, notes = [], []
    trial = scratch / f"trial{target.suffix}"
    with open_video(info.path) as source:
        problem = _try_streams(source, info, plan, (), trial)
        if problem is not None:
            raise VideoError(f"{target.name} cannot hold the video as {plan.codec} ({problem}); take another --codec")
        for stream in source.streams:
            if stream.index == info.index:
                continue
            name = f"stream {stream.index} ({_describe(info.streams[stream.index])})"
            if stream.type not in _COPIED:
                notes.append(f"{name} is left out")
                continue
            problem = _try_streams(source, info, plan, (stream.index,), trial)
            if problem is None:
                copied.append(stream.index)
            elif stream.type in _NEEDED:
                raise VideoError(
                    f"{target.name} cannot hold {name} of {info.path}: {problem}; {_find_way_out(info, stream, target)}"
                )
            else:
                notes.append(f"{name} is left out: {problem}")
    return Copied(tuple(copied), tuple(notes))


def _find_way_out(info: VideoInfo, stream: Stream, target: Path) -> str:
    """What to do with sound or subtitles that a target does not hold."""
    suffixes = [suffix for suffix in (".mkv", info.path.suffix.lower()) if suffix in VIDEO_SUFFIXES]
    others = [suffix for suffix in suffixes if suffix != target.suffix.lower()]
    advice = f"take another container, such as {' or '.join(dict.fromkeys(others))}" if others else "leave it out"
    kind, codec = ("s", "srt") if stream.type == "subtitle" else ("a", "libopus")
    return f"{advice}, or convert it first, as in: ffmpeg -i IN -map 0 -c copy -c:{kind} {codec} OUT.mkv"


def join_segments(info: VideoInfo, plan: EncoderPlan, segments: Sequence[Segment], copied: Copied, path: Path) -> None:
    """Write the finished file.

    Args:
        info: the source.
        plan: what encoded the segments.
        segments: in order.
        copied: of the source.
        path: to write.

    Raises:
        OutputError: it cannot be written.
    """
    av = require("av", "upscaling videos")
    with open_video(info.path) as source:
        try:
            with (
                lend_url(path) as url,
                av.open(url, "w", container_options=_container_options(path)) as container,
            ):
                video, others = _add_streams(container, source, info, plan, copied.streams)
                _require_same_start(segments, video)
                packets = heapq.merge(
                    _video_packets(info, segments, video),
                    _other_packets(source, info, others),
                    key=lambda timed: timed[0],
                )
                for _, packet in packets:
                    container.mux(packet)
        except av.FFmpegError as error:
            raise _describe_failure(path, error) from error


def _try_streams(
    source: InputContainer, info: VideoInfo, plan: EncoderPlan, indices: tuple[int, ...], path: Path
) -> str | None:
    """Why a file with these streams cannot be begun; None if it can."""
    av = require("av", "upscaling videos")
    try:
        with lend_url(path) as url, av.open(url, "w") as container:
            _add_streams(container, source, info, plan, indices)
            container.start_encoding()
    except (av.FFmpegError, ValueError) as error:
        failure = _describe_failure(path, error)
        if isinstance(failure, PlaceLostError):  # which says nothing of the streams
            raise failure from error
        return str(getattr(error, "strerror", None) or error)
    finally:
        path.unlink(missing_ok=True)
    return None


def _describe_failure(path: Path, error: Exception) -> OutputError:
    """What FFmpeg says of a file that it cannot write, in plain words where the system says it."""
    return output_error(
        path, OSError(getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or str(error))
    )


def _add_streams(
    container: OutputContainer, source: InputContainer, info: VideoInfo, plan: EncoderPlan, indices: Sequence[int]
) -> tuple[VideoStream, dict[int, Stream]]:
    video = cast("VideoStream", container.add_stream(CODECS[plan.codec].encoder, rate=plan.rate))
    configure_encoder(video.codec_context, plan)
    open_encoder(video.codec_context, plan)  # its head belongs to the file's
    video.time_base = plan.time_base
    original = source.streams[info.index]
    video.metadata.update(_keep_tags(original.metadata))
    video.disposition = original.disposition
    if info.display_matrix:
        video.set_display_matrix(info.display_matrix)
    if (CODECS[plan.codec].in_software or plan.codec) == "h265" and container.format.name in ("mp4", "mov"):
        video.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
    others = {}
    for index in indices:
        stream = source.streams[index]
        other = container.add_stream_from_template(stream, opaque=True)
        other.metadata.update(_keep_tags(stream.metadata))
        other.disposition = stream.disposition
        others[index] = other
    container.metadata.update(_keep_tags(source.metadata))
    container.set_chapters([_move_chapter(chapter, info.start) for chapter in source.chapters()])
    return video, others


def _move_chapter(chapter: Chapter, shift: Fraction) -> Chapter:
    units = round(shift / (chapter["time_base"] or 1))
    return {**chapter, "start": chapter["start"] - units, "end": chapter["end"] - units}


def _keep_tags(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.upper().startswith(_STALE_TAGS)}


def _container_options(path: Path) -> dict[str, str]:
    """In MP4 and MOV a stream that begins late is moved in units of the whole file, milliseconds if nothing is said."""
    if path.suffix.lower() not in QUICKTIME:
        return {}
    return {"movflags": "+faststart", "movie_timescale": str(QUICKTIME_UNITS)}


def _require_same_start(segments: Sequence[Segment], video: VideoStream) -> None:
    head = (video.codec_context.extradata or b"").hex()
    if any(segment.extradata != head for segment in segments):
        raise OutputError(
            "the segments were encoded by another version of the encoder; remove their folder and run the command again"
        )


def _video_packets(
    info: VideoInfo, segments: Sequence[Segment], video: VideoStream
) -> Iterator[tuple[Fraction, Packet]]:
    """All packets with the times of one encoder that had never stopped.

    Each is decoded when the frame some places before it is shown: as few places as let no frame be shown before it is
    decoded.
    """
    av = require("av", "upscaling videos")
    shift = round(info.start / info.time_base)
    times = [time - shift for segment in segments for time in segment.times]
    shown = sorted(times)
    rank = {time: place for place, time in enumerate(shown)}
    delay = max(place - rank[time] for place, time in enumerate(times))
    step = min((after - before for before, after in itertools.pairwise(shown)), default=1)
    ends = [*shown[1:], shown[-1] + info.last_duration]
    keys = (key for segment in segments for key in segment.keys)
    contents = (content for segment in segments for content in segment.packets())
    for place, (time, key, content) in enumerate(zip(times, keys, contents, strict=True)):
        packet = av.Packet(content)
        packet.stream, packet.time_base, packet.is_keyframe = video, info.time_base, key
        packet.pts, packet.duration = time, ends[rank[time]] - time
        packet.dts = shown[place - delay] if place >= delay else shown[0] - (delay - place) * step
        yield packet.dts * info.time_base, packet


def _other_packets(
    source: InputContainer, info: VideoInfo, others: dict[int, Stream]
) -> Iterator[tuple[Fraction, Packet]]:
    if not others:
        return
    time = Fraction(0)
    for packet in source.demux([source.streams[index] for index in others]):
        if packet.dts is None:
            continue
        shift = round(info.start / packet.time_base)
        packet.dts -= shift
        if packet.pts is not None:
            packet.pts -= shift
        time = max(time, packet.dts * packet.time_base)
        packet.stream = others[packet.stream_index]
        yield time, packet


def _describe(span: StreamSpan) -> str:
    return f"{span.kind} {span.codec}".strip()

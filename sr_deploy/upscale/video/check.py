"""Whether a finished file has what it should: every frame at its time, sound as long and as far from the video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from sr_deploy.errors import VideoError
from sr_deploy.upscale.video.encoders import EncoderPlan
from sr_deploy.upscale.video.mux import QUICKTIME, QUICKTIME_UNITS, Copied
from sr_deploy.upscale.video.pixel_formats import decode_alike
from sr_deploy.upscale.video.source import StreamSpan, VideoInfo, read_video_info


def check_result(info: VideoInfo, plan: EncoderPlan, copied: Copied, times: Sequence[int], path: Path) -> None:
    """Read a finished file and compare it with its source.

    Times may differ by what a container rounds: one unit of its time base, for sound as far from the video two.

    Args:
        info: the source.
        plan: what its video was to become.
        copied: what was to be copied.
        times: of all frames, sorted, in units of the source's time base.
        path: the file.

    Raises:
        VideoError: something differs; the message says what.
    """
    result = read_video_info(path)
    if result.damage is not None:
        raise VideoError(f"the result is damaged: {result.damage}")
    if len(result.times) != len(times):
        raise VideoError(f"the result has {len(result.times)} frames, not {len(times)}")
    origin, result_origin = times[0] * info.time_base, result.times[0] * result.time_base
    for number, (found, expected) in enumerate(zip(result.times, times, strict=True)):
        apart = (found * result.time_base - result_origin) - (expected * info.time_base - origin)
        _require_close(f"frame {number} is", apart, result.time_base)
    if result.span.end is not None:
        end = (times[-1] + info.last_duration) * info.time_base
        _require_close("the video ends", (result.span.end - result_origin) - (end - origin), 1 / info.rate)
    _require_frames(info, plan, result)
    others = [span for span in result.streams if span.index != result.index and span.kind != "data"]
    if len(others) != len(copied.streams):
        raise VideoError(f"the result has {len(others)} streams besides its video, not {len(copied.streams)}")
    for index, span in zip(copied.streams, others, strict=True):
        if span.kind == "audio":
            _check_sound(
                info.streams[index], span, result_origin - origin, _find_sound_unit(info.streams[index], span, path)
            )


def _require_frames(info: VideoInfo, plan: EncoderPlan, result: VideoInfo) -> None:
    pixel_format = result.kind.pixel_format
    if decode_alike(pixel_format, plan.kind.pixel_format):
        pixel_format = plan.kind.pixel_format
    seen = (result.kind.width, result.kind.height, pixel_format, result.aspect, result.display_matrix)
    planned = (plan.kind.width, plan.kind.height, plan.kind.pixel_format, plan.aspect, info.display_matrix)
    if seen != planned:
        raise VideoError(f"the result's frames are {seen}, not {planned}")
    if result.kind.colors != plan.kind.colors:
        raise VideoError(f"the result's colors are {result.kind.colors}, not {plan.kind.colors}")


def _find_sound_unit(source: StreamSpan, span: StreamSpan, path: Path) -> Fraction:
    """How far sound may be from where it was, beside the video: both are rounded."""
    shared = Fraction(1, QUICKTIME_UNITS) if path.suffix.lower() in QUICKTIME else 0
    return 2 * (max(span.time_base, source.time_base) + shared)


def _check_sound(source: StreamSpan, span: StreamSpan, shift: Fraction, unit: Fraction) -> None:
    """Its first and last packets; how long the last one is, Matroska does not say."""
    if span.packets != source.packets:
        raise VideoError(f"the result has {span.packets} packets of sound in stream {span.index}, not {source.packets}")
    for what, found, expected in (
        ("the first packet of sound is", span.start, source.start),
        ("the last packet of sound is", span.last, source.last),
    ):
        if found is not None and expected is not None:
            _require_close(what, (found - expected) - shift, unit)


def _require_close(what: str, apart: Fraction, unit: Fraction) -> None:
    if abs(apart) > unit:
        raise VideoError(f"{what} {abs(float(apart)):.4f} s too {'late' if apart > 0 else 'early'} in the result")

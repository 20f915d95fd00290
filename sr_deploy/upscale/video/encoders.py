"""Which encoder, in which pixel format, with which settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sr_deploy.deps import require
from sr_deploy.errors import InputError, VideoError
from sr_deploy.legible import show_value
from sr_deploy.upscale.image_file import require_scale
from sr_deploy.upscale.video.codecs import CODECS, Codec, CodecName
from sr_deploy.upscale.video.colors import RGB, Colors, MasteringLight, guess_matrix
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.pixel_formats import choose_format, count_bits, share_chroma_alike
from sr_deploy.upscale.video.source import VideoInfo

if TYPE_CHECKING:
    from av import CodecContext, VideoFormat


VIDEO_SUFFIXES = (".mkv", ".mp4", ".m4v", ".mov", ".webm")
"""Files that results are written into."""


@dataclass(frozen=True)
class VideoSettings:
    """How videos are upscaled, beyond the network."""

    scale: float | None = None
    """Output pixels per input pixel along each side; None: the network's. Others are reached by resampling, to even
    numbers of pixels."""
    codec: CodecName | None = None
    """None: H.264 for 8 bit and H.265 for more; AV1 in WebM."""
    crf: int | None = None
    """Constant rate factor, 0 the best; None: that of the codec."""
    pixel_format: str | None = None
    """FFmpeg's name; None: the source's, or what is nearest to it."""
    encoder_options: tuple[tuple[str, str], ...] = ()
    """More for the encoder, in FFmpeg's terms, as in `("preset", "slow")`."""
    segment_frames: int = 120
    """Frames that are encoded together, and lost together when the job is killed."""


@dataclass(frozen=True)
class EncoderPlan:
    """All that an encoder is told."""

    codec: CodecName
    kind: FrameKind
    """Size, pixel format and colors of the frames."""
    time_base: Fraction
    """Seconds per unit of their times."""
    rate: Fraction
    """Frames per second, on average."""
    aspect: Fraction
    """Width of a pixel over its height."""
    options: Mapping[str, str]
    """For FFmpeg."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What cannot be as in the source, in words."""


def plan_encoder(info: VideoInfo, size: tuple[int, int], target: Path, settings: VideoSettings) -> EncoderPlan:
    """Decide on the encoder.

    Args:
        info: the source.
        size: height and width of the result.
        target: the file, for its suffix.
        settings: what is asked for.

    Raises:
        InputError: settings that the codec does not take.
        VideoError: pixels are not square, and the target cannot say so.
        MissingDependencyError: PyAV is not installed.
    """
    av = require("av", "upscaling videos")
    height, width = size
    source = av.VideoFormat(info.kind.pixel_format)
    name = settings.codec or _default_codec(target, count_bits(source))
    codec = CODECS[name]
    _require_aspect(info, name, target)
    if codec.encoder not in av.codec.codecs_available:
        raise InputError(
            f"this PyAV has no encoder {codec.encoder}; take another --codec, or install PyAV from PyPI, which has all "
            "that are known here"
        )
    if width < codec.min_width:
        raise InputError(f"{name} takes frames of {codec.min_width} pixels and more in width, not {width}; take h264")
    chosen = choose_format(codec.encoder, source, size, settings.pixel_format, codec.usual_formats)
    return EncoderPlan(
        codec=name,
        kind=FrameKind(width, height, chosen.name, _output_colors(info.kind, chosen, codec)),
        time_base=info.time_base,
        rate=info.rate,
        aspect=info.aspect,
        options=_collect_options(name, settings, info.light),
        notes=tuple(_describe_changes(info, source, chosen, codec)),
    )


def make_encoder(plan: EncoderPlan) -> CodecContext:
    """An encoder, open and ready for the first frame."""
    av = require("av", "upscaling videos")
    context = av.CodecContext.create(CODECS[plan.codec].encoder, "w")
    context.flags |= int(av.codec.context.Flags.global_header)
    configure_encoder(context, plan)
    open_encoder(context, plan)
    return context


def configure_encoder(context: CodecContext, plan: EncoderPlan) -> None:
    """Tell a codec context all that is planned."""
    kind, colors = plan.kind, plan.kind.colors
    context.width, context.height, context.pix_fmt = kind.width, kind.height, kind.pixel_format
    context.time_base, context.framerate, context.sample_aspect_ratio = plan.time_base, plan.rate, plan.aspect
    context.colorspace, context.color_range = colors.matrix, 2 if colors.full_range else 1
    context.color_primaries, context.color_trc = colors.primaries, colors.transfer
    context.options = dict(plan.options)


def open_encoder(context: CodecContext, plan: EncoderPlan) -> None:
    """Open a configured codec context.

    Raises:
        InputError: it does not take an option, or needs a GPU that is not there.
    """
    av = require("av", "upscaling videos")
    codec = CODECS[plan.codec]
    if plan.codec == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # it writes its settings to stderr otherwise
    try:
        context.open()
    except av.FFmpegError as error:
        if codec.in_software is not None and error.errno != errno.EINVAL:
            raise InputError(
                f"the encoder {codec.encoder} does not start ({error.strerror}): it needs an NVIDIA GPU that encodes "
                f"{plan.kind.width}x{plan.kind.height} {plan.kind.pixel_format}, and its driver; take --codec "
                f"{codec.in_software}, which computes on the CPU"
            ) from error
        raise InputError(
            f"the encoder {codec.encoder} does not open with {dict(plan.options)} for {plan.kind.width}x"
            f"{plan.kind.height} {plan.kind.pixel_format} ({error.strerror}); look at --encoder-option, or choose "
            "another --codec"
        ) from error
    unknown = sorted(set(context.options) & set(plan.options))
    if unknown:
        raise InputError(
            f"the encoder {codec.encoder} knows no option {', '.join(unknown)}; see ffmpeg -h encoder={codec.encoder}"
        )


def check_settings(target: Path, settings: VideoSettings) -> None:
    """Refuse settings that no video can meet, before anything is read.

    Raises:
        InputError: a suffix, codec or quality that is not known.
    """
    if target.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{target} must end in {', '.join(VIDEO_SUFFIXES)} to hold a video")
    if settings.codec is not None and settings.codec not in CODECS:
        raise InputError(f"unknown codec {settings.codec!r}; known: {', '.join(get_args(CodecName))}")
    if settings.scale is not None:
        require_scale(settings.scale)
    if settings.segment_frames < 1:
        raise InputError(f"a segment has at least 1 frame, not {show_value(settings.segment_frames)}")


def _require_aspect(info: VideoInfo, name: CodecName, target: Path) -> None:
    """PyAV tells Matroska no shape of pixels; a player sees what the codec itself says."""
    if info.aspect != 1 and target.suffix.lower() in (".mkv", ".webm") and not CODECS[name].says_aspect:
        raise VideoError(
            f"{info.path} has pixels of {info.aspect.numerator}:{info.aspect.denominator}, which {name} in "
            f"{target.suffix} does not say; take .mp4, or make them square first, as in: ffmpeg -i IN -vf "
            "scale=iw*sar:ih,setsar=1 OUT"
        )


def _default_codec(target: Path, depth: int) -> CodecName:
    if target.suffix.lower() == ".webm":
        return "av1"
    return "h264" if depth <= 8 else "h265"


def _collect_options(name: CodecName, settings: VideoSettings, light: MasteringLight) -> dict[str, str]:
    codec = CODECS[name]
    if settings.crf is not None and codec.crf is None:
        raise InputError(f"{name} has no constant rate factor; leave --crf out, or take another --codec")
    crf = codec.crf if settings.crf is None else settings.crf
    if crf is not None and not codec.min_crf <= crf <= codec.max_crf:
        raise InputError(
            f"the constant rate factor of {name} lies between {codec.min_crf} and {codec.max_crf}, not at {crf}"
        )
    options = {"chroma_sample_location": "left", **dict(codec.options)}
    if crf is not None:
        options[codec.crf_option] = str(crf)
    if name == "h264" and _has_avx512():
        _add_part(options, "x264-params", "asm=AVX2")
    if codec.light is not None and light.display:
        _add_part(options, codec.light.option, f"{codec.light.display}={light.format_display(*codec.light.units)}")
    if codec.light is not None and light.content:
        _add_part(options, codec.light.option, f"{codec.light.content}={light.format_content()}")
    for option, value in settings.encoder_options:
        if option.endswith("-params"):
            _add_part(options, option, value)
        else:
            options[option] = value
    return options


def _add_part(options: dict[str, str], option: str, part: str) -> None:
    """To an option whose value is a list; what comes later counts."""
    options[option] = f"{options[option]}:{part}" if option in options else part


@cache
def _has_avx512() -> bool:
    """Whether x264 would use AVX-512, with which the same frames give other bytes each time (docs/video.md)."""
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _output_colors(source: FrameKind, chosen: VideoFormat, codec: Codec) -> Colors:
    colors = source.colors
    if chosen.is_rgb:
        return Colors(RGB, True, colors.primaries, colors.transfer)
    if colors.matrix != RGB:
        return replace(colors, full_range=colors.full_range and codec.says_range)
    return Colors(guess_matrix(source.width, source.height), False, colors.primaries, colors.transfer)


def _describe_changes(info: VideoInfo, source: VideoFormat, chosen: VideoFormat, codec: Codec) -> list[str]:
    notes = []
    if count_bits(chosen) < count_bits(source):
        notes.append(f"{count_bits(source)} bit become {count_bits(chosen)}, the most that {codec.encoder} takes")
    if not share_chroma_alike(source, chosen):
        notes.append(f"{source.name} becomes {chosen.name}")
    if codec.light is None and info.light != MasteringLight():
        notes.append(f"HDR metadata cannot be told to {codec.encoder} and are lost")
    if info.kind.colors.full_range and info.kind.colors.matrix != RGB and not codec.says_range:
        notes.append(f"full range becomes TV range, for {codec.encoder} does not say which")
    if info.interlaced:
        notes.append("the video is interlaced, and networks take whole pictures only; deinterlace it first")
    return notes

"""What `sr-deploy upscale` does with videos and streams of raw frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sr_deploy.cli.output import Output
from sr_deploy.cli.streams import stdin_bytes, stdout

if TYPE_CHECKING:
    from sr_deploy.upscale.image import Upscaler
    from sr_deploy.upscale.video.encoders import VideoSettings
    from sr_deploy.upscale.video.kind import FrameKind
    from sr_deploy.upscale.video.video_job import VideoResult

INTERRUPTED = 130
_STREAM = Path("-")
_VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}
"""Of files that are taken for videos; what is in them decides on the rest."""

CodecWord = Literal["h264", "h265", "av1", "vp9", "ffv1", "prores", "h264_nvenc", "hevc_nvenc", "av1_nvenc"]
CodecOption = Annotated[
    CodecWord | None,
    typer.Option(
        help="Of a video; those with nvenc encode on an NVIDIA GPU. Left out: h264 for 8 bit, h265 for more; av1 in "
        ".webm."
    ),
]
CrfOption = Annotated[
    int | None,
    typer.Option(
        "--crf",
        min=0,
        max=63,
        help="Constant rate factor of a video, 0 the best and largest. Left out: 17 for h264, 18 for h265, 24 for av1 "
        "and vp9, 19 for h264_nvenc and hevc_nvenc, 24 for av1_nvenc.",
    ),
]
PixelFormatOption = Annotated[
    str | None,
    typer.Option(
        help="Of a video, in FFmpeg's words, as in yuv420p10le. Left out: the source's, or what is nearest to it."
    ),
]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option(help="More for the encoder of a video, in FFmpeg's words, as in preset=slow; repeatable."),
]
SegmentOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=100_000,
        help="Frames of a video that are encoded together, and lost together when the job is killed.",
    ),
]
SizeOption = Annotated[
    str | None, typer.Option(help="Of the frames of a stream that does not say it (rgb24), as in 640x360.")
]


@dataclass(frozen=True)
class VideoOptions:
    """What was asked for, as it was written."""

    scale: float | None
    codec: CodecWord | None
    crf: int | None
    pixel_format: str | None
    encoder_options: Sequence[str]
    segment: int

    def refuse(self, source: Path) -> None:
        """Say so where one is given for what is not a video.

        Raises:
            InputError: one is.
        """
        from sr_deploy.errors import InputError

        given = {
            "--codec": self.codec,
            "--crf": self.crf,
            "--pixel-format": self.pixel_format,
            "--encoder-option": self.encoder_options or None,
        }
        found = [name for name, value in given.items() if value is not None]
        if found:
            raise InputError(f"{found[0]} is for videos, and {source} is none; leave it out")

    def read(self) -> VideoSettings:
        """As settings.

        Raises:
            InputError: an encoder's option without a value.
        """
        from sr_deploy.errors import InputError
        from sr_deploy.upscale.video.encoders import VideoSettings

        pairs = [option.partition("=") for option in self.encoder_options]
        for option, (name, equals, _) in zip(self.encoder_options, pairs, strict=True):
            if not (name and equals):
                raise InputError(f"--encoder-option takes NAME=VALUE, as in preset=slow, not {option!r}")
        return VideoSettings(
            scale=self.scale,
            codec=self.codec,
            crf=self.crf,
            pixel_format=self.pixel_format,
            encoder_options=tuple((name, value) for name, _, value in pairs),
            segment_frames=self.segment,
        )


@dataclass(frozen=True)
class Network:
    """A network that can be loaded once all else is checked."""

    open: Callable[[], AbstractContextManager[tuple[dict[str, object], list[Upscaler]]]]
    """Gives what is told about it, and one upscaler for each device."""
    tile: int | None
    """Side in pixels that was asked for; None: to be chosen."""


def is_video(source: Path, target: Path) -> bool:
    """Whether the names say so, of what is not a folder."""
    return not source.is_dir() and bool({source.suffix.lower(), target.suffix.lower()} & _VIDEO_SUFFIXES)


def upscale_one_video(output: Output, network: Network, source: Path, target: Path, options: VideoOptions) -> None:
    """Upscale a file, say what became of it, and end with 1 where it was damaged."""
    from sr_deploy.stopping import stop_on_signals
    from sr_deploy.upscale.video.video_job import check_video_paths, upscale_video

    settings = options.read()
    check_video_paths(source, target, settings)
    with (
        network.open() as (described, upscalers),
        stop_on_signals() as stop,
        output.progress(f"upscaling {source.name}") as on_progress,
    ):
        result = upscale_video(
            upscalers, source, target, settings, tile=network.tile, on_progress=on_progress, stop=stop
        )
    _show(output, result)
    output.finish({**described, **_document(result)})
    if result.stopped:
        raise typer.Exit(INTERRUPTED)
    if result.damage is not None:
        raise typer.Exit(1)


def is_stream(source: Path, target: Path, *, as_json: bool) -> bool:
    """Whether frames come from stdin and go to stdout.

    Raises:
        InputError: one of them is a file, or stdout is asked for something else too.
    """
    from sr_deploy.errors import InputError

    if _STREAM not in (source, target):
        return False
    if source != target or as_json:
        raise InputError("a stream goes from - (stdin) to - (stdout), so --json cannot use stdout; leave --json out")
    return True


def upscale_raw_frames(output: Output, network: Network, name: str | None, size: str | None) -> None:
    """Upscale frames from stdin to stdout; what is said goes to stderr."""
    from sr_deploy.stopping import stop_on_signals
    from sr_deploy.upscale.video.pipe import upscale_pipe

    with network.open() as (_, upscalers), stop_on_signals() as stop, output.status() as on_progress:
        result = upscale_pipe(upscalers, stdin_bytes(), stdout().buffer, name, size, on_progress=on_progress, stop=stop)
    output.log(
        f"{result.frames} frames from {_describe_size(result.source.kind)} to {_describe_size(result.target.kind)}, "
        f"{result.seconds:.2f} s, limited by {result.slowest}"
    )
    if result.stopped:
        raise typer.Exit(INTERRUPTED)


def _show(output: Output, result: VideoResult) -> None:
    plan = result.plan
    if result.stopped:
        output.log(f"stopped after {result.frames} frames; run the same command again to do the rest")
        return
    output.show(
        f"{result.target}: {result.frames} frames, {_describe_size(result.info.kind)} to {_describe_size(plan.kind)}, "
        f"{plan.codec} {plan.kind.pixel_format}, {result.seconds:.2f} s"
    )
    if result.resumed:
        output.show(f"resumed  after {result.resumed} frames that were finished before")
    if result.duplicates:
        output.show(f"repeated {result.duplicates} frames that are the one before")
    total = sum(result.stages.values()) or 1.0
    shares = ", ".join(f"{stage} {100 * seconds / total:.0f} %" for stage, seconds in result.stages.items())
    output.show(f"work     {shares}; the others waited for {result.slowest}")
    for note in result.notes:
        output.show(f"note     {note}")
    if result.damage is not None:
        output.log(
            f"error: {result.source} is damaged: {result.damage}; what was recovered is in {result.target}: "
            f"{result.frames} frames"
        )


def _document(result: VideoResult) -> dict[str, object]:
    info, plan = result.info, result.plan
    return {
        "source": str(result.source),
        "target": None if result.stopped else str(result.target),
        "input": _describe_kind(info.kind),
        "output": {**_describe_kind(plan.kind), "codec": plan.codec, "options": dict(plan.options)},
        "frames": result.frames,
        "resumed": result.resumed,
        "duplicates": result.duplicates,
        "notes": list(result.notes),
        "damage": result.damage,
        "stages": result.stages,
        "limited_by": result.slowest,
        "stopped": result.stopped,
        "seconds": result.seconds,
    }


def _describe_size(kind: FrameKind) -> str:
    return f"{kind.width}x{kind.height}"


def _describe_kind(kind: FrameKind) -> dict[str, object]:
    return {"width": kind.width, "height": kind.height, "pixel_format": kind.pixel_format}

"""Raw frames from one stream to another, as filters of a pipe do."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sr_deploy.errors import VideoError
from sr_deploy.progress import OnProgress
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.convert import ToPixels
from sr_deploy.upscale.video.frames import (
    FrameMaker,
    Timed,
    freeze_cut,
    make_clock,
    read_pixels,
    upscale_frames,
)
from sr_deploy.upscale.video.raw import (
    RawFormat,
    RawReader,
    read_format,
    write_frame,
    write_head,
)


@dataclass(frozen=True)
class PipeResult:
    """What went through."""

    source: RawFormat
    """Format of the input stream."""
    target: RawFormat
    """Format of the output stream."""
    frames: int
    """How many were written."""
    duplicates: int
    """Of them, frames that repeat the one before."""
    stages: dict[str, float]
    """Seconds that each stage worked."""
    slowest: str
    """The stage that the others waited for."""
    seconds: float
    """Time that all took."""
    stopped: bool
    """Whether it was stopped from outside (Ctrl-C)."""


def upscale_pipe(
    upscaler: Upscaler | Sequence[Upscaler],
    source: BinaryIO,
    target: BinaryIO,
    name: str | None,
    size: str | None = None,
    *,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> PipeResult:
    """Upscale frames as they come; each is written as soon as it, and those that went with it, are done.

    Args:
        upscaler: used by this job alone meanwhile; several, of the same network on one device each, share the frames.
        source: frames without compression.
        target: gets them in the same format.
        name: of the format, `y4m` or `rgb24`.
        size: of the frames where the format does not say it, as in `640x360`.
        on_progress: told of each frame, and of the pace and the slowest stage.
        stop: once set, no further frame is begun.

    Raises:
        InputError: no such format, or no size.
        VideoError: the stream is not of that format, or ends in the middle of a frame; what came before is written.
        GuardError: what the network gives for a frame is not a picture of it.
        OutputError: the reader of the target has ended.
        BackendError: the backend failed.
    """
    started = time.perf_counter()
    upscalers = [upscaler] if isinstance(upscaler, Upscaler) else list(upscaler)
    form = read_format(source, name, size)
    enlarged = form.enlarge(upscalers[0].spec.scale)
    make_frame = FrameMaker(enlarged.kind, deep=form.kind.deep)
    clock, reader = make_clock(upscalers), RawReader(source, form)
    written = repeated = 0

    def write(timed: Timed) -> None:
        nonlocal written, repeated
        with clock.working("encode"):
            write_frame(target, make_frame(timed), enlarged)
        written += 1
        repeated += timed.pixels is None

    write_head(target, enlarged)
    frozen = freeze_cut(upscalers, read_pixels(reader.frames(), ToPixels(form.kind), clock))
    stopped = upscale_frames(
        upscalers,
        frozen.decoded,
        write,
        clock,
        input_bytes=form.kind.sample_bytes,
        batch_size=frozen.batch_size,
        on_progress=on_progress,
        stop=stop,
    )
    if reader.cut_short:
        raise VideoError(f"the stream ends in the middle of frame {written}; the frames before it are written")
    return PipeResult(
        source=form,
        target=enlarged,
        frames=written,
        duplicates=repeated,
        stages=clock.seconds,
        slowest=clock.slowest,
        seconds=time.perf_counter() - started,
        stopped=stopped,
    )

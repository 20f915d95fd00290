"""One video: its frames in segments, then the finished file."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError, VideoError
from sr_deploy.files import replacing_file, require_file
from sr_deploy.progress import OnProgress
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import find_target_size, require_writable_place
from sr_deploy.upscale.video.check import check_result
from sr_deploy.upscale.video.continuing import Done, LastFrames, continue_frames
from sr_deploy.upscale.video.convert import ToPixels
from sr_deploy.upscale.video.decode import FrameReader
from sr_deploy.upscale.video.encoders import EncoderPlan, VideoSettings, check_settings, plan_encoder
from sr_deploy.upscale.video.frames import (
    FrameMaker,
    Timed,
    freeze_cut,
    make_clock,
    read_pixels,
    upscale_frames,
)
from sr_deploy.upscale.video.mux import Copied, join_segments, plan_copies
from sr_deploy.upscale.video.record import describe_job, empty_work_folder, open_work_folder, read_cut, write_cut
from sr_deploy.upscale.video.segments import SegmentStore
from sr_deploy.upscale.video.source import VideoInfo, read_video_info
from sr_deploy.upscale.video.stage_threads import Clock

_LONGEST_SIDE = 65_535


@dataclass(frozen=True)
class VideoResult:
    """What became of a video."""

    source: Path
    target: Path
    info: VideoInfo
    plan: EncoderPlan
    """How the result is encoded."""
    frames: int
    """How many the result has."""
    resumed: int
    """Of them, frames that an earlier run had finished."""
    duplicates: int
    """Of them, frames that repeat the one before."""
    notes: tuple[str, ...]
    """What is not as in the source, in words."""
    damage: str | None
    """Why the source is not whole; None: it is."""
    stages: dict[str, float]
    """Seconds that each stage worked."""
    slowest: str
    """The stage that the others waited for."""
    seconds: float
    """Time that all took."""
    stopped: bool
    """Whether it was stopped from outside (Ctrl-C); there is no file then."""


def upscale_video(
    upscaler: Upscaler | Sequence[Upscaler],
    source: Path,
    target: Path,
    settings: VideoSettings | None = None,
    *,
    tile: int | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> VideoResult:
    """Upscale the video of a file; sound, subtitles, chapters and tags are copied.

    A job that was killed or stopped goes on where its last segment ended, when it is started again. Of a damaged source
    what can be recovered is written to `partial_path(target)`.

    Args:
        upscaler: used by this job alone meanwhile; several, of the same network on one device each, share the frames.
        source: the video.
        target: its suffix says the container.
        settings: how.
        tile: what the upscaler was given, to tell segments of other tiles apart.
        on_progress: told of each frame, and of the pace and the slowest stage.
        stop: once set, the job ends after the frames at hand.

    Raises:
        InputError: settings that cannot be met.
        LockedError: another process works on this result.
        VideoError: the source is not a video that is taken, the target cannot hold what is in it, or the finished file
            is not what it should be; then there is none.
        GuardError: what the network gives for a frame is not a picture of it.
        OutputError: the target cannot be written.
        BackendError: the backend failed.
    """
    settings = settings or VideoSettings()
    upscalers = [upscaler] if isinstance(upscaler, Upscaler) else list(upscaler)
    started = time.perf_counter()
    check_video_paths(source, target, settings)
    info = read_video_info(source)
    plan = plan_encoder(info, _find_size(info, upscalers[0].spec.scale, settings.scale), target, settings)
    making = describe_job(
        source,
        upscalers[0].spec,
        plan,
        settings.segment_frames,
        tile=tile,
        batch=upscalers[0].asked_batch,
    )
    with open_work_folder(target, making) as folder:
        copied = plan_copies(info, plan, target, folder)
        reader, clock = FrameReader(info), make_clock(upscalers)
        with SegmentStore(folder, plan, settings.segment_frames) as store:
            resumed = store.frames
            stopped = _make_segments(upscalers, info, store, reader, clock, on_progress=on_progress, stop=stop)
        damage = "; ".join(part for part in (info.damage, reader.losses.describe()) if part) or None
        final = target if damage is None else partial_path(target)
        if not stopped:
            _finish(info, copied, store, final)
            empty_work_folder(folder)
    return VideoResult(
        source=source,
        target=final,
        info=info,
        plan=plan,
        frames=store.frames,
        resumed=resumed,
        duplicates=sum(segment.duplicates for segment in store.segments),
        notes=(*plan.notes, *copied.notes),
        damage=damage,
        stages=clock.seconds,
        slowest=clock.slowest,
        seconds=time.perf_counter() - started,
        stopped=stopped,
    )


def check_video_paths(source: Path, target: Path, settings: VideoSettings) -> None:
    """Refuse, before a network is loaded, what cannot end well.

    Raises:
        InputError: no such source, settings that no video can meet, or both are the same file.
        OutputError: the target cannot be written.
    """
    require_file(source, "a video")
    check_settings(target, settings)
    require_writable_place(target)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the video to read; give another name for the result")


def partial_path(target: Path) -> Path:
    """The name of what was recovered of a damaged video."""
    return target.with_suffix(f".partial{target.suffix}")


def _find_size(info: VideoInfo, network_scale: int, scale: float | None) -> tuple[int, int]:
    """Height and width of the result; even numbers where it is resampled.

    Raises:
        VideoError: frames are larger than any picture that is read or written.
    """
    if scale is None:
        height, width = info.kind.height * network_scale, info.kind.width * network_scale
    else:
        width, height = (2 * side for side in find_target_size(info.kind.width, info.kind.height, scale / 2))
    if max(height, width) > _LONGEST_SIDE:
        raise VideoError(
            f"{info.path} of {info.kind.width}x{info.kind.height} would become {width}x{height}; sides of videos have "
            f"at most {_LONGEST_SIDE} pixels: take a smaller --scale"
        )
    return height, width


def _make_segments(
    upscalers: Sequence[Upscaler],
    info: VideoInfo,
    store: SegmentStore,
    reader: FrameReader,
    clock: Clock,
    *,
    on_progress: OnProgress | None,
    stop: threading.Event | None,
) -> bool:
    """Make those that are missing; whether it was stopped."""
    done = store.frames
    make_frame = FrameMaker(store.plan.kind, deep=info.kind.deep)
    last_frames = LastFrames(reader, done, store.segment_frames, len(info.times))

    def write(timed: Timed) -> None:
        with clock.working("encode"):
            check = last_frames.take(timed.time)
            store.add(make_frame(timed), timed.time, duplicate=timed.pixels is None, check=check)

    to_pixels = ToPixels(info.kind)
    earlier = Done(store.times, store.segments[-1].check if store.segments else None)
    decoded = read_pixels(continue_frames(info, reader, to_pixels, earlier), to_pixels, clock)
    frozen = freeze_cut(upscalers, last_frames.watch(decoded), read_cut(store.folder))
    if frozen.cut is not None:
        write_cut(store.folder, frozen.cut)
    stopped = upscale_frames(
        upscalers,
        frozen.decoded,
        write,
        clock,
        input_bytes=info.kind.sample_bytes,
        first=done,
        batch_size=frozen.batch_size,
        compute_every=store.segment_frames,
        total=len(info.times),
        on_progress=on_progress,
        stop=stop,
    )
    if not stopped:
        store.finish()
    return stopped


def _finish(info: VideoInfo, copied: Copied, store: SegmentStore, target: Path) -> None:
    """Join beside the segments, check, and only then give it its name."""
    if not store.frames:
        empty_work_folder(store.folder)
        raise VideoError(f"{info.path} is damaged: none of its frames can be decoded, so nothing can be recovered")
    joined = store.folder / f"joined{target.suffix}"
    join_segments(info, store.plan, store.segments, copied, joined)
    check_result(info, store.plan, copied, store.times, joined)
    with replacing_file(target) as path:
        joined.replace(path)

"""The way of the frames: decoded in one thread, upscaled in another, encoded in a third."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from sr_deploy.errors import GuardError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.imaging.resample import resample
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.upscale.devices import DevicePool
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.plan import Cut
from sr_deploy.upscale.video.convert import ToFrames, ToPixels
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.stage_threads import Clock, WriteBehind, count_between, prefetch

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class Timed:
    """Samples of a frame on their way."""

    pixels: Pixels | None
    """H x W x C; None: those of the frame before."""
    time: int
    """When it is shown, in units of the source's time base."""


@dataclass(frozen=True)
class FrozenCut:
    """How all frames are cut into tiles, and the frames."""

    cut: Cut | None
    """None: there is no frame."""
    decoded: Iterator[Timed]
    """All frames, with the first."""
    batch_size: int = 1
    """Frames that go through the network at once."""


def read_pixels(frames: Iterator[VideoFrame], to_pixels: ToPixels, clock: Clock) -> Iterator[Timed]:
    """Samples of decoded frames."""
    while True:
        with clock.working("decode"):
            frame = next(frames, None)
            if frame is None:
                return
            timed = Timed(to_pixels(frame), frame.pts)
        yield timed


def freeze_cut(upscalers: Sequence[Upscaler], decoded: Iterator[Timed], cut: Cut | None = None) -> FrozenCut:
    """Make all upscalers cut every frame alike.

    Args:
        upscalers: of one network.
        decoded: frames, the first of which decides.
        cut: of an earlier run, to do as then; None: decide now.

    Returns:
        The cut, None where there is no frame; and the frames, with the first.
    """
    first = next(decoded, None)
    if first is None or first.pixels is None:
        return FrozenCut(cut, iter(()))
    for upscaler in upscalers:
        cut = upscaler.freeze(first.pixels, cut)
    batch_size = upscalers[0].count_batch(*first.pixels.shape[:2])
    return FrozenCut(cut, itertools.chain([first], decoded), batch_size)


def make_clock(upscalers: Sequence[Upscaler]) -> Clock:
    """For `decode` (with the way to RGB), `inference` and `encode` (resampling, the way from RGB, and encoding)."""
    return Clock({"decode": 1, "inference": len(upscalers), "encode": 1})


def upscale_frames(
    upscalers: Sequence[Upscaler],
    decoded: Iterator[Timed],
    write: Callable[[Timed], None],
    clock: Clock,
    *,
    input_bytes: int,
    batch_size: int = 1,
    first: int = 0,
    compute_every: int | None = None,
    total: int | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> bool:
    """Upscale frames while others are decoded and written.

    A frame whose samples are those of the one before is not computed again.

    Args:
        upscalers: of one network, each used by a thread of its own.
        decoded: read in a thread of its own.
        write: called in a thread of its own, in order.
        clock: counts what the stages work.
        input_bytes: of a decoded frame's samples, which decide on how many may wait.
        batch_size: frames that go through the network at once, if their samples are not too many to wait.
        first: number of the first frame.
        compute_every: frames whose number is a multiple of it are computed in any case, and not with those before.
        total: how many frames there are; None: nobody knows.
        on_progress: told of each frame, and of the pace and the slowest stage.
        stop: once set, no further frame is begun.

    Returns:
        Whether it was stopped.

    Raises:
        GuardError: what the network gives for a frame is not a picture of it; the message says which.
    """
    started = time.perf_counter()
    stop = stop or threading.Event()
    output_bytes = input_bytes * upscalers[0].spec.scale ** 2

    def compute(upscaler: Upscaler, group: list[_Numbered]) -> Sequence[Pixels | None]:
        fresh = [frame.pixels for frame in group if frame.pixels is not None]
        if not fresh:
            return [None] * len(group)
        finished = 0

        def count(progress: Progress) -> None:
            nonlocal finished
            finished = int(progress.done)

        with clock.working("inference"):
            try:
                return upscaler.upscale_many(fresh, on_progress=count)
            except GuardError as error:
                raise GuardError(f"frame {group[finished].number}: {error}") from error

    with (
        prefetch(decoded, count_between(input_bytes)) as prefetched,
        WriteBehind(write, count_between(output_bytes)) as behind,
        DevicePool([partial(compute, upscaler) for upscaler in upscalers]) as pool,
    ):
        numbered = _number_frames(prefetched, first, compute_every, stop)
        max_group = min(batch_size, count_between(output_bytes))
        for group, upscaled in pool.run(_group_frames(numbered, max_group, compute_every, stop)):
            for frame, pixels in zip(group, upscaled.result(), strict=True):
                behind.put(Timed(pixels, frame.time))
                if on_progress is not None:
                    done = frame.number + 1
                    pace = f"{(done - first) / (time.perf_counter() - started):.2f} frames/s"
                    of = None if total is None else max(total, done)
                    on_progress(Progress(f"{pace}, limited by {clock.slowest}", done, of, "frames"))
        behind.finish()
    return stop.is_set()


@dataclass(frozen=True)
class _Numbered(Timed):
    """A frame for a network; without samples it repeats the one before."""

    number: int


def _number_frames(
    frames: Iterator[Timed], first: int, compute_every: int | None, stop: threading.Event
) -> Iterator[_Numbered]:
    before: Pixels | None = None
    for number, frame in enumerate(frames, first):
        if stop.is_set():
            return
        fresh = compute_every is not None and number % compute_every == 0
        repeated = not fresh and before is not None and np.array_equal(cast("Pixels", frame.pixels), before)
        before = frame.pixels
        yield _Numbered(None if repeated else frame.pixels, frame.time, number)


def _group_frames(
    frames: Iterator[_Numbered], max_group: int, compute_every: int | None, stop: threading.Event
) -> Iterator[list[_Numbered]]:
    """Frames to compute at once, or one that repeats the one before.

    A job that goes on at a multiple of `compute_every` makes the same groups as one that was never stopped.
    """
    group: list[_Numbered] = []
    for frame in frames:
        begins = frame.pixels is None or (compute_every is not None and frame.number % compute_every == 0)
        if group and begins:
            yield group
            group = []
        group.append(frame)
        if len(group) == max_group or frame.pixels is None:
            yield group
            group = []
    if group and not stop.is_set():
        yield group


class FrameMaker:
    """From samples to frames of the result's size and colors."""

    def __init__(self, kind: FrameKind, *, deep: bool) -> None:
        """`kind`: of the frames; `deep`: whether samples have 16 bit."""
        self._kind = kind
        self._to_frame = ToFrames(kind, deep=deep)
        self._latest: VideoFrame | None = None

    def __call__(self, timed: Timed) -> VideoFrame:
        """A frame for the encoder; the one before again where there are no samples."""
        if timed.pixels is not None:
            pixels = resample(timed.pixels, self._kind.width, self._kind.height, "lanczos")
            self._latest = self._to_frame(pixels)
        return self._latest

"""Frames that go through the network several at once: in order, in the same groups whenever a job goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import GuardError
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.record import find_work_folder
from sr_deploy.upscale.video.video_job import upscale_video

SETTINGS = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))


class BreakdownError(Exception):
    """Stands for a kill."""


class BatchRunner(BaseRunner):
    """Repeats pixels, one step of 8 bit brighter in larger batches: groups show in the result."""

    def __init__(self, precision: str = "fp32") -> None:
        super().__init__(RunnerSpec("torch", "0", precision, "cpu", 2, 3))  # type: ignore[arg-type]
        self.batches: list[int] = []
        self.break_at: int | None = None
        self.bad: int | None = None

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.break_at == len(self.batches):
            raise BreakdownError
        begun = sum(self.batches)
        self.batches.append(len(lr_NCHW))
        sr = np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3) + np.float32(len(lr_NCHW) / 255)
        if self.bad is not None and begun <= self.bad < begun + len(lr_NCHW):
            sr[self.bad - begun] = np.nan
        return sr

    def _release(self) -> None:
        pass


@pytest.fixture
def runner() -> BatchRunner:
    return BatchRunner()


def test_frames_go_in_groups_that_end_with_segments(clip, packets_of, runner, tmp_path):
    source = clip("in.mkv", numbers=tuple(range(12)))
    upscaler = Upscaler(runner, halo=0, batch=3)
    upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)
    assert runner.batches == [3, 2, 3, 2, 2]
    unbroken = packets_of(tmp_path / "out.mkv", "video")
    assert len(unbroken) == 12
    broken = tmp_path / "broken.mkv"
    runner.batches, runner.break_at = [], 3
    with pytest.raises(BreakdownError):
        upscale_video(upscaler, source, broken, SETTINGS)
    folder = find_work_folder(broken)
    assert json.loads((folder / "cut.json").read_text())["batch"] == 3
    runner.batches, runner.break_at = [], None
    again = upscale_video(Upscaler(runner, halo=0, batch=3), source, broken, SETTINGS)
    assert (again.resumed, runner.batches) == (5, [3, 2, 2])
    assert packets_of(broken, "video") == unbroken


def test_segments_of_another_batch_are_not_joined(clip, runner, tmp_path):
    source, target = clip("in.mkv", numbers=tuple(range(12))), tmp_path / "out.mkv"
    runner.break_at = 3
    with pytest.raises(BreakdownError):
        upscale_video(Upscaler(runner, halo=0, batch=3), source, target, SETTINGS)
    runner.batches, runner.break_at = [], None
    assert upscale_video(Upscaler(runner, halo=0), source, target, SETTINGS).resumed == 0
    assert set(runner.batches) == {1}


def test_a_repeated_frame_ends_a_group(clip, runner, tmp_path):
    source = clip("in.mkv", numbers=(0, 1, 1, 2, 3, 4, 5, 6))
    told: list[float] = []
    result = upscale_video(
        Upscaler(runner, halo=0, batch=4),
        source,
        tmp_path / "out.mkv",
        VideoSettings(encoder_options=(("preset", "ultrafast"),)),
        on_progress=lambda progress: told.append(progress.done),
    )
    assert (result.frames, result.duplicates) == (8, 1)
    assert runner.batches == [2, 4, 1]
    assert told == list(range(1, 9))


def test_two_devices_share_groups(clip, packets_of, runner, tmp_path: Path):
    source = clip("in.mkv", numbers=tuple(range(12)))
    upscale_video(Upscaler(runner, halo=0, batch=3), source, tmp_path / "one.mkv", SETTINGS)
    pair = [Upscaler(BatchRunner(), halo=0, batch=3) for _ in range(2)]
    upscale_video(pair, source, tmp_path / "two.mkv", SETTINGS)
    assert packets_of(tmp_path / "two.mkv", "video") == packets_of(tmp_path / "one.mkv", "video")


def test_the_frame_that_is_no_picture_is_named(clip, tmp_path):
    runner = BatchRunner("fp16")
    runner.bad = 4
    with pytest.raises(GuardError, match=r"^frame 4: torch:fp16 gave values that are not finite"):
        upscale_video(
            Upscaler(runner, halo=0, batch=3), clip("in.mkv", numbers=tuple(range(9))), tmp_path / "out.mkv", SETTINGS
        )

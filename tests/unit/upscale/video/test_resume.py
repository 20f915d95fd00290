"""A job that ended early goes on where its last segment ended, and gives what an unbroken one gives."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import BackendError, InputError, OutputError, PlaceLostError, UnsafePathError
from sr_deploy.progress import Progress
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.record import find_work_folder, open_work_folder
from sr_deploy.upscale.video.video_job import upscale_video

SETTINGS = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))
FRAMES = 22


class BreakdownError(Exception):
    """Stands for a kill."""


@pytest.fixture
def source(clip) -> Path:
    return clip("in.mkv", numbers=tuple(range(FRAMES)), sound="libopus")


def break_at(call):
    def breakdown(number: int) -> None:
        if number == call:
            raise BreakdownError

    return breakdown


def content_of(path, packets_of):
    return packets_of(path, "video"), packets_of(path, "audio")


def test_resumed_jobs_give_what_an_unbroken_one_gives(source, packets_of, runner, upscaler, tmp_path):
    unbroken, broken = tmp_path / "unbroken.mkv", tmp_path / "broken.mkv"
    upscale_video(upscaler, source, unbroken, SETTINGS)
    for call in (12, 9):
        runner.calls, runner.at_call = 0, break_at(call)
        with pytest.raises(BreakdownError):
            upscale_video(upscaler, source, broken, SETTINGS)
        assert not broken.exists()
    runner.calls, runner.at_call = 0, lambda number: None
    result = upscale_video(upscaler, source, broken, SETTINGS)
    assert result.resumed == 15  # of 11 + 8 frames that were computed, those in whole segments
    assert runner.calls == FRAMES - result.resumed
    assert result.frames == FRAMES
    assert content_of(broken, packets_of) == content_of(unbroken, packets_of)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mkv", "in.mkv", "unbroken.mkv"]


def test_a_link_in_place_of_the_segments_or_one_of_them_is_not_followed(source, runner, upscaler, tmp_path):
    target, victim = tmp_path / "out.mkv", tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    folder = find_work_folder(target)
    folder.symlink_to(victim)
    with pytest.raises(UnsafePathError, match=r"\.out\.mkv\.sr-deploy is a link; put a folder there"):
        upscale_video(upscaler, source, target, SETTINGS)
    folder.unlink()
    runner.at_call = break_at(9)
    with pytest.raises(BreakdownError):
        upscale_video(upscaler, source, target, SETTINGS)
    runner.at_call = lambda number: None
    segment = folder / "segment-000001.packets"
    segment.unlink(missing_ok=True)
    segment.symlink_to(victim / "precious")
    assert upscale_video(upscaler, source, target, SETTINGS).resumed == 5
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("precious", "precious")]


def test_a_wish_to_stop_ends_between_frames(source, packets_of, runner, upscaler, tmp_path):
    stop = threading.Event()
    runner.at_call = lambda number: stop.set() if number == 8 else None
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS, stop=stop)
    assert (result.stopped, result.frames) == (True, 5)
    assert not (tmp_path / "out.mkv").exists()
    assert find_work_folder(tmp_path / "out.mkv").is_dir()
    runner.calls = 0
    told: list[Progress] = []
    again = upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS, on_progress=told.append)
    assert (again.resumed, again.frames, runner.calls) == (5, FRAMES, FRAMES - 5)
    assert [(now.done, now.total) for now in told] == [(number, FRAMES) for number in range(6, FRAMES + 1)]
    assert len(packets_of(tmp_path / "out.mkv", "video")) == FRAMES


@pytest.mark.parametrize(
    "change",
    [
        lambda settings, source, clip: (replace(settings, crf=30), source),
        lambda settings, source, clip: (replace(settings, segment_frames=6), source),
        lambda settings, source, clip: (settings, clip("in.mkv", numbers=tuple(range(1, FRAMES + 1)))),
    ],
    ids=["quality", "segments", "source"],
)
def test_segments_of_another_job_are_not_used(source, clip, runner, upscaler, tmp_path, *, change):
    runner.at_call = break_at(12)
    with pytest.raises(BreakdownError):
        upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)
    runner.at_call = lambda number: None
    settings, changed = change(SETTINGS, source, clip)
    result = upscale_video(upscaler, changed, tmp_path / "out.mkv", settings)
    assert (result.resumed, result.frames) == (0, FRAMES)


def test_damaged_segments_are_made_again(source, packets_of, runner, upscaler, tmp_path):
    unbroken, broken = tmp_path / "unbroken.mkv", tmp_path / "broken.mkv"
    upscale_video(upscaler, source, unbroken, SETTINGS)
    runner.calls, runner.at_call = 0, break_at(20)
    with pytest.raises(BreakdownError):
        upscale_video(upscaler, source, broken, SETTINGS)
    folder = find_work_folder(broken)
    assert len(list(folder.glob("segment-*.json"))) == 3
    segment = folder / "segment-000001.packets"
    segment.write_bytes(segment.read_bytes()[:-1])
    runner.at_call = lambda number: None
    assert upscale_video(upscaler, source, broken, SETTINGS).resumed == 5
    assert content_of(broken, packets_of) == content_of(unbroken, packets_of)


def test_frames_are_cut_as_in_the_run_before(clip, planes_of, runner, tmp_path):
    """A network that may look further than halos go: the halo is chosen on the first frame, and kept."""
    source = clip("in.mkv", size=(32, 160), numbers=tuple(range(FRAMES)))
    settings = VideoSettings(codec="ffv1", segment_frames=5)
    with Upscaler(runner, tile=16) as upscaler:
        runner.at_call = break_at(90)
        with pytest.raises(BreakdownError):
            upscale_video(upscaler, source, tmp_path / "out.mkv", settings, tile=16)
        chosen = upscaler.halo
    runner.at_call = lambda number: None
    with Upscaler(runner, tile=16, halo=chosen + 8) as upscaler:
        result = upscale_video(upscaler, source, tmp_path / "out.mkv", settings, tile=16)
        assert result.resumed > 0
        assert upscaler.halo == chosen
    for before, after in zip(planes_of(source), planes_of(tmp_path / "out.mkv"), strict=True):
        assert np.abs(np.repeat(np.repeat(before[0], 2, 0), 2, 1).astype(int) - after[0]).max() <= 1


def test_one_process_works_on_a_result_at_a_time(source, upscaler, tmp_path):
    target = tmp_path / "out.mkv"
    with (
        open_work_folder(target, "another job"),
        pytest.raises(InputError, match=r"out\.mkv is being written .*\(process \d+ on"),
    ):
        upscale_video(upscaler, source, target, SETTINGS)


def test_a_failing_backend_leaves_no_file_and_keeps_segments(source, runner, upscaler, tmp_path):
    def fail(number: int) -> None:
        if number == 14:
            raise BackendError("the device is lost")

    runner.at_call = fail
    with pytest.raises(BackendError, match="the device is lost"):
        upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)
    assert not (tmp_path / "out.mkv").exists()
    runner.at_call = lambda number: None
    assert upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS).resumed == 10


def test_a_full_disk_is_one_line_and_keeps_segments(source, runner, upscaler, tmp_path, monkeypatch):
    target = tmp_path / "out.mkv"
    runner.at_call = break_at(9)
    with pytest.raises(BreakdownError):
        upscale_video(upscaler, source, target, SETTINGS)
    runner.at_call = lambda number: None
    segment, real_open = find_work_folder(target) / "segment-000001.packets", Path.open

    def open_full(path, *how, **more):
        return real_open(Path("/dev/full"), "wb") if path == segment else real_open(path, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        with pytest.raises(OutputError, match=r"segment-000001.packets: the disk is full; free some space"):
            upscale_video(upscaler, source, target, SETTINGS)
    assert not target.exists()
    assert upscale_video(upscaler, source, target, SETTINGS).resumed == 5


@pytest.mark.parametrize("put_back", [True, False])
def test_a_folder_that_vanishes_ends_the_video_and_its_segments_count_when_it_comes_back(
    clip, runner, upscaler, tmp_path, put_back
):
    source = clip("long.mkv", numbers=tuple(range(60)))
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"

    def lose(number: int) -> None:
        if number == 30:
            out.rename(elsewhere)

    runner.at_call = lose
    with pytest.raises(PlaceLostError, match=r"\.out\.mkv\.sr-deploy was removed, moved or unmounted"):
        upscale_video(upscaler, source, out / "out.mkv", SETTINGS)
    assert runner.calls < 45
    assert not out.exists()
    runner.at_call = lambda number: None
    if put_back:
        elsewhere.rename(out)
    result = upscale_video(upscaler, source, out / "out.mkv", SETTINGS)
    assert (result.resumed >= 10) == put_back
    assert [path.name for path in out.iterdir()] == ["out.mkv"]

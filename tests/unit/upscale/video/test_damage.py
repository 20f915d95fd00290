"""Damaged videos: what was recovered is named, and lies in no file that looks whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy.errors import GuardError, VideoError
from sr_deploy.upscale.video.check import check_result
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.mux import Copied
from sr_deploy.upscale.video.source import read_video_info
from sr_deploy.upscale.video.video_job import partial_path, upscale_video

SETTINGS = VideoSettings(segment_frames=10, encoder_options=(("preset", "ultrafast"),))
FRAMES = 36
GROUPS = (("g", "6"), ("preset", "veryfast"), ("crf", "1"))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def wreck_packet(path: Path, number: int) -> None:
    """Put zeros where a packet of the video was, behind its first bytes."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = places[number]
    content = bytearray(path.read_bytes())
    content[start + 12 : start + size] = bytes(size - 12)
    path.write_bytes(content)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_cut_files_give_what_is_there(clip, packets_of, frames_of, upscaler, tmp_path, *, codec):
    source = clip("in.mkv", numbers=tuple(range(FRAMES)), codec=codec, sound="libopus", rate=24)
    cut(source, 0.5)
    left = len(packets_of(source, "video"))
    assert 0 < left < FRAMES
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)
    assert result.target == tmp_path / "out.partial.mkv"
    assert result.damage is not None
    assert result.damage.startswith("it ends after ")
    assert " s of 1.5" in result.damage
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.partial.mkv"]
    assert len(frames_of(result.target)) == result.frames
    assert left - 1 <= result.frames <= left


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("in.mkv", "libx264", GROUPS),
        ("in.mkv", "libx265", (("x265-params", "log-level=error:keyint=6"), ("crf", "1"))),
        ("in.mp4", "libx264", GROUPS),
        ("in.mkv", "mpeg2video", (("qmin", "1"), ("g", "6"))),
    ],
)
def test_a_corrupt_packet_is_found_and_the_rest_recovered(clip, frames_of, upscaler, tmp_path, *, name, codec, options):
    source = clip(name, numbers=tuple(range(FRAMES)), codec=codec, options=options)
    wreck_packet(source, 14)
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)
    assert result.target == tmp_path / "out.partial.mkv"
    assert result.damage is not None
    assert "frames could not be decoded" in result.damage or "frames have errors" in result.damage
    first = float(result.damage.rsplit(" at ", 1)[1].split()[0])
    assert 10 / 24 < first < 20 / 24
    assert FRAMES - 6 <= result.frames == len(frames_of(result.target))
    assert not (tmp_path / "out.mkv").exists()


def test_nothing_can_be_recovered_without_a_head(clip, upscaler, tmp_path):
    source = clip("in.mp4", numbers=tuple(range(FRAMES)))
    cut(source, 0.5)
    with pytest.raises(VideoError, match=r"in.mp4 .* damaged at its head"):
        upscale_video(upscaler, source, tmp_path / "out.mp4", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_frames_without_a_frame_are_refused(clip, upscaler, tmp_path):
    source = clip("in.mkv", numbers=(0,))
    wreck_packet(source, 0)
    with pytest.raises(VideoError, match=r"no frame can be decoded: nothing can be recovered"):
        upscale_video(upscaler, source, tmp_path / "out.mkv", SETTINGS)


def test_partial_files_have_a_name_of_their_own():
    assert partial_path(Path("films/out.v2.mkv")) == Path("films/out.v2.partial.mkv")


def test_a_network_that_gives_no_picture_names_the_frame(clip, runner, upscaler, tmp_path):
    def spoil(number: int) -> None:
        if number >= 7:
            runner._infer = lambda lr_NCHW: np.full((1, 3, 64, 128), np.nan, np.float32)

    runner.at_call = spoil
    with pytest.raises(GuardError, match=r"frame 7: torch:fp32 gave values that are not finite"):
        upscale_video(upscaler, clip("in.mkv"), tmp_path / "out.mkv", SETTINGS)
    assert not (tmp_path / "out.mkv").exists()


# --- the check of finished files finds what is wrong


@pytest.fixture
def finished(clip, upscaler, tmp_path):
    """A source, its result, and what was planned."""
    source = clip("in.mp4", sound="aac")
    return upscale_video(upscaler, source, tmp_path / "out.mp4", SETTINGS)


def check(finished, info=None, plan=None, times=None, copied=None):
    info = info or finished.info
    check_result(info, plan or finished.plan, copied or Copied((1,), ()), times or info.times, finished.target)


def test_a_whole_file_passes(finished):
    check(finished)


def test_lost_frames_times_and_sound_are_found(finished):
    times = list(finished.info.times)
    with pytest.raises(VideoError, match=r"the result has 12 frames, not 11"):
        check(finished, times=times[:-1])
    late = [*times[:5], times[5] + 100, *times[6:]]
    with pytest.raises(VideoError, match=r"frame 5 is 0.0081 s too early in the result"):
        check(finished, times=late)
    sound = finished.info.streams[1]
    for change, message in (
        ({"packets": sound.packets + 1}, r"has \d+ packets of sound in stream 1, not \d+"),
        ({"start": sound.start + 1}, r"the first packet of sound is 1.0000 s too early"),
        ({"last": sound.last - 1}, r"the last packet of sound is 1.0000 s too late"),
    ):
        info = replace(finished.info, streams=(finished.info.streams[0], replace(sound, **change)))
        with pytest.raises(VideoError, match=message):
            check(finished, info=info)
    video = replace(finished.info.streams[0], end=finished.info.streams[0].end + 1)
    with pytest.raises(VideoError, match=r"the video ends 1.0000 s too early"):
        check(finished, info=replace(finished.info, streams=(video, sound)))


def test_lost_streams_are_found(finished):
    with pytest.raises(VideoError, match=r"the result has 1 streams besides its video, not 2"):
        check(finished, copied=Copied((1, 2), ()))


def test_other_frames_and_colors_are_found(finished):
    with pytest.raises(VideoError, match=r"frames are \(128, 64, 'yuv420p'.* not \(128, 66"):
        check(finished, plan=replace(finished.plan, kind=replace(finished.plan.kind, height=66)))
    with pytest.raises(VideoError, match=r"the result's frames are .*, not .* \(0, 65536"):
        check(finished, info=replace(finished.info, display_matrix=(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)))
    kind = replace(finished.plan.kind, colors=replace(finished.plan.kind.colors, full_range=True))
    with pytest.raises(VideoError, match=r"the result's colors are"):
        check(finished, plan=replace(finished.plan, kind=kind))


def test_files_with_two_frames_at_a_time_or_in_pieces_are_refused(clip, upscaler, tmp_path):
    first, second = clip("a.ts", codec="mpeg2video"), clip("b.ts", codec="mpeg2video", size=(64, 96))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match=r"joined.ts (has two frames at|goes back in time|changes at)"):
        upscale_video(upscaler, joined, tmp_path / "out.mkv", SETTINGS)
    assert read_video_info(first).damage is None

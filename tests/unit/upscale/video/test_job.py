from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sr_deploy.errors import OutputError, VideoError
from sr_deploy.progress import Progress
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.record import find_work_folder
from sr_deploy.upscale.video.source import read_video_info
from sr_deploy.upscale.video.video_job import upscale_video

LOSSLESS = VideoSettings(codec="ffv1", segment_frames=5)
SMALL = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))
HDR = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
BT2020_PQ = (9, 1, 9, 16)

Clip = Callable[..., Path]


# --- samples


def enlarge_plane(plane, number: int, pixel_format: str):
    """Of a network that repeats pixels; shared chroma lies at every second column, and between every two rows."""
    if number == 0 or pixel_format in ("yuv444p", "gray"):
        return np.repeat(np.repeat(plane, 2, axis=0), 2, axis=1)
    columns = np.arange(2 * plane.shape[1]) / 2
    rows = (np.arange(2 * plane.shape[0]) - 0.5) / 2 if "420" in pixel_format else np.arange(2 * plane.shape[0]) // 2
    wide = np.stack([np.interp(columns, np.arange(plane.shape[1]), row) for row in plane])
    return np.stack([np.interp(rows, np.arange(plane.shape[0]), column) for column in wide.T], axis=1)


@pytest.mark.parametrize(
    ("pixel_format", "codec", "step"),
    [
        ("yuv420p", "libx264", 1),
        ("yuv444p", "libx264", 1),
        ("yuv422p10le", "ffv1", 4),
        ("yuv420p10le", "libx265", 4),
        ("gray", "ffv1", 1),
    ],
)
def test_samples_are_those_of_the_network(clip: Clip, planes_of, upscaler, tmp_path, *, pixel_format, codec, step):
    source, target = clip("in.mkv", pixel_format=pixel_format, codec=codec), tmp_path / "out.mkv"
    result = upscale_video(upscaler, source, target, LOSSLESS)
    assert (result.target, result.frames, result.plan.kind.pixel_format) == (target, 12, pixel_format)
    for before, after in zip(planes_of(source), planes_of(target), strict=True):
        for number, (lr, sr) in enumerate(zip(before, after, strict=True)):
            apart = (sr - enlarge_plane(lr, number, pixel_format))[4:-4, 4:-4] / step
            assert np.abs(apart).max() <= (1 if number == 0 else 3)
            assert abs(apart.mean()) < 0.25


def test_repeated_frames_are_computed_once_a_segment(clip: Clip, frames_of, runner, upscaler, tmp_path):
    source = clip("in.mkv", numbers=(0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3))
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", LOSSLESS)
    computed = [0, 5, 6, 8, 10, 11]  # the first of every five, and those that differ from the one before
    assert (runner.calls, result.duplicates, result.frames) == (len(computed), 12 - len(computed), 12)
    shown = [frame.to_ndarray() for frame in frames_of(tmp_path / "out.mkv")]
    assert all(np.array_equal(shown[0], shown[place]) for place in range(6))
    assert not np.array_equal(shown[5], shown[6])


def test_frames_of_several_devices_come_in_order(clip: Clip, planes_of, runner, upscaler, tmp_path):
    from time import sleep

    other = type(runner)()
    other.at_call = lambda number: sleep(0.02)
    source = clip("in.mkv")
    upscale_video(upscaler, source, tmp_path / "one.mkv", LOSSLESS)
    alone = runner.calls
    with Upscaler(other, halo=0) as second:
        upscale_video([upscaler, second], source, tmp_path / "two.mkv", LOSSLESS)
    assert runner.calls - alone + other.calls == 12
    assert other.calls > 0
    for one, two in zip(planes_of(tmp_path / "one.mkv"), planes_of(tmp_path / "two.mkv"), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


# --- times


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".webm"])
@pytest.mark.parametrize(
    ("times", "time_base", "rate"),
    [
        ([0, 1, 3, 4, 8, 9, 10, 15, 16, 17, 30, 31], Fraction(1, 30), Fraction(30)),
        ([1001 * place for place in range(12)], Fraction(1, 30000), Fraction(30000, 1001)),
    ],
    ids=["variable", "ntsc"],
)
def test_every_frame_keeps_its_time(clip: Clip, frames_of, upscaler, tmp_path, *, suffix, times, time_base, rate):
    settings = VideoSettings(segment_frames=5) if suffix == ".webm" else SMALL
    source = clip("in.mp4", times=times, time_base=time_base, rate=rate)
    target = tmp_path / f"out{suffix}"
    upscale_video(upscaler, source, target, settings)
    frames = frames_of(target)
    rounding = Fraction(1, 2000) if suffix in (".mkv", ".webm") else 0  # Matroska counts milliseconds
    for frame, time in zip(frames, times, strict=True):
        assert abs(frame.pts * frame.time_base - time * time_base) <= rounding
    with av.open(str(target)) as container:
        expected = (times[-1] + 1) * time_base if rate == 30 else 12 / rate
        assert abs(Fraction(container.duration, 10**6) - expected) <= Fraction(1, 500)


def test_b_frames_of_segments_are_put_in_order(clip: Clip, frames_of, upscaler, tmp_path):
    source = clip("in.mp4", numbers=tuple(range(40)))
    settings = VideoSettings(segment_frames=13, encoder_options=(("preset", "veryfast"), ("bf", "3")))
    result = upscale_video(upscaler, source, tmp_path / "out.mp4", settings)
    assert result.frames == 40
    frames = frames_of(tmp_path / "out.mp4")
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(place, 24) for place in range(40)]
    assert {frame.pict_type for frame in frames} == {1, 2, 3}
    assert [place for place, frame in enumerate(frames) if frame.key_frame] == [0, 13, 26, 39]


# --- what comes with the video


@pytest.mark.parametrize(
    ("name", "sound", "suffixes"),
    [("in.mp4", "aac", (".mkv", ".mp4", ".mov")), ("in.mkv", "libopus", (".mkv", ".mp4")), ("in.ts", "mp2", (".mkv",))],
)
def test_sound_is_copied_and_stays_in_time(clip: Clip, packets_of, upscaler, tmp_path, *, name, sound, suffixes):
    source = clip(name, sound=sound, numbers=tuple(range(24)))
    before, video = packets_of(source, "audio"), packets_of(source, "video")
    for suffix in suffixes:
        target = tmp_path / f"out{suffix}"
        upscale_video(upscaler, source, target, SMALL)
        after, upscaled = packets_of(target, "audio"), packets_of(target, "video")
        assert [content for _, content in after] == [content for _, content in before]
        apart = min(video)[0] - min(upscaled)[0]
        for (time, _), (original, _) in zip(after, before, strict=True):
            assert abs(time + apart - original) <= Fraction(2, 1000)


@pytest.mark.parametrize("late", [Fraction(1, 3), Fraction(-1, 7)])
def test_sound_that_begins_elsewhere_stays_in_time_to_the_sample(clip: Clip, packets_of, upscaler, tmp_path, *, late):
    """MP4 moves streams in units of the whole file."""
    source = clip("in.ts", sound="mp2", numbers=tuple(range(24)))
    moved = tmp_path / "moved.ts"
    with av.open(str(source)) as before, av.open(str(moved), "w") as after:
        streams = {stream.index: after.add_stream_from_template(stream) for stream in before.streams}
        for packet in before.demux():
            if packet.dts is not None:
                shift = round(late / packet.time_base) if packet.stream.type == "audio" else 0
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream_index]
                after.mux(packet)
    apart = min(packets_of(moved, "audio"))[0] - min(packets_of(moved, "video"))[0]
    for suffix in (".mp4", ".mov"):
        target = tmp_path / f"out{suffix}"
        upscale_video(upscaler, moved, target, SMALL)
        found = min(packets_of(target, "audio"))[0] - min(packets_of(target, "video"))[0]
        assert abs(found - apart) <= Fraction(1, 20_000)


def test_subtitles_chapters_tags_and_fonts_are_kept(clip: Clip, packets_of, upscaler, tmp_path):
    source = clip(
        "in.mkv", subtitles="subrip", attachment=True, chapters=True, sound="libopus", tags={"title": "A clip"}
    )
    upscale_video(upscaler, source, tmp_path / "out.mkv", SMALL)
    assert packets_of(tmp_path / "out.mkv", "subtitle") == packets_of(source, "subtitle")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "subtitle", "attachment"]
        assert container.streams[2].language == "fre"
        assert container.streams[3].data == b"not quite a font"
        assert container.metadata["title"] == "A clip"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["part 0", "part 1"]
        assert [chapter["start"] * chapter["time_base"] for chapter in container.chapters()] == [0, Fraction(1, 5)]


def test_what_a_target_cannot_hold_is_refused_before_anything_is_computed(clip: Clip, runner, upscaler, tmp_path):
    source = clip("in.mkv", subtitles="subrip", sound="aac")
    with pytest.raises(VideoError, match=r"out.mp4 .* stream 2 \(subtitle srt\) .* such as .mkv"):
        upscale_video(upscaler, source, tmp_path / "out.mp4")
    with pytest.raises(VideoError, match=r"out.webm cannot hold stream 1 \(audio aac\)"):
        upscale_video(upscaler, source, tmp_path / "out.webm")
    with pytest.raises(VideoError, match=r"out.webm cannot hold the video as h265"):
        upscale_video(upscaler, source, tmp_path / "out.webm", VideoSettings(codec="h265"))
    assert runner.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_what_is_to_be_done_with_subtitles_of_mp4_is_said(upscaler, clip: Clip, tmp_path):
    whole, source = clip("whole.mp4"), tmp_path / "in.mp4"
    with av.open(str(whole)) as before, av.open(str(source), "w") as after:
        video = after.add_stream_from_template(before.streams.video[0])
        words = after.add_mux_stream("mov_text", time_base=Fraction(1, 1000))
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                after.mux(packet)
        packet = av.Packet(b"\0\4word")
        packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = words, Fraction(1, 1000), 0, 0, 200
        after.mux(packet)
    advice = (
        r"take another container, such as .mp4, or convert it first, as in: ffmpeg -i IN -map 0 -c copy -c:s srt OUT"
    )
    with pytest.raises(VideoError, match=rf"out.mkv .* stream 1 \(subtitle mov_text\) .*; {advice}"):
        upscale_video(upscaler, source, tmp_path / "out.mkv", SMALL)


def test_chapter_tracks_of_mp4_are_not_doubled(clip: Clip, upscaler, tmp_path):
    source = clip("in.mp4", chapters=True)
    result = upscale_video(upscaler, source, tmp_path / "out.mp4", SMALL)
    assert result.notes == ("stream 1 (data) is left out",)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
        assert len(container.chapters()) == 2


def test_cover_pictures_are_left_out_and_named(upscaler, draw, tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        video, cover = container.add_stream("libx264", rate=24), container.add_stream("mjpeg", rate=24)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(draw(0, 16, 16), format="rgb24").reformat(format="yuvj420p")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        for number in range(6):
            container.mux(video.encode(av.VideoFrame.from_ndarray(draw(number), format="rgb24")))
        container.mux(video.encode(None))
    result = upscale_video(upscaler, tmp_path / "in.mp4", tmp_path / "out.mp4", SMALL)
    assert (result.frames, result.notes) == (6, ("stream 1 (video mjpeg) is left out",))


# --- how frames are to be shown


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_kept_and_not_applied(clip: Clip, frames_of, upscaler, tmp_path, *, rotation, suffix):
    source = clip("in.mp4", rotation=rotation)
    upscale_video(upscaler, source, tmp_path / f"out{suffix}", SMALL)
    frame = frames_of(tmp_path / f"out{suffix}")[0]
    assert (frame.width, frame.height, abs(frame.rotation)) == (128, 64, abs(rotation))
    assert frame.rotation == frames_of(source)[0].rotation


@pytest.mark.parametrize(
    ("colors", "pixel_format", "shown"),
    [
        ((1, 1, 1, 1), "yuv420p", (1, 1, 1, 1)),
        ((6, 2, 6, 6), "yuv420p", (6, 2, 6, 6)),
        ((2, 1, 2, 2), "yuv420p", (6, 1, 2, 2)),
        ((5, 2, 2, 2), "yuvj420p", (5, 2, 2, 2)),
        (BT2020_PQ, "yuv420p10le", BT2020_PQ),
    ],
    ids=["bt709", "bt601-full", "unsaid", "yuvj", "bt2020-pq"],
)
def test_colors_are_said_as_they_are(clip: Clip, frames_of, upscaler, tmp_path, *, colors, pixel_format, shown):
    codec = "libx265" if "10" in pixel_format else "libx264"
    source = clip("in.mkv", colors=colors, pixel_format=pixel_format, codec=codec)
    for suffix in (".mkv", ".mp4"):
        upscale_video(upscaler, source, tmp_path / f"out{suffix}", SMALL)
        frame = frames_of(tmp_path / f"out{suffix}")[0]
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == shown


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("h264", ".mp4"), ("h265", ".mov"), ("av1", ".webm"), ("vp9", ".mp4"), ("ffv1", ".mkv"), ("prores", ".mov")],
)
def test_full_range_is_said_or_becomes_tv_range(clip: Clip, frames_of, upscaler, tmp_path, *, codec, suffix):
    source = clip("in.mov", codec="mjpeg", pixel_format="yuvj422p", colors=(5, 2, 2, 2), options=(("qmin", "1"),))
    result = upscale_video(upscaler, source, tmp_path / f"out{suffix}", VideoSettings(codec=codec))
    told = ("full range becomes TV range, for prores_ks does not say which",) if codec == "prores" else ()
    assert result.notes[-1:] == told or not told
    before, after = (frames_of(path)[0] for path in (source, result.target))
    assert (after.color_range == 2) is (codec != "prores")
    assert abs(before.to_ndarray(format="gray").mean() - after.to_ndarray(format="gray").mean()) < 2


@pytest.mark.parametrize(("codec", "suffix"), [("h265", ".mp4"), ("h264", ".mkv"), ("av1", ".webm")])
def test_hdr_metadata_are_kept(clip: Clip, upscaler, tmp_path, codec, suffix):
    options = (("x265-params", f"log-level=error:{HDR}"),)
    source = clip("in.mkv", codec="libx265", pixel_format="yuv420p10le", options=options, colors=BT2020_PQ)
    upscale_video(upscaler, source, tmp_path / f"out{suffix}", VideoSettings(codec=codec))
    light = read_video_info(tmp_path / f"out{suffix}").light
    assert light.content == (1000, 400)
    expected = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.0001, 1000)
    assert light.display == pytest.approx(expected, abs=5e-5)


def test_lost_hdr_metadata_are_named(clip: Clip, upscaler, tmp_path):
    options = (("x265-params", f"log-level=error:{HDR}"),)
    source = clip("in.mkv", codec="libx265", pixel_format="yuv420p10le", options=options, colors=BT2020_PQ)
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", LOSSLESS)
    assert result.notes == ("HDR metadata cannot be told to ffv1 and are lost",)


def test_shape_of_pixels_is_kept_or_refused(clip: Clip, upscaler, tmp_path):
    source = clip("in.mkv", aspect=Fraction(4, 3))
    for name, settings in (("h264.mkv", SMALL), ("h264.mp4", SMALL), ("av1.mp4", VideoSettings(codec="av1"))):
        upscale_video(upscaler, source, tmp_path / name, settings)
        assert read_video_info(tmp_path / name).aspect == Fraction(4, 3)
    with pytest.raises(VideoError, match=r"pixels of 4:3, which av1 in .webm does not say; take .mp4"):
        upscale_video(upscaler, source, tmp_path / "out.webm")


# --- sizes, formats, encoders


def test_other_sources_are_refused(clip: Clip, upscaler, tmp_path):
    alpha = clip("alpha.mkv", codec="ffv1", pixel_format="yuva420p")
    with pytest.raises(VideoError, match=r"alpha.mkv has transparency \(yuva420p\)"):
        upscale_video(upscaler, alpha, tmp_path / "out.mkv")
    (tmp_path / "text.mkv").write_text("no video")
    with pytest.raises(VideoError, match=r"text.mkv is not a video that can be read"):
        upscale_video(upscaler, tmp_path / "text.mkv", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"sound.mp4 has no video that can be decoded"):
        upscale_video(upscaler, tmp_path / "sound.mp4", tmp_path / "out.mkv")
    with pytest.raises(OutputError, match=r"a file stands where a folder is needed"):
        upscale_video(upscaler, clip("in.mkv"), tmp_path / "in.mkv" / "out.mkv")


def test_progress_and_result_tell_what_was_done(clip: Clip, upscaler, tmp_path):
    told: list[Progress] = []
    result = upscale_video(upscaler, clip("in.mkv"), tmp_path / "new" / "out.mkv", SMALL, on_progress=told.append)
    assert [(now.done, now.total, now.unit) for now in told] == [(number + 1, 12, "frames") for number in range(12)]
    paces = [re.fullmatch(r"(\d+\.\d\d) frames/s, limited by (decode|inference|encode)", now.stage) for now in told]
    assert all(pace is not None and float(pace[1]) > 0 for pace in paces)
    assert set(result.stages) == {"decode", "inference", "encode"}
    assert result.slowest == max(result.stages, key=result.stages.__getitem__)
    assert all(0 < seconds < result.seconds for seconds in result.stages.values())
    assert not find_work_folder(result.target).exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.mkv"]
    assert astuple(result.plan.kind.colors) == (6, False, 2, 2)

"""A job that goes on seeks to where it ended and gets the frames that decoding all would give; or it decodes all."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import pytest

from sr_deploy.upscale.video.continuing import Done, continue_frames, find_random_access
from sr_deploy.upscale.video.convert import ToPixels
from sr_deploy.upscale.video.decode import FrameReader
from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.random_access import RandomAccessPoint
from sr_deploy.upscale.video.source import read_video_info
from sr_deploy.upscale.video.video_job import upscale_video

FRAMES = 40
X264 = (("preset", "veryfast"), ("bf", "2"))
X265 = "log-level=error:keyint=7:min-keyint=7:bframes=2:scenecut=0"
CLIPS: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [
    ("h264.mkv", "libx264", (*X264, ("g", "7"))),
    ("h264.mp4", "libx264", (*X264, ("g", "7"))),
    ("h264.mov", "libx264", (*X264, ("g", "7"))),
    ("h264.ts", "libx264", (*X264, ("g", "7"))),
    ("h264.flv", "libx264", (*X264, ("g", "7"))),
    ("h265-open.mkv", "libx265", (("x265-params", X265),)),
    ("h265-open.mp4", "libx265", (("x265-params", X265),)),
    ("h265-open.ts", "libx265", (("x265-params", X265),)),
    ("h265-closed.mp4", "libx265", (("x265-params", f"{X265}:no-open-gop=1"),)),
    ("vp9.webm", "libvpx-vp9", (("g", "7"), ("cpu-used", "8"), ("auto-alt-ref", "1"), ("lag-in-frames", "10"))),
    ("av1.mp4", "libsvtav1", (("g", "7"), ("preset", "12"))),
    ("mpeg2.mkv", "mpeg2video", (("g", "7"), ("bf", "2"))),
    ("mpeg2.ts", "mpeg2video", (("g", "7"), ("bf", "2"))),
    ("mjpeg.avi", "mjpeg", (("qmin", "1"),)),
    ("ffv1.mkv", "ffv1", (("g", "7"),)),
]
NEVER: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [
    ("h264-open.mkv", "libx264", (*X264, ("x264-params", "keyint=7:open-gop=1:scenecut=0"))),
    ("h264-mending.mkv", "libx264", (("preset", "veryfast"), ("x264-params", "keyint=7:intra-refresh=1"))),
    ("one-group.mkv", "libx264", X264),
    ("mpeg4.avi", "mpeg4", (("g", "7"), ("bf", "2"))),
]


class CountingReader(FrameReader):
    """Counts the frames that it decoded."""

    count = 0

    def frames(self, access_point: RandomAccessPoint | None = None) -> Iterator[Any]:
        for frame in super().frames(access_point):
            self.count += 1
            yield frame


def make_clip(clip, name, codec, options):
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    times = [place + place // 9 for place in range(FRAMES)] if name.endswith((".mkv", ".mp4")) else None
    source = clip(
        name, codec=codec, options=options, numbers=tuple(range(FRAMES)), pixel_format=pixel_format, times=times,
        time_base=Fraction(1, 25), rate=Fraction(25),
    )  # fmt: skip
    return read_video_info(source)


def read_from_the_start(info):
    to_pixels = ToPixels(info.kind)
    return [(frame.pts, zlib.crc32(to_pixels(frame))) for frame in FrameReader(info).frames()]


def read_on(info, done):
    reader, to_pixels = CountingReader(info), ToPixels(info.kind)
    frames = [(frame.pts, zlib.crc32(to_pixels(frame))) for frame in continue_frames(info, reader, to_pixels, done)]
    return frames, reader


def stop_after(whole, count):
    return Done(tuple(time for time, _ in whole[:count]), whole[count - 1][1])


@pytest.mark.parametrize(("name", "codec", "options"), CLIPS, ids=[name for name, *_ in CLIPS])
def test_the_rest_is_the_same_and_what_was_done_is_not_decoded(clip, name, codec, options):
    info = make_clip(clip, name, codec, options)
    whole = read_from_the_start(info)
    assert len(whole) == FRAMES
    for count in (9, 15, 21, 22, 34, FRAMES):
        frames, reader = read_on(info, stop_after(whole, count))
        assert frames == whole[count:]
        assert reader.losses.describe() is None
        assert reader.count <= FRAMES - count + 9, f"behind {count} frames"


@pytest.mark.parametrize(("name", "codec", "options"), NEVER, ids=[name for name, *_ in NEVER])
def test_where_no_key_frame_can_be_trusted_all_is_decoded(clip, name, codec, options):
    info = make_clip(clip, name, codec, options)
    whole = read_from_the_start(info)
    frames, reader = read_on(info, stop_after(whole, 30))
    assert frames == whole[30:]
    assert reader.count == FRAMES


def test_nothing_done_is_the_start(clip):
    info = make_clip(clip, *CLIPS[0])
    whole = read_from_the_start(info)
    assert read_on(info, Done((), None))[0] == whole


def test_what_does_not_agree_is_decoded_from_the_start(clip):
    info = make_clip(clip, *CLIPS[0])
    whole = read_from_the_start(info)
    done = stop_after(whole, 20)
    begun, inside = info.times[14], info.times[16]
    assert find_random_access(info, done).time == begun
    for seen, wrong in (
        (info, replace(done, check=done.check ^ 1)),  # other samples
        (info, replace(done, check=None)),  # errors before
        (info, replace(done, times=(*done.times[:3], done.times[3] + 1, *done.times[4:]))),  # other times
        (replace(info, random_access_points=(RandomAccessPoint(begun + 1, begun),)), done),  # no packet there
        (replace(info, random_access_points=(RandomAccessPoint(begun, 10**15),)), done),  # none at all
        (replace(info, random_access_points=(RandomAccessPoint(inside, inside),)), done),  # in the middle of a group
    ):
        frames, reader = read_on(seen, wrong)
        assert frames == whole[20:]
        assert reader.count >= FRAMES
        assert reader.losses.describe() is None


def test_damage_before_the_place_is_named_again(clip, packets_of, runner, upscaler, tmp_path):
    source = clip("in.mkv", numbers=tuple(range(FRAMES)), options=(("g", "6"), ("preset", "veryfast"), ("crf", "1")))
    with av.open(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content, (start, size) = bytearray(source.read_bytes()), places[14]
    content[start + 12 : start + size] = bytes(size - 12)
    source.write_bytes(content)
    settings = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))
    unbroken = upscale_video(upscaler, source, tmp_path / "unbroken.mkv", settings)
    stop = threading.Event()
    runner.calls, runner.at_call = 0, lambda number: stop.set() if number == 28 else None
    assert upscale_video(upscaler, source, tmp_path / "out.mkv", settings, stop=stop).stopped
    result = upscale_video(upscaler, source, tmp_path / "out.mkv", settings)
    assert result.resumed >= 25
    assert result.damage == unbroken.damage
    assert packets_of(result.target, "video") == packets_of(unbroken.target, "video")


@pytest.mark.parametrize("place", [5, 20])
def test_jobs_seek(clip, packets_of, runner, upscaler, tmp_path, *, monkeypatch, place):
    source = clip("in.mp4", numbers=tuple(range(FRAMES)), options=(*X264, ("g", "6")), sound="aac")
    settings = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))
    upscale_video(upscaler, source, tmp_path / "unbroken.mp4", settings)
    stop = threading.Event()
    runner.calls, runner.at_call = 0, lambda number: stop.set() if number == place + 3 else None
    assert upscale_video(upscaler, source, tmp_path / "out.mp4", settings, stop=stop).frames == place
    readers = []

    def read(info):
        readers.append(CountingReader(info))
        return readers[-1]

    monkeypatch.setattr("sr_deploy.upscale.video.video_job.FrameReader", read)
    assert upscale_video(upscaler, source, tmp_path / "out.mp4", settings).resumed == place
    assert readers[0].count <= FRAMES - place + 6
    for kind in ("video", "audio"):
        assert packets_of(tmp_path / "out.mp4", kind) == packets_of(tmp_path / "unbroken.mp4", kind)

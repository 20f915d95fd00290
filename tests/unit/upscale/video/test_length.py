"""Files that were cut lack what they say they have, by the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.upscale.video.encoders import VideoSettings
from sr_deploy.upscale.video.length import count_missing_bytes
from sr_deploy.upscale.video.video_job import upscale_video

BOX = (16).to_bytes(4) + b"ftypisom" + bytes(4)


@pytest.mark.parametrize("name", ["in.mkv", "in.mp4", "in.mov", "in.webm"])
@pytest.mark.parametrize("lacks", [1, 30, 200])
def test_cut_files_lack_what_was_cut(clip, name, lacks):
    source = clip(name, codec="libvpx-vp9" if name == "in.webm" else "libx264")
    assert count_missing_bytes(source) == 0
    source.write_bytes(source.read_bytes()[:-lacks])
    assert count_missing_bytes(source) == lacks


@pytest.mark.parametrize("name", ["in.ts", "in.avi"])
def test_files_that_do_not_say_it_lack_nothing(clip, name):
    source = clip(name, codec="mpeg2video")
    source.write_bytes(source.read_bytes()[:-100])
    assert count_missing_bytes(source) == 0


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        (BOX, 0),
        (BOX + b"no box, of some length", 0),
        (BOX + (0).to_bytes(4) + b"mdat" + bytes(9), 0),  # to the end
        (BOX + (1).to_bytes(4) + b"mdat" + (30).to_bytes(8) + bytes(4), 10),
        (BOX + (1).to_bytes(4) + b"mdat", 0),
        (BOX + (20).to_bytes(4) + b"mdat" + bytes(4), 8),
        (b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\x84ab", 2),
        (b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\xff", 0),  # a broadcast
        (b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xffab", 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"", 0),
    ],
)
def test_what_files_say(tmp_path: Path, content, lacks):
    (tmp_path / "in").write_bytes(content)
    assert count_missing_bytes(tmp_path / "in") == lacks


def test_a_file_cut_within_its_last_frames_does_not_look_whole(clip, upscaler, tmp_path):
    source = clip("in.mkv", numbers=tuple(range(24)))
    source.write_bytes(source.read_bytes()[:-400])
    result = upscale_video(
        upscaler, source, tmp_path / "out.mkv", VideoSettings(encoder_options=(("preset", "ultrafast"),))
    )
    assert result.damage == "the file lacks its last 400 bytes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.partial.mkv"]

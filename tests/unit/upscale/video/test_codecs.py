"""Codecs, their quality and formats: what is taken, what becomes of it, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sr_deploy.errors import InputError
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.video.encoders import VideoSettings, make_encoder, plan_encoder
from sr_deploy.upscale.video.pixel_formats import decode_alike
from sr_deploy.upscale.video.source import read_video_info
from sr_deploy.upscale.video.video_job import upscale_video

LOSSLESS = VideoSettings(codec="ffv1", segment_frames=5)
SMALL = VideoSettings(segment_frames=5, encoder_options=(("preset", "ultrafast"),))

Clip = Callable[..., Path]


def test_odd_results_share_no_chroma(clip: Clip, frames_of, runner, tmp_path):
    source = clip("in.mkv", size=(31, 47), pixel_format="yuv444p", codec="ffv1")
    with Upscaler(type(runner)(scale=3), halo=0) as upscaler:
        result = upscale_video(upscaler, source, tmp_path / "out.mkv", VideoSettings(codec="vp9"))
        assert (result.plan.kind.width, result.plan.kind.height, result.plan.kind.pixel_format) == (141, 93, "yuv444p")
        with pytest.raises(InputError, match=r"in yuv420p neighboring pixels share .* 141x93; take an even"):
            upscale_video(upscaler, source, tmp_path / "out.mp4", VideoSettings(pixel_format="yuv420p"))
        result = upscale_video(upscaler, source, tmp_path / "scaled.mp4", VideoSettings(scale=1.5))
    frame = frames_of(tmp_path / "scaled.mp4")[0]
    assert (frame.width, frame.height) == (70, 46)  # 70.5 and 46.5, to even numbers


@pytest.mark.parametrize(
    ("settings", "suffix", "pixel_format", "expected"),
    [
        (VideoSettings(), ".mkv", "yuv420p", ("h264", "yuv420p", {"crf": "17"})),
        (VideoSettings(), ".mp4", "yuv422p10le", ("h265", "yuv422p10le", {"crf": "18"})),
        (VideoSettings(), ".webm", "yuv420p", ("av1", "yuv420p", {"crf": "24"})),
        (VideoSettings(codec="vp9", crf=30), ".webm", "yuv444p", ("vp9", "yuv444p", {"crf": "30", "b": "0"})),
        (VideoSettings(codec="prores"), ".mov", "yuv420p", ("prores", "yuv422p10le", {})),
        (VideoSettings(codec="ffv1"), ".mkv", "bgr0", ("ffv1", "bgr0", {})),
        (VideoSettings(), ".mkv", "bgr0", ("h264", "yuv444p", {"crf": "17"})),
        (VideoSettings(pixel_format="yuv444p"), ".mkv", "yuv420p", ("h264", "yuv444p", {"crf": "17"})),
        (VideoSettings(codec="h264"), ".mkv", "yuv420p12le", ("h264", "yuv420p10le", {"crf": "17"})),
    ],
)  # fmt: skip
def test_codec_quality_and_format(
    clip: Clip, frames_of, upscaler, tmp_path, *, settings, suffix, pixel_format, expected
):
    source = clip("in.mkv", codec="ffv1", pixel_format=pixel_format, numbers=(0, 1, 2))
    result = upscale_video(upscaler, source, tmp_path / f"out{suffix}", settings)
    options = {name: value for name, value in result.plan.options.items() if name in ("crf", "b")}
    assert (result.plan.codec, result.plan.kind.pixel_format, options) == expected
    assert [frame.format.name for frame in frames_of(tmp_path / f"out{suffix}")] == [expected[1]] * 3
    assert result.notes == tuple(note for note in (
        "12 bit become 10, the most that libx264 takes" if pixel_format == "yuv420p12le" else "",
        f"{pixel_format} becomes {expected[1]}" if expected[1][:6] not in (pixel_format[:6], "bgr0") else "",
    ) if note)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("out.avi", VideoSettings(), r"out.avi must end in .mkv, .mp4"),
        ("out.mkv", VideoSettings(codec="divx"), r"unknown codec 'divx'; known: h264, h265"),
        ("out.mkv", VideoSettings(scale=0), r"a scale is a number above 0"),
        ("out.mkv", VideoSettings(codec="ffv1", crf=3), r"ffv1 has no constant rate factor"),
        ("out.mkv", VideoSettings(crf=52), r"of h264 lies between 0 and 51, not at 52"),
        ("out.mkv", VideoSettings(pixel_format="rgb565"), r"libx264 does not take rgb565; it takes yuv420p"),
        ("out.mkv", VideoSettings(encoder_options=(("prest", "slow"),)), r"libx264 knows no option prest"),
        ("out.mkv", VideoSettings(encoder_options=(("preset", "slowly"),)), r"libx264 does not open with .*slowly"),
        ("in.mkv", VideoSettings(), r"in.mkv is the video to read"),
    ],
)
def test_settings_that_no_video_meets_are_refused(clip: Clip, runner, upscaler, tmp_path, *, name, settings, message):
    source = clip("in.mkv")
    with pytest.raises(InputError, match=message):
        upscale_video(upscaler, source, tmp_path / name, settings)
    assert runner.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize(("codec", "suffix"), [("av1", ".webm"), ("av1_nvenc", ".mkv")])
def test_odd_results_of_encoders_that_share_chroma_are_refused(clip: Clip, runner, tmp_path, *, codec, suffix):
    source = clip("in.mkv", size=(31, 47), pixel_format="yuv444p", codec="ffv1", numbers=(0, 1))
    with (
        Upscaler(type(runner)(scale=3), halo=0) as upscaler,
        pytest.raises(InputError, match=r"even sizes only, .* 141x93; .*--sc"),
    ):
        upscale_video(upscaler, source, tmp_path / f"out{suffix}", VideoSettings(codec=codec))


@pytest.mark.parametrize(
    ("settings", "pixel_format", "expected"),
    [
        (VideoSettings(codec="h264_nvenc"), "yuv420p", ("yuv420p", "19", ())),
        (
            VideoSettings(codec="h264_nvenc"),
            "yuv420p10le",
            ("yuv420p", "19", ("10 bit become 8, the most that h264_nvenc takes",)),
        ),
        (VideoSettings(codec="hevc_nvenc", crf=30), "yuv420p10le", ("p010le", "30", ())),
        (VideoSettings(codec="hevc_nvenc"), "yuv444p", ("yuv444p", "19", ())),
        (VideoSettings(codec="hevc_nvenc", pixel_format="p210le"), "yuv422p10le", ("p210le", "19", ())),
        (VideoSettings(codec="av1_nvenc", crf=63), "yuv420p10le", ("p010le", "63", ())),
    ],
)
def test_encoders_of_a_gpu_are_told_their_quality(clip: Clip, *, settings, pixel_format, expected):
    info = read_video_info(clip("in.mkv", codec="ffv1", pixel_format=pixel_format, numbers=(0, 1)))
    plan = plan_encoder(info, (64, 128), Path("out.mkv"), settings)
    assert (plan.kind.pixel_format, plan.options["cq"], plan.notes) == expected
    assert "crf" not in plan.options


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (VideoSettings(codec="hevc_nvenc", crf=0), r"of hevc_nvenc lies between 1 and 51, not at 0"),
        (VideoSettings(codec="av1_nvenc", crf=64), r"of av1_nvenc lies between 1 and 63, not at 64"),
        (VideoSettings(codec="hevc_nvenc", pixel_format="cuda"), r"does not take cuda; it takes yuv420p, nv12, p010le"),
        (VideoSettings(codec="hevc_nvenc", pixel_format="gbrp"), r"does not take gbrp; it takes yuv420p"),
    ],
)
def test_what_encoders_of_a_gpu_do_not_take_is_refused(clip: Clip, upscaler, tmp_path, *, settings, message):
    with pytest.raises(InputError, match=message):
        upscale_video(upscaler, clip("in.mkv"), tmp_path / "out.mkv", settings)


@pytest.mark.parametrize(("codec", "instead"), [("h264_nvenc", "h264"), ("hevc_nvenc", "h265"), ("av1_nvenc", "av1")])
def test_a_gpu_that_does_not_encode_is_one_line_before_anything_is_computed(
    clip: Clip, runner, upscaler, tmp_path, *, codec, instead
):
    settings = VideoSettings(codec=codec, crf=50)
    try:
        make_encoder(plan_encoder(read_video_info(clip("in.mkv")), (288, 512), Path("out.mkv"), settings))
    except InputError:
        pass
    else:
        pytest.skip("this machine's GPU encodes")
    message = (
        rf"{codec} does not start \(.*\): it needs an NVIDIA GPU that encodes 128x64 .* take --codec {instead}, which"
    )
    with pytest.raises(InputError, match=message):
        upscale_video(upscaler, clip("in.mkv"), tmp_path / "out.mkv", settings)
    assert runner.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize(
    ("given", "decoded", "alike"),
    [
        ("p010le", "yuv420p10le", True),
        ("nv12", "yuv420p", True),
        ("nv16", "yuv422p", True),
        ("yuv444p10msble", "yuv444p10le", True),
        ("yuv420p", "yuvj420p", True),
        ("p010le", "yuv420p", False),
        ("nv12", "yuv422p", False),
        ("nv12", "gray", False),
        ("yuv420p10le", "yuv422p10le", False),
        ("bgr0", "gbrp", False),
    ],
)
def test_formats_that_come_back_under_another_name(given, decoded, *, alike):
    assert decode_alike(decoded, given) is alike


def test_narrow_h265_is_refused(clip: Clip, upscaler, tmp_path):
    with pytest.raises(InputError, match=r"h265 takes .* 64 pixels .* in width, not 60; take h264"):
        upscale_video(upscaler, clip("in.mkv", size=(30, 30)), tmp_path / "out.mkv", VideoSettings(codec="h265"))

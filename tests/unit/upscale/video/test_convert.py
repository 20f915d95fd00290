"""The way to RGB and back, against the formulas of the standards and against FFmpeg's own reformatter."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from sr_deploy.errors import VideoError
from sr_deploy.upscale.video.colors import Colors, guess_matrix, read_colors
from sr_deploy.upscale.video.convert import ToFrames, ToPixels
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.pixel_formats import view_planes

HEIGHT, WIDTH = SIZE = 32, 48
LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 7: (0.212, 0.087)}
"""Shares of red and blue in luma by matrix: BT.709, BT.601, BT.2020, SMPTE 240M."""
FFMPEG = {1: Colorspace.ITU709, 6: Colorspace.ITU601, 9: Colorspace.BT2020, 7: Colorspace.SMPTE240M}


def to_ycbcr(rgb, colors, bits):
    """By ITU-T H.273, 8.3: rgb in [0, 1], not rounded."""
    red, blue = LUMA[colors.matrix]
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    if colors.full_range:
        planes = [luma * (2**bits - 1), *(one * (2**bits - 1) + 2 ** (bits - 1) for one in chroma)]
    else:
        step = 2 ** (bits - 8)
        planes = [(16 + 219 * luma) * step, *((128 + 224 * one) * step for one in chroma)]
    return np.stack(planes)


def make_frame(planes, pixel_format):
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for target, plane in zip(view_planes(frame), planes, strict=True):
        target[:] = plane
    return frame


def random_rgb(seed=0):
    return np.random.default_rng(seed).random((*SIZE, 3))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv444p", 8), ("yuv444p10le", 10)])
def test_colors_are_converted_by_their_matrix(pixel_format, bits, matrix, full_range):
    colors = Colors(matrix, full_range, 2, 2)
    rgb = random_rgb()
    ycbcr = np.rint(to_ycbcr(rgb, colors, bits))
    highest = 255 if bits == 8 else 65535
    kind = FrameKind(WIDTH, HEIGHT, pixel_format, colors)
    pixels = ToPixels(kind)(make_frame(ycbcr, pixel_format))
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    # A step of the samples is up to 2.1 of RGB; FFmpeg's scaler is up to four more off at 10 bit.
    assert np.abs(pixels / highest - rgb).max() * (2**bits - 1) <= (2.6 if bits == 8 else 6)
    back = ToFrames(kind, deep=kind.deep)(pixels)
    for plane, expected in zip(view_planes(back), ycbcr, strict=True):
        apart = plane.astype(float) - expected
        # TV range comes back as it was; what FFmpeg's scaler does to full range is on the page about videos.
        assert np.abs(apart).max() <= (3 if full_range else 1)
        assert abs(apart.mean()) <= (1.6 if full_range and bits > 8 else 0.6 if full_range else 0.02)
    assert (back.colorspace, back.color_range) == (matrix, 2 if full_range else 1)


@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_conversions_are_those_of_ffmpeg(pixel_format, matrix):
    kind = FrameKind(WIDTH, HEIGHT, pixel_format, Colors(matrix, False, 2, 2), "center")
    deep = kind.deep
    rgb = np.rint(random_rgb(1) * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    name = "rgb48le" if deep else "rgb24"
    ours = ToFrames(kind, deep=deep)(rgb)
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    theirs = av.VideoFrame.from_ndarray(rgb, format=name).reformat(
        format=pixel_format,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=FFMPEG[matrix],
        interpolation=int(flags | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT),
    )
    for plane, expected in zip(view_planes(ours), view_planes(theirs), strict=True):
        assert np.abs(plane.astype(int) - expected).max() <= 1


def test_matrices_differ_where_they_should():
    """A wrong matrix would show: pure green is 28 levels of luma darker in BT.601 than in BT.709."""
    green = np.zeros((*SIZE, 3), np.uint8)
    green[..., 1] = 255
    luma = {}
    for matrix in (1, 6, 9):
        kind = FrameKind(WIDTH, HEIGHT, "yuv444p", Colors(matrix, False, 2, 2))
        luma[matrix] = view_planes(ToFrames(kind, deep=False)(green))[0][0, 0]
    assert luma == {1: 173, 6: 145, 9: 164}


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
@pytest.mark.parametrize("location", ["left", "center"])
def test_chroma_stays_in_its_place(pixel_format, location):
    """An impulse of chroma: its center of mass in RGB and after the way back."""
    down = 2 if "420" in pixel_format else 1
    planes = [np.full((16, 32), 128), np.full((16 // down, 16), 128), np.full((16 // down, 16), 128)]
    planes[1][:, 8] = 168
    kind = FrameKind(32, 16, pixel_format, Colors(1, False, 2, 2), location)
    pixels = ToPixels(kind)(make_frame(planes, pixel_format))
    blue = pixels[8, :, 2].astype(float) - pixels[8, 0, 2]
    assert (blue * np.arange(32)).sum() / blue.sum() == pytest.approx(16 if location == "left" else 16.5, abs=0.05)
    back = view_planes(ToFrames(kind, deep=False)(pixels))[1]
    impulse = back[4].astype(float) - 128
    assert (impulse * np.arange(16)).sum() / impulse.sum() == pytest.approx(8, abs=0.05)


@pytest.mark.parametrize(("pixel_format", "bits"), [("gray", 8), ("gray10le", 10)])
def test_gray_stays_one_channel(pixel_format, bits):
    ramp = np.linspace(16 * 2 ** (bits - 8), 235 * 2 ** (bits - 8), SIZE[0] * SIZE[1]).reshape(SIZE).round()
    kind = FrameKind(WIDTH, HEIGHT, pixel_format, Colors(1, False, 2, 2))
    pixels = ToPixels(kind)(make_frame([ramp], pixel_format))
    assert pixels.shape == (*SIZE, 1)
    assert (pixels.min(), pixels.max()) == (0, 255 if bits == 8 else pytest.approx(65535, abs=200))
    back = ToFrames(kind, deep=kind.deep)(pixels)
    assert np.abs(view_planes(back)[0] - ramp).max() <= 1


def test_colors_of_frames():
    frame = av.VideoFrame(48, 32, "yuv420p")
    assert read_colors(frame) == Colors(6, False, 2, 2)
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 2, 9, 16
    assert read_colors(frame) == Colors(9, True, 9, 16)
    frame.colorspace = 14
    with pytest.raises(VideoError, match=r"color matrix 14 \(H.273\), which is not known here"):
        read_colors(frame)
    assert read_colors(av.VideoFrame(48, 32, "gbrp")).matrix == 0
    sizes = ((1279, 719), (1280, 544), (1024, 720))
    assert [guess_matrix(width, height) for width, height in sizes] == [6, 1, 1]


@pytest.mark.parametrize(
    ("given", "planar"),
    [("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("p210le", "yuv422p10le"), ("yuv444p10msble", "yuv444p10le")],
)
def test_formats_for_encoders_of_a_gpu_hold_the_same_samples(given, planar):
    colors = Colors(1, False, 1, 1)
    deep = "10" in planar
    rgb = np.rint(random_rgb(2) * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    frame = ToFrames(FrameKind(WIDTH, HEIGHT, given, colors), deep=deep)(rgb)
    assert frame.format.name == given
    expected = ToFrames(FrameKind(WIDTH, HEIGHT, planar, colors), deep=deep)(rgb)
    luma, *chroma = view_planes(expected)
    low = 6 if given.startswith("p") or "msb" in given else 0  # 10 bits stand at the upper end of 16
    dtype = luma.dtype
    found = [np.frombuffer(plane, dtype).reshape(plane.height, -1) >> low for plane in frame.planes]
    if len(found) == 2:  # both chroma samples of a pixel side by side
        both = found[1][:, : 2 * chroma[0].shape[1]]
        found = [found[0], both[:, ::2], both[:, 1::2]]
    for one, other in zip(found, [luma, *chroma], strict=True):
        assert np.array_equal(one[:, : other.shape[1]], other)

"""Codecs that results are encoded with, and how FFmpeg's encoder of each is told what is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CodecName = Literal["h264", "h265", "av1", "vp9", "ffv1", "prores", "h264_nvenc", "hevc_nvenc", "av1_nvenc"]


@dataclass(frozen=True)
class LightOption:
    """How an encoder is told static HDR metadata."""

    option: str
    """Of FFmpeg; its value is a list of parts."""
    display: str
    """Name of the part for the display."""
    content: str
    """Name of the part for the content."""
    units: tuple[int, int]
    """Numbers for a chromaticity of 1, and for 1 cd/m2."""


@dataclass(frozen=True)
class Codec:
    """How a codec is encoded here."""

    encoder: str
    """FFmpeg's name of the encoder."""
    crf: int | None
    """Constant rate factor if nothing else is asked for: near what the eye sees no loss in; None: it has none."""
    max_crf: int = 0
    """The largest, and worst, one."""
    options: tuple[tuple[str, str], ...] = ()
    """That it always gets."""
    light: LightOption | None = None
    """How it is told static HDR metadata; None: it cannot be."""
    min_width: int = 1
    """Of frames, in pixels."""
    says_aspect: bool = False
    """Whether it says itself which shape pixels have."""
    crf_option: str = "crf"
    """FFmpeg's name of the constant rate factor."""
    min_crf: int = 0
    """The smallest, and best, one."""
    says_range: bool = True
    """Whether it says itself if samples use all numbers."""
    usual_formats: tuple[str, ...] = ()
    """Pixel formats to choose from where none is asked for; empty: all that the encoder takes."""
    in_software: CodecName | None = None
    """For an encoder that is a part of a GPU: the codec that computes the same without one; None: it needs none."""


_H26X_UNITS = (50_000, 10_000)


def _nvenc(in_software: CodecName, crf: int, max_crf: int, usual_formats: tuple[str, ...]) -> Codec:
    """The encoder of an NVIDIA GPU; nothing but the quality decides on its bits. Usual is what most GPUs take."""
    return Codec(
        encoder=f"{'hevc' if in_software == 'h265' else in_software}_nvenc",
        crf=crf,
        max_crf=max_crf,
        min_crf=1,  # 0 leaves the choice to the encoder
        options=(("rc", "vbr"), ("b", "0")),
        crf_option="cq",
        usual_formats=usual_formats,
        in_software=in_software,
    )


CODECS: dict[CodecName, Codec] = {
    "h264": Codec(
        "libx264",
        17,
        51,
        light=LightOption("x264-params", "mastering-display", "cll", _H26X_UNITS),
        says_aspect=True,
    ),
    "h265": Codec(
        "libx265",
        18,
        51,
        (("x265-params", "log-level=error"),),
        LightOption("x265-params", "master-display", "max-cll", _H26X_UNITS),
        min_width=64,  # x265 4.2 writes beyond its memory at widths such as 40 and 48
        says_aspect=True,
    ),
    "av1": Codec(
        "libsvtav1",
        24,
        63,
        light=LightOption("svtav1-params", "mastering-display", "content-light", (1, 1)),
    ),
    "vp9": Codec("libvpx-vp9", 24, 63, (("b", "0"),)),
    "ffv1": Codec("ffv1", None),
    "prores": Codec("prores_ks", None, says_range=False),
    "h264_nvenc": _nvenc("h264", 19, 51, ("yuv420p", "yuv444p")),
    "hevc_nvenc": _nvenc("h265", 19, 51, ("yuv420p", "p010le", "yuv444p")),
    "av1_nvenc": _nvenc("av1", 24, 63, ("yuv420p", "p010le")),
}

"""Between decoded frames and the RGB samples that a network takes, through FFmpeg's scaler.

What the samples mean is always said to it and never guessed: matrix, range and where chroma lies. docs/video.md has
what the way to RGB and back changes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.video.colors import RGB, UNSPECIFIED
from sr_deploy.upscale.video.kind import FrameKind
from sr_deploy.upscale.video.pixel_formats import view_planes

if TYPE_CHECKING:
    from av import VideoFrame


_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


class _Scaler:
    """FFmpeg's scale filter from one kind of frames to another of the same size."""

    def __init__(self, kind: FrameKind, before: str, after: str, **options: str) -> None:
        av = require("av", "upscaling videos")
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=kind.width,
            height=kind.height,
            format=av.VideoFormat(before, kind.width, kind.height),
            time_base=Fraction(1, 25),
        )
        arguments = ":".join(f"{key}={value}" for key, value in {**options, "flags": _FLAGS}.items())
        scale = self._graph.add("scale", arguments)
        result = self._graph.add("format", after)
        sink = self._graph.add("buffersink")
        self._graph.link_nodes(source, scale, result, sink).configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        # Tags would take precedence over what the filter was told.
        frame.colorspace, frame.color_range = UNSPECIFIED, 0
        self._graph.push(frame)
        return self._graph.pull()


class ToPixels:
    """From decoded frames to samples."""

    def __init__(self, kind: FrameKind) -> None:
        """`kind`: of the frames."""
        self._kind = kind
        self._scale: _Scaler | None = None
        if kind.channels == 3:
            self._scale = _Scaler(
                kind,
                kind.pixel_format,
                _rgb_format(kind.deep),
                in_range=kind.colors.range_name,
                in_chroma_loc=kind.chroma_location,
                out_range="pc",
                **_matrix_option("in", kind),
            )

    def __call__(self, frame: VideoFrame) -> Pixels:
        """H x W x 3 (or x 1 for gray), 8 or 16 bit."""
        if self._scale is not None:
            return cast("Pixels", np.ascontiguousarray(self._scale(frame).to_ndarray()))
        black, white = self._kind.luma_levels
        luma = (view_planes(frame)[0].astype(np.float32) - black) / (white - black)
        return _to_levels(luma, 0, 65535 if self._kind.deep else 255, deep=self._kind.deep)[..., None]


class ToFrames:
    """From samples to frames for an encoder."""

    def __init__(self, kind: FrameKind, *, deep: bool) -> None:
        """`kind`: of the frames; `deep`: whether samples have 16 bit."""
        self._kind = kind
        self._format = _rgb_format(deep)
        self._scale: _Scaler | None = None
        if kind.channels == 3:
            self._scale = _Scaler(
                kind,
                self._format,
                kind.pixel_format,
                in_range="pc",
                out_range=kind.colors.range_name,
                out_chroma_loc=kind.chroma_location,
                **_matrix_option("out", kind),
            )

    def __call__(self, pixels: Pixels) -> VideoFrame:
        """A frame with its colors said, without a time."""
        av = require("av", "upscaling videos")
        kind, colors = self._kind, self._kind.colors
        if self._scale is not None:
            samples = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
            frame = self._scale(av.VideoFrame.from_ndarray(np.ascontiguousarray(samples), format=self._format))
        else:
            frame = av.VideoFrame(kind.width, kind.height, kind.pixel_format)
            luma = pixels[..., 0].astype(np.float32) / np.iinfo(pixels.dtype).max
            view_planes(frame)[0][:] = _to_levels(luma, *kind.luma_levels, deep=kind.deep)
        frame.colorspace, frame.color_range = colors.matrix, 2 if colors.full_range else 1
        frame.color_primaries, frame.color_trc = colors.primaries, colors.transfer
        return frame


def _to_levels(luma: NDArray[np.floating[Any]], black: int, white: int, *, deep: bool) -> Pixels:
    """From [0, 1], and what lies beyond, to integers. FFmpeg's scaler takes all gray for full range."""
    levels = np.rint(np.clip(luma, 0, 1) * (white - black) + black)
    return cast("Pixels", levels.astype(np.uint16 if deep else np.uint8))


def _matrix_option(side: str, kind: FrameKind) -> dict[str, str]:
    return {} if kind.colors.matrix == RGB else {f"{side}_color_matrix": kind.colors.matrix_name}


def _rgb_format(deep: bool) -> str:
    return "rgb48le" if deep else "rgb24"

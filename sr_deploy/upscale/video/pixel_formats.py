"""How samples are stored: which of an encoder's formats comes nearest to the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.errors import InputError

if TYPE_CHECKING:
    from av import VideoFormat, VideoFrame


_FOR_ENCODERS = ("nv12", "nv16", "p010le", "p210le", "yuv444p10msble")
"""Formats that encoders in a GPU take and decoders on a CPU do not give."""


def choose_format(
    encoder: str,
    source: VideoFormat,
    size: tuple[int, int],
    wanted: str | None = None,
    usual: tuple[str, ...] = (),
) -> VideoFormat:
    """The format to encode in.

    Args:
        encoder: FFmpeg's name.
        source: of the frames that are upscaled.
        size: height and width of the result. Formats where pixels share chroma in pairs take even ones only.
        wanted: asked for; None: the source's, or what loses least and then adds least.
        usual: where nothing is asked for, only these are chosen from; empty: all that the encoder takes.

    Raises:
        InputError: the encoder does not take what is asked for, or nothing in this size.
    """
    av = require("av", "upscaling videos")
    offered = [one for one in av.codec.Codec(encoder, "w").video_formats if _is_usable(one, encoder)]
    fitting = [one for one in offered if not any(side % step for side, step in zip(size, _steps(one), strict=True))]
    if wanted is None:
        chosen = min(
            (one for one in fitting if not usual or one.name in usual),
            key=lambda one: _distance(source, one),
            default=None,
        )
        if chosen is None:
            raise InputError(
                f"{encoder} takes even sizes only, but the result is {size[1]}x{size[0]}; take an even size with "
                "--scale, or another --codec, such as h264"
            )
        return chosen
    for one in fitting:
        if one.name == wanted:
            return one
    if any(one.name == wanted for one in offered):
        raise InputError(
            f"in {wanted} neighboring pixels share their chroma, but the result is {size[1]}x{size[0]}; take an even "
            "size with --scale, or a format where they do not, as in yuv444p"
        )
    raise InputError(f"{encoder} does not take {wanted}; it takes {', '.join(one.name for one in offered)}")


class Samples(NamedTuple):
    """What the samples of a format are."""

    bits: int
    """Bits of each sample."""
    gray: bool
    """Whether there is one for each pixel, its luma."""


def describe_format(name: str) -> Samples:
    """What the samples of a format are."""
    av = require("av", "upscaling videos")
    return Samples(count_bits(av.VideoFormat(name)), name.startswith("gray"))


def count_bits(one: VideoFormat) -> int:
    """Of a sample."""
    return 8 if one.has_palette else max(component.bits for component in one.components)


def share_chroma_alike(one: VideoFormat, other: VideoFormat) -> bool:
    """Whether the same pixels share their chroma in both, and both are RGB or both not."""
    return _steps(one) == _steps(other) and _is_rgb(one) == _is_rgb(other)


def decode_alike(one: str, other: str) -> bool:
    """Whether decoders give the same for both: some formats differ in nothing but how encoders are given samples."""
    av = require("av", "upscaling videos")
    one = one.replace("yuvj", "yuv")  # FFmpeg's older name for full range
    before, after = av.VideoFormat(one), av.VideoFormat(other)
    same = share_chroma_alike(before, after) and _is_gray(before) == _is_gray(after)
    return one == other or (other in _FOR_ENCODERS and same and count_bits(before) == count_bits(after))


def has_transparency(one: VideoFormat) -> bool:
    """Whether samples say how much shines through."""
    return any(component.is_alpha for component in one.components)


def view_planes(frame: VideoFrame) -> list[NDArray[Any]]:
    """The samples of each plane, rows x bytes or 16-bit numbers, without what pads the rows."""
    dtype = np.dtype(np.uint16 if count_bits(frame.format) > 8 else np.uint8)
    across = 3 if frame.format.name == "rgb24" else 1
    rows = (np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width * across] for plane in frame.planes)
    return list(rows)


def _is_usable(one: VideoFormat, encoder: str) -> bool:
    """No transparency, bytes in this machine's order, no range in the name, in a memory that is this machine's own.

    Gray only without loss: most players do not know gray H.264 and H.265. An encoder in a GPU makes 8 and 10 bit, and
    turns RGB into something else in a way of its own.
    """
    unknown = one.name.startswith("yuvj") or (_is_gray(one) and encoder != "ffv1") or not one.components
    if unknown or one.is_big_endian or has_transparency(one):
        return False
    return not encoder.endswith("_nvenc") or (count_bits(one) <= 10 and not _is_rgb(one))


def _steps(one: VideoFormat) -> tuple[int, int]:
    """Pixels that share a chroma sample, along height and width."""
    return 16 // one.chroma_height(16), 16 // one.chroma_width(16)


def _is_rgb(one: VideoFormat) -> bool:
    return bool(one.is_rgb or one.has_palette)


def _is_gray(one: VideoFormat) -> bool:
    return bool(one.name.startswith("gray"))


def _distance(source: VideoFormat, one: VideoFormat) -> tuple[int, ...]:
    """What is lost counts first, what is added last."""
    before = (2, 2) if _is_gray(source) else _steps(source)
    chroma = [to - step for step, to in zip(before, _steps(one), strict=True)]
    bits = count_bits(one) - count_bits(source)
    return (
        int(_is_gray(one) and not _is_gray(source)),
        max(0, -bits),
        sum(max(0, coarser) for coarser in chroma),
        int(_is_gray(one) != _is_gray(source)),
        int(_is_rgb(one) != _is_rgb(source)),
        max(0, bits),
        sum(max(0, -coarser) for coarser in chroma),
    )

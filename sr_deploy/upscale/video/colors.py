"""What the numbers of a video's samples mean. Numbers are those of ITU-T H.273, which FFmpeg uses as well."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.errors import VideoError

if TYPE_CHECKING:
    from av import VideoFrame


UNSPECIFIED = 2
BT709 = 1
BT601 = 6
RGB = 0
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt470", 6: "smpte170m", 7: "smpte240m", 9: "bt2020"}
_FULL_RANGE = 2
_HD_WIDTH, _HD_HEIGHT = 1280, 720


@dataclass(frozen=True)
class Colors:
    """How samples become light."""

    matrix: int
    """Between RGB and luma and chroma; 0 for RGB itself. Never left open: see `read_colors`."""
    full_range: bool
    """Whether samples use all numbers (PC range) or leave room at both ends (TV range)."""
    primaries: int
    """The RGB primaries and the white point; 2: not said."""
    transfer: int
    """The curve from samples to light; 2: not said."""

    @property
    def matrix_name(self) -> str:
        """As FFmpeg's scale filter calls it."""
        return _MATRICES[self.matrix]

    @property
    def range_name(self) -> str:
        """As FFmpeg's scale filter calls it."""
        return "pc" if self.full_range else "tv"


@dataclass(frozen=True)
class MasteringLight:
    """Static HDR metadata; empty where a video says nothing."""

    display: tuple[float, ...] = ()
    """Of the display it was mastered on (SMPTE ST 2086): x and y of red, green, blue and white, then its least and most
    light in cd/m2."""
    content: tuple[int, ...] = ()
    """Brightest pixel and brightest average of a frame, in cd/m2 (CTA-861.3)."""

    def format_display(self, chromaticity: int, luminance: int) -> str:
        """As x264, x265 and SVT-AV1 take it, in multiples of these; 1: as they are."""
        *points, minimum, maximum = (
            value * unit if unit == 1 else round(value * unit)
            for value, unit in zip(self.display, (chromaticity,) * 8 + (luminance,) * 2, strict=True)
        )
        red, green, blue, white = (f"({x},{y})" for x, y in zip(points[::2], points[1::2], strict=True))
        return f"G{green}B{blue}R{red}WP{white}L({maximum},{minimum})"

    def format_content(self) -> str:
        """As x264, x265 and SVT-AV1 take it."""
        return ",".join(map(str, self.content))


def guess_matrix(width: int, height: int) -> int:
    """What players take where a video does not say."""
    return BT709 if width >= _HD_WIDTH or height >= _HD_HEIGHT else BT601


def read_colors(frame: VideoFrame) -> Colors:
    """The colors of a decoded frame.

    Videos often do not say their matrix. Players then take BT.709 for 1280 x 720 and more, and BT.601 below; so does
    this. The result says it, for at its size players would guess anew.

    Raises:
        VideoError: a matrix that is not known.
    """
    if frame.format.is_rgb or frame.format.has_palette:
        return Colors(RGB, True, frame.color_primaries, frame.color_trc)
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:
        matrix = guess_matrix(frame.width, frame.height)
    if matrix not in _MATRICES:
        raise VideoError(
            f"the video has color matrix {matrix} (H.273), which is not known here; convert it first, as in: ffmpeg "
            "-i IN -vf scale=out_color_matrix=bt709 -colorspace bt709 OUT"
        )
    full_range = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return Colors(matrix, full_range, frame.color_primaries, frame.color_trc)


def read_mastering_light(frame: VideoFrame) -> MasteringLight:
    """What a decoded frame carries of it."""
    found = {side.type.name: bytes(side) for side in frame.side_data}
    display: tuple[float, ...] = ()
    if "MASTERING_DISPLAY_METADATA" in found:
        # FFmpeg's AVMasteringDisplayMetadata: ten rationals (R, G, B, white as x and y; least, most light), two flags
        *numbers, has_primaries, has_luminance = struct.unpack_from("=22i", found["MASTERING_DISPLAY_METADATA"])
        if has_primaries and has_luminance:
            display = tuple(top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True))
    content = found.get("CONTENT_LIGHT_LEVEL")
    return MasteringLight(display, () if content is None else struct.unpack_from("=2I", content))

"""What all frames of a video have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sr_deploy.upscale.video.colors import Colors
from sr_deploy.upscale.video.pixel_formats import describe_format


@dataclass(frozen=True)
class FrameKind:
    """Size, format and colors."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    pixel_format: str
    """FFmpeg's name of how samples are stored."""
    colors: Colors
    """Primaries, transfer function, matrix and range."""
    chroma_location: str = "left"
    """Where chroma samples lie, as FFmpeg's scale filter calls it; left is what most codecs mean if nothing is said."""

    @cached_property
    def deep(self) -> bool:
        """Whether samples have more than 8 bits, and RGB samples 16."""
        return describe_format(self.pixel_format).bits > 8

    @cached_property
    def channels(self) -> int:
        """Of the samples for a network: 1 for gray, else 3."""
        return 1 if describe_format(self.pixel_format).gray else 3

    @property
    def luma_levels(self) -> tuple[int, int]:
        """The samples of black and of white."""
        bits = describe_format(self.pixel_format).bits
        return (0, 2**bits - 1) if self.colors.full_range else (16 << bits - 8, 235 << bits - 8)

    @property
    def sample_bytes(self) -> int:
        """Of the samples of a frame for a network."""
        return self.height * self.width * self.channels * (2 if self.deep else 1)

"""What a generator or a discriminator is, in a few numbers. No torch here: bundles are read without it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CHANNELS = 8192
"""Channels of feature maps that a network can have."""
MOST_BLOCKS = 1024
"""Blocks that a network can have."""
MOST_DISCRIMINATOR_FEATURES = 1024
"""Channels of a discriminator's first feature maps that it can have."""


class ArchSpec(BaseModel):
    """One generator, described well enough to build it anew. Stored in checkpoints, bundles and graphs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(max_length=64)
    """Name in the registry: srresnet, msrresnet, rrdbnet or compact."""
    scale: int = Field(ge=1, le=16)
    """Output pixels per input pixel, along each side."""
    channels: int = Field(default=3)
    """Image channels in and out: 3 (RGB) or 1 (gray)."""
    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps in the trunk."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)
    """Residual blocks (srresnet, msrresnet, rrdbnet) or inner convolutions (compact)."""
    growth: int | None = Field(default=None, ge=1, le=MOST_CHANNELS)
    """Channels that each convolution of a dense block adds (rrdbnet only)."""
    unshuffle: int | None = Field(default=None, ge=1, le=16)
    """Pixel-unshuffle of the input (rrdbnet only); None: 4 at x1, 2 at x2, else 1. Old files upsample x2 without it."""

    def title(self) -> str:
        """One line for people, as in `rrdbnet x4, 23 blocks, 64 features, growth 32, RGB`."""
        growth = f", growth {self.growth}" if self.growth else ""
        unshuffle = f", unshuffle {self.unshuffle}" if self.unshuffle else ""
        colour = "RGB" if self.channels == 3 else "gray"
        size = f"{self.blocks} blocks, {self.features} features{growth}{unshuffle}"
        return f"{self.architecture} x{self.scale}, {size}, {colour}"


DiscriminatorName = Literal["srgan", "vgg128", "vgg256", "unet"]


class DiscriminatorSpec(BaseModel):
    """One discriminator, described well enough to build it anew. Stored with its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: DiscriminatorName
    """srgan (8 convolutions), vgg128 (ESRGAN's, 10), vgg256 (12), unet (Real-ESRGAN's: a verdict for each pixel)."""
    features: int = Field(default=64, ge=1, le=MOST_DISCRIMINATOR_FEATURES)
    """Channels of its first feature maps."""
    patch_size: int | None = Field(default=None, ge=1, le=4096)
    """Side of the images that it judges; the dense layers of all but unet depend on it."""
    spectral_norm: bool = False
    """Whether weights are divided by their largest singular value (unet only)."""
    channels: int = Field(default=3, ge=1, le=16)
    """Channels of the images."""

    def title(self) -> str:
        """One line for people, as in `unet, 64 features, spectral norm, RGB`."""
        colour = {1: "gray", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        if self.architecture == "unet":
            kind = "spectral norm" if self.spectral_norm else "no spectral norm"
        else:
            kind = f"patches of {self.patch_size}"
        return f"{self.architecture}, {self.features} features, {kind}, {colour}"


def tidy_license(text: str) -> str | None:
    """A license in one line of 200 characters at most: its name or its address, not its text; None of nothing."""
    return " ".join(text.split())[:200] or None

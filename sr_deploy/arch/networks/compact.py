"""SRVGGNetCompact, the plain network of Real-ESRGAN's small models (Wang et al. 2021 and its code base).

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.keys import Shapes, count_numbered, find_shape, find_shuffle_scale, keep_names
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec
from sr_deploy.errors import CheckpointError


class CompactSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)
    """Convolutions between the first and the last."""


class Compact(nn.Module):
    """A chain of 3x3 convolutions and PReLUs at input resolution, a pixel shuffle, and the nearest upsample added."""

    def __init__(self, spec: CompactSpec) -> None:
        super().__init__()
        self.scale = spec.scale
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, spec.features, 3, padding=1), nn.PReLU(spec.features)]
        for _ in range(spec.blocks):
            layers += [nn.Conv2d(spec.features, spec.features, 3, padding=1), nn.PReLU(spec.features)]
        layers.append(nn.Conv2d(spec.features, spec.channels * spec.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped."""
        features: torch.Tensor = self.body(lr_NCHW)
        if self.scale == 1:
            return features + lr_NCHW
        return F.pixel_shuffle(features, self.scale) + F.interpolate(
            lr_NCHW, scale_factor=float(self.scale), mode="nearest"
        )


def _matches(shapes: Shapes) -> bool:
    return len(shapes.get("body.0.weight", ())) == 4 and len(shapes.get("body.1.weight", ())) == 1


def _infer(shapes: Shapes) -> CompactSpec:
    features, channels = find_shape(shapes, "body.0.weight", 4)[:2]
    last = count_numbered(shapes, "body.") - 1
    read = f"the {channels} channels that 'body.0.weight' reads"
    what = f"the last convolution (an even number) must give scale^2 times {read}"
    scale = find_shuffle_scale(shapes, f"body.{last}.weight", channels, what)
    if last < 2 or last % 2:
        raise CheckpointError(f"tensor 'body.{last}.weight' gives {channels * scale**2} channels; {what}")
    return CompactSpec(
        architecture="compact", scale=scale, channels=channels, features=features, blocks=(last - 2) // 2
    )


_SIZES = {(64, 32): "general", (64, 16): "Compact", (64, 8): "UltraCompact", (24, 8): "SuperUltraCompact"}
"""Names of features and inner convolutions: of Real-ESRGAN's general networks and of those that people train since."""


ARCHITECTURE = Architecture(
    title="SRVGGNetCompact (Real-ESRGAN)",
    spec=CompactSpec,
    build=Compact,
    infer=_infer,
    known_as=lambda spec: _SIZES.get((spec.features, spec.blocks)),
    last_features=lambda spec: f"body.{2 * spec.blocks + 1}",
    moving_names=lambda spec: {f"body.{2 * spec.blocks + 2}": "last"},
    layouts=(Layout("compact", "SRVGGNetCompact: body.N.weight, with 1-D PReLU weights", _matches, keep_names),),
)

"""MSRResNet: SRResNet without batch normalization, as BasicSR publishes it (ESRGAN's SRGAN baseline).

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.initialize import scale_kaiming
from sr_deploy.arch.keys import Shapes, count_numbered, find_shape, keep_names, rename_by
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec
from sr_deploy.errors import CheckpointError, InputError

_SLOPE = 0.1


class MSRResNetSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps in the trunk."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, and the input added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Refine feature maps."""
        refined: torch.Tensor = self.conv2(F.relu(self.conv1(features_NCHW)))
        return features_NCHW + refined


class MSRResNet(nn.Module):
    """Residual blocks, pixel shuffles, and the bilinear upsample of the input added at the end."""

    def __init__(self, spec: MSRResNetSpec) -> None:
        super().__init__()
        features = spec.features
        self.scale = spec.scale
        self.shuffles = _shuffles(spec.scale)
        self.conv_first = nn.Conv2d(spec.channels, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(spec.blocks)))
        for number, factor in enumerate(self.shuffles, 1):
            self.add_module(f"upconv{number}", nn.Conv2d(features, features * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, spec.channels, 3, padding=1)
        scale_kaiming(self)

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped."""
        features = self.body(F.leaky_relu(self.conv_first(lr_NCHW), _SLOPE))
        for number, factor in enumerate(self.shuffles, 1):
            shuffled = F.pixel_shuffle(self.get_submodule(f"upconv{number}")(features), factor)
            features = F.leaky_relu(shuffled, _SLOPE)
        detail: torch.Tensor = self.conv_last(F.leaky_relu(self.conv_hr(features), _SLOPE))
        base = F.interpolate(lr_NCHW, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return detail + base


def _shuffles(scale: int) -> tuple[int, ...]:
    if scale not in (2, 3, 4):
        raise InputError(f"msrresnet enlarges by 2, 3 or 4, not by {scale}")
    return (2, 2) if scale == 4 else (scale,)


def _matches(shapes: Shapes) -> bool:
    return "body.0.conv1.weight" in shapes and "upconv1.weight" in shapes


def _infer(shapes: Shapes) -> MSRResNetSpec:
    features, channels = find_shape(shapes, "conv_first.weight", 4)[:2]
    shuffled = find_shape(shapes, "upconv1.weight", 4)[0]
    scale = 4 if "upconv2.weight" in shapes else math.isqrt(shuffled // features) if features else 0
    if scale not in (2, 3, 4):
        raise CheckpointError(
            f"tensor 'upconv1.weight' gives {shuffled} channels; with {features} features it must be "
            f"{4 * features} (x2, x4) or {9 * features} (x3)"
        )
    return MSRResNetSpec(
        architecture="msrresnet",
        scale=scale,
        channels=channels,
        features=features,
        blocks=count_numbered(shapes, "body."),
    )


ARCHITECTURE = Architecture(
    title="MSRResNet (BasicSR)",
    spec=MSRResNetSpec,
    build=MSRResNet,
    infer=_infer,
    last_features=lambda _spec: "body",
    layouts=(
        Layout("msrresnet", "MSRResNet of BasicSR: body.N.conv1 and upconv1", _matches, keep_names),
        Layout(
            "msrresnet-mmsr",
            "MSRResNet of mmsr and KAIR: recon_trunk.N.conv1 and upconv1",
            lambda shapes: "recon_trunk.0.conv1.weight" in shapes and "upconv1.weight" in shapes,
            rename_by((r"^recon_trunk\.", "body."), (r"^HRconv\.", "conv_hr.")),
        ),
    ),
)

"""RRDBNet: residual in residual dense blocks (ESRGAN, Wang et al. 2018; Real-ESRGAN, Wang et al. 2021).

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.initialize import scale_kaiming
from sr_deploy.arch.keys import Shapes, count_doublings, count_numbered, find_shape, keep_names, rename_by
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec
from sr_deploy.errors import CheckpointError, InputError, ShapeError

_RESIDUAL_SCALE = 0.2
_SLOPE = 0.2
_UNSHUFFLE_AT_SCALE = {1: 4, 2: 2}
_DENSE_CONVS = 5


class RRDBNetSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps in the trunk."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)
    """Residual-in-residual blocks, of three dense blocks each."""
    growth: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels that each convolution of a dense block adds."""
    unshuffle: int | None = Field(default=None, ge=1, le=16)
    """Pixel-unshuffle of the input; None: 4 at x1, 2 at x2, else 1. Old files upsample x2 without it."""


class DenseBlock(nn.Module):
    """Five convolutions, each reading all that came before it, and a scaled residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for number in range(1, _DENSE_CONVS + 1):
            width = growth if number < _DENSE_CONVS else features
            self.add_module(f"conv{number}", nn.Conv2d(features + (number - 1) * growth, width, 3, padding=1))
        scale_kaiming(self)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Refine feature maps."""
        seen = [features_NCHW]
        for number in range(1, _DENSE_CONVS):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{number}")(torch.cat(seen, 1)), _SLOPE))
        refined: torch.Tensor = self.get_submodule(f"conv{_DENSE_CONVS}")(torch.cat(seen, 1))
        return refined * _RESIDUAL_SCALE + features_NCHW


class ResidualInResidual(nn.Module):
    """Three dense blocks and a scaled residual around them."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Refine feature maps."""
        refined: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(features_NCHW)))
        return refined * _RESIDUAL_SCALE + features_NCHW


class RRDBNet(nn.Module):
    """A trunk of residual-in-residual dense blocks, then nearest upsamples, x3 or x2, with a convolution each."""

    def __init__(self, spec: RRDBNetSpec) -> None:
        super().__init__()
        features = spec.features
        self.unshuffle = _unshuffle(spec)
        self.upsamples = _upsamples(spec)
        self.conv_first = nn.Conv2d(spec.channels * self.unshuffle**2, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidual(features, spec.growth) for _ in range(spec.blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        for number in range(1, len(self.upsamples) + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(features, features, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, spec.channels, 3, padding=1)

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped.

        Raises:
            ShapeError: a side is not a multiple of the pixel-unshuffle.
        """
        if self.unshuffle > 1:
            self._check_sides(lr_NCHW)
            lr_NCHW = F.pixel_unshuffle(lr_NCHW, self.unshuffle)
        features = self.conv_first(lr_NCHW)
        features = features + self.conv_body(self.body(features))
        for number, upsample in enumerate(self.upsamples, 1):
            larger = F.interpolate(features, scale_factor=upsample, mode="nearest")
            features = F.leaky_relu(self.get_submodule(f"conv_up{number}")(larger), _SLOPE)
        sr_NCHW: torch.Tensor = self.conv_last(F.leaky_relu(self.conv_hr(features), _SLOPE))
        return sr_NCHW

    def _check_sides(self, lr_NCHW: torch.Tensor) -> None:
        # While torch.export traces, sides are symbols and pixel_unshuffle makes the condition itself.
        if torch.compiler.is_compiling():
            return
        h, w = lr_NCHW.shape[-2:]
        if h % self.unshuffle or w % self.unshuffle:
            raise ShapeError(
                f"this network takes sides that are multiples of {self.unshuffle}, not {h}x{w}; pad the image"
            )

    def fold(self) -> None:
        """Make the pixel-unshuffle by r part of the first convolution: a kernel of 3r, stride r, padding r.

        Exact: each weight meets the pixel that it met before, and r pixels of zeros around the image are one pixel of
        zeros around the unshuffled one.
        """
        r = self.unshuffle
        if r == 1:
            return
        old = self.conv_first
        out_channels, in_channels = old.out_channels, old.in_channels // r**2
        new = nn.Conv2d(in_channels, out_channels, 3 * r, stride=r, padding=r)
        # Channel c * r^2 + i * r + j of the unshuffled image is pixel (i, j) of each r x r cell of channel c.
        cells = old.weight.detach().reshape(out_channels, in_channels, r, r, 3, 3)
        new.weight = nn.Parameter(cells.permute(0, 1, 4, 2, 5, 3).reshape(new.weight.shape).contiguous())
        new.bias = old.bias
        self.conv_first = new
        self.unshuffle = 1


def _unshuffle(spec: RRDBNetSpec) -> int:
    return spec.unshuffle or _UNSHUFFLE_AT_SCALE.get(spec.scale, 1)


def _upsamples(spec: RRDBNetSpec) -> tuple[float, ...]:
    """Factor of each upsample: one of 3, or some of 2."""
    factor = spec.scale * _unshuffle(spec)
    if factor == 3:
        return (3.0,)
    if factor & (factor - 1):
        raise InputError(f"rrdbnet enlarges by 3 and by powers of two (1, 2, 4, 8, 16), not by {spec.scale}")
    return (2.0,) * (factor.bit_length() - 1)


def _infer(shapes: Shapes) -> RRDBNetSpec:
    features, inputs = find_shape(shapes, "conv_first.weight", 4)[:2]
    channels = find_shape(shapes, "conv_last.weight", 4)[0]
    growth = find_shape(shapes, "body.0.rdb1.conv1.weight", 4)[0]
    unshuffle = next((r for r in (1, 2, 4) if inputs == channels * r**2), None)
    if unshuffle is None:
        raise CheckpointError(
            f"tensor 'conv_first.weight' reads {inputs} channels; with {channels} image channels (given by "
            f"'conv_last.weight') it must be {channels}, or {channels * 4} or {channels * 16} after a pixel-unshuffle"
        )
    factor = 2 ** (count_doublings(shapes, "conv_up") - 1 if "conv_up1.weight" in shapes else 0)
    if factor % unshuffle:
        raise CheckpointError(
            f"tensor 'conv_first.weight' reads {inputs} channels, a pixel-unshuffle by {unshuffle}, but the network "
            f"enlarges by {factor} only"
        )
    scale = factor // unshuffle
    return RRDBNetSpec(
        architecture="rrdbnet",
        scale=scale,
        channels=channels,
        features=features,
        blocks=count_numbered(shapes, "body."),
        growth=growth,
        unshuffle=None if unshuffle == _UNSHUFFLE_AT_SCALE.get(scale, 1) else unshuffle,
    )


_rename_esrgan = rename_by(
    (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
)


def _rename_old_esrgan(shapes: Shapes) -> dict[str, str]:
    """Layers were numbered: 0 first, 1 the trunk, then three numbers for each upsample, two for HR, and the last."""
    layers = count_numbered(shapes, "model.")
    upsamples, rest = divmod(layers - 5, 3)
    if rest or not 0 <= upsamples <= 3:
        raise CheckpointError(
            f"the last layer is 'model.{layers - 1}'; in this layout it is number 4, 7, 10 or 13 (x1, x2, x4, x8)"
        )
    blocks = count_numbered(shapes, "model.1.sub.") - 1
    rename = rename_by(
        (r"^model\.0\.", "conv_first."),
        (rf"^model\.1\.sub\.{blocks}\.(weight|bias)$", r"conv_body.\1"),
        (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
        *((rf"^model\.{3 * n}\.", f"conv_up{n}.") for n in range(1, upsamples + 1)),
        (rf"^model\.{layers - 3}\.", "conv_hr."),
        (rf"^model\.{layers - 1}\.", "conv_last."),
    )
    return rename(shapes)


def _has(pattern: str, shapes: Shapes) -> bool:
    return any(re.match(pattern, key) for key in shapes)


ARCHITECTURE = Architecture(
    title="RRDBNet (ESRGAN, Real-ESRGAN)",
    spec=RRDBNetSpec,
    build=RRDBNet,
    input_multiple=_unshuffle,
    infer=_infer,
    last_features=lambda _spec: "conv_body",
    layouts=(
        Layout(
            "rrdbnet",
            "RRDBNet of BasicSR and Real-ESRGAN: body.N.rdb1.conv1",
            lambda shapes: _has(r"body\.\d+\.rdb\d\.", shapes),
            keep_names,
        ),
        Layout(
            "esrgan",
            "RRDBNet of the ESRGAN and BSRGAN repositories: RRDB_trunk.N.RDB1.conv1",
            lambda shapes: _has(r"RRDB_trunk\.\d+\.RDB\d\.", shapes),
            _rename_esrgan,
        ),
        Layout(
            "esrgan-old",
            "RRDBNet of the first ESRGAN: model.1.sub.N.RDB1.conv1.0",
            lambda shapes: _has(r"model\.1\.sub\.\d+\.RDB\d\.", shapes),
            _rename_old_esrgan,
        ),
    ),
)

"""RealPLKSR, the partial large kernel network for photographs, with its later variants.

Lee et al., "Partial Large Kernel CNNs for Efficient Super-Resolution", 2024, and its code base.

Shape suffixes: N batch, C channels, H height, W width, R scale, G groups.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.keys import Shapes, count_numbered, find_shape, find_shuffle_scale, keep_names
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec
from sr_deploy.errors import InputError

_DEVIATION = 0.02
"""Of the weights that training begins with."""
_EPSILON = 1e-6
_LARGEST_KERNEL = 127
_REST = 3
"""Modules of `feats` beside the blocks: the first convolution, dropout, the last convolution."""


class RealPlksrSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps; published: 64."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)
    """Published: 28."""
    kernel: int = Field(default=17, ge=1, le=_LARGEST_KERNEL)
    """Side of the large kernels, odd."""
    partial: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels that the large kernels read; published: a quarter of the features."""
    attention: bool = True
    """Whether each block weights its feature maps element by element."""
    norm: Literal["group", "layer"] = "group"
    """`group`: over a group of channels and the whole picture, after a block; `layer`: over channels, before it."""
    groups: int = Field(default=4, ge=1, le=MOST_CHANNELS)
    """Of the group normalization; files do not say how many. Published: 4."""
    dysample: bool = False
    """Whether pixels are sampled at learned places (Liu et al., "Learning to Upsample by Learning to Sample", 2023)
    instead of shuffled."""


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the channels of each pixel, then a gain and an offset for each channel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Normalized feature maps."""
        centered = features_NCHW - features_NCHW.mean(1, keepdim=True)
        variance = centered.square().mean(1, keepdim=True)
        normal = centered / torch.sqrt(variance + _EPSILON)
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


class LargeKernel(nn.Module):
    """A convolution with a large kernel over the first channels; the others pass."""

    def __init__(self, partial: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(partial, partial, kernel, padding=kernel // 2)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Feature maps of the same shape."""
        partial = self.conv.in_channels
        return torch.cat([self.conv(features_NCHW[:, :partial]), features_NCHW[:, partial:]], 1)


class ElementAttention(nn.Module):
    """Feature maps times a weight in 0 to 1 for each element, made from them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(features, features, 3, padding=1), nn.Sigmoid())

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Weighted feature maps."""
        weighted: torch.Tensor = features_NCHW * self.f(features_NCHW)
        return weighted


class Block(nn.Module):
    """3x3 convolutions over all channels, a large kernel over some, attention, a 1x1 convolution; the input added."""

    def __init__(self, spec: RealPlksrSpec) -> None:
        super().__init__()
        features, by_layer = spec.features, spec.norm == "layer"
        self.layer_norm = LayerNorm(features) if by_layer else nn.Identity()
        self.channel_mixer = nn.Sequential(
            nn.Conv2d(features, 2 * features, 3, padding=1), nn.Mish(), nn.Conv2d(2 * features, features, 3, padding=1)
        )
        self.lk = LargeKernel(spec.partial, spec.kernel)
        self.attn = ElementAttention(features) if spec.attention else nn.Identity()
        self.refine = nn.Conv2d(features, features, 1)
        self.norm = nn.Identity() if by_layer else nn.GroupNorm(spec.groups, features)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Refine feature maps."""
        mixed = self.channel_mixer(self.layer_norm(features_NCHW))
        refined: torch.Tensor = self.norm(self.refine(self.attn(self.lk(mixed))))
        return refined + features_NCHW


class DySample(nn.Module):
    """Each output pixel is read from a place of its own, near where it lies, between the pixels of the feature maps."""

    def __init__(self, features: int, channels: int, scale: int, groups: int) -> None:
        super().__init__()
        self.scale, self.groups = scale, groups
        self.offset = nn.Conv2d(features, 2 * groups * scale**2, 1)
        self.scope = nn.Conv2d(features, 2 * groups * scale**2, 1, bias=False)
        if scale > 1:
            self.end_conv: nn.Module = nn.Conv2d(features, channels, 1)
        else:
            self.end_conv = nn.Identity()
        # Where the pixels of an enlarged pixel lie in it: x for each column first, then y.
        place_R = (torch.arange(scale) + 0.5) / scale - 0.5
        y_RR, x_RR = torch.meshgrid(place_R, place_R, indexing="ij")
        places = torch.stack([x_RR, y_RR]).repeat(1, groups, 1).reshape(1, -1, 1, 1)
        self.register_buffer("init_pos", places)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Enlarge feature maps and make an image of them."""
        n, channels, h, w = features_NCHW.shape
        offset = self.offset(features_NCHW) * self.scope(features_NCHW).sigmoid() * 0.5 + self.init_pos
        # Half precision has no half pixels far from the corner.
        exact = torch.promote_types(offset.dtype, torch.float32)
        offset = offset.to(exact)
        x_W = torch.arange(w, dtype=offset.dtype, device=offset.device) + 0.5
        y_H = torch.arange(h, dtype=offset.dtype, device=offset.device) + 0.5
        offset_x, offset_y = offset.chunk(2, 1)
        grid_x = 2 * (offset_x + x_W) / w - 1
        grid_y = 2 * (offset_y + y_H[:, None]) / h - 1
        grid = torch.stack([F.pixel_shuffle(grid_x, self.scale), F.pixel_shuffle(grid_y, self.scale)], -1)
        sampled = F.grid_sample(
            features_NCHW.to(exact).reshape(n * self.groups, channels // self.groups, h, w),
            grid.reshape(n * self.groups, h * self.scale, w * self.scale, 2),
            mode="bilinear", padding_mode="border", align_corners=False,
        )  # fmt: skip
        enlarged = sampled.to(features_NCHW.dtype).reshape(n, channels, h * self.scale, w * self.scale)
        sr_NCHW: torch.Tensor = self.end_conv(enlarged)
        return sr_NCHW


class RealPlksr(nn.Module):
    """A chain of blocks at input resolution; the picture, repeated, is added before it is enlarged."""

    def __init__(self, spec: RealPlksrSpec) -> None:
        super().__init__()
        if spec.kernel % 2 == 0:
            raise InputError(f"a large kernel has an odd side, not {spec.kernel}")
        if spec.partial > spec.features:
            raise InputError(f"large kernels read {spec.partial} of only {spec.features} features")
        if spec.norm == "group" and spec.features % spec.groups:
            raise InputError(f"{spec.features} features do not make {spec.groups} equal groups")
        self.scale = spec.scale
        outputs = spec.channels * spec.scale**2
        self.feats = nn.Sequential(
            nn.Conv2d(spec.channels, spec.features, 3, padding=1),
            *(Block(spec) for _ in range(spec.blocks)),
            nn.Identity(),  # where published networks have dropout, of which nothing is used
            nn.Conv2d(spec.features, outputs, 3, padding=1),
        )
        self.to_img = _make_dysample(spec, outputs) if spec.dysample else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
        if self.to_img is not None and not self.to_img.scope.weight.is_meta:
            nn.init.zeros_(self.to_img.scope.weight)

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped."""
        features: torch.Tensor = self.feats(lr_NCHW)
        if self.to_img is not None:
            sampled: torch.Tensor = self.to_img(features + lr_NCHW.repeat_interleave(self.scale**2, 1))
            return sampled
        if self.scale == 1:
            return lr_NCHW + features
        nearest = F.interpolate(lr_NCHW, scale_factor=float(self.scale), mode="nearest")
        return F.pixel_shuffle(features, self.scale) + nearest


def _make_dysample(spec: RealPlksrSpec, features: int) -> DySample:
    return DySample(features, spec.channels, spec.scale, spec.channels if spec.scale % 2 else 4)


def _matches(shapes: Shapes) -> bool:
    return "feats.0.weight" in shapes and "feats.1.channel_mixer.0.weight" in shapes


def _infer(shapes: Shapes) -> RealPlksrSpec:
    features, channels = find_shape(shapes, "feats.0.weight", 4)[:2]
    last = count_numbered(shapes, "feats.") - 1
    what = f"it must give scale^2 times the {channels} channels that 'feats.0.weight' reads"
    partial, _, kernel, _ = find_shape(shapes, "feats.1.lk.conv.weight", 4)
    return RealPlksrSpec(
        architecture="realplksr",
        scale=find_shuffle_scale(shapes, f"feats.{last}.weight", channels, what),
        channels=channels,
        features=features,
        blocks=last - _REST + 1,
        kernel=kernel,
        partial=partial,
        attention="feats.1.attn.f.0.weight" in shapes,
        norm="layer" if "feats.1.layer_norm.weight" in shapes else "group",
        dysample="to_img.init_pos" in shapes,
    )


def _moving_names(spec: RealPlksrSpec) -> dict[str, str]:
    return {f"feats.{spec.blocks + 2}": "last"}


ARCHITECTURE = Architecture(
    title="RealPLKSR",
    spec=RealPlksrSpec,
    build=RealPlksr,
    infer=_infer,
    moving_names=_moving_names,
    is_bounded=lambda spec: spec.norm == "layer" and not spec.dysample,
    last_features=lambda spec: f"feats.{spec.blocks + 1}",
    layouts=(Layout("realplksr", "RealPLKSR: feats.N.channel_mixer and feats.N.lk.conv", _matches, keep_names),),
)

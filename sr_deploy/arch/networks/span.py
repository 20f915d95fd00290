"""SPAN, the Swift Parameter-free Attention Network (Wan et al., CVPR workshops 2024, and its code base).

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.fold import replace_modules
from sr_deploy.arch.keys import Shapes, count_numbered, find_shape, find_shuffle_scale
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec

_MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K, by channel."""
_GAIN = 2
"""Channels inside a convolution of three branches, by those outside."""
_SLOPE = 0.05


class SpanSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps; published: 48, also 52, 32, 28."""
    blocks: int = Field(default=6, ge=1, le=MOST_BLOCKS)
    """Attention blocks; published: 6."""
    norm: bool = False
    """Whether the mean of DIV2K is subtracted from the picture first, and the rest multiplied by `img_range`."""
    img_range: Literal[1, 255] = 255
    branches: Literal[1, 3] = 3
    """What each 3x3 convolution consists of: 3 while it is trained, 1 once they are merged."""


class Conv3XC(nn.Module):
    """A 3x3 convolution in the form that is trained: 1x1, 3x3, 1x1, and a 1x1 beside them.

    The picture is padded before the first 1x1, so that its bias is seen at the border too: one 3x3 convolution with
    zero padding computes the same (`merge`).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(in_channels, out_channels, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, in_channels * _GAIN, 1),
            nn.Conv2d(in_channels * _GAIN, out_channels * _GAIN, 3),
            nn.Conv2d(out_channels * _GAIN, out_channels, 1),
        )

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Feature maps of the same height and width."""
        result: torch.Tensor = self.conv(F.pad(features_NCHW, (1, 1, 1, 1))) + self.sk(features_NCHW)
        return result

    def merge(self) -> nn.Conv2d:
        """The one convolution that computes the same, to rounding."""
        first, second, third = self.conv
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert isinstance(third, nn.Conv2d)
        # In double precision: the sums over the inner channels are rounded once.
        inner, outer = first.weight.double()[:, :, 0, 0], third.weight.double()[:, :, 0, 0]
        kernel = second.weight.double()
        weight = torch.einsum("on,nmhw,mc->ochw", outer, kernel, inner)
        weight[:, :, 1, 1] += self.sk.weight.double()[:, :, 0, 0]
        assert first.bias is not None
        assert second.bias is not None
        assert third.bias is not None
        assert self.sk.bias is not None
        bias = outer @ (kernel.sum((2, 3)) @ first.bias.double() + second.bias.double())
        bias = bias + third.bias.double() + self.sk.bias.double()
        with torch.device("meta"):
            merged = nn.Conv2d(self.sk.in_channels, self.sk.out_channels, 3, padding=1)
        merged.weight = nn.Parameter(weight.to(first.weight.dtype), requires_grad=first.weight.requires_grad)
        merged.bias = nn.Parameter(bias.to(first.weight.dtype), requires_grad=first.weight.requires_grad)
        return merged


def _make_conv(spec: SpanSpec, in_channels: int) -> nn.Module:
    if spec.branches == 3:
        return Conv3XC(in_channels, spec.features)
    return nn.Conv2d(in_channels, spec.features, 3, padding=1)


class AttentionBlock(nn.Module):
    """Three convolutions whose result, squeezed into -1/2 to 1/2, weights itself and the input (equations 3 to 5)."""

    def __init__(self, spec: SpanSpec) -> None:
        super().__init__()
        self.c1_r = _make_conv(spec, spec.features)
        self.c2_r = _make_conv(spec, spec.features)
        self.c3_r = _make_conv(spec, spec.features)

    def forward(self, features_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The block's feature maps, and those of its first convolution, activated.

        The paper's figure takes the latter as they are; the published code, and so its weights, activate them in place.
        """
        first = F.silu(self.c1_r(features_NCHW))
        third = self.c3_r(F.silu(self.c2_r(first)))
        return (third + features_NCHW) * (torch.sigmoid(third) - 0.5), first


class Span(nn.Module):
    """Attention blocks at input resolution, four stages of them concatenated, and a pixel shuffle."""

    def __init__(self, spec: SpanSpec) -> None:
        super().__init__()
        self.blocks = spec.blocks
        self.img_range = float(spec.img_range) if spec.norm else None
        mean = _MEAN if spec.channels == 3 else (sum(_MEAN) / 3,)
        # On the CPU, whatever device the weights are made on: it is no part of a file.
        mean_1C11 = torch.tensor(mean, device="cpu").view(1, -1, 1, 1)
        self.mean: torch.Tensor
        self.register_buffer("mean", mean_1C11, persistent=False)
        self.conv_1 = _make_conv(spec, spec.channels)
        for number in range(1, spec.blocks + 1):
            self.add_module(f"block_{number}", AttentionBlock(spec))
        self.conv_2 = _make_conv(spec, spec.features)
        self.conv_cat = nn.Conv2d(4 * spec.features, spec.features, 1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(spec.features, spec.channels * spec.scale**2, 3, padding=1), nn.PixelShuffle(spec.scale)
        )

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped."""
        if self.img_range is not None:
            lr_NCHW = (lr_NCHW - self.mean) * self.img_range
        head = features = self.conv_1(lr_NCHW)
        after_first = inner = head
        for number in range(1, self.blocks + 1):
            features, inner = self.get_submodule(f"block_{number}")(features)
            if number == 1:
                after_first = features
        stages = torch.cat([head, self.conv_2(features), after_first, inner], 1)
        sr_NCHW: torch.Tensor = self.upsampler(self.conv_cat(stages))
        return sr_NCHW

    def merge_branches(self) -> None:
        """Make one convolution of each that has three branches, in place."""
        replace_modules(self, Conv3XC, Conv3XC.merge)


def _matches(shapes: Shapes) -> bool:
    return "conv_cat.weight" in shapes and any(f"block_1.c1_r{part}.weight" in shapes for part in _FORMS)


_FORMS = (".sk", ".eval_conv", "")
"""Where a convolution's weights lie: in branches, merged beside or instead of them, or merged by our name."""


def _rename(shapes: Shapes) -> dict[str, str]:
    """Published files hold the merged convolution beside its branches, maybe of an earlier step: it is made anew."""
    branched = "conv_1.sk.weight" in shapes
    kept = (key for key in shapes if key != "no_norm" and not (branched and ".eval_conv." in key))
    return {key: key.replace(".eval_conv.", ".") for key in kept}


def _infer(shapes: Shapes) -> SpanSpec:
    branched = "conv_1.sk.weight" in shapes
    features, channels = find_shape(shapes, "conv_1.sk.weight" if branched else "conv_1.weight", 4)[:2]
    what = f"it must give scale^2 times the {channels} channels of the picture"
    return SpanSpec(
        architecture="span",
        scale=find_shuffle_scale(shapes, "upsampler.0.weight", channels, what),
        channels=channels,
        features=features,
        blocks=count_numbered(shapes, "block_") - 1,
        norm="no_norm" not in shapes,
        branches=3 if branched else 1,
    )


def _list_readings(spec: SpanSpec) -> tuple[SpanSpec, ...]:
    """Files say whether the picture is normalized by a tensor that some trainers leave out, and never by how much."""
    if not spec.norm:
        return (spec,)
    return spec, spec.model_copy(update={"norm": False}), spec.model_copy(update={"img_range": 1})


ARCHITECTURE = Architecture(
    title="SPAN",
    spec=SpanSpec,
    build=Span,
    infer=_infer,
    readings=_list_readings,
    merged=lambda spec: spec.model_copy(update={"branches": 1}),
    last_features=lambda _spec: "conv_cat",
    layouts=(Layout("span", "SPAN: block_N.c1_r, conv_cat and upsampler.0", _matches, _rename),),
)

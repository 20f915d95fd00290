"""SRResNet, the generator of SRGAN (Ledig et al. 2017, figure 4).

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import nn

from sr_deploy.arch.keys import Shapes, count_doublings, count_numbered, find_shape, keep_names, rename_by
from sr_deploy.arch.registry import Architecture, Layout
from sr_deploy.arch.spec import MOST_BLOCKS, MOST_CHANNELS, ArchSpec
from sr_deploy.errors import InputError

_OUTER_KERNEL = 9


class SRResNetSpec(ArchSpec):
    """Options of this architecture."""

    model_config = ConfigDict(extra="forbid")

    features: int = Field(ge=1, le=MOST_CHANNELS)
    """Channels of the feature maps in the trunk."""
    blocks: int = Field(ge=0, le=MOST_BLOCKS)


class ResidualBlock(nn.Module):
    """Two normalized convolutions with a PReLU between them, and the input added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Refine feature maps."""
        inner = self.prelu(self.bn1(self.conv1(features_NCHW)))
        refined: torch.Tensor = self.bn2(self.conv2(inner))
        return features_NCHW + refined


class Upsample(nn.Module):
    """A convolution, a pixel shuffle by 2 and a PReLU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features * 4, 3, padding=1)
        self.prelu = nn.PReLU()

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Double height and width."""
        larger: torch.Tensor = self.prelu(F.pixel_shuffle(self.conv(features_NCHW), 2))
        return larger


class SRResNet(nn.Module):
    """Residual blocks with batch normalization, a skip around all of them, and pixel shuffles by 2."""

    def __init__(self, spec: SRResNetSpec) -> None:
        super().__init__()
        features = spec.features
        self.conv_first = nn.Conv2d(spec.channels, features, _OUTER_KERNEL, padding=_OUTER_KERNEL // 2)
        self.prelu = nn.PReLU()
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(spec.blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn_body: nn.Module = nn.BatchNorm2d(features)
        self.upsample = nn.Sequential(*(Upsample(features) for _ in range(_upsamples(spec.scale))))
        self.conv_last = nn.Conv2d(features, spec.channels, _OUTER_KERNEL, padding=_OUTER_KERNEL // 2)

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        """Upscale N x C x H x W in [0, 1]; the result is not clamped."""
        first = self.prelu(self.conv_first(lr_NCHW))
        trunk = first + self.bn_body(self.conv_body(self.body(first)))
        sr_NCHW: torch.Tensor = self.conv_last(self.upsample(trunk))
        return sr_NCHW

    def fold(self) -> None:
        """Make each batch normalization part of the convolution before it (evaluation mode)."""
        for block in self.body:
            assert isinstance(block, ResidualBlock)
            _fold_pair(block, "conv1", "bn1")
            _fold_pair(block, "conv2", "bn2")
        _fold_pair(self, "conv_body", "bn_body")


def _fold_pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    if isinstance(norm, nn.Identity):
        return  # folded before
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        # In double precision: the division by a small deviation is the one place where rounding would show.
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = (conv.weight.double() * gain[:, None, None, None]).to(conv.weight.dtype)
        bias = (norm.bias.double() - norm.running_mean.double() * gain).to(conv.weight.dtype)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(bias)
    setattr(parent, norm_name, nn.Identity())


def _upsamples(scale: int) -> int:
    if scale not in (1, 2, 4, 8, 16):
        raise InputError(f"srresnet enlarges by powers of two (1, 2, 4, 8, 16), not by {scale}")
    return scale.bit_length() - 1


def _matches(shapes: Shapes) -> bool:
    return "bn_body.weight" in shapes or "body.0.bn1.weight" in shapes


def _infer(shapes: Shapes) -> SRResNetSpec:
    features, channels = find_shape(shapes, "conv_first.weight", 4)[:2]
    return SRResNetSpec(
        architecture="srresnet",
        scale=2 ** count_doublings(shapes, "upsample."),
        channels=channels,
        features=features,
        blocks=count_numbered(shapes, "body."),
    )


ARCHITECTURE = Architecture(
    title="SRResNet (SRGAN)",
    spec=SRResNetSpec,
    build=SRResNet,
    infer=_infer,
    last_features=lambda _spec: "bn_body",
    layouts=(
        Layout("srresnet", "SRResNet of sr-deploy: body.N.bn1 and bn_body", _matches, keep_names),
        Layout(
            "srresnet-lornatang",
            "SRResNet of Lornatang's SRGAN-PyTorch: trunk.N.rcb and upsampling.N.upsample_block",
            lambda shapes: "trunk.0.rcb.0.weight" in shapes,
            rename_by(
                (r"^conv1\.0\.", "conv_first."),
                (r"^conv1\.1\.", "prelu."),
                (r"^trunk\.(\d+)\.rcb\.0\.", r"body.\1.conv1."),
                (r"^trunk\.(\d+)\.rcb\.1\.", r"body.\1.bn1."),
                (r"^trunk\.(\d+)\.rcb\.2\.", r"body.\1.prelu."),
                (r"^trunk\.(\d+)\.rcb\.3\.", r"body.\1.conv2."),
                (r"^trunk\.(\d+)\.rcb\.4\.", r"body.\1.bn2."),
                (r"^conv2\.0\.", "conv_body."),
                (r"^conv2\.1\.", "bn_body."),
                (r"^upsampling\.(\d+)\.upsample_block\.0\.", r"upsample.\1.conv."),
                (r"^upsampling\.(\d+)\.upsample_block\.2\.", r"upsample.\1.prelu."),
                (r"^conv3\.", "conv_last."),
            ),
        ),
    ),
)

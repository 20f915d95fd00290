"""The discriminator of ESRGAN, in the style of VGG: for patches of 128 pixels, or of 256 with one more stage.

Its keys are those of BasicSR's VGGStyleDiscriminator. Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sr_deploy.arch.discriminators.srgan import check_patch

VGG_STAGES = {"vgg128": 5, "vgg256": 6}
"""How often each one halves the sides."""
VGG_WIDEST = 8
"""Channels of the last stages, in those of the first."""
_SLOPE = 0.2
_HIDDEN = 100


class VggStyleDiscriminator(nn.Module):
    """Stages of a 3 x 3 and a halving 4 x 4 convolution, all but the very first normalized; two dense layers."""

    def __init__(self, channels: int, features: int, patch_size: int, stages: int) -> None:
        """Build it for square patches of one size.

        Args:
            channels: of the images.
            features: channels of the first stage; they double up to the fourth.
            patch_size: side of the patches, a multiple of 2^stages.
            stages: 5 (ESRGAN) or 6.
        """
        super().__init__()
        self.patch_size = patch_size
        self.stages = stages
        before = channels
        for stage in range(stages):
            width = features * min(2**stage, VGG_WIDEST)
            self.add_module(f"conv{stage}_0", nn.Conv2d(before, width, 3, padding=1, bias=stage == 0))
            if stage > 0:
                self.add_module(f"bn{stage}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{stage}_1", nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{stage}_1", nn.BatchNorm2d(width))
            before = width
        self.linear1 = nn.Linear(before * (patch_size // 2**stages) ** 2, _HIDDEN)
        self.linear2 = nn.Linear(_HIDDEN, 1)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits N x 1 of images in [0, 1].

        Raises:
            ShapeError: the images have another size than the patches that it was built for.
        """
        check_patch(images_NCHW, self.patch_size)
        x_NCHW = images_NCHW
        for stage in range(self.stages):
            x_NCHW = self.get_submodule(f"conv{stage}_0")(x_NCHW)
            if stage > 0:
                x_NCHW = self.get_submodule(f"bn{stage}_0")(x_NCHW)
            x_NCHW = self.get_submodule(f"conv{stage}_1")(F.leaky_relu(x_NCHW, _SLOPE))
            x_NCHW = F.leaky_relu(self.get_submodule(f"bn{stage}_1")(x_NCHW), _SLOPE)
        hidden = F.leaky_relu(self.linear1(x_NCHW.flatten(1)), _SLOPE)
        logits: torch.Tensor = self.linear2(hidden)
        return logits

"""The discriminator of SRGAN (Ledig et al. 2017, figure 4): eight convolutions and one verdict.

Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sr_deploy.errors import ShapeError

SRGAN_MULTIPLE = 16
"""Sides of its patches must be multiples of this."""
_SLOPE = 0.2
_CONVOLUTIONS = 8
_HIDDEN = 1024


class SrganDiscriminator(nn.Module):
    """Convolutions of 3 x 3, every second one halving the sides, all but the first normalized; two dense layers."""

    def __init__(self, channels: int, features: int, patch_size: int) -> None:
        """Build it for square patches of one size.

        Args:
            channels: of the images.
            features: channels after the first convolution; they double three times.
            patch_size: side of the patches, a multiple of 16.
        """
        super().__init__()
        self.patch_size = patch_size
        self.conv0 = nn.Conv2d(channels, features, 3, padding=1)
        before = features
        for number in range(1, _CONVOLUTIONS):
            width = features * 2 ** (number // 2)
            conv = nn.Conv2d(before, width, 3, stride=1 + number % 2, padding=1, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            before = width
        self.linear1 = nn.Linear(before * (patch_size // SRGAN_MULTIPLE) ** 2, _HIDDEN)
        self.linear2 = nn.Linear(_HIDDEN, 1)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits N x 1 of images in [0, 1].

        Raises:
            ShapeError: the images have another size than the patches that it was built for.
        """
        check_patch(images_NCHW, self.patch_size)
        x_NCHW = F.leaky_relu(self.conv0(images_NCHW), _SLOPE)
        for number in range(1, _CONVOLUTIONS):
            x_NCHW = self.get_submodule(f"conv{number}")(x_NCHW)
            x_NCHW = F.leaky_relu(self.get_submodule(f"bn{number}")(x_NCHW), _SLOPE)
        hidden = F.leaky_relu(self.linear1(x_NCHW.flatten(1)), _SLOPE)
        logits: torch.Tensor = self.linear2(hidden)
        return logits


def check_patch(images_NCHW: torch.Tensor, patch_size: int) -> None:
    """Refuse images that dense layers were not built for.

    Raises:
        ShapeError: they have another size.
    """
    h, w = images_NCHW.shape[-2:]
    if (h, w) != (patch_size, patch_size):
        raise ShapeError(f"this discriminator judges patches of {patch_size}x{patch_size} pixels, not {h}x{w}")

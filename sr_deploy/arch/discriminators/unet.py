"""The discriminator of Real-ESRGAN (Wang et al. 2021, section 3.4): a U-Net that judges every pixel.

Its keys are those of BasicSR's UNetDiscriminatorSN. Shape suffixes: N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sr_deploy.errors import ShapeError

UNET_MULTIPLE = 8
"""Sides of its images must be multiples of this."""
_SLOPE = 0.2


class UNetDiscriminator(nn.Module):
    """Three halvings, three bilinear doublings with skips added, and three convolutions; no normalization of features.

    The weights of the eight inner convolutions are divided by their largest singular value (spectral normalization,
    Miyato et al. 2018), which one power iteration for each call in training mode follows.
    """

    def __init__(self, channels: int, features: int, *, spectral: bool) -> None:
        """Build it for images of any size.

        Args:
            channels: of the images.
            features: channels at full resolution; they double with each halving.
            spectral: whether weights are normalized.
        """
        super().__init__()
        self.conv0 = nn.Conv2d(channels, features, 3, padding=1)
        self.conv1 = _make_conv(features, features * 2, 4, spectral=spectral)
        self.conv2 = _make_conv(features * 2, features * 4, 4, spectral=spectral)
        self.conv3 = _make_conv(features * 4, features * 8, 4, spectral=spectral)
        self.conv4 = _make_conv(features * 8, features * 4, 3, spectral=spectral)
        self.conv5 = _make_conv(features * 4, features * 2, 3, spectral=spectral)
        self.conv6 = _make_conv(features * 2, features, 3, spectral=spectral)
        self.conv7 = _make_conv(features, features, 3, spectral=spectral)
        self.conv8 = _make_conv(features, features, 3, spectral=spectral)
        self.conv9 = nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits N x 1 x H x W of images in [0, 1].

        Raises:
            ShapeError: a side is not a multiple of 8.
        """
        h, w = images_NCHW.shape[-2:]
        if h % UNET_MULTIPLE or w % UNET_MULTIPLE:
            raise ShapeError(f"this discriminator takes sides that are multiples of {UNET_MULTIPLE}, not {h}x{w}")
        full = F.leaky_relu(self.conv0(images_NCHW), _SLOPE)
        half = F.leaky_relu(self.conv1(full), _SLOPE)
        quarter = F.leaky_relu(self.conv2(half), _SLOPE)
        eighth = F.leaky_relu(self.conv3(quarter), _SLOPE)
        quarter = F.leaky_relu(self.conv4(_double(eighth)), _SLOPE) + quarter
        half = F.leaky_relu(self.conv5(_double(quarter)), _SLOPE) + half
        full = F.leaky_relu(self.conv6(_double(half)), _SLOPE) + full
        full = F.leaky_relu(self.conv7(full), _SLOPE)
        full = F.leaky_relu(self.conv8(full), _SLOPE)
        logits_NCHW: torch.Tensor = self.conv9(full)
        return logits_NCHW


class _Convolution(nn.Conv2d):
    """A convolution that takes its weight in FP32 under autocast too.

    Half precision would make the norm, and what the power iteration follows, coarse.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve N x C x H x W, in the precision of the caller."""
        with torch.autocast(input.device.type, enabled=False):
            weight = self.weight
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


def _make_conv(in_channels: int, out_channels: int, kernel: int, *, spectral: bool) -> nn.Module:
    """Of 3 x 3 at one size, or of 4 x 4 halving it, without bias."""
    conv = _Convolution(in_channels, out_channels, kernel, stride=2 if kernel == 4 else 1, padding=1, bias=False)
    return spectral_norm(conv) if spectral else conv


def _double(features_NCHW: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features_NCHW, scale_factor=2.0, mode="bilinear", align_corners=False)

"""Gaussian and Poisson noise, in color or alike in all channels, with a strength for each sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.measure.quality import LUMA_WEIGHTS
from sr_deploy.train.degradation.groups import map_groups
from sr_deploy.train.degradation.poisson import draw_poisson_noise


def add_gaussian_noise(
    images_NCHW: Tensor, sigma_N: NDArray[np.float64], gray_N: NDArray[np.bool_], generator: torch.Generator
) -> Tensor:
    """Images with noise, clipped to [0, 1].

    Args:
        images_NCHW: N x 3 x H x W, in [0, 1].
        sigma_N: standard deviations, in levels of 255.
        gray_N: whose noise is alike in all channels.
        generator: on the images' device.
    """

    def draw(images: Tensor, run: slice) -> Tensor:
        count, channels, height, width = images.shape
        noise = images.new_empty(count, 1 if gray_N[run.start] else channels, height, width)
        return noise.normal_(generator=generator)

    return _add(images_NCHW, map_groups(draw, images_NCHW, gray_N), sigma_N / 255)


def add_poisson_noise(
    images_NCHW: Tensor, scale_N: NDArray[np.float64], gray_N: NDArray[np.bool_], generator: torch.Generator
) -> Tensor:
    """Images with noise like that of counted photons, clipped to [0, 1].

    Noise is drawn for the image rounded to 8 bit, with as many photons for white as it has levels (rounded up to a
    power of two), and multiplied by the scale, as in Real-ESRGAN's code.

    Args:
        images_NCHW: N x 3 x H x W, in [0, 1].
        scale_N: factors.
        gray_N: whose noise is alike in all channels: that of their gray picture.
        generator: on the images' device.
    """

    def draw(images: Tensor, run: slice) -> Tensor:
        counted = images
        if gray_N[run.start]:
            red, green, blue = images[:, :, None].unbind(1)
            counted = (red * LUMA_WEIGHTS[0]).add_(green, alpha=LUMA_WEIGHTS[1]).add_(blue, alpha=LUMA_WEIGHTS[2])
        levels = (counted * 255).round_().clamp_(0.0, 255.0)
        return draw_poisson_noise(levels, generator)

    return _add(images_NCHW, map_groups(draw, images_NCHW, gray_N), scale_N)


def _add(images_NCHW: Tensor, noise: Tensor, strength_N: NDArray[np.float64]) -> Tensor:
    """Clipped to [0, 1]; the noise has one channel or all."""
    strength = torch.from_numpy(strength_N.astype(np.float32)).to(noise.device).view(-1, 1, 1, 1)
    return torch.addcmul(images_NCHW, noise, strength).clamp_(0.0, 1.0)

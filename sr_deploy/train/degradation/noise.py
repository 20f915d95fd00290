"""Gaussian and Poisson noise, in colour or alike in all channels, with a strength for each sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.train.degradation.poisson import draw_poisson_noise

_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
    noise = torch.empty_like(images_NCHW).normal_(generator=generator)
    gray = _places(gray_N, images_NCHW.device)
    if len(gray):
        noise[gray] = noise[gray, :1].expand(-1, 3, -1, -1)
    return noise.mul_(_factors(sigma_N / 255, images_NCHW)).add_(images_NCHW).clamp_(0.0, 1.0)


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
    noise = torch.empty_like(images_NCHW)
    colour, gray = _places(~gray_N, images_NCHW.device), _places(gray_N, images_NCHW.device)
    if len(colour):
        noise[colour] = draw_poisson_noise(_to_levels(images_NCHW[colour]), generator)
    if len(gray):
        red, green, blue = images_NCHW[gray][:, :, None].unbind(1)
        luma = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
        noise[gray] = draw_poisson_noise(_to_levels(luma), generator).expand(-1, 3, -1, -1)
    return noise.mul_(_factors(scale_N, images_NCHW)).add_(images_NCHW).clamp_(0.0, 1.0)


def _to_levels(images_NCHW: Tensor) -> Tensor:
    return (images_NCHW * 255).round_().clamp_(0.0, 255.0)


def _places(chosen_N: NDArray[np.bool_], device: torch.device) -> Tensor:
    # Found on the host: asking a GPU for them would wait for all of its work.
    return torch.from_numpy(np.flatnonzero(chosen_N)).to(device)


def _factors(values_N: NDArray[np.float64], images_NCHW: Tensor) -> Tensor:
    return torch.from_numpy(values_N.astype(np.float32)).to(images_NCHW.device).view(-1, 1, 1, 1)

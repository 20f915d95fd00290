"""Unsharp masking of the originals, as Real-ESRGAN+ does it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sr_deploy.train.degradation.filters import reflected_positions
from sr_deploy.train.degradation.taps import Taps, apply_taps
from sr_deploy.train.recipe.degradation import SharpenRecipe


def sharpen(images_NCHW: Tensor, recipe: SharpenRecipe) -> Tensor:
    """Add what a wide Gaussian takes away, where that is more than the threshold.

    The mask of those places is blurred by the same Gaussian, so that it has no edges. Borders are reflected.

    Args:
        images_NCHW: float32, in [0, 1].
        recipe: strength, radius, threshold.

    Returns:
        The same shape, in [0, 1].
    """
    height, width = images_NCHW.shape[2:]
    side = recipe.radius + (recipe.radius + 1) % 2
    rows, columns = (_find_taps(length, side, images_NCHW.device) for length in (height, width))

    def blur(picture: Tensor) -> Tensor:
        return apply_taps(picture, rows, columns)

    residual = images_NCHW - blur(images_NCHW)
    mask = blur((residual.abs() * 255 > recipe.threshold).float())
    sharp = (images_NCHW + recipe.weight * residual).clamp_(0.0, 1.0)
    return torch.lerp(images_NCHW, sharp, mask).clamp_(0.0, 1.0)


def gaussian_width(side: int) -> float:
    """Sigma of a Gaussian of `side` pixels, by OpenCV's rule for kernels without one: 8.0 for 51."""
    return 0.3 * ((side - 1) / 2 - 1) + 0.8


@lru_cache(maxsize=16)
def _find_taps(length: int, side: int, device: torch.device) -> Taps:
    """A Gaussian along one axis, its reflection at the borders included."""
    reach = side // 2
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (place / gaussian_width(side)) ** 2)
    sources = reflected_positions(length, reach, reach).unfold(0, side, 1)
    return Taps.make(sources, (weights / weights.sum()).float().expand(length, side), device)

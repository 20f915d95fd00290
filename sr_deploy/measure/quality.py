"""PSNR and SSIM by the protocol of the super-resolution papers.

`scale` pixels are cropped at each border. Y is BT.601 luma in 16..235, not rounded. SSIM (Wang et al. 2004) uses an
11 x 11 Gaussian window of sigma 1.5, only where it fits whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.config import Document
from sr_deploy.errors import ShapeError

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luma (ITU-R BT.601, section 2.5.1)."""
EQUAL_DB = 100.0
"""Stands for the infinite PSNR of equal pictures, as JSON has no infinity and a mean would be lost."""
_PEAK = 255.0
_WINDOW_RADIUS = 5
_WINDOW_SIGMA = 1.5
Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""Of two pictures of one shape, H x W x C, 8 bit: LPIPS, which needs a network."""
SSIM_WINDOW = 2 * _WINDOW_RADIUS + 1
"""Pixels along each side that SSIM needs at least."""
_C1 = (0.01 * _PEAK) ** 2
_C2 = (0.03 * _PEAK) ** 2


class Scores(Document):
    """How near a picture is to the ground truth."""

    psnr_y: float
    """On luma, in dB, at most `EQUAL_DB`: what papers report."""
    ssim_y: float
    """On luma, at most 1."""
    psnr_rgb: float
    """Over all channels together, in dB, at most `EQUAL_DB`; about 2 dB below `psnr_y`."""
    ssim_rgb: float
    """Mean of the channels' SSIM, at most 1."""


class ImageScores(Scores):
    """Quality of one enlarged picture, or the mean of many. `scale` pixels are left out at each border throughout."""

    niqe: float | None = None
    """Lower is better; None: not asked for, or the picture is too small or too flat; a mean leaves such ones out."""
    lpips: float | None = None
    """Lower is better; None: not asked for."""


def score_pair(sr: NDArray[np.unsignedinteger[Any]], hr: NDArray[np.unsignedinteger[Any]], scale: int) -> Scores:
    """Compare an upscaled picture with the ground truth.

    Args:
        sr: H x W x C, 8 or 16 bit, C = 3 (RGB) or 1 (gray, where luma is taken as of R = G = B).
        hr: the same shape; 16 bit are compared at their depth, in units of 8 bit.
        scale: pixels cropped at each border; the factor of the upscaling by the papers' protocol.

    Raises:
        ShapeError: shapes differ, or less than 11 pixels of a side are left after cropping.
    """
    if sr.shape != hr.shape or sr.ndim != 3 or sr.shape[2] not in (1, 3):
        raise ShapeError(
            f"cannot compare {_describe_shape(sr)} with {_describe_shape(hr)}: both must be H x W x C of one shape, "
            "with C = 1 or 3"
        )
    if min(sr.shape[:2]) < SSIM_WINDOW + 2 * scale:
        raise ShapeError(
            f"a {sr.shape[0]}x{sr.shape[1]} picture (HxW) is too small to score at x{scale}: "
            f"sides of at least {SSIM_WINDOW + 2 * scale} are needed"
        )
    inner = slice(scale, -scale or None)
    sr_inner, hr_inner = (
        image[inner, inner].astype(np.float64) / (np.iinfo(image.dtype).max / _PEAK) for image in (sr, hr)
    )
    sr_y, hr_y = luma(sr_inner), luma(hr_inner)
    channels = range(sr.shape[2])
    return Scores(
        psnr_y=min(psnr(float(np.mean((sr_y - hr_y) ** 2)), _PEAK), EQUAL_DB),
        ssim_y=ssim(sr_y, hr_y),
        psnr_rgb=min(psnr(float(np.mean((sr_inner - hr_inner) ** 2)), _PEAK), EQUAL_DB),
        ssim_rgb=float(np.mean([ssim(sr_inner[..., channel], hr_inner[..., channel]) for channel in channels])),
    )


def average_scores(scores: Sequence[ImageScores]) -> ImageScores:
    """The mean of each figure; of NIQE and LPIPS over the pictures that have them."""
    columns = {name: [getattr(one, name) for one in scores] for name in ImageScores.model_fields}
    return ImageScores(**{name: mean_of(values) for name, values in columns.items()})


def mean_of(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None if none is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def luma(image: NDArray[np.float64] | NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 luma.

    Args:
        image: H x W x C, values in 0..255, C = 3 (RGB) or 1 (gray, taken as R = G = B).

    Returns:
        H x W in 16..235, not rounded.
    """
    weights = np.array(LUMA_WEIGHTS) * 219 / _PEAK
    if image.shape[2] == 1:
        weights = weights.sum(keepdims=True)
    plane: NDArray[np.float64] = image.astype(np.float64) @ weights
    return 16 + plane


def psnr(mean_square: float, peak: float = 1.0) -> float:
    """PSNR in dB of a mean squared error; `inf` if that is 0.

    Args:
        mean_square: at least 0, in units of `peak` squared.
        peak: largest value of a sample: 1, or 255 for 8 bit.
    """
    return math.inf if mean_square == 0 else float(-10 * np.log10(mean_square / peak**2))


def ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """SSIM of two planes, H x W in 0..255, each side of at least `SSIM_WINDOW` pixels."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a**2
    variance_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    )
    return float(similarity.mean())


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means, only where the window fits whole."""
    from scipy.ndimage import gaussian_filter

    valid = slice(_WINDOW_RADIUS, -_WINDOW_RADIUS)
    blurred: NDArray[np.float64] = gaussian_filter(plane, _WINDOW_SIGMA, radius=_WINDOW_RADIUS)[valid, valid]
    return blurred


def _describe_shape(image: NDArray[np.unsignedinteger[Any]]) -> str:
    return " x ".join(map(str, image.shape)) or "a scalar"

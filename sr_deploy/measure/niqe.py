"""NIQE: how far a picture is from the statistics of pristine photographs, without a ground truth.

Mittal, Soundararajan, Bovik: Making a "Completely Blind" Image Quality Analyzer, 2013. Lower is better; it judges
texture, not faithfulness. The pristine model is a data file beside this module (`data/NOTICE` names its source).
Shapes: `_BP` is one row of P coefficients for each of B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.measure.quality import luma

_BLOCK = 96
_WINDOW_RADIUS = 3
_WINDOW_SIGMA = 7 / 6
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
# MATLAB's imresize by one half: Keys' cubic (a = -0.5) stretched by 2, at distances 0.25, 0.75, 1.25, 1.75.
_HALVING_TAPS = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GeneralizedGaussian:
    """Asymmetric generalized Gaussian distributions, one for each of B blocks (the paper's equation 4)."""

    shape: _Floats
    """Exponent alpha: 2 for a normal distribution, 1 for a Laplace one."""
    left: _Floats
    """Scale beta of the values below 0; sqrt(2) times the standard deviation for a normal distribution."""
    right: _Floats
    """Scale beta of the values above 0."""

    @property
    def mean(self) -> _Floats:
        """The paper's eta (equation 5)."""
        from scipy.special import gamma

        ratio: _Floats = gamma(2 / self.shape) / gamma(1 / self.shape)
        return (self.right - self.left) * ratio


def niqe(image: NDArray[np.uint8], crop_border: int = 0) -> float:
    """The score of one picture.

    Features of whole 96 x 96 blocks from the top left, at two scales, of rounded BT.601 luma. As in the program of the
    paper's authors what lies right of and below the last whole block does not count. Of the paper's selection of sharp
    blocks only the pristine model made use.

    Args:
        image: H x W x 3 (RGB) or 1 (gray), 8 bit.
        crop_border: pixels left out at each border first.

    Returns:
        A distance from 0 on, lower is better; photographs lie around 2 to 6.

    Raises:
        ShapeError: no such picture, fewer than two whole blocks, or no block with any texture.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or crop_border < 0:
        shape = " x ".join(map(str, image.shape)) or "a scalar"
        raise ShapeError(
            f"NIQE takes 8-bit pictures H x W x 3 or 1 and a border of 0 or more, not {shape} of {image.dtype} "
            f"with a border of {crop_border}"
        )
    inner = slice(crop_border, -crop_border or None)
    plane = np.rint(luma(image[inner, inner]))
    rows, columns = (length // _BLOCK for length in plane.shape)
    if rows * columns < 2:
        edge = 2 * crop_border
        raise ShapeError(
            f"a {image.shape[0]}x{image.shape[1]} picture (HxW) is too small for NIQE: it needs two blocks of "
            f"{_BLOCK}x{_BLOCK}, so at least {_BLOCK + edge}x{2 * _BLOCK + edge} or {2 * _BLOCK + edge}x{_BLOCK + edge}"
        )
    plane = plane[: rows * _BLOCK, : columns * _BLOCK]
    features = np.concatenate(
        [_features(_normalize(plane), _BLOCK), _features(_normalize(halve_plane(plane)), _BLOCK // 2)], axis=1
    )
    return _distance(features)


def try_niqe(image: NDArray[np.uint8], crop_border: int) -> float | None:
    """As `niqe`; None of a picture that is too small or too flat."""
    try:
        return niqe(image, crop_border)
    except ShapeError:
        return None


def fit_generalized_gaussian(values_BP: _Floats) -> GeneralizedGaussian:
    """Fit a distribution to each row by matching moments (Lasmar et al. 2009; the paper's section II.C).

    Args:
        values_BP: rows without values on one side of 0 give NaN.
    """
    from scipy.special import gamma

    with np.errstate(divide="ignore", invalid="ignore"):
        negative, positive = values_BP < 0, values_BP > 0
        squares = values_BP**2
        left = np.sqrt((squares * negative).sum(axis=1) / negative.sum(axis=1))
        right = np.sqrt((squares * positive).sum(axis=1) / positive.sum(axis=1))
        skew = left / right
        moment_ratio = np.abs(values_BP).mean(axis=1) ** 2 / squares.mean(axis=1)
        wanted = moment_ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _moment_ratios()
    nearest = np.abs(ratios[None] - wanted[:, None]).argmin(axis=1)
    shape = np.where(np.isfinite(wanted), shapes[nearest], np.nan)
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return GeneralizedGaussian(shape, left * spread, right * spread)


def halve_plane(plane: _Floats) -> _Floats:
    """Shrink by 2 as MATLAB's imresize does: bicubic, antialiased, mirrored at the borders, not rounded.

    Args:
        plane: H x W; an odd last row or column is left out.
    """
    from scipy.ndimage import correlate1d

    for axis in (0, 1):
        # Eight taps: with this origin the result at 2 * k lies in the middle of inputs 2 * k and 2 * k + 1.
        filtered: _Floats = correlate1d(plane, _HALVING_TAPS, axis=axis, mode="reflect", origin=-1)
        count = plane.shape[axis] // 2 * 2
        plane = filtered[:count:2] if axis == 0 else filtered[:, :count:2]
    return plane


def _normalize(plane: _Floats) -> _Floats:
    """Mean subtracted, contrast normalized coefficients (the paper's equation 1)."""
    from scipy.ndimage import gaussian_filter

    mean: _Floats = gaussian_filter(plane, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, mode="nearest")
    power: _Floats = gaussian_filter(plane**2, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, mode="nearest")
    deviation: _Floats = np.sqrt(np.abs(power - mean**2))
    return (plane - mean) / (deviation + 1)


def _features(plane: _Floats, side: int) -> _Floats:
    """18 numbers of each block: of the coefficients, and of their products with four neighbors (B x 18)."""
    height, width = plane.shape
    blocks = plane.reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3).reshape(-1, side, side)
    fit = fit_generalized_gaussian(blocks.reshape(len(blocks), -1))
    columns = [fit.shape, (fit.left + fit.right) / 2]
    for shift in _NEIGHBORS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        fit = fit_generalized_gaussian(products.reshape(len(blocks), -1))
        columns += [fit.shape, fit.mean, fit.left, fit.right]
    return np.stack(columns, axis=1)


def _distance(features: _Floats) -> float:
    """Between the Gaussian of the picture's features and that of pristine photographs (equation 10)."""
    whole = features[np.isfinite(features).all(axis=1)]
    if len(whole) < 2:
        raise ShapeError(
            f"NIQE needs two blocks of {_BLOCK}x{_BLOCK} with texture, and of {len(features)} blocks only "
            f"{len(whole)} are not flat; give another picture"
        )
    pristine_mean, pristine_covariance = _pristine_model()
    # A block that is flat at one scale still counts for the features that it has.
    columns = [column[np.isfinite(column)] for column in features.T]
    difference = pristine_mean - np.array([column.mean() for column in columns])
    pooled = (pristine_covariance + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


@cache
def _pristine_model() -> tuple[_Floats, _Floats]:
    with np.load(Path(__file__).with_name("data") / "niqe_pris_params.npz") as model:
        return model["mu_pris_param"][0], model["cov_pris_param"]


@cache
def _moment_ratios() -> tuple[_Floats, _Floats]:
    """Shapes from 0.2 to 10 and, for each, squared mean magnitude over mean square."""
    from scipy.special import gamma

    shapes: _Floats = np.arange(200, 10001) / 1000
    ratios: _Floats = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    return shapes, ratios

"""Colour under transparency: what a network may see of pixels that nobody sees."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.opening import Pixels


def bleed_colour(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Continue the visible colours under fully transparent pixels.

    Editors leave black or anything there. A network would draw it into the edge, as a dark halo. Visible pixels (alpha
    above 0) stay as they are; the others take the mean of the visible ones around them, by pull and push over halved
    pictures (Gortler and others, "The Lumigraph", 1996, section 3.4.2).

    Args:
        pixels: H x W x C.
        alpha: H x W, 0 is transparent.

    Returns:
        H x W x C, of the same type; `pixels` itself where all or nothing is transparent.

    Raises:
        ShapeError: the two do not have the same height and width.
    """
    if alpha.shape != pixels.shape[:2]:
        raise ShapeError(f"alpha is H x W like the picture, {pixels.shape[:2]}, not {alpha.shape}")
    seen = alpha > 0
    if seen.all() or not seen.any():
        return pixels
    filled = _fill(np.where(seen[..., None], pixels, 0).astype(np.float32), seen.astype(np.float32)[..., None])
    most = np.iinfo(pixels.dtype).max
    rounded = np.clip(np.rint(filled), 0, most).astype(pixels.dtype)
    return cast("Pixels", np.where(seen[..., None], pixels, rounded))


def _fill(colour: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of colour (given times weight) where the weight is above 0, those of coarser levels elsewhere."""
    known = weight > 0
    means = np.divide(colour, weight, out=np.zeros_like(colour), where=known)
    if known.all():
        return means
    coarse = _fill(_halve(colour), _halve(weight))
    height, width = weight.shape[:2]
    below = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width]
    return np.where(known, means, below)


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over squares of 2 x 2; an odd last row or column stands alone."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], 2), axis=0)
    return np.add.reduceat(rows, np.arange(0, rows.shape[1], 2), axis=1)

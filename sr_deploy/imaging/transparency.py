"""Color under transparency: what a network may see of pixels that nobody sees."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.opening import Pixels

_LEVELS = 5
"""How often `ColorBleeder` halves the picture that it holds."""


def bleed_color(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Continue the visible colors under fully transparent pixels.

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
    return _put_under(pixels, seen, _fill(*_weigh(pixels, seen)))


class ColorBleeder:
    """`bleed_color` for a picture that comes strip by strip, twice: `look` at all of it, then `bleed` it.

    In between it holds the picture as it is when shrunk by 32 along each side, a thousandth of its pixels.
    """

    def __init__(self) -> None:
        self._strips: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._below: NDArray[np.float32] | None = None
        self._any_seen = False

    def look(self, pixels: Pixels, alpha: Pixels) -> None:
        """Take the next strip into account, H x W x C and H x W; all but the last one have multiples of 32 rows."""
        seen = alpha > 0
        self._any_seen |= bool(seen.any())
        color, weight = _weigh(pixels, seen)
        for _ in range(_LEVELS):
            color, weight = _halve(color), _halve(weight)
        self._strips.append((color, weight))

    def bleed(self, pixels: Pixels, alpha: Pixels, top: int) -> Pixels:
        """As `bleed_color` of all of the picture, of a strip that begins at row `top`, a multiple of 32."""
        seen = alpha > 0
        if seen.all() or not self._any_seen:
            return pixels
        if self._below is None:
            colors, weights = zip(*self._strips, strict=True)
            self._below = _fill(np.concatenate(colors), np.concatenate(weights))
        first, count = top >> _LEVELS, -(-len(pixels) >> _LEVELS)
        below = self._below[first : first + count]
        return _put_under(pixels, seen, _fill(*_weigh(pixels, seen), below))


def _weigh(pixels: Pixels, seen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colors where they are seen and 0 elsewhere; 1 where they are seen, H x W x 1."""
    return np.where(seen[..., None], pixels, 0).astype(np.float32), seen.astype(np.float32)[..., None]


def _put_under(pixels: Pixels, seen: NDArray[np.bool_], filled: NDArray[np.float32]) -> Pixels:
    rounded = np.clip(np.rint(filled), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return cast("Pixels", np.where(seen[..., None], pixels, rounded))


def _fill(
    color: NDArray[np.float32],
    weight: NDArray[np.float32],
    below: NDArray[np.float32] | None = None,
    levels: int = _LEVELS,
) -> NDArray[np.float32]:
    """Means of color (given times weight) where the weight is above 0, those of coarser levels elsewhere.

    Args:
        color: H x W x C.
        weight: H x W x 1.
        below: what is to stand so many levels further down, where a strip alone does not tell.
        levels: see `below`.
    """
    if below is not None and not levels:
        return below
    known = weight > 0
    means = np.divide(color, weight, out=np.zeros_like(color), where=known)
    if known.all():
        return means
    coarse = _fill(_halve(color), _halve(weight), below, levels - 1)
    height, width = weight.shape[:2]
    spread = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width]
    return np.where(known, means, spread)


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over squares of 2 x 2; an odd last row or column stands alone."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], 2), axis=0)
    return np.add.reduceat(rows, np.arange(0, rows.shape[1], 2), axis=1)

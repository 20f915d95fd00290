"""Whether what a network gave is a picture of what it was given. The limits are far from what sound networks do.

docs/tiles.md has what realesr-animevideov3 does with photographs, text, noise, flat colors and edges: worst is pure
black and white noise, which it takes to values 1.3 beyond the range, and a checkerboard, whose mean moves by 0.14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

CELL = 16
"""Side, in low-resolution pixels, of the squares whose mean colors are compared. Smaller ones would compare detail,
which a network may change."""


@dataclass(frozen=True)
class GuardLimits:
    """What is let through. Values are in units of the [0, 1] range."""

    overshoot: float = 8.0
    """How far a sample may lie below 0 or above 1. Sharpening overshoots by tenths, or by one on noise; sums that
    overflow and weights that were damaged give tens and more."""
    contrast: float = 0.02
    """Standard deviation of an input that cannot become one flat color; noise below it may be smoothed away."""
    flatness: float = 0.5 / 255
    """Range of each channel up to which a result is one flat color: half a step of 8 bit."""
    drift: float = 0.35
    """How far the mean color of a square of 16 input pixels may move in any channel."""


DEFAULT_LIMITS = GuardLimits()
FINITE_ONLY = GuardLimits(overshoot=math.inf, contrast=math.inf, drift=math.inf)
"""For callers that check images by other means: only NaN and infinite values are refused."""


@dataclass(frozen=True)
class Statistics:
    """What is looked at of an input or a result."""

    low: NDArray[np.float32]
    """Smallest value of each channel."""
    high: NDArray[np.float32]
    """Greatest value of each channel."""
    means: NDArray[np.float32]
    """Mean of each cell, C x rows x columns."""


def measure_statistics(image_NCHW: NDArray[np.float32], scale: int = 1) -> Statistics:
    """Look at a batch of one; `scale`: its pixels per low-resolution pixel along a side."""
    planes = image_NCHW[0]
    lows, highs, means = [], [], []
    with np.errstate(all="ignore"):  # values that are not finite are found by low and high
        for top, bottom in pairwise(cell_edges(planes.shape[1], scale)):
            cells = planes[
                :, top:bottom
            ]  # one row of them after the other, so that each stays in the processor's cache
            lows.append(cells.min(axis=(1, 2)))
            highs.append(cells.max(axis=(1, 2)))
            means.append(cells.mean(axis=1))
        # No matrix product: NumPy's would wake a thread for each core, which go on spinning beside the network.
        edges = np.asarray(cell_edges(planes.shape[2], scale))
        cell_means: NDArray[np.float32] = np.add.reduceat(np.stack(means, axis=1), edges[:-1], axis=2)
        cell_means /= np.diff(edges).astype(np.float32)
        return Statistics(low=np.min(lows, axis=0), high=np.max(highs, axis=0), means=cell_means)


def cell_edges(length: int, scale: int) -> list[int]:
    """Where the cells of a line begin, and where the last one ends; they are at least `CELL` wide where that fits."""
    count = max(length // scale // CELL, 1)
    return [index * (length // scale) // count * scale for index in range(count)] + [length]


@lru_cache(maxsize=32)
def cell_weights(length: int, scale: int) -> NDArray[np.float32]:
    """The matrix cells x length that averages each cell of a line."""
    edges = cell_edges(length, scale)
    weights = np.zeros((len(edges) - 1, length), np.float32)
    for row, (start, stop) in zip(weights, pairwise(edges), strict=True):
        row[start:stop] = 1 / (stop - start)
    return weights


def find_problem(lr_NCHW: NDArray[np.float32], lr: Statistics, sr: Statistics, limits: GuardLimits) -> str | None:
    """What is wrong with a result, as the end of a sentence that begins with "gave"; None if nothing is.

    Args:
        lr_NCHW: the input, without what lies outside the part of the result that is used.
        lr: of the input.
        sr: of the result, cells as those of the input.
        limits: what is let through.
    """
    low, high = float(sr.low.min()), float(sr.high.max())  # NaN goes through min and max
    if not (np.isfinite(low) and np.isfinite(high)):
        return "values that are not finite"
    if low < -limits.overshoot or high > 1 + limits.overshoot:
        return f"values from {low:.3g} to {high:.3g} ({-limits.overshoot:g} to {1 + limits.overshoot:g} is let through)"
    drift = float(np.abs(np.clip(sr.means, 0, 1) - lr.means).max())
    if drift > limits.drift:
        return f"colors {drift:.2f} away from the input's (up to {limits.drift:g} is let through)"
    if float((sr.high - sr.low).max()) <= limits.flatness and float(lr_NCHW.std(axis=(2, 3)).max()) > limits.contrast:
        return "one flat color for an input that is none"
    return None

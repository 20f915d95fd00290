"""How far a feature map reaches: a running maximum, or a histogram of fixed size that widens as it has to.

Each takes one batch of values after the other and keeps no values, so memory does not depend on how many there are.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sr_deploy.export.int8.formats import FORMATS, NumberFormat
from sr_deploy.export.int8.quantization_options import Int8Options

BINS = 4096
_MAX_VALUES = 2**19
"""About as many values of a feature map are counted; an odd stride meets all columns of pictures in turn."""
_CLIPS = 100
"""Clips that `mse` tries, up to the greatest magnitude."""


class Range(Protocol):
    """What is known of the magnitudes of one tensor."""

    def add(self, values: NDArray[np.float32]) -> None:
        """Take values in, any shape."""

    def limit(self) -> float:
        """The magnitude that the greatest quantized number stands for."""


class MaximumRange:
    """The greatest magnitude seen."""

    def __init__(self) -> None:
        self._greatest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take values in, any shape."""
        self._greatest = max(self._greatest, float(np.abs(values).max(initial=0.0)))

    def limit(self) -> float:
        """The greatest magnitude."""
        return self._greatest


class Histogram:
    """Counts of magnitudes in `BINS` bins of equal width, from 0 on.

    A magnitude beyond the last bin doubles the width until it fits; neighboring counts are then added, so nothing is
    lost but sharpness.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        """Of a bin; 0 until a value other than 0 was seen."""
        self.greatest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take values in, any shape; of very many, every so many-th."""
        flat = values.ravel()
        magnitudes = np.abs(flat[:: -(-flat.size // _MAX_VALUES) | 1], dtype=np.float32)
        greatest = float(magnitudes.max(initial=0.0))
        if greatest == 0:
            self.counts[0] += magnitudes.size
            return
        self.greatest = max(self.greatest, greatest)
        if self.width == 0:
            self.width = greatest / (BINS - 1)
        while greatest >= self.width * BINS:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2
        bins = np.minimum(magnitudes / np.float32(self.width), BINS - 1).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def percentile(self, percent: float) -> float:
        """The upper edge of the first bin that, with those before it, holds that share of the magnitudes."""
        total = int(self.counts.sum())
        if not total or self.width == 0:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), percent / 100 * total))
        return min((place + 1) * self.width, self.greatest)

    def best_clip(self, numbers: NumberFormat) -> float:
        """The limit with the least squared error between values and their quantized form, values at bins' centers."""
        if self.width == 0:
            return 0.0
        centers = (np.arange(BINS) + 0.5) * self.width
        filled = self.counts > 0
        centers, counts = centers[filled], self.counts[filled].astype(np.float64)
        limits = self.greatest * np.linspace(1 / _CLIPS, 1, _CLIPS)
        errors = []
        for limit in limits:
            step = limit / numbers.largest
            rounded = numbers.round(centers / step).astype(np.float64) * step
            errors.append(float((counts * (centers - rounded) ** 2).sum()))
        return float(limits[int(np.argmin(errors))])


class PercentileRange(Histogram):
    """Clips what lies beyond a percentile."""

    def __init__(self, percent: float) -> None:
        super().__init__()
        self._percent = percent

    def limit(self) -> float:
        """The percentile."""
        return self.percentile(self._percent)


class LeastErrorRange(Histogram):
    """Clips where the squared error is least."""

    def __init__(self, numbers: NumberFormat) -> None:
        super().__init__()
        self._numbers = numbers

    def limit(self) -> float:
        """The clip with the least squared error."""
        return self.best_clip(self._numbers)


def make_range(options: Int8Options) -> Range:
    """An empty range of the method that was asked for."""
    if options.method == "max":
        return MaximumRange()
    if options.method == "mse":
        return LeastErrorRange(FORMATS[options.format])
    return PercentileRange(options.percentile)

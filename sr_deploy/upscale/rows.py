"""The rows of a picture, from top to bottom: those that tiles still need are held, the others forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import numpy as np

from sr_deploy.imaging.opening import Pixels


class InputRows:
    """A picture to upscale, of which no more than a row of tiles needs to be in memory."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[np.generic], strips: Iterator[Pixels]) -> None:
        """Begin at the top.

        Args:
            shape: H x W x C.
            dtype: 8 or 16 bit without sign.
            strips: all rows in order, some at a time, n x W x C.
        """
        self.height, self.width, self.channels = shape
        self._strips = strips
        self.held = cast("Pixels", np.empty((0, self.width, self.channels), dtype))
        """The rows at hand."""
        self.first = 0
        """Number of the first of them."""

    @classmethod
    def of_image(cls, image: Pixels) -> Self:
        """All rows of a picture that is in memory, H x W x C."""
        height, width, channels = image.shape
        rows = cls((height, width, channels), image.dtype, iter(()))
        rows.held = image
        return rows

    def hold(self, start: int, stop: int) -> None:
        """Have rows `start` to `stop` at hand, as far as the picture goes; those before `start` will not come back."""
        if start > self.first:
            self.held = self.held[start - self.first :]
            self.first = start
        missing = min(stop, self.height) - self.first - len(self.held)
        parts = [self.held]
        while missing > 0:
            parts.append(next(self._strips))
            missing -= len(parts[-1])
        if len(parts) > 1:
            self.held = cast("Pixels", np.concatenate(parts))

"""Between the samples of pictures and what runners take and give, tile by tile, on the host."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.guards import Statistics, measure_statistics

_STRIP = 64  # rows that are converted at a time: they stay in the processor's cache
_ROUNDER = np.float32(1.5 * 2**23)
"""Added to a number below 2^22 it leaves the nearest integer (ties to even) in the low bits, for a float32 of this
size has no bits for fractions. One pass in place of two: to round, and to convert."""


def require_samples(spec: RunnerSpec, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Refuse samples that are no picture for a runner.

    Raises:
        ShapeError: another number of axes or channels, another type, no pixel, or 16 bit for an 8-bit I/O type.
    """
    if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] not in (1, spec.channels):
        channels = "3 (or 1: gray)" if spec.channels == 3 else str(spec.channels)
        told = " x ".join(map(str, shape)) or "no axes"
        raise ShapeError(f"{spec} takes 8- and 16-bit pictures H x W x {channels}, not {told} of {dtype}")
    if min(shape) < 1:
        raise ShapeError(f"a picture needs at least one pixel, not {shape[1]}x{shape[0]}")
    if dtype == np.uint16 and spec.dtype == "uint8":
        raise ShapeError(
            f"{spec} takes 8 bit ({spec.artifact}) and would lose what a 16-bit picture has more; convert "
            "the picture, or export without --io-dtype uint8"
        )


class TileResult(Protocol):
    """What a runner gave for a window, wherever it lies."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def crop(self, rows: slice, columns: slice) -> TileResult:
        """A part of it."""
        ...

    def measure(self, scale: int) -> Statistics:
        """What the guards look at."""
        ...

    def read(self) -> NDArray[np.float32]:
        """1 x C x H x W on the host, not clamped."""
        ...

    def write(self, target: Pixels) -> None:
        """Round into a part of a picture, H x W x C, or x 1: the mean of the channels."""
        ...


def to_window(samples: Pixels, channels: int) -> NDArray[np.float32]:
    """1 x C x H x W in [0, 1]; one channel is repeated where three are due."""
    window = np.ascontiguousarray(samples.transpose(2, 0, 1)[None], dtype=np.float32)
    window /= np.float32(np.iinfo(samples.dtype).max)
    return window if samples.shape[2] == channels else np.repeat(window, channels, axis=1)


class HostResult:
    """A result in main memory."""

    def __init__(self, sr_NCHW: NDArray[np.float32]) -> None:
        """`sr_NCHW`: a batch of one, not clamped."""
        self._sr_NCHW = sr_NCHW

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._sr_NCHW.shape[2], self._sr_NCHW.shape[3]

    def crop(self, rows: slice, columns: slice) -> HostResult:
        """A part of it, a view."""
        return HostResult(self._sr_NCHW[:, :, rows, columns])

    def measure(self, scale: int) -> Statistics:
        """What the guards look at."""
        return measure_statistics(self._sr_NCHW, scale)

    def read(self) -> NDArray[np.float32]:
        """1 x C x H x W, not clamped."""
        return self._sr_NCHW

    def write(self, target: Pixels) -> None:
        """Clamp to [0, 1], scale to the type's highest number, round to the nearest (ties to even)."""
        highest = np.float32(np.iinfo(target.dtype).max)
        planes = self._sr_NCHW[0]
        for top in range(0, planes.shape[1], _STRIP):
            strip = planes[:, top : top + _STRIP]
            if target.shape[2] < strip.shape[0]:
                strip = strip.mean(axis=0, keepdims=True)
            values = np.empty(strip.shape, "<f4")  # low bits first, row after row, however `strip` lies
            np.clip(strip, 0, 1, out=values)
            values *= highest
            values += _ROUNDER
            integers = values.view(target.dtype)[..., :: values.itemsize // target.itemsize]
            for channel in range(target.shape[2]):  # faster than one transposed copy
                target[top : top + _STRIP, :, channel] = integers[channel]

"""Bicubic resizing as the papers use it: MATLAB's imresize, to the bit.

Keys' cubic with a = -0.5, widened by the scale when shrinking (antialiasing), replicated borders, the vertical pass
first. For scales 2, 4 and 8 all weights are multiples of a power of two, so every sum is exact and the result does not
depend on the order of summing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.convert import SampleT

_REACH = 2
"""Low-resolution pixels around a part that its own are computed from: as far as the cubic kernel reaches."""

_Pixels = NDArray[np.unsignedinteger[Any]] | NDArray[np.float64]


@dataclass(frozen=True)
class _Taps:
    """Weights of one pass. Output `phase + step * k` reads inputs `first[phase] + stride * k + tap`."""

    weights: NDArray[np.float64]
    """phases x taps; each row sums to 1."""
    first: tuple[int, ...]
    """For each phase, the input index of its first tap for the first output; may be negative."""
    stride: int
    """Inputs from one output to the next of the same phase."""


def downscale_bicubic(
    hr: NDArray[SampleT], scale: int, rows: range | None = None, columns: range | None = None
) -> NDArray[SampleT]:
    """Shrink by an integer with antialiasing: the low-resolution pictures of the papers' test sets, bit for bit.

    Each of the two passes rounds to the type of the picture, halves upwards, as imresize does. A part has the bits of
    that part of the whole, and costs as much as its share of the picture.

    Args:
        hr: H x W x C, 8 or 16 bit; H and W must be multiples of `scale` (crop first).
        scale: at least 1.
        rows: which rows of the result are wanted; None: all.
        columns: likewise.

    Returns:
        rows x columns x C, of the same type: of the whole (H / scale) x (W / scale) x C.

    Raises:
        ShapeError: not three axes, an empty side, or a side that is no multiple of `scale`.
    """
    _check(hr, scale)
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ShapeError(
            f"a {height}x{width} picture (HxW) cannot be shrunk by {scale}: crop both sides to multiples of {scale}"
        )
    taps = _shrinking_taps(scale)
    (top, bottom), kept_rows = _find_window(rows, height // scale)
    (left, right), kept_columns = _find_window(columns, width // scale)
    upright = _resize_height(hr[top * scale : bottom * scale, left * scale : right * scale], taps)
    return _round(_resize_width(_round(upright[kept_rows], hr.dtype), taps)[:, kept_columns], hr.dtype)


def shrink_bicubic(
    hr: NDArray[SampleT], size: tuple[int, int], rows: range | None = None, columns: range | None = None
) -> NDArray[SampleT]:
    """Shrink to any smaller size with antialiasing, each side by its own factor; rounds as `downscale_bicubic` does.

    Each pixel of the result depends on its place alone, so that a part has the bits of that part of the whole.

    Args:
        hr: H x W x C, 8 or 16 bit.
        size: height and width of the whole result, from 1 to those of `hr`.
        rows: which rows of the result are wanted; None: all.
        columns: likewise.

    Returns:
        rows x columns x C, of the same type.

    Raises:
        ShapeError: not three axes, an empty side, or a size that is not smaller.
    """
    _check(hr, 1)
    if not all(1 <= wanted <= side for wanted, side in zip(size, hr.shape[:2], strict=True)):
        raise ShapeError(
            f"a {hr.shape[0]}x{hr.shape[1]} picture (HxW) cannot be shrunk to {size[0]}x{size[1]}: give sides of at "
            "least 1 and no longer ones"
        )
    columns = columns if columns is not None else range(size[1])
    taken, weights = _find_taps(hr.shape[1], size[1], columns)
    left = int(taken.min())
    upright = _weigh_rows(
        hr[:, left : int(taken.max()) + 1],
        *_find_taps(hr.shape[0], size[0], rows if rows is not None else range(size[0])),
    )
    return np.ascontiguousarray(_weigh_rows(upright.transpose(1, 0, 2), taken - left, weights).transpose(1, 0, 2))


def upscale_bicubic(lr: NDArray[SampleT], scale: int) -> NDArray[SampleT]:
    """Enlarge by an integer: the bicubic row of the papers' tables.

    Rounded once, at the end: the published scores (Set14 x4: 26.09 dB, .7049) are those of floating-point input, and a
    rounding in between costs 0.0001 of SSIM.

    Args:
        lr: H x W x C, 8 or 16 bit.
        scale: at least 1.

    Returns:
        (H * scale) x (W * scale) x C, of the same type.

    Raises:
        ShapeError: not three axes or an empty side.
    """
    _check(lr, scale)
    taps = _enlarging_taps(scale)
    return _round(_resize_width(_resize_height(lr, taps), taps), lr.dtype)


def _check(image: NDArray[np.unsignedinteger[Any]], scale: int) -> None:
    if image.ndim != 3 or min(image.shape) < 1 or image.dtype not in (np.uint8, np.uint16):
        shape = " x ".join(map(str, image.shape)) or "no axes"
        raise ShapeError(
            f"resizing takes a picture H x W x C of 8 or 16 bit with no empty side, not {shape} of {image.dtype}"
        )
    if scale < 1:
        raise ShapeError(f"a scale is an integer from 1 on, not {scale}")


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel, a = -0.5 (Keys 1981, equation 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


@lru_cache(maxsize=16)
def _shrinking_taps(scale: int) -> _Taps:
    # Center of output 0 in input coordinates; the kernel spans 2 * scale inputs on either side of it.
    center = (scale - 1) / 2
    first = int(np.ceil(center - 2 * scale))
    positions = np.arange(first, int(np.floor(center + 2 * scale)) + 1)
    weights = _cubic((center - positions) / scale) / scale
    return _Taps(_normalize(weights[None]), (first,), scale)


@lru_cache(maxsize=16)
def _enlarging_taps(scale: int) -> _Taps:
    centers = (np.arange(scale) + 0.5) / scale - 0.5
    first = np.floor(centers).astype(int) - 1
    weights = _cubic(centers[:, None] - (first[:, None] + np.arange(4)))
    return _Taps(_normalize(weights), tuple(int(index) for index in first), 1)


def _find_window(outputs: range | None, length: int) -> tuple[tuple[int, int], slice]:
    """First and last of the outputs, of `length` in all, to compute for those that are wanted, and where these lie."""
    if outputs is None:
        return (0, length), slice(None)
    first = max(outputs.start - _REACH, 0)
    return (first, min(outputs.stop + _REACH, length)), slice(outputs.start - first, outputs.stop - first)


def _find_taps(length: int, wanted: int, outputs: range) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Inputs of each of these outputs, of `wanted` in all, and their weights: outputs x taps."""
    factor = length / wanted
    centers = (np.array(outputs) + 0.5) * factor - 0.5
    first = np.ceil(centers - 2 * factor)
    positions = first[:, None] + np.arange(int(4 * factor) + 1)
    weights = _normalize(_cubic((centers[:, None] - positions) / factor))
    return np.clip(positions, 0, length - 1).astype(np.intp), weights


def _weigh_rows(image: NDArray[SampleT], taken: NDArray[np.intp], weights: NDArray[np.float64]) -> NDArray[SampleT]:
    """Sums of rows, tap after tap: in that order on every machine."""
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    result = np.empty((len(taken), rows.shape[1]), image.dtype)
    total, product = np.empty((2, rows.shape[1]))
    for out in range(len(taken)):  # a row at a time stays in the cache
        total[:] = 0
        for row, weight in zip(taken[out], weights[out], strict=True):
            total += np.multiply(rows[row], weight, out=product)
        result[out] = _round(total, image.dtype)
    return result.reshape(len(taken), *image.shape[1:])


def _normalize(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = weights.sum(axis=1, keepdims=True)
    return weights / total


def _resize_width(image: _Pixels, taps: _Taps) -> NDArray[np.float64]:
    turned: _Pixels = np.ascontiguousarray(image.transpose(1, 0, 2))  # type: ignore[assignment]
    return np.ascontiguousarray(_resize_height(turned, taps).transpose(1, 0, 2))


def _resize_height(image: _Pixels, taps: _Taps) -> NDArray[np.float64]:
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    phases, reach = taps.weights.shape
    count = height // taps.stride
    before = max(0, -min(taps.first))
    after = max(0, max(taps.first) + (count - 1) * taps.stride + reach - height)
    padded = np.pad(rows, ((before, after), (0, 0)), mode="edge")
    result = np.zeros((count, phases, rows.shape[1]))
    for phase in range(phases):
        start = before + taps.first[phase]
        for tap in range(reach):
            result[:, phase] += taps.weights[phase, tap] * padded[start + tap :: taps.stride][:count]
    return result.reshape(count * phases, width, channels)


def _round(values: NDArray[np.float64], dtype: np.dtype[SampleT]) -> NDArray[SampleT]:
    """Halves upwards, in place until the cast, which cuts."""
    values += 0.5
    np.clip(values, 0, np.iinfo(dtype).max, out=values)
    return values.astype(dtype)

"""Between what `infer` takes and gives (float32, N x C x H x W in [0, 1]) and a graph's own I/O type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.graph.io_dtype import HIGHEST, Dtype
from sr_deploy.measure.compare import Comparison, compare_outputs


def encode_input(lr_NCHW: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """What a graph with an input of `dtype` is given: as it is, in FP16, or N x H x W x C integers, rounded."""
    if dtype == "float32":
        return lr_NCHW
    if dtype == "float16":
        return lr_NCHW.astype(np.float16)
    scaled = np.clip(lr_NCHW, 0, 1) * np.float32(HIGHEST[dtype])
    return np.ascontiguousarray(np.rint(scaled).astype(dtype).transpose(0, 2, 3, 1))


def decode_output(sr: NDArray[Any]) -> NDArray[np.float32]:
    """What a graph gave, as float32, N x C x H x W; integers are N x H x W x C and become 0 to 1."""
    highest = HIGHEST.get(sr.dtype.name)  # type: ignore[call-overload]
    if highest is None:
        return np.asarray(sr, dtype=np.float32)
    sr_NCHW: NDArray[np.float32] = np.ascontiguousarray(sr.transpose(0, 3, 1, 2), dtype=np.float32)
    sr_NCHW /= np.float32(highest)
    return sr_NCHW


def snap_input(lr_NCHW: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float32]:
    """The input nearest to `lr_NCHW` that `dtype` can hold, in [0, 1]: what everybody is compared on.

    8-bit photographs in RGB are such an input already for float32, uint8 and uint16.
    """
    return decode_output(encode_input(lr_NCHW, dtype))


def rounding_of(dtype: Dtype, greatest: float = 1.0) -> float:
    """How far the I/O type alone may move an output, in units of the [0, 1] range: half a step.

    Args:
        dtype: of the output.
        greatest: magnitude that unclamped outputs reach. FP16's steps grow with it; they are taken to be those between
            1 and 2 at least, and below 1 they are finer. Infinite values round to anything.
    """
    if dtype == "float32":
        return 0.0
    if dtype != "float16":
        return 0.5 / HIGHEST[dtype]
    # An output that is off by a little may lie beyond the power of two that its reference is below.
    reached = min(max(1.0, greatest * (1 + 2.0**-8)), float(np.finfo(np.float16).max))
    return float(np.spacing(np.float16(reached))) / 2


def compare_decoded(sr: NDArray[np.float32], reference: NDArray[np.float32], dtype: Dtype) -> Comparison:
    """Compare what a graph with outputs of `dtype` gave with a reference in float32.

    Integers are clamped to [0, 1], so the reference is clamped too; it is not rounded, because a sample near the
    middle between two numbers may then jump by a whole step for an error of 1e-7. `rounding_of` says what that adds.

    Raises:
        ShapeError, VerificationError: as `compare_outputs`.
    """
    if dtype in HIGHEST and np.isfinite(reference).all():
        reference = np.clip(reference, 0, 1)
    return compare_outputs(sr, reference)

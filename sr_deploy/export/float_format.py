"""The two 16-bit types that a graph can compute in, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError

FP16_MAX = float(np.finfo(np.float16).max)
"""65504, the greatest finite number."""
_BF16_MAX = float.fromhex("0x1.fep127")


@dataclass(frozen=True)
class FloatFormat:
    """A 16-bit floating-point type."""

    precision: Literal["fp16", "bf16"]
    """As in names of graphs and options."""
    onnx_type: int
    """Its number in ONNX."""
    greatest: float
    """The greatest finite number."""
    max_relative_error: float
    """Error of a tensor after rounding, as a share of its norm, above which the type does not serve it. Rounding of
    normal numbers costs at most a quarter of it; more means that the tensor as a whole has gone subnormal. Single small
    weights beside greater ones lose nothing that counts."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """As a type of arrays."""
        import onnx

        return onnx.helper.tensor_dtype_to_np_dtype(self.onnx_type)


FP16 = FloatFormat("fp16", 10, FP16_MAX, 2.0**-9)
"""11 bits of mantissa, normal numbers from 2^-14 to 65504."""
BF16 = FloatFormat("bf16", 16, _BF16_MAX, 2.0**-7)
"""8 bits of mantissa, the range of FP32: nothing overflows."""


def why_not_representable(weights: NDArray[np.float32], float_format: FloatFormat) -> str | None:
    """What a 16-bit type does to a tensor that it does not serve, as in `reaches 70000, beyond ...`; None if it serves.

    Raises:
        GraphError: a value is NaN or infinite, which no type can fix.
    """
    greatest = float(np.max(np.abs(weights), initial=0.0))
    if not np.isfinite(greatest):
        raise GraphError("holds NaN or infinity; the weights are damaged, train or fetch anew")
    if greatest > float_format.greatest:
        return f"reaches {greatest:g}, beyond {float_format.precision.upper()}'s {float_format.greatest:g}"
    norm = float(np.linalg.norm(weights.astype(np.float64)))
    rounded = weights.astype(float_format.dtype)
    error = float(np.linalg.norm(rounded.astype(np.float64) - weights.astype(np.float64)))
    if error > float_format.max_relative_error * norm:
        return (
            f"is too small for {float_format.precision.upper()} (greatest value {greatest:.3g}, rounding would change "
            f"it by {100 * error / norm:.2g} %)"
        )
    return None


def round_to_format(
    weights: NDArray[np.float32], name: str, source: str, float_format: FloatFormat = FP16
) -> NDArray[np.generic]:
    """Round to the nearest numbers of a 16-bit type.

    Args:
        weights: any shape.
        name: of the tensor, for errors.
        source: of the graph, for errors.
        float_format: the type.

    Raises:
        GraphError: a value is not a finite number or beyond the type's range, or the tensor as a whole is too small.
    """
    try:
        reason = why_not_representable(weights, float_format)
    except GraphError as error:
        raise GraphError(f"{source}: tensor {name!r} {error}") from None
    if reason is not None:
        raise GraphError(f"{source}: tensor {name!r} {reason}; name the nodes that read it in keep_fp32")
    rounded: NDArray[np.generic] = weights.astype(float_format.dtype)
    return rounded

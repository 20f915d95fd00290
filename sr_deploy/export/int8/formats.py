"""The numbers that convolutions are quantized to: whole ones of 8 bit, and floating-point ones of 8 bit (E4M3).

Both are symmetric: a value is a step times a number, and the greatest number times the step is the end of the range.

    INT8   the integers from -127 to 127, equally far apart
    FP8    E4M3 (Micikevicius et al. 2022): 4 bits of exponent, 3 of mantissa, up to 448, no infinity; a number is at
           most a sixteenth of itself off wherever it lies, so that the step matters little, but may not clip
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

FormatName = Literal["int8", "fp8"]
"""A number format, by the name of the precision that it makes."""
_MANTISSA_BITS, _MIN_EXPONENT = 3, -6


@dataclass(frozen=True)
class NumberFormat:
    """What a quantized number can be."""

    name: FormatName
    largest: float
    """Greatest magnitude of weights, and of the calibrated range."""
    onnx_type: int
    """Element type in `onnx.TensorProto`."""
    is_moved: bool
    """Whether ONNX's Concat and Resize take tensors of it."""

    @property
    def title(self) -> str:
        """For people, as in `INT8`."""
        return self.name.upper()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of arrays that hold such numbers; for FP8 that of the package ml_dtypes."""
        import onnx

        return onnx.helper.tensor_dtype_to_np_dtype(self.onnx_type)

    def round(self, numbers: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """The nearest ones, of two equally near the even one; what lies beyond the greatest becomes that.

        Args:
            numbers: in steps, any shape.

        Returns:
            An array of `dtype`.
        """
        within = np.clip(np.asarray(numbers, np.float32), -self.largest, self.largest)
        rounded: NDArray[Any] = (np.rint(within) if self.name == "int8" else within).astype(self.dtype)
        return rounded

    def rank(self, numbers: NDArray[Any]) -> NDArray[np.int16]:
        """The place of each number among all that there are, 0 for zero.

        Args:
            numbers: of `dtype`.
        """
        if self.name == "int8":
            return numbers.astype(np.int16)
        bits = numbers.view(np.uint8)
        magnitude = (bits & 0x7F).astype(np.int16)
        return np.where(bits & 0x80, -magnitude, magnitude).astype(np.int16)

    def move(self, numbers: NDArray[Any], steps: NDArray[np.int8]) -> NDArray[Any]:
        """The representable numbers `steps` above these, clipped to the range of the format.

        Args:
            numbers: of `dtype`.
            steps: of the same shape; negative: below.
        """
        max_rank = int(self.rank(np.array(self.largest, self.dtype)))
        ranks = np.clip(self.rank(numbers) + steps, -max_rank, max_rank)
        moved: NDArray[Any] = ranks.astype(np.int8)
        if self.name == "fp8":
            moved = (np.abs(ranks) | np.where(ranks < 0, 0x80, 0)).astype(np.uint8).view(self.dtype)
        return moved

    def spacing(self, numbers: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """How far apart two neighboring numbers are where these lie, in steps.

        Args:
            numbers: in steps, any shape.
        """
        if self.name == "int8":
            return np.ones(np.shape(numbers))
        exact = np.asarray(numbers, np.float64)
        exponents = np.where(exact == 0, _MIN_EXPONENT, np.frexp(exact)[1] - 1)
        apart: NDArray[np.float64] = np.exp2(np.maximum(exponents, _MIN_EXPONENT) - float(_MANTISSA_BITS))
        return apart


INT8 = NumberFormat("int8", 127.0, 3, is_moved=True)
FP8 = NumberFormat("fp8", 448.0, 17, is_moved=False)
FORMATS: Mapping[FormatName, NumberFormat] = MappingProxyType({"int8": INT8, "fp8": FP8})


def find_format(dtype: np.dtype[Any]) -> NumberFormat:
    """The format of an array that holds quantized numbers; whatever is not E4M3 counts as INT8."""
    return FP8 if dtype == FP8.dtype else INT8

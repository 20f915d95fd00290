"""The words for who computes and in which precision, used the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""`fp8` is E4M3: 4 bits of exponent, 3 of mantissa."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions of 8 bit, which are searched for within a budget."""


@dataclass(frozen=True)
class BackendChoice:
    """A backend and the precision asked of it, written `openvino:int8`."""

    backend: str
    precision: Precision = "fp32"
    floats: Literal["bf16"] | None = None
    """In which precision is computed what an INT8 graph leaves float; None: as the graph says, on CPUs in FP32."""

    def __str__(self) -> str:
        return f"{self.backend}:{self.precision}" + (f"+{self.floats}" if self.floats else "")

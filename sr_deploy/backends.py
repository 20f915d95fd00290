"""The words for who computes and in which precision, used the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sr_deploy.errors import InputError

Backend = Literal["torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""`fp8` is E4M3: 4 bits of exponent, 3 of mantissa."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions of 8 bit, which are searched for within a budget."""
TENSORRT_BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class BackendChoice:
    """A backend and the precision asked of it, written `openvino:int8`."""

    backend: Backend
    precision: Precision = "fp32"
    floats: Literal["bf16"] | None = None
    """In which precision is computed what an INT8 graph leaves float; None: as the graph says, on CPUs in FP32."""

    def __str__(self) -> str:
        return f"{self.backend}:{self.precision}" + (f"+{self.floats}" if self.floats else "")


INT8_BF16 = BackendChoice("openvino", "int8", "bf16")
"""INT8 with the rest in BF16, on CPUs that have it."""


def parse_backend(text: str) -> BackendChoice:
    """Read `NAME`, `NAME:PRECISION` or `openvino:int8+bf16`; without a precision it is fp32.

    Raises:
        InputError: unknown backend or precision; the message lists those known.
    """
    if text == str(INT8_BF16):
        return INT8_BF16
    name, colon, precision = text.partition(":")
    for backend in BACKENDS:
        if name == backend:
            break
    else:
        raise InputError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if not colon:
        return BackendChoice(backend)
    for known in PRECISIONS:
        if precision == known:
            return BackendChoice(backend, known)
    raise InputError(f"unknown precision {precision!r} in {text!r}; known: {', '.join(PRECISIONS)}, and {INT8_BF16}")

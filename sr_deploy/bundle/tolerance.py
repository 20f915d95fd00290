"""What an FP32 graph may be off by, derived from what FP32 itself is off by on that network and that input.

FP32 computes sums in any order, and each order rounds differently: how far apart two sound backends may lie depends on
the network and on what it is shown. So it is measured (`Fp32Rounding`) and multiplied. Nothing here is taken from a
certificate but the rounding, and that is held against a new measurement (`sr_deploy.verification.standing`).
"""

from __future__ import annotations

import math

from pydantic import Field

from sr_deploy.bundle.records import Record
from sr_deploy.bundle.thresholds import MAX_DB, Thresholds

FP32_MULTIPLE = 8.0
"""What is allowed, in multiples of the rounding of PyTorch's FP32. Both of its memory layouts compute convolutions
directly; Winograd's F(4x4, 3x3), which backends may choose, has 7 times the greatest error of that (Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", 2016, table 4)."""
MAX_ALLOWANCE = 0.5 / 255
"""Half an 8-bit step: more than this no input allows beyond its threshold. It is what rounding to 8 bit adds anyway."""


class Fp32Rounding(Record):
    """How far PyTorch's own FP32 is from float64 on one input: the worse of its two memory layouts."""

    max_abs: float = Field(ge=0, allow_inf_nan=False)
    """Greatest absolute difference of unclamped outputs, in units of the [0, 1] range."""
    psnr_db: float | None = Field(ge=0, le=MAX_DB, allow_inf_nan=False)
    """PSNR of outputs clamped to [0, 1], peak 1.0, in dB; None if they are equal."""


def derive_limit(stated: float, rounding: Fp32Rounding | None, io_rounding: float = 0.0) -> float:
    """What the greatest difference may be on one input: `FP32_MULTIPLE` times FP32's own, `stated` at least.

    Args:
        stated: what the thresholds ask for, widened for the rounding by the I/O type.
        rounding: FP32's own; None: not measured, and `stated` holds.
        io_rounding: what the graph's I/O type rounds by.
    """
    if rounding is None:
        return stated
    return max(stated, io_rounding + min(FP32_MULTIPLE * rounding.max_abs, MAX_ALLOWANCE))


def derive_floor(stated: float, rounding: Fp32Rounding | None, io_rounding: float = 0.0) -> float:
    """What the PSNR has to be on one input: root mean squares of errors as `derive_limit` has the greatest ones."""
    if rounding is None or rounding.psnr_db is None:
        return stated
    allowed = io_rounding + min(FP32_MULTIPLE * 10 ** (-rounding.psnr_db / 20), MAX_ALLOWANCE)
    return min(stated, -20 * math.log10(allowed))


def widen_for_rounding(limits: Thresholds, rounding: Fp32Rounding | None, io_rounding: float = 0.0) -> Thresholds:
    """FP32's thresholds on one input, as `derive_limit` and `derive_floor` have them; what is not asked stays so."""
    psnr_db, max_abs = limits.psnr_db, limits.max_abs
    return Thresholds(
        psnr_db=None if psnr_db is None else derive_floor(psnr_db, rounding, io_rounding),
        max_abs=None if max_abs is None else derive_limit(max_abs, rounding, io_rounding),
        max_drop_db=limits.max_drop_db,
    )

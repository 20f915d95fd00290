"""One output beside the reference's: how far it is off, and what it is allowed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import Measurement, Thresholds, WorstPlace
from sr_deploy.bundle.tolerance import MAX_ALLOWANCE, Fp32Rounding, widen_for_rounding
from sr_deploy.graph.io_dtype import Dtype
from sr_deploy.measure.compare import Comparison, measure_ssim
from sr_deploy.runners.io_conversion import rounding_of
from sr_deploy.verification.grid import Point
from sr_deploy.verification.reference import ReferenceOutputs

_HALF_DB = 6.0


def measure_output(
    point: Point,
    comparison: Comparison,
    sr_NCHW: NDArray[np.float32],
    outputs: ReferenceOutputs,
    limits: Thresholds,
    *,
    dtype: Dtype,
    rounds: bool,
) -> Measurement:
    """What one output comes to, and what it is allowed.

    Args:
        point: the input.
        comparison: of the output with the reference's.
        sr_NCHW: the output.
        outputs: has the reference's.
        limits: what to meet, before they are widened for the rounding by the I/O type.
        dtype: I/O type of what was run.
        rounds: whether the limits are of FP32, whose own rounding counts too: it is measured where an input comes near
            them.
    """
    expected = outputs.find(point)
    ssim = measure_ssim(sr_NCHW, expected.sr_NCHW) if np.isfinite(comparison.max_abs) else None
    measurement = _to_measurement(point, comparison, ssim)
    allowed = _find_allowed(limits, dtype, outputs.dtype, expected.sr_NCHW)
    io_rounding = rounding_of(dtype) + outputs.rounding
    wide = limits.widened(io_rounding)
    rounding = outputs.measure_rounding(point) if rounds and _comes_near(comparison, wide) else None
    return measurement.model_copy(
        update={"reference": expected.reference, **_allow(wide, allowed, rounding, io_rounding)}
    )


def make_failure(point: Point) -> Measurement:
    """Of an input that gave no output."""
    infinite = float("inf")
    nothing = Comparison(max_abs=infinite, psnr_db=0.0, changed_8bit=1, mean_abs=infinite, changed_8bit_more=1)
    return _to_measurement(point, nothing, None)


def _comes_near(comparison: Comparison, limits: Thresholds) -> bool:
    """Whether an error is finite, and more than half of what the thresholds allow."""
    far = limits.max_abs is not None and comparison.max_abs > limits.max_abs / 2
    floor, psnr_db = limits.psnr_db, comparison.psnr_db
    noisy = floor is not None and psnr_db is not None and psnr_db < floor + _HALF_DB
    return bool(np.isfinite(comparison.max_abs)) and (far or noisy)


def _allow(
    limits: Thresholds, allowed: float | None, rounding: Fp32Rounding | None, io_rounding: float
) -> dict[str, object]:
    """What an input is allowed beyond the thresholds, and why, as the fields of a measurement."""
    if rounding is None:
        return {"allowed": allowed}
    wide = widen_for_rounding(limits, rounding, io_rounding)
    found: dict[str, object] = {"allowed": allowed, "fp32_rounding": rounding}
    if wide.max_abs is not None and wide.max_abs != limits.max_abs:
        found["allowed"] = max(wide.max_abs, allowed or 0.0)
    if wide.psnr_db != limits.psnr_db:
        found["needed_db"] = wide.psnr_db
    return found


def _find_allowed(limits: Thresholds, dtype: Dtype, reference: Dtype, expected: NDArray[np.floating]) -> float | None:
    """What this input is allowed beyond its threshold, because its values are larger than others and round coarser."""
    if limits.max_abs is None:
        return None
    greatest = float(np.abs(expected).max())
    plain = rounding_of(dtype) + rounding_of(reference)
    here = rounding_of(dtype, greatest) + rounding_of(reference, greatest)
    return limits.max_abs + min(here, plain + MAX_ALLOWANCE) if here > plain else None


def _to_measurement(point: Point, comparison: Comparison, ssim: float | None) -> Measurement:
    place = dict(zip(("image", "channel", "y", "x"), comparison.worst, strict=True)) if comparison.worst else None
    return Measurement(
        shape=str(point.shape),
        content=point.content,
        max_abs=comparison.max_abs,
        psnr_db=comparison.psnr_db,
        changed_8bit=comparison.changed_8bit,
        changed_8bit_more=comparison.changed_8bit_more,
        mean_abs=comparison.mean_abs,
        ssim=ssim,
        worst=WorstPlace(**place) if place is not None else None,
    )

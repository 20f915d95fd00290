"""One backend on its inputs, each output beside the reference's."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import Measurement, Thresholds, WorstPlace
from sr_deploy.bundle.tolerance import MAX_ALLOWANCE, Fp32Rounding, widen_for_rounding
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.graph.io_dtype import Dtype
from sr_deploy.measure.compare import Comparison, measure_ssim
from sr_deploy.runners.io_conversion import compare_decoded, rounding_of
from sr_deploy.runners.protocol import Runner
from sr_deploy.verification.grid import InputGrid, Point
from sr_deploy.verification.reference import Expected, ReferenceOutputs
from sr_deploy.verification.worst import Crop, cut_crop

_LOG = logging.getLogger(__name__)
_HALF_DB = 6.0


@dataclass(frozen=True)
class Run:
    """One backend on its inputs."""

    measurements: list[Measurement]
    """One for each input that the reference runs."""
    crops: list[Crop]
    """The worst place of each output that differs."""
    left_out: list[str]
    """Inputs that the reference does not run, with the reason."""


def run_grid(
    runner: Runner,
    grid: InputGrid,
    outputs: ReferenceOutputs,
    limits: Thresholds,
    *,
    file: str,
    rounds: bool,
) -> Run:
    """Run every input of a grid and compare. One that the backend fails on counts as an infinite error.

    Args:
        runner: the backend.
        grid: the inputs.
        outputs: what the reference makes of them.
        limits: what to meet, before they are widened for the rounding by the I/O type.
        file: what the backend runs, for the crops.
        rounds: whether the limits are of FP32, whose own rounding counts too: it is measured where an input comes near
            them.
    """
    run = Run([], [], [])
    dtype = runner.spec.dtype
    for point in grid.points:
        try:
            expected = outputs.find(point)
        except BackendError as error:  # as networks that mirror at borders with a picture of one pixel
            run.left_out.append(f"{point}: the reference does not run it: {error}")
            continue
        try:
            sr_NCHW = runner.infer(expected.lr_NCHW)
            comparison = compare_decoded(sr_NCHW, expected.sr_NCHW, dtype)
        except (BackendError, ShapeError) as error:  # loaded, but not able to run this input: as wrong as can be
            _LOG.warning("%s failed: %s", runner.spec, error)
            run.measurements.append(make_failure(point))
            continue
        measurement = _measure(point, comparison, sr_NCHW, expected)
        allowed = _find_allowed(limits, dtype, outputs.dtype, expected.sr_NCHW)
        io_rounding = rounding_of(dtype) + outputs.rounding
        near = rounds and _comes_near(comparison, limits.widened(io_rounding))
        rounding = outputs.measure_rounding(point) if near else None
        run.measurements.append(
            measurement.model_copy(update=_allow(limits.widened(io_rounding), allowed, rounding, io_rounding))
        )
        if measurement.worst is not None:
            pictures = (expected.lr_NCHW, np.asarray(expected.sr_NCHW, np.float32), sr_NCHW)
            crop = cut_crop(str(runner.spec), file, point, measurement.worst, comparison.max_abs, pictures=pictures)
            run.crops.append(crop)
    return run


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


def _measure(point: Point, comparison: Comparison, sr_NCHW: NDArray[np.float32], expected: Expected) -> Measurement:
    ssim = measure_ssim(sr_NCHW, expected.sr_NCHW) if np.isfinite(comparison.max_abs) else None
    return _to_measurement(point, comparison, ssim).model_copy(update={"reference": expected.reference})


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

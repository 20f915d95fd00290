"""One backend on its inputs, each output beside the reference's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import Measurement, Thresholds, WorstPlace
from sr_deploy.bundle.crosscheck import MOST_ALLOWANCE
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.graph.ends import Dtype
from sr_deploy.measure.compare import Comparison, measure_ssim
from sr_deploy.runners.ends import compare_at_ends, rounding_of, snap_input
from sr_deploy.runners.parity import Reference
from sr_deploy.runners.protocol import Runner
from sr_deploy.verify.contents import draw_content
from sr_deploy.verify.grid import InputGrid, Point
from sr_deploy.verify.worst import Crop, cut_crop


class ReferenceOutputs:
    """What the reference makes of each input, computed once."""

    def __init__(self, oracle: Runner, reference: Reference, dtype: Dtype) -> None:
        self.reference = reference
        self.dtype: Dtype = oracle.spec.dtype
        self.rounding = rounding_of(oracle.spec.dtype)
        self.profiles = oracle.spec.profiles
        self._oracle = oracle
        self._ends = dtype
        self._known: dict[Point, tuple[NDArray[np.float32], NDArray[np.float32] | BackendError]] = {}

    def pair(self, point: Point) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input and the reference's output.

        Raises:
            BackendError: the reference does not take this input.
        """
        if point not in self._known:
            spec = self._oracle.spec
            lr_NCHW = snap_input(draw_content(point.content, point.shape, spec.channels, spec.scale), self._ends)
            try:
                self._known[point] = lr_NCHW, self._oracle.infer(lr_NCHW)
            except BackendError as error:
                self._known[point] = lr_NCHW, error
        lr_NCHW, sr_NCHW = self._known[point]
        if isinstance(sr_NCHW, BackendError):
            raise sr_NCHW
        return lr_NCHW, sr_NCHW


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
    tell: Callable[[str], None],
) -> Run:
    """Run every input of a grid and compare.

    Args:
        runner: the backend.
        grid: the inputs.
        outputs: what the reference makes of them.
        limits: what to meet, before they are widened for the rounding of ends.
        file: what the backend runs, for the crops.
        tell: told of inputs that the backend fails on; each counts as an infinite error.
    """
    run = Run([], [], [])
    dtype = runner.spec.dtype
    for point in grid.points:
        try:
            lr_NCHW, expected = outputs.pair(point)
        except BackendError as error:  # as networks that mirror at borders with a picture of one pixel
            run.left_out.append(f"{point}: the reference does not run it: {error}")
            continue
        try:
            sr_NCHW = runner.infer(lr_NCHW)
            comparison = compare_at_ends(sr_NCHW, expected, dtype)
        except (BackendError, ShapeError) as error:  # loaded, but not able to run this input: as wrong as can be
            tell(f"{runner.spec} failed: {error}")
            run.measurements.append(make_failure(point))
            continue
        ssim = measure_ssim(sr_NCHW, expected) if np.isfinite(comparison.max_abs) else None
        measurement = _to_measurement(point, comparison, ssim)
        allowed = _find_allowed(limits, dtype, outputs.dtype, expected)
        run.measurements.append(measurement.model_copy(update={"allowed": allowed}))
        if measurement.worst is not None:
            pictures = (lr_NCHW, expected, sr_NCHW)
            crop = cut_crop(str(runner.spec), file, point, measurement.worst, comparison.max_abs, pictures=pictures)
            run.crops.append(crop)
    return run


def make_failure(point: Point) -> Measurement:
    """Of an input that gave no output."""
    infinite = float("inf")
    nothing = Comparison(max_abs=infinite, psnr_db=0.0, changed_8bit=1, mean_abs=infinite, changed_8bit_more=1)
    return _to_measurement(point, nothing, None)


def _find_allowed(limits: Thresholds, dtype: Dtype, reference: Dtype, expected: NDArray[np.float32]) -> float | None:
    """What this input is allowed beyond its threshold, because its values are larger than others and round coarser."""
    if limits.max_abs is None:
        return None
    greatest = float(np.abs(expected).max())
    plain = rounding_of(dtype) + rounding_of(reference)
    here = rounding_of(dtype, greatest) + rounding_of(reference, greatest)
    return limits.max_abs + min(here, plain + MOST_ALLOWANCE) if here > plain else None


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

"""What a quantised graph loses: against FP32, against the originals, and at its worst sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.export.int8.execute import Run
from sr_deploy.export.int8.photographs import Crop
from sr_deploy.measure.quality import luma

MOST_DB = 100.0
"""Stands for the infinite PSNR of equal pictures."""


@dataclass(frozen=True)
class Loss:
    """Over a set of crops, outputs clamped to [0, 1]."""

    psnr_fp32_db: float
    """PSNR against FP32, peak 1.0, over all samples, in dB; at most 100."""
    drop_db: float
    """PSNR on luma against the originals: FP32's less the quantised graph's, mean over the crops, in dB."""
    max_abs: float
    """Greatest difference from FP32 of any sample."""
    standard_error_db: float = 0.0
    """Of `drop_db`, as a mean over these crops."""


class Judge:
    """Crops with what FP32 makes of them."""

    def __init__(self, crops: Sequence[Crop], reference: Run, output: str, scale: int) -> None:
        """Run `reference` on every crop.

        Args:
            crops: kept in memory.
            reference: the float graph.
            output: name of the image output of all graphs.
            scale: pixels left out at each border where originals are compared with, as in the papers.
        """
        self._crops, self._output, self._scale = crops, output, scale
        self._expected = [_clamp(reference(crop.lr)[output]) for crop in crops]
        psnr = [self._score(sr, crop) for sr, crop in zip(self._expected, crops, strict=True)]
        self._psnr = psnr
        self.psnr_db = float(np.mean(psnr))
        """Of FP32 against the originals, mean over the crops."""

    def error(self, run: Run) -> float:
        """Mean squared error against FP32."""
        pairs = zip(self._expected, self._crops, strict=True)
        return float(np.mean([np.mean((_clamp(run(crop.lr)[self._output]) - sr) ** 2) for sr, crop in pairs]))

    def judge(self, run: Run) -> Loss:
        """Run a graph on every crop."""
        errors, drops, worst = [], [], 0.0
        for expected, crop, psnr in zip(self._expected, self._crops, self._psnr, strict=True):
            sr = _clamp(run(crop.lr)[self._output])
            errors.append(float(np.mean((sr - expected) ** 2)))
            drops.append(psnr - self._score(sr, crop))
            worst = max(worst, float(np.abs(sr - expected).max()))
        spread = float(np.std(drops, ddof=1) / np.sqrt(len(drops))) if len(drops) > 1 else 0.0
        return Loss(to_psnr(float(np.mean(errors))), float(np.mean(drops)), worst, spread)

    def _score(self, sr_NCHW: NDArray[np.float32], crop: Crop) -> float:
        """PSNR on luma of the 8-bit picture, as in the papers."""
        inner = slice(self._scale, -self._scale)
        sr = np.rint(sr_NCHW[0].transpose(1, 2, 0) * 255.0)[inner, inner].astype(np.float64)
        error = float(np.mean((luma(sr) - luma(crop.hr[inner, inner])) ** 2))
        return to_psnr(error / 255.0**2)


def to_psnr(error: float) -> float:
    """PSNR for peak 1.0 of a mean squared error, in dB, at most 100."""
    return MOST_DB if error <= 10 ** (-MOST_DB / 10) else float(-10 * np.log10(error))


def _clamp(sr: NDArray[np.float32]) -> NDArray[np.float32]:
    # NaN stays NaN, and every figure then is one: no comparison with a limit holds.
    clamped: NDArray[np.float32] = np.clip(sr, 0.0, 1.0)
    return clamped

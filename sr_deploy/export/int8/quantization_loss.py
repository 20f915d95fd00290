"""What a quantized graph loses: against FP32, against the originals, and where it is seen.

Against the originals each crop is compared with itself, FP32's PSNR less the quantized graph's. The mean of these
differences is known as well as they agree, so it comes with an interval; its upper end is what a budget is held to.

A single sample that is off is invisible if its neighbors are off the other way, and the worst of millions says
more of their number than of the picture. What is seen is a patch whose mean is off. So beside the worst sample there is
the greatest error after a mean over 5x5 pixels, about what the eye takes together at a normal distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.export.int8.execute import Run
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.measure.quality import EQUAL_DB, luma, psnr

_SURE = 2.0
"""Standard errors to each end of an interval that holds the mean in 95 cases of 100."""
_WINDOW = 5
_HIGH = 0.999


@dataclass(frozen=True)
class Loss:
    """Over a set of crops, outputs clamped to [0, 1]."""

    psnr_fp32_db: float
    """PSNR against FP32, peak 1.0, over all samples, in dB; at most 100."""
    drop_db: float
    """PSNR on luma against the originals: FP32's less the quantized graph's, mean over the crops, in dB."""
    max_abs: float
    """Greatest difference from FP32 of any sample."""
    standard_error_db: float = 0.0
    """Of `drop_db`, as a mean over these crops."""
    visible: float = 0.0
    """Greatest difference from FP32 of any mean over 5x5 pixels of a channel."""
    high_error: float = 0.0
    """Difference from FP32 that one sample in a thousand exceeds, mean over the crops."""

    @property
    def upper_db(self) -> float:
        """Upper end of the 95 % interval of `drop_db`."""
        return self.drop_db + _SURE * self.standard_error_db


class Judge:
    """Crops with what FP32 makes of them."""

    def __init__(self, crops: Sequence[ImagePair], reference: Run, output: str, scale: int) -> None:
        """Run `reference` on every crop.

        Args:
            crops: kept in memory.
            reference: the float graph.
            output: name of the image output of all graphs.
            scale: pixels left out at each border where originals are compared with, as in the papers.
        """
        self._crops, self._output, self._scale = crops, output, scale
        self._expected = [_clamp(reference(crop.network_input)[output]) for crop in crops]
        self._psnr = [self._score(sr, crop) for sr, crop in zip(self._expected, crops, strict=True)]
        self.psnr_db = float(np.mean(self._psnr))
        """Of FP32 against the originals, mean over the crops."""

    def error(self, run: Run) -> float:
        """Mean squared error against FP32."""
        pairs = zip(self._expected, self._crops, strict=True)
        return float(
            np.mean([np.mean((_clamp(run(crop.network_input)[self._output]) - sr) ** 2) for sr, crop in pairs])
        )

    def judge(self, run: Run) -> Loss:
        """Run a graph on every crop."""
        errors, drops, highs, worst, visible = [], [], [], 0.0, 0.0
        for expected, crop, before in zip(self._expected, self._crops, self._psnr, strict=True):
            sr = _clamp(run(crop.network_input)[self._output])
            off = sr - expected
            errors.append(float(np.mean(off**2)))
            drops.append(before - self._score(sr, crop))
            size = np.abs(off)
            highs.append(float(np.quantile(size, _HIGH)))
            worst = max(worst, float(size.max()))
            visible = max(visible, float(np.abs(_average(off)).max()))
        spread = float(np.std(drops, ddof=1) / np.sqrt(len(drops))) if len(drops) > 1 else 0.0
        lost = float(np.mean(drops))
        return Loss(min(EQUAL_DB, psnr(float(np.mean(errors)))), lost, worst, spread, visible, float(np.mean(highs)))

    def _score(self, sr_NCHW: NDArray[np.float32], crop: ImagePair) -> float:
        """PSNR on luma of the 8-bit picture, as in the papers."""
        inner = slice(self._scale, -self._scale)
        sr = np.rint(sr_NCHW[0].transpose(1, 2, 0) * 255.0)[inner, inner].astype(np.float64)
        error = float(np.mean((luma(sr) - luma(crop.hr[inner, inner])) ** 2))
        return min(EQUAL_DB, psnr(error, 255))


def _average(off_NCHW: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over each window of pixels that lies inside the picture."""
    size = [min(_WINDOW, side) for side in off_NCHW.shape[2:]]
    sums = np.pad(off_NCHW.astype(np.float64), ((0, 0), (0, 0), (1, 0), (1, 0))).cumsum(2).cumsum(3)
    tall, wide = size
    rows = sums[:, :, tall:] - sums[:, :, :-tall]
    averages: NDArray[np.float64] = (rows[..., wide:] - rows[..., :-wide]) / (tall * wide)
    return averages


def _clamp(sr: NDArray[np.float32]) -> NDArray[np.float32]:
    # NaN stays NaN, and every figure then is one: no comparison with a limit holds.
    clamped: NDArray[np.float32] = np.clip(sr, 0.0, 1.0)
    return clamped

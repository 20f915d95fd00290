"""How far one output lies from another: the figures of every certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError, VerificationError
from sr_deploy.measure.quality import SSIM_WINDOW, psnr, ssim

_SSIM_SIDE = 512


@dataclass(frozen=True)
class Comparison:
    """A candidate's output against the reference's."""

    max_abs: float
    """Greatest absolute difference, unclamped, in units of the [0, 1] range; `inf` if the candidate is not finite."""
    psnr_db: float | None
    """PSNR of outputs clamped to [0, 1], peak 1.0; None if these are equal; 0 if the candidate is not finite."""
    changed_8bit: float
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""
    mean_abs: float = 0.0
    """Mean absolute difference, unclamped; `inf` if the candidate is not finite."""
    changed_8bit_more: float = 0.0
    """Share of the samples that differ by more than one step after rounding to 8 bit, 0 to 1."""
    worst: tuple[int, ...] = ()
    """Where the difference is greatest, one index for each axis; the first value that is not finite, if there is one;
    empty if the outputs are equal."""


def compare_outputs(candidate: NDArray[np.floating], reference: NDArray[np.floating]) -> Comparison:
    """Compare what two backends made of the same input.

    Args:
        candidate: any shape, nominally in [0, 1].
        reference: the same shape, finite.

    Raises:
        ShapeError: shapes differ, or nothing to compare.
        VerificationError: the reference itself is not finite, so nothing can be said about the candidate.
    """
    if candidate.shape != reference.shape or not candidate.size:
        raise ShapeError(f"cannot compare outputs of shapes {candidate.shape} and {reference.shape}")
    if not np.isfinite(reference).all():
        raise VerificationError("the reference's output holds values that are not finite; the weights are unusable")
    finite = np.isfinite(candidate)
    steps = np.abs(_to_8bit(np.where(finite, candidate, 0)) - _to_8bit(reference))
    if not finite.all():
        return Comparison(
            max_abs=float("inf"),
            psnr_db=0.0,
            changed_8bit=float((~finite | (steps > 0)).mean()),
            mean_abs=float("inf"),
            changed_8bit_more=float((~finite | (steps > 1)).mean()),
            worst=_place(~finite),
        )
    clamped = np.clip(candidate, 0, 1).astype(np.float64) - np.clip(reference, 0, 1)
    difference = np.abs(candidate.astype(np.float64) - reference)
    mean_square = float(np.mean(clamped**2))
    greatest = float(difference.max())
    return Comparison(
        max_abs=greatest,
        psnr_db=None if mean_square == 0 else psnr(mean_square),
        changed_8bit=float(np.mean(steps > 0)),
        mean_abs=float(difference.mean()),
        changed_8bit_more=float(np.mean(steps > 1)),
        worst=_place(difference) if greatest else (),
    )


def measure_ssim(candidate_NCHW: NDArray[np.floating], reference_NCHW: NDArray[np.floating]) -> float | None:
    """SSIM of outputs clamped to [0, 1], the mean over images and channels; 1 if they are equal.

    Args:
        candidate_NCHW: finite.
        reference_NCHW: of the same shape. Of pictures with more than 512 pixels along a side, the middle 512 count.

    Returns:
        None where a side is shorter than the 11 pixels of the window.
    """
    if min(candidate_NCHW.shape[2:]) < SSIM_WINDOW:
        return None
    planes = [_middle_planes(array) for array in (candidate_NCHW, reference_NCHW)]
    return float(np.mean([ssim(a, b) for a, b in zip(*planes, strict=True)]))


def _middle_planes(array_NCHW: NDArray[np.floating]) -> NDArray[np.float64]:
    """All planes of the middle, in 0 to 255."""
    h, w = array_NCHW.shape[2:]
    top, left = (max(0, (side - _SSIM_SIDE) // 2) for side in (h, w))
    inner = array_NCHW[:, :, top : top + _SSIM_SIDE, left : left + _SSIM_SIDE]
    planes: NDArray[np.float64] = 255 * np.clip(inner, 0, 1).astype(np.float64)
    return planes.reshape(-1, *planes.shape[2:])


def _place(values: NDArray[np.generic]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(values)), values.shape))


def _to_8bit(values: NDArray[np.floating]) -> NDArray[np.int16]:
    scaled: NDArray[np.float32] = np.clip(values, 0, 1).astype(np.float32) * np.float32(255)
    return np.rint(scaled).astype(np.int16)

"""How far one output lies from another: the figures of every certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError, VerificationError


@dataclass(frozen=True)
class Comparison:
    """A candidate's output against the reference's."""

    max_abs: float
    """Greatest absolute difference, unclamped, in units of the [0, 1] range; `inf` if the candidate is not finite."""
    psnr_db: float | None
    """PSNR of outputs clamped to [0, 1], peak 1.0; None if these are equal; 0 if the candidate is not finite."""
    changed_8bit: float
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""


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
    if not finite.all():
        changed = ~finite | (_to_8bit(np.where(finite, candidate, 0)) != _to_8bit(reference))
        return Comparison(max_abs=float("inf"), psnr_db=0.0, changed_8bit=float(changed.mean()))
    difference = np.clip(candidate, 0, 1).astype(np.float64) - np.clip(reference, 0, 1)
    mean_square = float(np.mean(difference**2))
    return Comparison(
        max_abs=float(np.abs(candidate.astype(np.float64) - reference).max()),
        psnr_db=None if mean_square == 0 else float(-10 * np.log10(mean_square)),
        changed_8bit=float(np.mean(_to_8bit(candidate) != _to_8bit(reference))),
    )


def _to_8bit(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    scaled: NDArray[np.float32] = np.clip(values, 0, 1).astype(np.float32) * np.float32(255)
    return np.rint(scaled).astype(np.uint8)

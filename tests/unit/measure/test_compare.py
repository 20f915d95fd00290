from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from sr_deploy.errors import ShapeError, VerificationError
from sr_deploy.measure.compare import Comparison, compare_outputs, measure_ssim


def test_equal_outputs() -> None:
    values = np.linspace(-1, 2, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    assert compare_outputs(values, values) == Comparison(max_abs=0.0, psnr_db=None, changed_8bit=0.0)


def test_figures_worked_by_hand() -> None:
    reference = np.full((1, 1, 2, 2), 0.5, np.float32)
    candidate = reference.copy()
    candidate[0, 0, 0, 0] = 0.75  # squared error 1/16 in one of four samples
    comparison = compare_outputs(candidate, reference)
    assert comparison.max_abs == 0.25
    assert comparison.psnr_db == pytest.approx(10 * math.log10(64))
    assert comparison.changed_8bit == comparison.changed_8bit_more == 0.25
    assert comparison.mean_abs == 0.0625
    assert comparison.worst == (0, 0, 0, 0)


def test_psnr_clamps_and_max_abs_does_not() -> None:
    reference = np.array([1.0, 0.0, 0.5])
    candidate = np.array([3.0, -1.0, 0.5])
    assert compare_outputs(candidate, reference) == Comparison(
        max_abs=2.0, psnr_db=None, changed_8bit=0.0, mean_abs=1.0, worst=(0,)
    )


def test_a_difference_below_8_bit_changes_nothing() -> None:
    reference = np.full(100, 100 / 255, np.float32)
    comparison = compare_outputs(reference + np.float32(0.4 / 255), reference)
    assert comparison.changed_8bit == 0
    assert comparison.psnr_db == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_the_worst(bad: float) -> None:
    reference = np.full(10, 0.5, np.float16)
    candidate = reference.copy()
    candidate[3] = bad
    assert compare_outputs(candidate, reference) == Comparison(
        max_abs=math.inf, psnr_db=0.0, changed_8bit=0.1, mean_abs=math.inf, changed_8bit_more=0.1, worst=(3,)
    )
    with pytest.raises(VerificationError, match="reference's output holds values that are not finite"):
        compare_outputs(reference, candidate)


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 4\) and \(4, 1\)"):
        compare_outputs(np.zeros((1, 4)), np.zeros((4, 1)))
    with pytest.raises(ShapeError):
        compare_outputs(np.zeros(0), np.zeros(0))


def test_steps_of_8_bit_are_counted_apart_from_larger_ones() -> None:
    reference = np.full((1, 1, 10, 10), 100 / 255, np.float32)
    candidate = reference.copy()
    candidate[0, 0, 2, 7] += 1 / 255
    candidate[0, 0, 5, 3] -= 2 / 255
    comparison = compare_outputs(candidate, reference)
    assert (comparison.changed_8bit, comparison.changed_8bit_more) == (0.02, 0.01)
    assert comparison.worst == (0, 0, 5, 3)


def test_ssim_is_that_of_the_planes_and_needs_eleven_pixels() -> None:
    draw = np.random.default_rng(0)
    reference = draw.random((2, 3, 16, 20), np.float32)
    candidate = reference + draw.normal(0, 0.05, reference.shape).astype(np.float32)
    expected = np.mean(
        [
            structural_similarity(
                np.clip(a, 0, 1),
                np.clip(b, 0, 1),
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )[1][5:-5, 5:-5].mean()
            for a, b in zip(candidate.reshape(6, 16, 20), reference.reshape(6, 16, 20), strict=True)
        ]
    )
    assert measure_ssim(candidate, reference) == pytest.approx(expected, abs=1e-4)
    assert measure_ssim(reference, reference) == 1
    assert measure_ssim(reference[..., :10], reference[..., :10]) is None
